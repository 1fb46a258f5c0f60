"""File systems without locks, locks that are none, and what the system refuses: errors of ours."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from locked_stores import SCHEMA, SUFFIXES, in_child, make, values

import replaystore as rs
from replaystore.containers.zarr.container import ZarrContainer
from replaystore.errors import ConflictError, CorruptError, ReplayStoreError, StorageError
from replaystore.storage import locks

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
    lock = path / ZarrContainer.lock_name
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
