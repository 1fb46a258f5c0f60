"""What was acknowledged survives power cuts, whatever they leave of the rest; `replaystore.testing.power`
says how that is tested."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import zarr

import replaystore as rs
from replaystore.testing.crashes import tiny
from replaystore.testing.disks import Disk, put
from replaystore.testing.faults import RecordingFiles, using
from replaystore.testing.power import COMMIT, PowerCuts

WORKLOADS = {
    "zarr": ("zarr", None, False),
    "ring": ("zarr", 40, False),
    "hdf5": ("hdf5", None, False),
    "any length, ring": ("zarr", 40, True),
    "any length, hdf5": ("hdf5", None, True),
}


@pytest.fixture(scope="module", params=WORKLOADS)
def cuts(request: pytest.FixtureRequest) -> Iterator[PowerCuts]:
    """A workload that has been recorded."""
    backend, capacity, ragged = WORKLOADS[request.param]
    with tempfile.TemporaryDirectory() as folder:
        yield PowerCuts(backend, folder, capacity=capacity, ragged=ragged)


def options(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.config.getoption("--power-cuts"), request.config.getoption("--power-seed")


@pytest.mark.timeout(3600)
def test_no_power_cut_loses_what_was_acknowledged(request: pytest.FixtureRequest, cuts: PowerCuts) -> None:
    assert cuts.run(*options(request)) == []


@pytest.mark.timeout(3600)
def test_nor_does_one_after_a_writer_that_went_on_where_another_was_stopped(
    request: pytest.FixtureRequest, cuts: PowerCuts
) -> None:
    assert cuts.run_twice(*options(request)) == []


def test_every_operation_of_a_store_is_recorded(cuts: PowerCuts) -> None:
    disk = Disk()
    for operation in cuts.operations:
        if operation.kind != COMMIT:
            disk.do(operation)

    assert disk.everything() == cuts.live()
    assert {operation.kind for operation in cuts.operations} >= {
        "create",
        "write",
        "resize",
        "sync_file",
        "sync_folder",
        "rename",
    }


def test_what_was_replaced_stays_replaced(tmp_path: Path) -> None:
    """If a power cut leaves nothing but what was synced."""
    recording, disk = RecordingFiles(), Disk()
    files = recording.files(tmp_path, writable=True)
    for content in (b"old", b"new"):
        files.replace_files({"folder/one": content, "two": content})
    files.close()
    for operation in recording.operations:
        disk.do(operation)

    assert disk.synced() == {"folder": None, "folder/one": b"new", "two": b"new"}


SMALL = rs.Schema({"observation": rs.Field(np.dtype("f4"), (3,), "observation")})


def small_rows(first: int, count: int = 10) -> dict[str, np.ndarray]:
    return {"observation": np.repeat(np.arange(first, first + count, dtype="f4")[:, None], 3, axis=1)}


def shown(path: Path) -> list[float]:
    """What a store shows, which verifies."""
    assert rs.verify(path).problems == []
    with rs.open(path) as reader:
        found: list[float] = reader["observation"][:][:, 0].tolist()
    return found


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_a_conversion_that_is_done_is_on_the_disk(tmp_path: Path, name: str) -> None:
    """Nobody has opened it yet, which would sync its name."""
    with rs.create(tmp_path / "source.zarr", SMALL) as buffer:
        buffer.append(small_rows(0))
    recording, disk = RecordingFiles(below=str(tmp_path / "made")), Disk()
    (tmp_path / "made").mkdir()
    with using(recording.files):
        rs.convert(tmp_path / "source.zarr", tmp_path / "made" / "new" / name)
    for operation in recording.operations:
        disk.do(operation)
    put(str(tmp_path / "left"), disk.synced())

    assert shown(tmp_path / "left" / "new" / name) == list(range(10))


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_a_writer_syncs_the_name_that_a_killed_one_did_not(tmp_path: Path, name: str) -> None:
    first, disk = RecordingFiles(below=str(tmp_path / "first")), Disk()
    (tmp_path / "first").mkdir()
    with using(first.files):
        rs.create(tmp_path / "first" / name, SMALL).close()
    named = next(n for n, done in enumerate(first.operations) if (done.kind, done.other) == ("rename", name))
    for operation in first.operations[: named + 1]:
        disk.do(operation)
    put(str(tmp_path / "second"), disk.everything())  # killed here: the system has what the disk has not

    second = RecordingFiles(below=str(tmp_path / "second"))
    with using(second.files), rs.open(tmp_path / "second" / name, "r+") as buffer:
        buffer.append(small_rows(0))
        buffer.commit()
    for operation in second.operations:
        disk.do(operation)
    put(str(tmp_path / "left"), disk.synced())

    assert shown(tmp_path / "left" / name) == list(range(10))


def test_a_commit_that_a_writer_finds_is_on_the_disk_when_the_store_is_open(tmp_path: Path) -> None:
    """The killed writer that made it had not synced its record, and whoever opens the store is shown it."""
    first, disk = RecordingFiles(below=str(tmp_path / "first")), Disk()
    (tmp_path / "first").mkdir()
    with using(first.files):
        buffer = rs.create(tmp_path / "first/a.zarr", SMALL)
        buffer.append(small_rows(0))
        buffer.commit()
        buffer.abandon()
    written = [
        n
        for n, done in enumerate(first.operations)
        if (done.kind, done.name) == ("write", "a.zarr/journal/log/0")
    ]
    for operation in first.operations[: written[-1] + 1]:
        disk.do(operation)
    put(str(tmp_path / "second"), disk.everything())  # killed here

    second = RecordingFiles(below=str(tmp_path / "second"))
    with using(second.files):
        buffer = rs.open(tmp_path / "second/a.zarr", "r+")
        found = buffer.commit_id
        buffer.abandon()
    for operation in second.operations:
        disk.do(operation)
    put(str(tmp_path / "left"), disk.synced())

    assert found == 1
    assert shown(tmp_path / "left/a.zarr") == list(range(10))


def test_without_durability_a_segment_begins_with_a_commit_that_is_there(tmp_path: Path) -> None:
    """With no more than was synced when the segment got its name for good."""
    recording, disk, looked = RecordingFiles(below=str(tmp_path / "made")), Disk(), 0
    (tmp_path / "made").mkdir()
    with tiny(), patch("replaystore.arrays.committing.SEGMENT_BYTES", 2000), using(recording.files):
        buffer = rs.create(tmp_path / "made" / "a.zarr", SMALL, durability="none")
        for commit in range(150):
            buffer.append(small_rows(10 * commit))
            buffer.commit()
        buffer.abandon()

    for number, operation in enumerate(recording.operations):
        disk.do(operation)
        done = recording.operations[number - 1]
        named = os.path.basename(done.other) if done.kind == "rename" else ""
        if operation.kind == "sync_folder" and named.isdigit():
            put(str(tmp_path / "left"), disk.synced())
            if (tmp_path / "left" / "a.zarr").exists():
                looked += 1
                assert shown(tmp_path / "left/a.zarr") == list(range(10 * int(named)))
    assert looked > 2


@pytest.mark.parametrize("codec", ["raw", "zstd:1"])
def test_an_index_that_names_chunks_which_the_disk_has_lost_is_written_anew(
    tmp_path: Path, codec: str
) -> None:
    """Indexes of complete shards are written before the commit, and a power cut may leave them without the
    chunks."""
    schema = rs.Schema({"observation": rs.Field(np.dtype("f4"), (1024,), "observation")})
    storage = {"observation": {"codec": codec, "chunk_rows": 8}}
    with tiny():
        buffer = rs.create(tmp_path / "a.zarr", schema, storage=storage)
        buffer.append({"observation": np.ones((12, 1024), "f4")})
        buffer.publish()
        shutil.copytree(tmp_path / "a.zarr", tmp_path / "cut.zarr")
        buffer.append({"observation": np.ones((12, 1024), "f4")})
        buffer.commit()
        buffer.abandon()
        place = tmp_path / "cut.zarr" / "steps" / "observation" / "c.0.0"
        later = (tmp_path / "a.zarr" / "steps" / "observation" / "c.0.0").read_bytes()[: 2 * 16 + 4]
        with open(place, "r+b") as file:
            assert file.read(len(later)) != later or codec == "raw"
            file.seek(0)
            file.write(later)
            file.truncate(place.stat().st_size - 20)
            if codec == "raw":
                file.truncate(13 * 4096)

        assert len(rs.open(tmp_path / "cut.zarr")) == 12
        rs.open(tmp_path / "cut.zarr", "r+").close()
    assert rs.verify(tmp_path / "cut.zarr").problems == []
    shown = zarr.open_array(tmp_path / "cut.zarr" / "steps" / "observation", mode="r")[:]
    np.testing.assert_array_equal(shown, np.ones((12, 1024)))
