"""A full or failing disk: an error of one line, nothing committed is lost, and where it can the same writer goes on."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import replaystore as rs
from replaystore.buffer import Buffer
from replaystore.errors import StorageError
from replaystore.schema import Field
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.faults import Faults, using
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import columns, play, recording, small, storage
from replaystore.verification import verify

CODECS = {".zarr": "zstd:1", ".h5": "gzip:1"}
Doing = Callable[[Any], Any]
"""Something done to a buffer or a plain buffer; done again if the disk refused it."""


@pytest.fixture(params=CODECS)
def location(request: pytest.FixtureRequest) -> Iterator[str]:
    """In memory where there is a folder for that: syncing takes no time there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield os.path.join(folder, f"store{request.param}")


def settings(location: str, capacity: int | None = None) -> dict[str, Any]:
    return {"storage": storage(CODECS[os.path.splitext(location)[1]]), "capacity": capacity}


def append(count: int, seed: int, env: int = 0) -> Doing:
    return lambda buffer: buffer.append(columns(buffer.schema, count, seed), env=env)


def commit(buffer: Any) -> None:
    buffer.commit()


def steps(seed: int) -> Iterator[Doing]:
    """A writer and its steps, with a commit now and then."""
    writers: dict[int, Any] = {}

    def begin(buffer: Any) -> None:
        writers[id(buffer)] = buffer.writer(2)

    yield begin
    for number, step in enumerate(recording(small(), 2, 6, seed)):
        yield lambda buffer, step=step: play(writers[id(buffer)], step, small())  # type: ignore[misc]
        if number % 3 == 0:
            yield commit
    yield lambda buffer: writers[id(buffer)].close()


def column(seed: int) -> Doing:
    def set_it(buffer: Any) -> None:
        buffer.commit()
        table = buffer.contents().table if isinstance(buffer, PlainBuffer) else buffer.trajectories.columns
        buffer.set_trajectory_column("score", np.random.default_rng(seed).random(int((~table["open"]).sum())))

    return set_it


def workload() -> Iterator[Doing]:
    yield from (append(5, 1), commit, append(17, 2, env=1), commit)
    yield from steps(3)
    yield from (commit, column(4), lambda buffer: buffer.publish())
    yield lambda buffer: buffer.add_field("info/late", Field(np.dtype(np.int16), (), "info"), fill=0)
    yield from (append(9, 5, env=3), commit, append(30, 6), lambda buffer: buffer.rollback(2))
    yield from (append(11, 7), commit, append(2, 8), lambda buffer: buffer.publish(), append(3, 9), commit)


def check(location: str, plain: PlainBuffer, first: int, last: int) -> None:
    """What is shown to a reader is one of these commits, bit for bit. (Done again, a thing of several commits makes one more than once.)"""
    with rs.open(location) as reader:
        found = Contents.of(reader)
        assert reader.commit_id >= first
    differences = [plain.history[commit].contents().difference(found) for commit in range(first, last + 1)]
    assert "" in differences, differences


def check_clean(location: str) -> None:
    with patch("replaystore.verification._probe", lambda *_: True):  # another process for each would take most of the time
        assert verify(location).problems == []


def check_message(error: StorageError) -> None:
    """One line that says what and where."""
    assert "\n" not in str(error)
    assert "store" in str(error)
    assert os.strerror(errno.ENOSPC) in str(error)
    assert error.errno == errno.ENOSPC


def insist(faults: Faults, doing: Callable[[], Any], after: Callable[[], None]) -> int:
    """Do it on a disk that is full at the first operation, then when there is room for one, and so on: until it can be done."""
    refusals = 0
    while True:
        faults.full_at, before = faults.count + 1 + refusals, faults.count
        try:
            doing()
        except StorageError as error:
            faults.full_at = None
            check_message(error)
            assert faults.count > before
            refusals += 1
            if refusals % 4 == 1:
                after()
        else:
            faults.full_at = None
            return refusals


@pytest.mark.parametrize("phase", [0.0, 0.6])
@pytest.mark.parametrize("capacity", [None, 30])
def test_a_writer_goes_on_after_each_write_that_a_full_disk_refused(location: str, capacity: int | None, phase: float) -> None:
    if capacity is not None and location.endswith(".h5"):
        pytest.skip("HDF5 has no ring")
    faults, plain = Faults(kill_phase=phase), PlainBuffer(small(), capacity=capacity)
    with tiny(), using(faults.files):
        buffer: Buffer = rs.create(location, small(), **settings(location, capacity))
        refusals = 0
        for doing in workload():
            known = plain.commit_id
            doing(plain)
            look = partial(check, location, plain, known, plain.commit_id)
            refusals += insist(faults, partial(doing, buffer), look)
            if plain.commit_id != known:
                assert plain.contents().difference(Contents.of(buffer)) == ""
        buffer.close()
    assert refusals > 100
    check(location, plain, plain.commit_id, plain.commit_id)
    check_clean(location)


def test_a_store_that_a_full_disk_refuses_is_not_there_at_all(location: str) -> None:
    faults = Faults(kill_phase=0.5)

    def nothing() -> None:
        assert os.listdir(os.path.dirname(location)) == []

    with using(faults.files):
        refusals = insist(faults, lambda: rs.create(location, small(), **settings(location)).close(), nothing)
    assert refusals > 3
    check_clean(location)


