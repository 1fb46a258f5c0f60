"""A file that is dropped after it was looked at, and before it is read, is not an unreadable disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.containers.protocol import Extent
from replaystore.errors import CorruptError, EvictedError

SCHEMA = rs.Schema({"observation": rs.Field("float32", (2048,), "observation")})


def fill(buffer: rs.Buffer, count: int) -> None:
    buffer.append({"observation": np.ones((count, 2048), "f4")})
    buffer.commit()


@pytest.mark.parametrize("read", ["read_raw", "raw_checksum"])
@pytest.mark.parametrize("gone_on", [True, False])
def test_it_was_evicted_if_the_ring_has_gone_on(
    tmp_path: Path, read: str, gone_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a.zarr"
    with rs.create(place, SCHEMA, capacity=64) as buffer:
        fill(buffer, 64)
        reader = rs.open(place)
        if gone_on:
            fill(buffer, 256)

        files, steps = reader.store.container.files, Extent("steps/observation/c.0.0", 4096, 4 * 2048)
        usual = files.read

        def missing(name: str, *place: object) -> object:
            if not name.startswith("steps/"):
                return usual(name, *place)
            raise FileNotFoundError(2, "No such file", name)

        monkeypatch.setattr(reader.store, "extents", lambda *_: [steps])
        monkeypatch.setattr(files, "read", missing)
        monkeypatch.setattr(files, "read_into", missing)
        call: Callable[[str, int, int], object] = getattr(reader.store, read)
        with pytest.raises(EvictedError if gone_on else CorruptError, match=r"left the ring|is missing"):
            call("steps/observation", 0, 1)
        reader.close()
