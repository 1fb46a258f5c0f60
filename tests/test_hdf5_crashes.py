"""HDF5 files whose writer was killed, lost power, or met an error of the system."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from hdf5_story import (
    ALL,
    FLAG,
    IMAGE,
    NAME,
    OBS,
    SPECS,
    STORY,
    State,
    read_rows,
    reader_of,
    step_document,
    step_segment,
)

from replaystore.containers.hdf5 import copy as hdf5_copy
from replaystore.containers.hdf5 import transaction as hdf5_transaction
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.errors import StorageError
from replaystore.storage.local import Files
from replaystore.testing.disks import Disk, Left, put
from replaystore.testing.faults import RecordingFiles

pytest_plugins = ["hdf5_story"]


# --- crashes: a story of steps, each durable when it returns, and what a reader may find when it is cut off


def check_either(folder: Path, before: State, after: State, *, deep: bool = True) -> None:
    """A crashed store is as it was before the step or after it: for a reader, for a writer that recovers, for
    plain h5py."""
    for writable in (False, True):
        files = Files(folder, writable=writable)
        container = Hdf5Container.open(files, NAME, writable=writable)
        try:
            before.check(container)
        except AssertionError:
            after.check(container)
        container.close()
    if not deep:
        return
    documents = [before.document, after.document]
    with h5py.File(folder / NAME, "r") as file:
        assert json.loads(file.attrs["replaystore"]) in documents
        for name in (OBS, FLAG, IMAGE):
            if name in file:
                assert len(file[name][:]) == file[name].shape[0]
    container = Hdf5Container.open(Files(folder, writable=True), NAME, writable=True)
    step_document(7)(container, before)
    container.create_arrays({"steps/later": SPECS[OBS]})
    container.reserve({"steps/later": 10})
    assert "steps/later" in reader_of(container).specs()
    container.close()


@pytest.fixture
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every byte of a copy is seen."""
    monkeypatch.setattr(hdf5_copy, "FICLONE", 0)


def crash_story(tmp_path: Path, seed: int, *, every: int) -> None:
    chance, recorder, crash = np.random.default_rng(seed), RecordingFiles(), tmp_path / "crash"
    state = State({"format_version": 1})
    container = Hdf5Container.create(recorder.files(tmp_path / "live", writable=True), NAME, state.document)
    disk = Disk()
    for operation in recorder.operations:
        left = disk.cut(chance)
        if NAME in left:
            put(str(crash), left)
            check_either(crash, state, state)
        disk.do(operation)
    for step in STORY:
        done = len(recorder.operations)
        after = step(container, state)
        for number, operation in enumerate(recorder.operations[done:]):
            crashes: list[Left] = []
            if operation.kind.startswith("sync"):
                crashes = [disk.synced(), disk.cut(chance), disk.cut(chance)]
            elif number % every == seed % every:
                crashes = [disk.everything(), disk.cut(chance)]
            for left in crashes:
                put(str(crash), left)
                check_either(crash, state, after, deep=chance.random() < 0.3)
            disk.do(operation)
        put(str(crash), disk.synced())
        check_either(crash, after, after)
        state = after


def test_a_journal_that_is_not_in_place_is_read_over_the_file(tmp_path: Path, no_reflinks: None) -> None:
    """As on a medium that cannot be written to. The journal is on the disk, and nothing that it says is in
    place."""
    recorder, crash = RecordingFiles(), tmp_path / "crash"
    state = State({"format_version": 1})
    container = Hdf5Container.create(recorder.files(tmp_path / "live", writable=True), NAME, state.document)
    disk = Disk()
    seen, journal = 0, ("write", NAME, 12288)
    for step in [*STORY, step_segment(8), step_segment(9)]:
        after = step(container, state)
        places = [(operation.kind, operation.name, operation.offset) for operation in recorder.operations]
        last = max((number for number, place in enumerate(places) if place == journal), default=-1)
        for number, operation in enumerate(recorder.operations):
            disk.do(operation)
            if number == last and after.log.keys() != state.log.keys():
                put(str(crash), disk.everything())
                reader = Hdf5Container.open(Files(crash, writable=False), NAME, writable=False)
                after.check(reader)
                reader.close()
                Hdf5Container.open(Files(crash, writable=True), NAME, writable=True).close()
                again = RecordingFiles()
                after.check(Hdf5Container.open(again.files(crash, writable=True), NAME, writable=True))
                assert {operation.kind for operation in again.operations} <= {"remove"}
                seen += 1
        recorder.operations.clear()
        state = after
    assert seen == 4


@pytest.mark.parametrize("seed", range(2))
def test_what_is_acknowledged_survives_kills_and_power_loss(
    tmp_path: Path, no_reflinks: None, seed: int
) -> None:
    crash_story(tmp_path, seed, every=3)


def test_journals_too_large_for_their_region_survive_too(
    tmp_path: Path, no_reflinks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5_transaction, "DIRECT", 1 << 40)
    monkeypatch.setattr(hdf5_transaction, "ROOM", 600)
    crash_story(tmp_path, 7, every=6)


