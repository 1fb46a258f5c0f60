"""Buffers of durability "none": what is synced all the same, and what they show when the disk has lost the
rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays.incomplete import newest_sound
from replaystore.arrays.reading import StoreReader
from replaystore.errors import ReplayStoreWarning
from replaystore.storage.local import Files
from replaystore.views import layout

SCHEMA = rs.Schema({"observation": rs.Field(np.dtype("f4"), (3,), "observation")})
KINDS = {
    "raw.zarr": {},
    "coded.zarr": {"storage": {"observation": {"codec": "zstd:1", "chunk_rows": 8}}},
    "raw.h5": {},
    "coded.h5": {"storage": {"observation": {"codec": "gzip:1", "chunk_rows": 8}}},
}


def rows(first: int, count: int) -> dict[str, Any]:
    return {"observation": np.repeat(np.arange(first, first + count, dtype="f4")[:, None], 3, axis=1)}


@pytest.mark.parametrize("name", KINDS)
def test_rows_that_the_disk_has_lost_are_not_shown(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    buffer = rs.create(path, SCHEMA, durability="none", **KINDS[name])
    for commit in range(5):
        buffer.append(rows(20 * commit, 20))
        buffer.commit()
    kept = [extent for extent in _places(buffer) if extent[2] > 60 * 12]
    buffer.abandon()
    for file, offset, _ in kept:  # as a power cut leaves blocks that were never written
        with open(file, "r+b") as damaged:
            damaged.seek(offset)
            damaged.write(bytes(8))

    with pytest.warns(ReplayStoreWarning, match="without syncs"):
        reader = rs.open(path)
    shown = len(reader)
    assert shown in (20, 40, 60)
    assert reader["observation"][:][:, 0].tolist() == list(range(shown))
    with rs.open(path, "r+") as buffer:
        assert len(buffer) == shown
        buffer.append(rows(shown, 7))
    with rs.open(path) as reader:
        assert reader["observation"][:][:, 0].tolist() == list(range(shown + 7))
    assert rs.verify(path).problems == []


def _places(buffer: rs.Buffer) -> list[tuple[str, int, int]]:
    """(file, offset, byte of the field) of something in each row or chunk."""
    store = buffer._store
    spec = store.specs()["steps/observation"]
    if spec.codec is None:
        (extent,) = store.container.extents("steps/observation", 0, len(buffer))
        return [
            (store.container.files.path(extent.object), extent.offset + at, at)
            for at in range(0, extent.length, 12)
        ]
    found = []
    for chunk in range(len(buffer) // spec.chunk_rows):
        entry = store.locate("steps/observation", chunk)
        assert entry is not None
        found.append((store.container.files.path(entry.object), entry.offset, chunk * spec.chunk_bytes))
    return found


def noted(monkeypatch: pytest.MonkeyPatch, operation: str) -> list[str]:
    """The names that an operation of `Files` is done to from now on."""
    names: list[str] = []
    real = getattr(Files, operation)

    def noting(files: Files, name: str) -> None:
        names.append(name)
        real(files, name)

    monkeypatch.setattr(Files, operation, noting)
    return names


def test_commits_are_not_synced_and_what_opening_needs_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = noted(monkeypatch, "sync_file")
    buffer = rs.create(tmp_path / "a.zarr", SCHEMA, durability="none")
    assert synced, "a store that is there is there"
    synced.clear()
    for commit in range(3):
        buffer.append(rows(10 * commit, 10))
        buffer.commit()
    assert synced == []
    buffer.close()
    assert {name.split("/")[0] for name in synced} >= {"steps", "journal"}


def test_a_closed_store_is_opened_without_comparing_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is on the disk, and its log begins with the last commit."""
    with rs.create(tmp_path / "a.zarr", SCHEMA, durability="none") as buffer:
        for commit in range(3):
            buffer.append(rows(10 * commit, 10))
            buffer.commit()
    compared: list[str] = []
    monkeypatch.setattr(StoreReader, "raw_checksum", lambda _, name, *rows: compared.append(f"{name} {rows}"))

    assert newest_sound(rs.open(tmp_path / "a.zarr")._store) is None
    assert [name for name in compared if "rows" in name] == []
    with rs.open(tmp_path / "a.zarr") as reader:
        assert reader._store.state.base == reader.commit_id


def test_a_ring_syncs_before_it_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", 1)
    monkeypatch.setattr(layout, "SMALL_PER_SHARD", 1)
    buffer = rs.create(tmp_path / "a.zarr", SCHEMA, capacity=10_000, durability="none")
    for commit in range(40):
        buffer.append(rows(2000 * commit, 2000))
        buffer.commit()
    log = tmp_path / "a.zarr/journal/log/c"
    newest = max(int(entry.name) for entry in log.iterdir() if entry.name.isdigit())
    dropped = buffer.rows_recorded - len(buffer)
    buffer.abandon()

    assert newest > 30, "a segment begins before rows are dropped, so that it does without them"
    with rs.open(tmp_path / "a.zarr") as reader:
        assert reader["observation"][:][:, 0].tolist() == list(range(dropped, 80_000))


def test_an_array_of_which_the_log_speaks_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in which unfinished chunks are kept are made by the first commit that has some, and late fields
    by the next one."""
    buffer = rs.create(tmp_path / "a.zarr", SCHEMA, durability="none", storage=KINDS["coded.zarr"]["storage"])
    synced = noted(monkeypatch, "sync_folder")
    buffer.append(rows(0, 13))
    append_record = buffer._store.container.append_record
    known: list[str] = []

    def appended(record: bytes) -> None:
        known.extend(synced)
        append_record(record)

    monkeypatch.setattr(buffer._store.container, "append_record", appended)
    buffer.commit()
    assert {"journal", "journal/tail", "journal/tail/0"} <= set(known)
    known.clear()
    synced.clear()
    buffer.add_field("info/late", rs.Field(np.dtype("i2"), (), "info"))
    buffer.commit()
    assert {"steps/info", "steps/info/late"} <= set(known)
    buffer.close()
