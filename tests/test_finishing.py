"""What is done to batches when they have been gathered: dtypes, and functions of the user's."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from sampled_buffers import Life, fill, schema
from tensors import torch

import replaystore as rs
from replaystore.errors import ArgumentError

pytest_plugins = ["sampled_buffers"]
numbers = itertools.count()


def doubled(batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"reward": batch["reward"] * 2, "thread": np.array([threading.get_ident()])}


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("many", [False, True])
def test_batches_are_what_a_function_makes_of_them(
    stored: tuple[rs.Buffer, list[Life]], prefetch: int, many: bool
) -> None:
    source: Any = rs.concat([stored[0]] * 2) if many else stored[0]
    plain = source.sampler(5, seed=1)
    sampler = source.sampler(5, seed=1, prefetch=prefetch, dtype={"observation": "f4"}, transform=doubled)
    for _ in range(3):
        batch, expected = sampler.sample(), plain.sample()
        assert (batch["thread"] != threading.get_ident()) == bool(prefetch)
        assert np.array_equal(batch["reward"], expected["reward"] * 2)
        for name in ("observation", "next_observation"):
            assert batch[name].dtype == np.float32
            assert np.array_equal(batch[name], expected[name])
        assert np.array_equal(batch["index"], expected["index"])
        assert batch["action"].dtype == expected["action"].dtype
    told = sampler.explain()
    assert "then: observation as float32" in told
    assert "then: transform doubled" in told
    state = sampler.state_dict()
    plain.load_state_dict(state)
    assert np.array_equal(plain.sample()["index"], sampler.sample()["index"])
    sampler.close()


def test_a_dtype_is_that_of_all_floating_point_values(stored: tuple[rs.Buffer, list[Life]]) -> None:
    batch = stored[0].sampler(5, order="prioritized", n_step=2, dtype=np.float16).sample()
    plain = stored[0].sampler(5, order="prioritized", n_step=2).sample()
    for name in plain:
        assert batch[name].dtype == (np.float16 if plain[name].dtype.kind == "f" else plain[name].dtype)
    assert {batch[name].dtype for name in ("reward", "discount", "weight")} == {np.dtype(np.float16)}


def test_what_cannot_be_is_one_clear_error(stored: tuple[rs.Buffer, list[Life]]) -> None:
    for chosen, message in (
        ({"dtype": "int8"}, r"is none of floating point: for other fields give \{field: dtype\}"),
        ({"dtype": "nope"}, "is none of NumPy's"),
        ({"dtype": {"nope": "f4"}}, "no such field"),
        ({"dtype": {"reward": "i8"}}, "int64 of 'reward' cannot hold float32"),
        ({"dtype": {"observation": "i2"}}, "int16 of 'observation' cannot hold int32"),
        ({"transform": 3}, "transform is a function of a batch, not int"),
    ):
        with pytest.raises(ArgumentError, match=message):
            stored[0].sampler(5, **chosen)  # type: ignore[arg-type]
    for prefetch in (0, 1):
        sampler = stored[0].sampler(5, transform=print, prefetch=prefetch)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="transform returned NoneType"):
            sampler.sample()
    with pytest.raises(ArgumentError, match="leave out `out`"):
        stored[0].sampler(5, dtype="f4").sample(out={})
    assert stored[0].sampler(5, dtype={"action": "i8"}).sample()["action"].dtype == np.int64


@pytest.mark.torch
def test_data_loaders_and_devices_get_what_the_function_made(tmp_path: Any) -> None:
    from replaystore.torch import BatchDataset, ItemDataset

    with rs.create(tmp_path / "a.zarr", schema()) as buffer:
        fill(buffer, [(0, 20, True, True)])
    with rs.open(tmp_path / "a.zarr") as buffer:
        chosen: dict[str, Any] = {"dtype": {"observation": "f4"}, "transform": doubled}
        batch = next(iter(BatchDataset(buffer, 4, seed=0, **chosen)))
        expected = buffer.sampler(4, order="epoch", seed=0, device="cpu", **chosen).sample()
        assert batch["observation"].dtype == expected["observation"].dtype == torch.float32
        assert torch.equal(batch["reward"], expected["reward"])
        item = ItemDataset(buffer, dtype={"observation": "f4"})[3]
        assert item["observation"].dtype == torch.float32
