"""In which order steps are drawn: seeds, epochs, and arrays that are used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampled_buffers import FLAG, Life, every_store

import replaystore as rs
from replaystore.columns.coded import CodedColumn
from replaystore.columns.slab import Slab
from replaystore.schema.fields import Field

pytest_plugins = ["sampled_buffers"]


@every_store
@pytest.mark.parametrize("order", ["uniform", "trajectory", "epoch"])
@pytest.mark.parametrize("chosen", [{}, {"fragment_length": 3}, {"frame_stack": 3}, {"n_step": 3}], ids=str)
def test_the_same_seed_gives_the_same_batches_however_many_are_made_ahead(
    stored: tuple[rs.Buffer, list[Life]], order: Any, chosen: dict[str, int]
) -> None:
    buffer, _ = stored
    samplers = [buffer.sampler(7, order=order, seed=3, prefetch=prefetch, **chosen) for prefetch in (0, 1, 3)]
    other = buffer.sampler(7, order=order, seed=4, **chosen)
    differs = False
    for number in range(50):
        batches = [sampler.sample() for sampler in samplers]
        for batch in batches[1:]:
            assert batch.keys() == batches[0].keys()
            assert all(np.array_equal(batch[name], batches[0][name]) for name in batch)
        differs |= not np.array_equal(other.sample()["observation"], batches[0]["observation"])
        if number == 20:
            state = samplers[2].state_dict()
            again = buffer.sampler(7, order=order, seed=9, **chosen)
            again.load_state_dict(state)
            samplers.append(again)
    assert differs
    for sampler in samplers:
        sampler.close()


def test_each_epoch_is_another_permutation(stored: tuple[rs.Buffer, list[Life]]) -> None:
    sampler = stored[0].sampler(7, order="epoch", seed=0)
    assert len(sampler) == -(-sampler.num_items // 7)
    first, second = list(sampler), list(sampler)
    assert sampler.epoch == 2
    assert [len(batch["action"]) for batch in first] == [7] * (len(sampler) - 1) + [
        sampler.num_items - 7 * (len(sampler) - 1)
    ]
    orders = [np.concatenate([batch["observation"] for batch in epoch]).tolist() for epoch in (first, second)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_an_epoch_decodes_each_chunk_once_and_looks_once_for_each_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {
        "observation": np.arange(6000 * 64, dtype="i4").reshape(-1, 64),
        "terminated": np.arange(6000) % 100 == 99,
    }
    fields = {"observation": Field("i4", (64,), "observation"), "terminated": FLAG}
    with rs.create(
        tmp_path / "a.zarr", rs.Schema(fields), storage={"observation": {"codec": "zstd:1", "chunk_rows": 16}}
    ) as writer:
        writer.append(columns)
        writer.commit()
        decoded, looked, decode, hold = list[int](), list[int](), CodedColumn.decode, Slab.hold
        monkeypatch.setattr(
            CodedColumn,
            "decode",
            lambda self, chunks, *more: decoded.append(len(chunks)) or decode(self, chunks, *more),
        )
        monkeypatch.setattr(Slab, "hold", lambda self, *rows: looked.append(1) or hold(self, *rows))
        third = columns["observation"].nbytes // 3
        sampler = writer.sampler(
            4,
            order="epoch",
            fields=["observation"],
            next_observation=False,
            slab_bytes=third,
            seed=0,
            prefetch=0,
        )
        shown = np.sort(np.concatenate([batch["observation"][:, 0] for batch in sampler]))
        assert (shown == columns["observation"][:, 0]).all()
        assert sum(decoded) == 375
        pools = -(-375 // sampler._batches.order._pool_blocks)
        assert 5 < pools <= len(looked) <= 2 * pools  # one more where batches begin to show the next pool


def test_endless_orders_have_no_length(stored: tuple[rs.Buffer, list[Life]]) -> None:
    with pytest.raises(TypeError, match="num_items"):
        len(stored[0].sampler(7))


@every_store
@pytest.mark.parametrize("chosen", [{}, {"fragment_length": 3}, {"frame_stack": 3}, {"n_step": 3}], ids=str)
def test_arrays_are_used_again_if_asked(stored: tuple[rs.Buffer, list[Life]], chosen: dict[str, int]) -> None:
    sampler, other = (stored[0].sampler(9, seed=1, prefetch=0, **chosen) for _ in range(2))
    first = {name: values.copy() for name, values in sampler.sample().items()}
    other.sample()
    kept = dict(first)
    for _ in range(5):
        filled, expected = sampler.sample(out=first), other.sample()
        assert all(filled[name] is kept[name] for name in kept)
        assert all(np.array_equal(filled[name], expected[name]) for name in expected)
