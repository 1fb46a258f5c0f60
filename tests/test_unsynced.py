"""Buffers of durability "none": what is synced all the same, and what they show when the disk has lost the
rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays import incomplete
from replaystore.arrays.incomplete import newest_sound
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.records import decode_records
from replaystore.errors import ReplayStoreWarning
from replaystore.schema import tree
from replaystore.storage.local import Files
from replaystore.testing.disks import Disk, put
from replaystore.testing.faults import RecordingFiles, using
from replaystore.testing.samples import shards_of
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


def half_lost(path: Path, names: list[str | None]) -> Path:
    """A store with a commit of 20 rows for each of these names, of which the disk has only what the first
    three have: as a power cut leaves blocks that were never written."""
    buffer = rs.create(path, SCHEMA, durability="none", **KINDS[path.name])
    for commit, name in enumerate(names):
        buffer.append(rows(20 * commit, 20))
        buffer.commit(name)
    lost = [extent for extent in _places(buffer) if extent[2] > 60 * 12]
    buffer.abandon()
    for file, offset, _ in lost:
        with open(file, "r+b") as damaged:
            damaged.seek(offset)
            damaged.write(bytes(8))
    return path


@pytest.mark.parametrize("name", KINDS)
def test_rows_that_the_disk_has_lost_are_not_shown(tmp_path: Path, name: str) -> None:
    path = half_lost(tmp_path / name, [None] * 5)
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


@pytest.mark.parametrize("name", KINDS)
def test_a_name_is_that_of_the_newest_commit_which_is_there(tmp_path: Path, name: str) -> None:
    path = half_lost(tmp_path / name, ["only-0", "same", "only-2", "same"])
    with pytest.warns(ReplayStoreWarning, match="without syncs"):
        shown = rs.open(path)
    assert shown.commit_id < 4
    assert "same" in shown.names
    for known in shown.names:
        with rs.open(path, commit=known) as reader:
            assert reader["observation"][:][:, 0].tolist() == list(range(20 * reader.commit_id))
    with pytest.raises(rs.errors.NotFoundError, match="does not exist"):
        rs.open(path, commit=4)


@pytest.mark.parametrize("name", KINDS)
def test_what_a_killed_writer_did_not_sync_is_synced_by_the_next(tmp_path: Path, name: str) -> None:
    live, left = tmp_path / "live", tmp_path / "left"
    recorder = RecordingFiles(below=str(live))
    live.mkdir()
    setting = KINDS[name] or {"storage": {"observation": {"codec": "raw", "chunk_rows": 1024}}}
    count = 20 if KINDS[name] else 4000
    with using(recorder.files), shards_of(2):
        buffer = rs.create(live / name, SCHEMA, durability="none", **setting)
        for commit in range(4):
            buffer.append(rows(count * commit, count))
            buffer.commit()
        buffer.abandon()  # killed
        with rs.open(live / name, "r+") as buffer:  # whose end is synced
            buffer.append(rows(4 * count, 3))
    disk = Disk()
    for operation in recorder.operations:
        disk.do(operation)

    put(str(left), disk.synced())

    with rs.open(left / name) as reader:
        assert reader["observation"][:][:, 0].tolist() == list(range(4 * count + 3))
    assert rs.verify(left / name).problems == []


@pytest.mark.parametrize("codec", ["raw", "zstd:1"])
def test_what_a_killed_writer_of_a_ring_did_not_sync_is_synced_by_the_next(
    tmp_path: Path, codec: str
) -> None:
    """Also where the shards that the log begins with have left it."""
    live, left = tmp_path / "live", tmp_path / "left"
    recorder = RecordingFiles(below=str(live))
    live.mkdir()
    setting = {"storage": {"observation": {"codec": codec, "chunk_rows": 1024}}}
    with using(recorder.files), shards_of(1):
        buffer = rs.create(live / "a.zarr", SCHEMA, capacity=4600, durability="none", **setting)
        total = 0
        while total < 8000 or 100 * synced(buffer) // 1024 == total // 1024:
            buffer.append(rows(total, 100))
            buffer.commit()
            total += 100  # until the end of a shard is not synced
        assert 100 * buffer.store.state.base + 1024 < buffer.first_row, "the base's shard is gone"
        buffer.abandon()  # killed
        rs.open(live / "a.zarr", "r+").close()
    disk = Disk()
    for operation in recorder.operations:
        disk.do(operation)

    put(str(left), disk.synced())

    with rs.open(left / "a.zarr") as reader:
        first = reader.first_row
        assert reader["observation"][:][:, 0].tolist() == list(range(first, total))
    assert rs.verify(left / "a.zarr").problems == []


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
    dropped, newest = buffer.rows_recorded - len(buffer), synced(buffer)
    buffer.abandon()

    assert newest == 39, "before rows are dropped, a commit is synced that does without them"
    with rs.open(tmp_path / "a.zarr") as reader:
        assert reader["observation"][:][:, 0].tolist() == list(range(dropped, 80_000))


def synced(buffer: rs.Buffer) -> int:
    """The newest commit of which the log says that it was synced."""
    data = buffer.store.container.read_segment(buffer.store.state.base)
    told = [meta["parent"] for meta, _, _ in decode_records(data) if meta.get("synced")]
    return max(told, default=buffer.store.state.base)


@pytest.mark.parametrize("codec", ["raw", "zstd:1"])
def test_what_a_ring_lost_since_it_dropped_rows_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """It shows the commit that was synced then, all of whose rows are there, although newer ones do without
    some of them."""
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", 1)
    monkeypatch.setattr(layout, "SMALL_PER_SHARD", 1)
    monkeypatch.setattr(incomplete, "CANDIDATES", 2)
    path, chosen = tmp_path / "a.zarr", {"codec": codec, "chunk_rows": 512}
    buffer = rs.create(
        path,
        SCHEMA,
        capacity=4096,
        durability="none",
        storage={"observation": chosen} if codec != "raw" else {},
    )
    total = 0
    while total < 8000 or buffer.commit_id < synced(buffer) + 6:
        buffer.append(rows(total, 30))
        buffer.commit()
        total += 30
    commit = synced(buffer)
    store = buffer.store
    kept = commit * 30
    places = [("steps/observation", kept)]
    if codec != "raw":
        pieces = store.state.tails["steps/observation"]
        places = [(tree.tail(piece.slot), piece.offset) for piece in pieces if piece.start >= kept]
        assert len(places) > 4
    lost = []
    for name, row in places:
        spec = store.container.specs()[name]
        chunk = row // spec.chunk_rows * spec.chunk_rows
        extent = store.container.extents(name, chunk, row + 1)[0]
        lost.append(
            (store.container.files.path(extent.object), extent.offset + (row - chunk) * spec.row_bytes)
        )
    buffer.abandon()
    for name, offset in lost:
        with open(name, "r+b") as file:
            file.seek(offset)
            file.write(bytes(8))
    window = list(range(kept - 4096, kept))
    with pytest.warns(ReplayStoreWarning, match="without syncs"):
        reader = rs.open(path)
    assert reader["observation"][:][:, 0].tolist() == window
    reader.close()
    with rs.open(path, "r+") as buffer:
        assert buffer["observation"][:][:, 0].tolist() == window
        buffer.append(rows(kept, 30))
    with rs.open(path) as reader:
        assert reader["observation"][:][:, 0].tolist() == list(range(kept - 4066, kept + 30))
    assert rs.verify(path).problems == []


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
    assert {"steps", "steps/info", "steps/info/late"} <= set(known)  # each has its entry in the one above
    buffer.close()