def test_recovery_is_tried_again_when_there_is_room(location: str) -> None:
    faults, plain = Faults(), PlainBuffer(small())
    with tiny():
        buffer = rs.create(location, small(), **settings(location))
        for doing in (append(21, 1), commit, append(4, 2), commit, append(30, 3)):
            doing(buffer)
            doing(plain)
        buffer.abandon()
        with using(faults.files):
            opened: list[Buffer] = []
            refusals = insist(faults, lambda: opened.append(rs.open(location, "r+")), lambda: check(location, plain, 2, 2))
            assert refusals > 0
            assert plain.contents().difference(Contents.of(opened[0])) == ""
            opened[0].close()
    check_clean(location)


POISONED = re.compile("reopen|open it again")


def committed(buffer: Buffer) -> str:
    """Commit; the error, if there is one."""
    try:
        buffer.commit()
    except StorageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["sync_file", "sync_folder"])
def test_after_a_failed_sync_a_writer_writes_nothing_more_and_says_what_to_do(location: str, kind: str) -> None:
    faults, plain = Faults(failing=(kind,), error=errno.EIO), PlainBuffer(small())
    with tiny(), using(faults.files):
        buffer: Buffer = rs.create(location, small(), **settings(location))
        failures = 0
        for number in range(12):
            for doing in (append(12, number), commit):
                doing(plain)
            append(12, number)(buffer)
            faults.full_at = faults.count + 1 + number
            acknowledged = buffer.commit_id
            failed = committed(buffer)
            faults.full_at = None
            if not failed:
                continue
            failures += 1
            assert POISONED.search(failed)
            for doing in (append(3, 99), commit, lambda buffer: buffer.publish()):
                with pytest.raises(StorageError, match=POISONED):
                    doing(buffer)
            buffer.abandon()
            check(location, plain, acknowledged, plain.commit_id)
            buffer = rs.open(location, "r+")
            plain = plain.resumed(buffer.commit_id)
        buffer.close()
    assert failures > 0 or (kind, location[-3:]) == ("sync_folder", ".h5")  # whose folder has nothing new at a commit
    check(location, plain, plain.commit_id, plain.commit_id)
    check_clean(location)


# --- other commands that write


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    location = str(tmp_path_factory.mktemp("source") / "source.zarr")
    with rs.create(location, small(), storage=storage("zstd:1")) as buffer:
        append(700, 1)(buffer)
    return location


@pytest.mark.parametrize("layout", ["live", "archive"])
def test_a_conversion_that_a_full_disk_refuses_leaves_no_target(location: str, source: str, layout: str) -> None:
    faults, folder = Faults(kill_phase=0.5), os.path.dirname(location)
    with using(faults.files):
        rs.convert(source, location, layout=layout)
    known, total = sorted(os.listdir(folder)), faults.count
    refused = 0
    for number in [*range(1, total, 1 + total // 25), total - 1]:
        target = os.path.join(folder, "other-store" + os.path.splitext(location)[1])
        faults.count, faults.full_at = 0, number
        with using(faults.files), pytest.raises(StorageError) as caught:
            rs.convert(source, target, layout=layout)
        check_message(caught.value)
        assert sorted(os.listdir(folder)) == known
        refused += 1
    assert refused > 5


# --- a real file system that is too small


@pytest.fixture
def little(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; half of it is taken by the file "ballast"."""
    folder = tmp_path / "little"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
    except OSError as error:
        pytest.skip(f"no program to mount a small file system: {error}")
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {mounted.stderr.strip()}")
    try:
        (folder / "ballast").write_bytes(bytes(2 << 20))
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> None:
    """Leave so many bytes."""
    status = os.statvfs(folder)
    (folder / "filling").write_bytes(bytes(status.f_bavail * status.f_frsize - left))


@pytest.mark.parametrize("suffix", CODECS)
def test_a_writer_on_a_disk_that_is_really_full_goes_on_when_there_is_room(little: Path, suffix: str) -> None:
    location, plain = str(little / f"store{suffix}"), PlainBuffer(small())
    buffer = rs.create(location, small(), **settings(location))
    refused: Doing | None = None
    for number in range(100):
        acknowledged = plain.commit_id
        for doing in (append(200, number), commit):
            doing(plain)
            try:
                doing(buffer)
            except StorageError as error:
                check_message(error)
                refused = doing
                break
        if refused is not None:
            break
    assert refused is not None
    check(location, plain, acknowledged, acknowledged)
    with pytest.raises(StorageError):
        refused(buffer)
    (little / "ballast").unlink()
    refused(buffer)
    if refused is not commit:
        commit(plain)
    buffer.close()
    check(location, plain, plain.commit_id, plain.commit_id)
    check_clean(location)


@pytest.mark.parametrize("suffix", CODECS)
def test_nothing_is_left_of_a_conversion_or_recording_that_does_not_fit(little: Path, source: str, suffix: str) -> None:
    fill(little, 60_000)
    known = sorted(os.listdir(little))
    target = str(little / f"store{suffix}")

    with pytest.raises(StorageError) as caught:
        rs.convert(source, target)
    check_message(caught.value)
    assert sorted(os.listdir(little)) == known

    command = [sys.executable, "-m", "replaystore.cli", "record", "CartPole-v1", target, "--steps", "1000"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode not in (0, -9)
    assert done.stderr.count("\n") == 1
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert sorted(os.listdir(little)) == known
