"""Values of any length as tensors: on a device, in datasets, and of DataLoaders with and without workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_values import BESIDE, Numbered, check

from replaystore.schema.ragged import Ragged

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

from replaystore.torch import BatchDataset, ItemDataset, data_loader  # noqa: E402

named = pytest.mark.parametrize
SHAPES: list[dict[str, Any]] = [{}, {"fragment_length": 3, "pad": "end"}]


def as_arrays(batch: dict[str, Any]) -> dict[str, Any]:
    assert all(
        isinstance(values.values if isinstance(values, Ragged) else values, torch.Tensor)
        for values in batch.values()
    )
    return {
        name: values.to_numpy() if isinstance(values, Ragged) else values.numpy()
        for name, values in batch.items()
    }


@named("shape", SHAPES, ids=str)
def test_values_come_to_a_device(tmp_path: Path, shape: dict[str, Any]) -> None:
    world = Numbered(tmp_path / "one.zarr")
    with world.buffer as buffer:
        world.fill(9)
        batch = buffer.sampler(16, seed=3, device="cpu", **shape).sample()
        plain = buffer.sampler(16, seed=3, **shape).sample()
        found = as_arrays(batch)
        check(found)
        assert all(found[name] == plain[name] for name in BESIDE)
        padded = buffer.sampler(16, seed=3, device="cpu", pad_values="end", **shape).sample()
        assert torch.equal(padded["action/moves"], batch["action/moves"].to_padded()[0])


@named("workers", [0, 2])
@named("shape", SHAPES, ids=str)
def test_batches_of_a_loader_are_those_of_the_sampler(
    tmp_path: Path, shape: dict[str, Any], workers: int
) -> None:
    world = Numbered(tmp_path / "one.zarr")
    with world.buffer as buffer:
        world.fill(9)
        dataset = BatchDataset(buffer, 16, seed=3, **shape)
        sampler = buffer.sampler(16, seed=3, order="epoch", **shape)
        for batch, wanted in zip(data_loader(dataset, workers), sampler, strict=True):
            found = as_arrays(batch)
            check(found)
            assert found.keys() == wanted.keys()
            assert all(found[name] == wanted[name] for name in BESIDE)


@named("workers", [0, 2])
@named("shape", SHAPES, ids=str)
def test_items_are_collated(tmp_path: Path, shape: dict[str, Any], workers: int) -> None:
    world = Numbered(tmp_path / "one.zarr")
    with world.buffer as buffer:
        world.fill(9)
        items = ItemDataset(buffer, **shape)
        batches = list(DataLoader(items, batch_size=7, num_workers=workers, collate_fn=items.collate))
        for batch in batches:
            check(as_arrays(batch))
        ids = np.concatenate([batch["observation/id"].numpy() for batch in batches])
        assert len(ids) == len(items)
        assert (ids if not shape else ids[:, 0]).tolist() == world.ids
        padded = ItemDataset(buffer, pad_values={"action/moves": 0}, **shape)
        assert isinstance(padded.collate([padded[0]])["action/moves"], torch.Tensor)
        if not shape:
            assert isinstance(items[3]["observation/text"], str)
