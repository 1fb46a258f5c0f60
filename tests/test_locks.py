"""One writer at a time: the lock is the file's, whatever its name and whoever is killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
from locked_stores import SUFFIXES, in_child, make, names, rows, values

import replaystore as rs
from replaystore.containers import located
from replaystore.errors import ConflictError, StorageError
from replaystore.location import Location

pytestmark = pytest.mark.disk


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_second_writer_is_refused_whatever_the_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    others = names(path)
    for first, second in [(path, other) for other in others.values()] + [
        (other, path) for other in others.values()
    ]:
        with rs.open(first, "r+") as buffer:
            for again in range(2):
                with pytest.raises(ConflictError, match="open for writing elsewhere"):
                    rs.open(second, "r+")
                assert in_child(lambda second=second: rs.open(second, "r+")) == 1  # type: ignore[misc]
                buffer.append(rows(again, 3))
                buffer.commit()
    assert len(values(path)) == 10 + 2 * 2 * 3 * len(others)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_only_one_of_many_processes_becomes_the_writer(tmp_path: Path, suffix: str) -> None:
    """Side by side, opening and closing all the time: no commit is lost, and no two write at the same
    time."""
    path = tmp_path / f"a{suffix}"
    make(path, count=1)
    alias = tmp_path / f"alias{suffix}"
    alias.symlink_to(path)

    def work(number: int) -> None:
        done, end = 0, time.monotonic() + 4
        while time.monotonic() < end:
            try:
                with rs.open(alias if number % 2 else path, "r+") as buffer:
                    inside = os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL)
                    buffer.append(rows(number, 2))
                    if done % 3 == 2:
                        buffer.commit()
                        buffer.append(rows(-1, 2))
                        buffer.commit()
                        buffer.rollback(buffer.commit_id - 1)
                        with pytest.raises(ConflictError):
                            rs.open(alias, "r+")
                    os.close(inside)
                    os.unlink(tmp_path / "inside")
                done += 1
            except ConflictError:
                time.sleep(0.001)
        (tmp_path / f"done{number}").write_text(str(done))

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = values(path)
    for number in range(4):
        assert found.count(number) == 2 * int((tmp_path / f"done{number}").read_text()) + (number == 1)
    assert rs.verify(path).problems == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_closed_store_has_no_lock_beside_or_in_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    rs.open(path, "r+").close()
    rs.open(path, "r+").abandon()
    rs.convert(path, tmp_path / f"b{suffix}")
    assert sorted(os.listdir(tmp_path)) == [f"a{suffix}", f"b{suffix}"]
    assert not [name for name in tmp_path.rglob("*") if "lock" in name.name]


def test_a_lock_whose_file_is_removed_at_the_end_is_never_held_twice(tmp_path: Path) -> None:
    place = Location("local", "hdf5", str(tmp_path / "a.h5"))

    def work() -> None:
        end, counts = time.monotonic() + 3, 0
        while time.monotonic() < end:
            try:
                lock = located.lock_place(place, wait=counts % 2 == 0)
            except ConflictError:
                continue
            os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
            os.unlink(tmp_path / "inside")
            lock.release()
            counts += 1
        assert counts > 10

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert os.listdir(tmp_path) == []


def test_who_waits_for_himself_is_refused(tmp_path: Path) -> None:
    place = Location("local", "hdf5", str(tmp_path / "a.h5"))
    lock = located.lock_place(place)
    with pytest.raises(ConflictError, match="is being made"):
        located.lock_place(place, wait=True)
    lock.release()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_writer_leaves_a_lock_that_nobody_holds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)

    def die() -> None:
        rs.open(path, "r+").append(rows(2, 1))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    with rs.open(path, "r+") as buffer:
        buffer.append(rows(3, 2))
    assert values(path) == [1.0] * 10 + [3.0] * 2
    assert not [name for name in tmp_path.rglob("*") if "lock" in name.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_child_of_a_killed_writer_does_not_keep_its_lock(tmp_path: Path, suffix: str) -> None:
    """Nobody has unlocked it, and the system keeps a lock for as long as any process has the file open."""
    path = tmp_path / f"a{suffix}"
    make(path)
    told, tell = os.pipe()
    waiting, ending = os.pipe()

    def die() -> None:
        buffer = rs.open(path, "r+")
        if not os.fork():
            os.close(ending)
            os.write(tell, b"child")
            os.read(waiting, 1)
            os._exit(int(buffer is None))
        os.read(told, 5)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    rs.open(path, "r+").close()  # though the child lives
    for descriptor in (told, tell, waiting, ending):
        os.close(descriptor)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_child_neither_holds_nor_ends_the_lock_of_its_parent(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    buffer = rs.open(path, "r+")
    waiting, ending = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ending)
        os.read(waiting, 1)
        buffer.close()
        del buffer
        os._exit(in_child(lambda: rs.open(path, "r+").abandon()))
    with pytest.raises(ConflictError):
        rs.open(path, "r+")
    buffer.close()
    rs.open(path, "r+").close()  # though the child lives
    buffer = rs.open(path, "r+")
    os.close(ending)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    with pytest.raises(ConflictError):
        rs.open(path, "r+")
    buffer.close()


def test_other_software_reads_an_hdf5_file_beside_its_writer_and_the_other_way_round(tmp_path: Path) -> None:
    make(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r") as file, rs.open(tmp_path / "a.h5", "r+") as buffer:
        buffer.append(rows(2, 5))
        buffer.publish()
        with h5py.File(tmp_path / "a.h5", "r") as again:
            assert (len(file["steps/observation"]), len(again["steps/observation"])) == (15, 15)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_rollback_keeps_the_lock(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    with rs.open(path, "r+") as buffer:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for number in range(3):
            known = buffer.commit_id
            buffer.append(rows(2, 4))
            buffer.commit()
            buffer.rollback(known)
            with pytest.raises(ConflictError):
                rs.open(path, "r+")
            assert in_child(lambda: rs.open(path, "r+")) == 1
            buffer.append(rows(number, 1))
            buffer.commit()
        if before and suffix == ".h5":
            assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert values(path) == [1.0] * 10 + [0.0, 1.0, 2.0]


def test_a_rollback_that_fails_keeps_the_lock_on_what_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    make(path)
    with rs.open(path, "r+") as buffer:
        known = buffer.commit_id
        buffer.append(rows(2, 4))
        buffer.commit()
        real, files = os.replace, type(buffer._store.container.files)

        def refuse(self: Any, old: str, new: str) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(files, "rename", refuse)
            with pytest.raises(StorageError):
                buffer.rollback(known)
        with pytest.raises(ConflictError):
            rs.open(path, "r+")
        buffer.rollback(known)
        buffer.append(rows(3, 1))
        buffer.commit()

        def rename(self: Any, old: str, new: str) -> None:
            real(self.path(old), self.path(new))
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(files, "rename", rename)
            with pytest.raises(KeyboardInterrupt):
                buffer.rollback(known)
        with pytest.raises(ConflictError):
            rs.open(path, "r+")
        buffer.abandon()
    rs.open(path, "r+").close()
