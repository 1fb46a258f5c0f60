"""The log of commits in an HDF5 file: records, segments, what is cut and forgotten."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from hdf5_story import (
    ALL,
    FLAG,
    NAME,
    OBS,
    SPECS,
    plain,
    reader_of,
)

from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.errors import CorruptError, NotFoundError
from replaystore.storage.local import Files
from replaystore.testing.disks import Disk, put
from replaystore.testing.faults import RecordingFiles

pytest_plugins = ["hdf5_story"]


def test_records_follow_each_other_over_pieces_and_segments(container: Hdf5Container) -> None:
    reader = reader_of(container)
    assert container.segments() == reader.segments() == []
    container.begin_segment(0, b"base")
    stream = b"base"
    for size in (10, 60_000, 70_000, 1, 300_000, 5):
        record = random.Random(size).randbytes(size)
        container.append_record(record)
        stream += record
        for one in (container, reader):
            assert one.read_segment(0) == stream
            assert one.read_segment(0, 65_000) == stream[65_000:]
    container.begin_segment(6, b"six")
    container.append_record(b"seven")
    for one in (container, reader, reader_of(container)):
        assert one.segments() == [0, 6]
        assert one.read_segment(0) == stream
        assert one.read_segment(0, 100_000) == stream[100_000:]
        assert one.read_segment(6) == b"sixseven"
        assert one.read_segment(6, 100) == b""
        with pytest.raises(NotFoundError, match="commit 3"):
            one.read_segment(3)


def test_a_cut_record_is_forgotten(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"wrong")
    container.cut_segment(0, 4)
    assert reader_of(container).read_segment(0) == b"base"
    container.append_record(b"ok")
    assert reader_of(container).read_segment(0) == b"baseok"
    with pytest.raises(CorruptError, match="no byte 100"):
        container.cut_segment(0, 100)


def test_a_cut_may_go_back_to_an_older_segment(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"a" * 70_000)
    container.begin_segment(5, b"five")
    container.begin_segment(9, b"nine")
    reader = reader_of(container)
    assert reader.segments() == [0, 5, 9]
    with pytest.raises(CorruptError, match="no byte 99999"):
        container.cut_segment(0, 99_999)
    container.cut_segment(0, 30_000)
    container.append_record(b"more")
    for one in (container, reader, reader_of(container)):
        assert one.segments() == [0]
        assert one.read_segment(0) == b"base" + b"a" * 29_996 + b"more"


def test_after_power_loss_no_record_follows_that_was_cut(tmp_path: Path) -> None:
    recorder, crash = RecordingFiles(), tmp_path / "crash"
    container = Hdf5Container.create(recorder.files(tmp_path / "live", writable=True), NAME, {})
    container.begin_segment(0, b"base")
    container.append_record(b"old1")
    container.append_record(b"old2")
    container.sync()
    disk = Disk()
    for operation in recorder.operations:
        disk.do(operation)
    recorder.operations.clear()
    container.cut_segment(0, 4)
    container.append_record(b"new1")
    for operation in recorder.operations:
        disk.do(operation)
    chance, found = np.random.default_rng(0), set()
    for _ in range(40):
        put(str(crash), disk.cut(chance))
        found.add(Hdf5Container.open(Files(crash, writable=False), NAME, writable=False).read_segment(0))
    assert found == {b"base", b"basenew1"} | ({b"baseold1"} & found)


def test_older_segments_are_there_until_others_are_in_their_place(tmp_path: Path) -> None:
    recorder, crash = RecordingFiles(), tmp_path / "crash"
    container = Hdf5Container.create(recorder.files(tmp_path / "live", writable=True), NAME, {})
    for commit in (0, 2, 4, 6):
        container.begin_segment(commit, b"%d" % commit)
    before = {commit: b"%d" % commit for commit in (0, 2, 4, 6)}
    chance = np.random.default_rng(0)
    for kept, removed in (({1: b"1"}, [0]), ({3: b"3"}, [2]), ({1: b"one"}, []), ({}, [1, 3])):
        disk = Disk()
        for operation in recorder.operations:
            disk.do(operation)
        done = len(recorder.operations)
        container.replace_segments(kept, removed)
        after = {commit: data for commit, data in {**before, **kept}.items() if commit not in removed}
        found = []
        for operation in recorder.operations[done:]:
            disk.do(operation)
            put(str(crash), disk.cut(chance))
            with closing(Hdf5Container.open(Files(crash, writable=True), NAME, writable=True)) as left:
                found.append({commit: left.read_segment(commit) for commit in left.segments()})
        assert all(segments in (before, after) for segments in found), (kept, removed, found)
        assert found[0] == before
        assert found[-1] == after
        before = after


def test_a_sealed_file_has_no_older_segments_and_no_tails(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"x" * 100_000)
    container.begin_segment(3, b"newest")
    container.create_arrays({"journal/tail/0": SPECS[FLAG], "journal/tail/1": SPECS[FLAG]})
    container.seal()
    for one in (container, reader_of(container)):
        assert one.segments() == [3]
        assert one.read_segment(3) == b"newest"
        assert dict(one.specs()) == ALL
    with plain(container) as file:
        assert list(file["journal"]) == ["log"]
        assert list(file["journal/log"]) == ["3", "directory"]


def test_arrays_that_no_commit_knows_of_are_trimmed(container: Hdf5Container) -> None:
    container.create_arrays({"steps/left/over": ALL[OBS], "journal/tail/0": SPECS[FLAG]})
    container.trim(dict.fromkeys(ALL, 0))
    assert (
        dict(container.specs())
        == {**ALL, "journal/tail/0": SPECS[FLAG]}
        == dict(reader_of(container).specs())
    )
    with plain(container) as file:
        assert "left" not in file["steps"]


def test_segments_from_the_new_one_on_are_replaced(container: Hdf5Container) -> None:
    for commit in (0, 5, 9):
        container.begin_segment(commit, b"old%d" % commit)
    container.begin_segment(5, b"new")
    assert container.segments() == reader_of(container).segments() == [0, 5]
    assert reader_of(container).read_segment(5) == b"new"
    assert reader_of(container).read_segment(0) == b"old0"
    container.begin_segment(12, b"newer")
    assert container.segments() == reader_of(container).segments() == [0, 5, 12]


def test_reading_the_end_of_the_log_needs_no_hdf5(
    container: Hdf5Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.begin_segment(0, b"base")
    reader = reader_of(container)
    assert reader.segments() == [0]
    monkeypatch.setattr(h5py, "File", None)
    container.append_record(b"more")
    assert reader.segments() == [0]
    assert reader.read_segment(0, 4) == b"more"
