"""One writer for a store, whatever name leads to it; and a writer that notices when the name shows another
store."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ConflictError, CorruptError, ReplayStoreError, StorageError
from replaystore.location import Location, parse
from replaystore.schema.fields import Field, Schema
from replaystore.storage import locks

SCHEMA = Schema({"observation": Field(np.dtype("f4"), (3,), "observation")})
SUFFIXES = [".zarr", ".h5"]


def rows(value: float, count: int) -> dict[str, Any]:
    return {"observation": np.full((count, 3), value, "f4")}


def make(path: Path, value: float = 1, count: int = 10) -> None:
    with rs.create(path, SCHEMA) as buffer:
        buffer.append(rows(value, count))


def values(path: Path) -> list[float]:
    with rs.open(path) as buffer:
        return buffer["observation"][:][:, 0].tolist()  # type: ignore[no-any-return]


def in_child(doing: Callable[[], object]) -> int:
    """Do it in a forked child; 0: done, 1: a ConflictError, 2: another error."""
    pid = os.fork()
    if not pid:
        try:
            doing()
        except ConflictError:
            os._exit(1)
        except BaseException:  # noqa: BLE001  # a child never comes back
            os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- the lock is the file's


def names(path: Path) -> dict[str, Path]:
    """Other names of a store."""
    folder = path.parent / "links"
    folder.mkdir()
    found = {
        "symbolic link": folder / path.name,
        "link to a link": folder / f"b{path.suffix}",
        "over a folder": path.parent / "up" / path.name,
    }
    found["symbolic link"].symlink_to(path)
    found["link to a link"].symlink_to(found["symbolic link"])
    (path.parent / "up").symlink_to(path.parent)
    if path.is_file():
        found["hard link"] = folder / "c.h5"
        os.link(path, found["hard link"])
    return found


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
    place = Location("hdf5", str(tmp_path / "a.h5"))

    def work() -> None:
        end, counts = time.monotonic() + 3, 0
        while time.monotonic() < end:
            try:
                lock = locks.lock_place(place, wait=counts % 2 == 0)
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
    place = Location("hdf5", str(tmp_path / "a.h5"))
    lock = locks.lock_place(place)
    with pytest.raises(ConflictError, match="is being made"):
        locks.lock_place(place, wait=True)
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


# --- a store that was replaced under its writer


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ["replaced", "moved", "removed", "exchanged"])
@pytest.mark.parametrize("operation", ["append", "commit", "publish", "rollback", "close"])
def test_a_writer_whose_store_was_replaced_by_hand_is_told_so(
    tmp_path: Path, suffix: str, what: str, operation: str
) -> None:
    path, other, aside = (tmp_path / f"{name}{suffix}" for name in "abc")
    make(path)
    make(other, value=7)
    buffer = rs.open(path, "r+")
    known = buffer.commit_id
    buffer.append(rows(2, 4))
    if operation == "rollback":
        buffer.commit()
    time.sleep(2 * locks.MOMENT)
    remove = shutil.rmtree if path.is_dir() else os.unlink
    if what in ("moved", "exchanged"):
        path.rename(aside)
    else:
        remove(path)
    if what in ("replaced", "exchanged"):
        other.rename(path)
        before = {at: at.read_bytes() for at in [path, *path.rglob("*")] if at.is_file()}
    doing = {
        "append": lambda: buffer.append(rows(3, 1)),
        "commit": buffer.commit,
        "publish": buffer.publish,
        "rollback": lambda: buffer.rollback(known),
        "close": buffer.close,
    }
    with pytest.raises(
        ConflictError,
        match=("not the store any more that this writer opened: it was replaced, moved or removed"),
    ):
        doing[operation]()
    buffer.abandon()
    if what in ("replaced", "exchanged"):
        assert {at: at.read_bytes() for at in [path, *path.rglob("*")] if at.is_file()} == before
        assert values(path) == [7.0] * 10
    if what in ("moved", "exchanged"):
        assert values(aside) == [1.0] * 10 + [2.0] * (4 if operation == "rollback" else 0)


def test_a_link_that_is_turned_to_another_store_does_not_turn_its_writer(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        first, second, link = (tmp_path / f"{name}{suffix}" for name in ("first", "second", "link"))
        make(first)
        make(second)
        link.symlink_to(first)
        with rs.open(link, "r+") as buffer:
            link.unlink()
            link.symlink_to(second)
            buffer.append(rows(2, 300))
            buffer.commit()
        assert (len(values(first)), len(values(second))) == (310, 10)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_writer_goes_on_when_the_process_changes_its_folder(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(f"a{suffix}"))
    lock = locks.lock_store(parse(f"a{suffix}"))
    monkeypatch.chdir("/")
    lock.check()
    lock.release()


# --- file systems without locks, and locks that are none


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, suffix: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    names = sorted(os.listdir(tmp_path))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    for call in ("flock", "fcntl"):
        monkeypatch.setattr(fcntl, call, refuse)
    assert values(path) == [1.0] * 10
    assert rs.verify(path).problems == []
    for doing in (
        lambda: rs.open(path, "r+"),
        lambda: rs.create(tmp_path / f"b{suffix}", SCHEMA),
        lambda: rs.create(path, SCHEMA, overwrite=True),
        lambda: rs.convert(path, tmp_path / f"b{suffix}"),
        lambda: rs.convert(path, tmp_path / "b.zarr.zip"),
    ):
        with pytest.raises(
            StorageError,
            match=(
                r"its file system gives no locks .*mount it with "
                r"locks.*reading needs none"
            ),
        ) as caught:
            doing()
        assert caught.value.errno == number
    assert sorted(os.listdir(tmp_path)) == names
    assert not [name for name in tmp_path.rglob("*") if "lock" in name.name]


def test_an_hdf5_file_is_locked_as_a_whole_where_a_byte_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.h5")
    for missing in (True, False):
        with monkeypatch.context() as patch:
            if missing:
                patch.delattr(fcntl, "F_OFD_SETLK", raising=False)
            else:
                patch.setattr(fcntl, "F_OFD_SETLK", 99, raising=False)  # EINVAL
            with rs.open(tmp_path / "a.h5", "r+"), pytest.raises(ConflictError):
                rs.open(tmp_path / "a.h5", "r+")
            rs.open(tmp_path / "a.h5", "r+").close()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "folder that is a link"])
def test_a_lock_that_is_no_file_is_neither_followed_nor_waited_for(tmp_path: Path, kind: str) -> None:
    path, outside = tmp_path / "a.zarr", tmp_path / "outside"
    make(path)
    outside.mkdir()
    (outside / "file").write_text("mine")
    lock = path / locks.ZARR_LOCK
    if kind == "link":
        lock.symlink_to(outside / "file")
    elif kind == "dangling link":
        lock.symlink_to(outside / "new")
    elif kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        (path / "journal/log").rename(outside / "log")
        (path / "journal/log").symlink_to(outside / "log")
    before = {at: at.read_bytes() for at in outside.rglob("*") if at.is_file()}
    with pytest.raises(CorruptError, match=r"do not trust|link"):
        rs.open(path, "r+")
    assert {at: at.read_bytes() for at in outside.rglob("*") if at.is_file()} == before


# --- errors are ours


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("call", ["open", "fsync", "fdatasync", "lstat", "fstat", "stat", "pread"])
def test_what_the_system_refuses_while_opening_is_an_error_of_ours(
    tmp_path: Path, suffix: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)

    def campaign() -> None:
        real, count = getattr(os, call), 0
        for fatal in range(1, 40):
            count = 0

            def fail(*args: Any, fatal: int = fatal, **more: Any) -> Any:
                nonlocal count
                count += 1
                if count == fatal:
                    raise OSError(errno.EIO, "Input/output error")
                return real(*args, **more)

            with monkeypatch.context() as patch:
                patch.setattr(os, call, fail)
                with contextlib.suppress(ReplayStoreError):
                    rs.open(path, "r+").abandon()
            if count < fatal:
                break

    # HDF5 that was given zeros for a block of its own does not survive the end of Python.
    assert in_child(campaign) == 0
    with rs.open(path, "r+") as buffer:
        assert len(buffer) == 10


@pytest.mark.parametrize("with_statx", [True, False])
def test_what_a_name_shows_is_told_by_device_and_inode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_statx: bool
) -> None:
    """Of files, folders, links (not what they lead to) and other file systems; with the call that asks for no
    times, and without it."""
    if not with_statx:
        monkeypatch.setattr(locks, "_statx", lambda: None)
    (tmp_path / "é").write_bytes(b"")
    (tmp_path / "link").symlink_to("é")
    for path in (tmp_path, tmp_path / "é", tmp_path / "link", Path("/dev/null"), Path("/proc/self/stat")):
        status = os.lstat(path)
        assert locks._identity(str(path)) == (status.st_dev, status.st_ino)
    with pytest.raises(FileNotFoundError):
        locks._identity(str(tmp_path / "nothing"))
    with pytest.raises(NotADirectoryError):
        locks._identity(str(tmp_path / "é" / "nothing"))
