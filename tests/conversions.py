"""What tests of conversions share: a recording with all that a buffer can hold, and what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays.reading import StoreReader
from replaystore.containers.located import remove
from replaystore.location import Location
from replaystore.testing import Contents, samples

NAMES = ["b.zarr", "b.h5", "b.zarr.zip", "memory:b"]


def at(folder: Path, name: str) -> str:
    return name if name.startswith("memory:") else str(folder / name)


@pytest.fixture
def _nothing_in_memory() -> Any:
    """What is made in memory is gone after the test."""
    yield
    for name in ("a", "b", "c"):
        remove(Location("memory", "zarr", name))


def record(location: str, *, steps: int = 120, seed: int = 3, ragged: bool = False, **options: Any) -> None:
    """A recording with all that a buffer can hold: splits, columns of the user's, several parts, open
    trajectories. `ragged`: and fields of any length."""
    schema = samples.small(ragged=ragged)
    metadata = {"note": ["é", 1.5, None]}
    options = {"storage": samples.storage("zstd:1", ragged=ragged), "metadata": metadata, **options}
    with rs.create(location, schema, **options) as buffer:
        writer = buffer.writer(3, split="train")
        for number, step in enumerate(samples.recording(schema, 3, steps, seed)):
            samples.play(writer, step, schema)
            if number % 7 == 0:
                buffer.commit()
        buffer.commit()
        writer.close()
        buffer.append(samples.columns(schema, 30, seed), env=5, split="val")
        last: dict[str, Any] = {"camera": np.full((4, 3), 7, np.uint8)}
        last["joints"] = np.array([1, np.nan, -0.0], np.float32)
        if ragged:
            last["text"] = "後"
        columns = samples.columns(schema, 9, seed + 1, ends=0.0)
        buffer.append(columns, env=6, final_observation=last)
        buffer.commit()
        ended = int((~buffer.trajectories.open).sum())
        buffer.set_trajectory_column("score", np.linspace(-1, 1, ended))
        buffer.set_trajectory_column("kept", np.arange(ended) % 3 == 0)


def contents(location: str) -> Contents:
    with rs.open(location) as buffer:
        return Contents.of(buffer)


def assert_clean(location: str) -> None:
    if not location.startswith("memory:"):
        assert [str(problem) for problem in rs.verify(location).problems] == []


def chunk_bytes(location: str, name: str) -> list[bytes]:
    """The complete chunks of a coded array, as they are stored."""
    with rs.open(location) as buffer:
        store: StoreReader = buffer._store
        entries = [store.locate(name, chunk) for chunk in range(len(store.table("checksums/" + name)))]
        return [
            store.container.files.read(entry.object, entry.offset, entry.length)
            for entry in entries
            if entry is not None
        ]