def test_a_crash_during_recovery_is_recovered_from(tmp_path: Path) -> None:
    chance, recorder, crash = np.random.default_rng(5), RecordingFiles(), tmp_path / "crash"
    state = State({"format_version": 1})
    container = Hdf5Container.create(recorder.files(tmp_path / "live", writable=True), NAME, state.document)
    disk = Disk()
    recovered = 0
    for step in STORY[:9]:
        after = step(container, state)
        for operation in recorder.operations:
            if (operation.kind, operation.name) == ("sync_file", NAME):
                # After a kill the system still holds what is not on the disk; after a power cut it does not.
                for killed in (True, False):
                    put(str(crash), left := disk.everything() if killed else disk.cut(chance))
                    again = RecordingFiles()
                    Hdf5Container.open(again.files(crash, writable=True), NAME, writable=True).close()
                    second = copy.deepcopy(disk) if killed else Disk(left)
                    for small in again.operations:
                        if chance.random() < 0.2 or small.kind == "sync_file":
                            put(str(tmp_path / "again"), second.cut(chance))
                            check_either(tmp_path / "again", state, after, deep=False)
                            recovered += 1
                        second.do(small)
            disk.do(operation)
        recorder.operations.clear()
        state = after
    assert recovered > 50


# --- errors of the system


class NoSpaceError(OSError):
    """What `FailingFiles` raises."""


class FailingFiles(Files):
    """One write, of those that count, fails; half of it reaches the file."""

    left = -1

    def _strike(self) -> bool:
        self.left -= 1
        return self.left == -1

    def write(self, name: str, offset: int, data: Any) -> None:
        if self._strike():
            super().write(name, offset, bytes(data)[: len(data) // 2])
            raise NoSpaceError(errno.ENOSPC, "No space left on device")
        super().write(name, offset, data)

    def resize(self, name: str, size: int) -> None:
        if self._strike():
            raise NoSpaceError(errno.ENOSPC, "No space left on device")
        super().resize(name, size)


@pytest.mark.parametrize("first", [0, 6, 12])
def test_after_any_failed_write_a_step_can_be_tried_again(
    tmp_path: Path, no_reflinks: None, first: int
) -> None:
    state = State({"format_version": 1})
    Hdf5Container.create(Files(tmp_path / "before", writable=True), NAME, state.document).close()
    failures = 0
    for index, step in enumerate(STORY[: first + 6]):
        for number in range(1000 if index >= first else 0):
            shutil.copytree(tmp_path / "before", tmp_path / "now")
            files = FailingFiles(tmp_path / "now", writable=True)
            container = Hdf5Container.open(files, NAME, writable=True)
            files.left = number
            with suppress(NoSpaceError):
                step(container, state)
            if files.left < 0:
                failures += 1
                check_partial(tmp_path / "now", state)
                after = step(container, state)
                after.check(container)
                after.check(reader_of(container))
            shutil.rmtree(tmp_path / "now")
            if files.left >= 0:
                break
        container = Hdf5Container.open(Files(tmp_path / "before", writable=True), NAME, writable=True)
        state = step(container, state)
        container.close()
    assert failures > 15


def check_partial(folder: Path, before: State) -> None:
    """A reader finds what was there before a failed step, perhaps with more."""
    reader = Hdf5Container.open(Files(folder, writable=False), NAME, writable=False)
    assert set(reader.specs()) >= before.arrays
    for name, rows in before.rows.items():
        assert read_rows(reader, name, len(rows) // SPECS[name].row_bytes) == rows
    for commit, stream in before.log.items():
        assert reader.read_segment(commit)[:3] == stream[:3]
    reader.close()


def test_a_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    for number in range(100):
        files = FailingFiles(tmp_path / "x", writable=True)
        files.left = number
        try:
            Hdf5Container.create(files, NAME, {})
        except NoSpaceError:
            assert os.listdir(tmp_path / "x") == []
        else:
            break
    else:
        pytest.fail("creating a file takes fewer writes than that")


def test_after_a_failed_sync_nothing_is_written_until_the_file_is_opened_anew(
    container: Hdf5Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.begin_segment(0, b"base")

    def fail(name: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(container.files, "sync_file", fail)
        with pytest.raises(OSError, match="Input/output"):
            container.replace_document({"new": 1})
    for write in (
        container.sync,
        lambda: container.append_record(b"x"),
        lambda: container.create_arrays({"steps/x": ALL[OBS]}),
        lambda: container.publish({OBS: 0}, {}),
    ):
        with pytest.raises(StorageError, match="open it again"):
            write()
    again = Hdf5Container.open(container.files, NAME, writable=True)
    assert again.document() in ({"format_version": [1, 0]}, {"new": 1})
    again.append_record(b"more")
    again.sync()


def test_an_error_while_hdf5_reads_is_an_error_and_no_crash(
    container: Hdf5Container, monkeypatch: pytest.MonkeyPatch
) -> None:

    class DiskError(OSError):
        pass

    real = Files.read
    for number in range(60):
        count = iter(range(1000))

        def fail(self: Files, name: str, offset: int = 0, length: int | None = None) -> bytes:
            if next(count) == number:  # noqa: B023 - used at once
                raise DiskError(errno.EIO, "Input/output error")
            return real(self, name, offset, length)

        with monkeypatch.context() as patch:
            patch.setattr(Files, "read", fail)
            with suppress(DiskError):
                container.create_arrays({"steps/x": ALL[OBS]})
        container.create_arrays({"steps/y": ALL[OBS]})
    assert {"steps/x", "steps/y"} < set(reader_of(container).specs())
