"""Files below one folder of a disk, read, written and synced.

Every byte that is written goes through here. The primitive operations are few and each is one method, so that
a test can record them, replay them with unsynced ones lost, or make them fail.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from replaystore.storage.descriptors import read_all
from replaystore.storage.folder import FolderReader
from replaystore.storage.inside import open_regular
from replaystore.storage.protocol import Writes
from replaystore.storage.sync_threads import side_by_side

__all__ = ["Files", "read_all"]

LARGE = 1 << 20
"""Bytes."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2."""
SYNC_FILE_RANGE_WRITE = 2
"""Of Linux's sync_file_range."""


class Files(FolderReader, Writes):
    """The files below one folder."""

    # --- the primitive operations

    def create(self, name: str) -> None:
        """Make an empty file in place of what has the name; folders are made as needed.

        What was there is never written to: it may be a link, or another name of a file that is none of
        ours."""
        self.forget(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            opened = open_regular(self._inside(name, make=True), flags)
        except FileExistsError:
            os.unlink(self.real_path(name))
            opened = open_regular(self.real_path(name), flags)
        except FileNotFoundError:  # somebody has removed a folder
            self._sound = {""}
            os.makedirs(self._top, exist_ok=True)
            opened = open_regular(self._inside(name, make=True), flags)
        self._keep(name, opened)

    def write(self, name: str, offset: int, data: Any) -> None:
        """Write all of `data` (a buffer of bytes) at `offset`."""
        try:
            if len(data) < LARGE:  # twice as quick as to borrow a descriptor
                with self._lock:
                    fd = self.descriptor(name)
                    if os.pwrite(fd, data, offset) == len(data):  # nearly always
                        return
            with self.borrowed(name) as fd:  # others go on meanwhile
                written, rest = 0, memoryview(data)
                # Many times for a signal, a size limit of the system, or the last bytes of a disk.
                while written < len(rest):
                    written += os.pwrite(fd, rest[written:], offset + written)
        except OSError as error:
            raise self._refused(name, error) from error

    def resize(self, name: str, size: int) -> None:
        """Cut a file, or extend it by a hole that reads as zeros."""
        with self._lock:
            fd = self.descriptor(name)
            try:
                os.ftruncate(fd, size)
            except OSError as error:
                raise self._refused(name, error) from error

    def _refused(self, name: str, error: OSError) -> OSError:
        """Why a file cannot be written to: it could be opened for reading only, perhaps."""
        if error.errno in (errno.EBADF, errno.EINVAL) and self.writable:
            return PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path(name))
        if error.filename is None:  # a call with a descriptor does not name it
            error.filename = self.path(name)
        return error

    def sync_file(self, name: str) -> None:
        """Make a file's bytes and size durable."""
        with self.borrowed(name) as fd:
            if sys.platform == "darwin":  # fsync there leaves the bytes in the drive's cache
                import fcntl

                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            elif hasattr(os, "fdatasync"):
                os.fdatasync(fd)
            else:
                os.fsync(fd)

    def write_back(self, name: str, offset: int, length: int) -> None:
        """Let the system begin to write these bytes to the disk, if it can: the sync that makes them durable
        then has less to wait for.

        What many files hold is on its way while the next ones are filled. It promises nothing: an error is
        the sync's to report."""
        begin = _range_writer()
        if begin is not None:
            with self.borrowed(name) as fd:
                begin(fd, offset, length, SYNC_FILE_RANGE_WRITE)

    def sync_folder(self, folder: str) -> None:
        """Make the entries of a folder durable."""
        if os.name == "nt":  # folders cannot be opened there, and entries are journaled
            return
        fd = os.open(self._folder_path(folder), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing what has it."""
        self.forget(old)
        self.forget(new)
        os.replace(self._inside(old), self._inside(new))

    def exchange(self, one: str, other: str) -> bool:
        """Let two names, of files or folders, change places, at once; False if the system cannot do that
        here."""
        self.forget(one)
        self.forget(other)
        return _exchange(self.real_path(one), self.real_path(other))

    def remove(self, name: str) -> None:
        """Remove a file; no error if it is not there."""
        self.forget(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._inside(name))

    # --- made of them

    def sync_files(self, names: Iterable[str]) -> None:
        """Make several files durable, side by side: the disk then takes hardly longer than for one. OSError:
        not all of them are."""
        side_by_side(self.sync_file, list(names))

    def sync_folders(self, folders: Iterable[str]) -> None:
        """Make the entries of several folders durable, side by side. OSError: not all of them are."""
        side_by_side(self.sync_folder, list(folders))

    def clear(self, folder: str) -> None:
        """Remove a folder: all files below it, in the order of their names, then all folders, those that were
        empty too."""
        if not self.exists(folder):
            return
        files, folders = self._below(folder)
        for name in files:
            self.remove(name)
        for name in [*reversed(folders), folder]:
            self._remove_folder(name)

    def _remove_folder(self, folder: str) -> None:
        """Remove a folder that has become empty; no error if it is not there, or not empty."""
        with contextlib.suppress(OSError):
            os.rmdir(self._inside(folder))
            self._sound.discard(folder)


@functools.cache
def _range_writer() -> Callable[[int, int, int, int], int] | None:
    """Linux's sync_file_range, where there is one."""
    if sys.platform != "linux":
        return None
    import ctypes

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    found: Callable[[int, int, int, int], int] | None = call
    return found


def _exchange(one: str, other: str) -> bool:
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # of Linux
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), one, None, other)
