"""Which segments the commit log of a Zarr folder has, where the folder cannot be listed: the file that names
them is right at every moment, and whoever writes makes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import zarr

import replaystore as rs
from replaystore.containers.zarr.segments import SEGMENTS, Named, named_by
from replaystore.errors import CorruptError, FormatError, NotFoundError, UnsupportedError
from replaystore.testing.crashes import tiny
from replaystore.testing.disks import Disk, Left, put
from replaystore.testing.far import far_disk
from replaystore.testing.faults import RecordingFiles, using

SCHEMA = rs.Schema(
    {
        "observation": rs.Field(np.dtype("f4"), (3,), "observation"),
        "info/frame": rs.Field(np.dtype("u1"), (64,), "info"),
    }
)
STORAGE = {"info/frame": {"codec": "zstd:1", "chunk_rows": 8}}


def rows(first: int, count: int = 10) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + count)
    return {
        "observation": np.repeat(numbers[:, None], 3, axis=1).astype("f4"),
        "info/frame": np.repeat(numbers[:, None], 64, axis=1).astype("u1"),
    }


def recording(path: Path, *, layout: str = "live", capacity: int | None = None) -> None:
    """A writer that begins segments by committing much, rolling back, publishing, opening again and
    closing."""
    with tiny(), patch("replaystore.arrays.committing.SEGMENT_BYTES", 5000):
        buffer = rs.create(path, SCHEMA, storage=STORAGE, layout=layout, capacity=capacity)
        for commit in range(6):
            buffer.append(rows(10 * commit))
            buffer.commit()
        if capacity is None:
            buffer.rollback(3)
        buffer.append(rows(500))
        buffer.publish()
        buffer.abandon()
        buffer = rs.open(path, "r+")
        buffer.append(rows(900))
        buffer.close()


def commit_of(path: Path) -> int | type[Exception]:
    try:
        with rs.open(path) as reader:
            return reader.commit_id
    except NotFoundError as error:
        return type(error)


def seen(left: Left, place: Path, name: str) -> tuple[object, object]:
    """The commit that a reader shows which can list the folder, and one that cannot."""
    put(str(place), left)
    near = commit_of(place / name)
    with far_disk():
        return near, commit_of(place / name)


@pytest.mark.parametrize("capacity", [None, 40])
@pytest.mark.parametrize("layout", ["live", "archive"])
def test_at_every_moment_of_a_kill_or_a_power_cut_the_commit_is_that_of_a_listing(
    tmp_path: Path, layout: str, capacity: int | None
) -> None:
    if (layout, capacity) == ("archive", 40):
        pytest.skip("a ring is live")
    (tmp_path / "made").mkdir()
    writing, disk, generator = RecordingFiles(below=str(tmp_path / "made")), Disk(), np.random.default_rng(1)
    with using(writing.files):
        recording(tmp_path / "made" / "a.zarr", layout=layout, capacity=capacity)

    shown, known = set(), set()
    for operation in writing.operations:
        disk.do(operation)
        if "journal/log" not in operation.name:
            continue
        cuts = 10 if operation.kind == "rename" else 1  # which of two names is there is a matter of chance
        for left in (disk.everything(), disk.synced(), *(disk.cut(generator) for _ in range(cuts))):
            log = frozenset((name, data) for name, data in left.items() if "journal/log" in name)
            if "a.zarr" in left and log not in known:
                known.add(log)
                near, far = seen(left, tmp_path / "left", "a.zarr")
                assert near == far, operation
                shown.add(near)
    assert len(shown) > 5


def edited(path: Path, change: Callable[[Path], None]) -> None:
    change(path / SEGMENTS)


def other_segments(file: Path) -> None:
    file.write_bytes(Named((0, 1, 7777), "x" * 32).to_bytes())


def a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-3]),
    "empty": lambda file: file.write_bytes(b""),
    "a byte": a_byte,
    "other segments": other_segments,
    "bytes behind it": lambda file: file.write_bytes(file.read_bytes() + b"x"),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    recording(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_tells_that_it_is_damaged_and_repair_mends_it(store: Path, damage: str) -> None:
    edited(store, DAMAGES[damage])
    told = [problem.where for problem in rs.verify(store).problems]

    assert told == [str(store / SEGMENTS)]
    rs.repair(store)
    assert rs.verify(store).problems == []
    near = commit_of(store)
    with far_disk():
        assert commit_of(store) == near


@pytest.mark.parametrize("damage", DAMAGES)
def test_whoever_opens_for_writing_mends_it(store: Path, damage: str) -> None:
    edited(store, DAMAGES[damage])
    rs.open(store, "r+").abandon()

    assert rs.verify(store).problems == []
    near = commit_of(store)
    with far_disk():
        assert commit_of(store) == near


@pytest.mark.parametrize("damage", ["cut", "empty", "a byte", "bytes behind it"])
def test_a_reader_that_cannot_list_is_told_that_it_is_damaged(store: Path, damage: str) -> None:
    edited(store, DAMAGES[damage])

    with far_disk(), pytest.raises(CorruptError, match="open the store once for writing"):
        rs.open(store)


def test_a_store_of_older_software_is_read_once_it_was_opened_for_writing(store: Path) -> None:
    (store / SEGMENTS).unlink()

    report = rs.verify(store)
    assert report.problems == []
    assert any("opening it for writing makes it" in note for note in report.notes)
    with far_disk(), pytest.raises(UnsupportedError, match="open it once for writing"):
        rs.open(store)
    rs.open(store, "r+").abandon()
    assert rs.verify(store).notes == []
    near = commit_of(store)
    with far_disk():
        assert commit_of(store) == near


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with far_disk(), pytest.raises(NotFoundError, match="check the address"):
        rs.open(tmp_path / "a.zarr")


def test_a_hierarchy_of_other_software_is_no_store_of_an_older_version(store: Path, tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr").create_array("x", shape=(3,), dtype="f4")
    for other in (tmp_path / "other.zarr", store / "steps"):
        with far_disk(), pytest.raises(FormatError, match="is a Zarr hierarchy, but not a replaystore store"):
            rs.open(other)


def test_an_ordinary_commit_does_not_touch_it(tmp_path: Path) -> None:
    writing = RecordingFiles(below=str(tmp_path))
    with using(writing.files):
        buffer = rs.create(tmp_path / "a.zarr", SCHEMA)
        done = len(writing.operations)
        for commit in range(5):
            buffer.append(rows(10 * commit))
            buffer.commit()
        assert not [made for made in writing.operations[done:] if "segments" in made.name]
        buffer.abandon()
        done = len(writing.operations)
        rs.open(tmp_path / "a.zarr", "r+").abandon()  # nor does opening, if it is right
        assert not [made for made in writing.operations[done:] if SEGMENTS + ".new" in made.name]


def test_what_it_says_is_checked() -> None:
    sound = Named((0, 3, 12), "a")
    assert named_by(sound.to_bytes(), "x") == sound
    for wrong in (Named((), "a"), Named((3, 0), "a"), Named((0, 0), "a"), Named((-1,), "a"), Named((0,), 7)):  # type: ignore[arg-type]
        with pytest.raises(CorruptError):
            named_by(wrong.to_bytes(), "x")
    assert sound.fits([0, 3])
    assert not sound.fits([0])
    assert not sound.fits([0, 12])


def test_another_store_under_the_name_is_noticed(store: Path, tmp_path: Path) -> None:
    with far_disk():
        reader = rs.open(store)
    with rs.create(store, SCHEMA, overwrite=True, storage=STORAGE) as buffer:
        buffer.append(rows(0))
    with reader, pytest.raises(rs.errors.ConflictError, match="another store"):
        reader.refresh()
    shutil.rmtree(store)
