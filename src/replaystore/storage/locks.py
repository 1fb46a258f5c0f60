"""Who may write. A lock is that of a file, and not of its name: whatever name leads to a store, there is one
writer.

1. The system keeps a lock for an open file (`flock`, or an OFD lock of one byte), and ends it with the
   process, however that ends.
2. A lock counts if the name still shows the file that was locked. That is looked at when it has been taken,
   and by `check`; so whoever holds a lock may remove its file, or put another one in its place (`carried`),
   and nobody else gets in.
3. Readers take none.

A Zarr folder has a file for it, which is there while somebody writes. An HDF5 file is locked itself: one byte
far beyond its end, since HDF5's own `flock`, which every h5py that reads it takes, is to go on working (and
locked bytes cannot be read on some shares).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import stat
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from replaystore.errors import ConflictError, CorruptError, StorageError

__all__ = ["FileLock", "Lock", "busy", "is_locked", "take"]

ATTEMPTS = 100
MOMENT = 0.01
"""Seconds; looking at a name takes a tenth of the time in which a row is appended."""
BYTE = 1 << 62
"""The byte of an HDF5 file that is locked."""
AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_INO, STATX_BYTES = -100, 0x100, 0x100, 256
"""Of Linux's statx."""
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would wait for its reader

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class Lock:
    """The right to write to a store, held until `release`."""

    def check(self, *, often: bool = False) -> None:
        """ConflictError: the name shows another store by now, or none. `often`: look only if that was not
        done in the last moments."""

    def carried(self, path: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock on the file at `path` too, which is given the name of the locked one meanwhile, and
        from then on there."""
        return contextlib.nullcontext()

    def release(self) -> None:
        """Let others write."""


class FileLock(Lock):
    """Of the file at `root`, or at `inside` in the folder `root`, where no link is followed.

    `own`: the file is there for the lock alone: it is made, and removed at the end. `byte`: lock a byte of
    it, and not the whole. `wait`: until nobody else has it. Without the lock, the place cannot be `what`, and
    `advice` says what can be done. ConflictError: `busy`, somebody has it; CorruptError: it is a link, or no
    file; StorageError.
    """

    def __init__(
        self,
        place: object,
        root: str,
        *,
        inside: str = "",
        own: bool,
        byte: bool = False,
        wait: bool = False,
        busy: str,
        what: str,
        advice: str,
    ) -> None:
        self._place, self._own, self._byte, self._wait = place, own, byte, wait
        self._what, self._advice = f"{place} cannot be {what}", advice
        root = os.path.realpath(root) if inside or not own else os.path.abspath(root)
        self._path = os.path.join(root, inside) if inside else root
        self._top, folders = (root, inside.split("/")[:-1]) if inside else (os.path.dirname(root), [])
        self._file = self._folder = -1
        self._checked = 0.0
        self._process, self._thread = os.getpid(), threading.get_ident()
        if wait and any(
            held._path == self._path and held._file >= 0 and held._thread == self._thread for held in _held
        ):
            raise ConflictError(busy)  # it would wait for itself
        _held.add(self)
        try:
            for _ in range(ATTEMPTS):
                if self._try(folders):
                    return
        except BlockingIOError:
            raise ConflictError(busy) from None
        except StorageError:
            raise
        except OSError as error:
            raise self._refused(error) from None
        raise ConflictError(busy)

    def _try(self, folders: Sequence[str]) -> bool:
        """Take the lock; False if what was locked has lost its name meanwhile."""
        try:
            self._folder = _opened(self._top, folders)
            self._file, made = self._open()
            status = os.fstat(self._file)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ELOOP, "no regular file")
            self._identity = status.st_dev, status.st_ino
            try:
                self._take(self._file)
            except StorageError:
                if made:  # and without locks it will never be held
                    self._unlink()
                raise
            if self._shown() == self._identity:
                return True
        except BaseException:
            self.forget()
            raise
        self.forget()
        return False

    def _open(self) -> tuple[int, bool]:
        """The file, and whether it is new."""
        name = os.path.basename(self._path)
        if self._own:
            with contextlib.suppress(FileExistsError):
                return os.open(name, _FILE | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder), True
        return os.open(name, _FILE | (os.O_CREAT if self._own else 0), 0o666, dir_fd=self._folder), False

    def _unlink(self) -> None:
        """Remove the file, if it is there still; whoever had opened it finds out."""
        with contextlib.suppress(OSError):
            named = os.stat(os.path.basename(self._path), dir_fd=self._folder, follow_symlinks=False)
            if (named.st_dev, named.st_ino) == self._identity:
                os.unlink(os.path.basename(self._path), dir_fd=self._folder)

    def _take(self, descriptor: int) -> None:
        try:
            take(descriptor, byte=self._byte, wait=self._wait)
        except BlockingIOError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self._what}: its file system gives no locks ({error.strerror or error}), without "
                "which two writers would destroy each other's steps; mount it with locks (Lustre: -o "
                "flock), or write to another "
                f"disk: reading needs none",
                error.errno,
            ) from None

    def _shown(self) -> tuple[int, int] | None:
        """The file that has the name."""
        try:
            return _identity(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _refused(self, error: OSError) -> Exception:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            return CorruptError(
                f"{self._path} is a link or no file, which is in no store of ours: do not trust {self._place}"
            )
        if error.errno == errno.ENOENT:
            return StorageError(
                f"{self._what}: {self._path} is missing, or cannot be made; choose another place",
                error.errno,
            )
        return StorageError(f"{self._what}: {error.strerror or error}; {self._advice}", error.errno)

    def check(self, *, often: bool = False) -> None:
        now = time.monotonic()
        if self._file < 0 or (often and now - self._checked < MOMENT):
            return
        self._checked = now
        if self._shown() != self._identity:
            raise ConflictError(
                f"{self._place} is not the store any more that this writer opened: it was replaced, moved "
                "or removed meanwhile, and "
                f"nothing more is written; open it anew"
            )

    @contextlib.contextmanager
    def carried(self, path: str) -> Iterator[None]:
        other = os.open(path, _FILE)
        try:
            self._take(other)
            yield
        finally:  # an exception may come when the file has the name already
            status = os.fstat(other)
            if self._file >= 0 and self._shown() == (status.st_dev, status.st_ino):
                self._file, self._identity, other = other, (status.st_dev, status.st_ino), self._file
            os.close(other)

    def release(self) -> None:
        if self._process != os.getpid():
            self.forget()
        try:
            if self._file >= 0 and self._own:
                self._unlink()
        finally:  # what interrupts that would keep the lock for as long as its traceback lives
            if self._file >= 0:  # a child that was forked by other software may have the descriptor too
                with contextlib.suppress(OSError):
                    _unlock(self._file, byte=self._byte)
            self.forget()

    def forget(self) -> None:
        """Close what is open. In a forked child, which shares the descriptors, the parent goes on holding the
        lock."""
        for descriptor in (self._file, self._folder):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._file = self._folder = -1

    def __del__(self) -> None:
        self.release()


def is_locked(path: str) -> bool:
    """Whether somebody is known to hold the lock of a file. False where the system does not tell (not Linux,
    another container)."""
    try:
        status = os.stat(path)
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            held = file.read()
    except OSError:
        return False
    return f" {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino} " in held


def busy(place: object, other: str = "open it for reading") -> str:
    """That somebody writes to a store, and what can be done."""
    return f"{place} is open for writing elsewhere: close it there first, or {other}"


def take(descriptor: int, *, byte: bool = False, wait: bool = False) -> None:
    """Lock an open file. BlockingIOError: somebody else has it; OSError: there are no locks."""
    if byte and _lock_byte(descriptor, fcntl.F_WRLCK):
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _unlock(descriptor: int, *, byte: bool) -> None:
    if byte:
        _lock_byte(descriptor, fcntl.F_UNLCK)
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock_byte(descriptor: int, kind: int) -> bool:
    """Lock or unlock the byte; False where the system has no such locks of open files."""
    command = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None:
        return False
    if sys.platform == "darwin":  # struct flock is laid out as the system likes
        wanted = struct.pack("qqihh", BYTE, 1, 0, kind, os.SEEK_SET)
    else:
        wanted = struct.pack("hhqqi0q", kind, os.SEEK_SET, BYTE, 1, 0)
    try:
        fcntl.fcntl(descriptor, command, wanted)
    except PermissionError as error:  # as POSIX lets a system say that it is taken
        raise BlockingIOError(errno.EAGAIN, error.strerror) from None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def _identity(path: str) -> tuple[int, int]:
    """Device and inode of what has a name; a link is not followed.

    Asked for alone, where the system can do that: after somebody has asked for a file's times, Linux (from
    6.13 on) gives its next change finer ones, and each sync has those to write; a commit of an HDF5 file took
    a tenth longer."""
    call = _statx()
    if call is not None:
        found = bytearray(STATX_BYTES)
        target = (ctypes.c_char * STATX_BYTES).from_buffer(found)
        if call(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, STATX_INO, target) == 0:
            (mask,), (inode,) = struct.unpack_from("I", found), struct.unpack_from("Q", found, 32)
            if mask & STATX_INO:
                return os.makedev(*struct.unpack_from("II", found, 136)), inode
    status = os.lstat(path)
    return status.st_dev, status.st_ino


@functools.cache
def _statx() -> Callable[[int, bytes, int, int, Any], int] | None:
    """Linux's call, where there is one."""
    found: Any = getattr(ctypes.CDLL(None), "statx", None) if sys.platform == "linux" else None
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    return cast("Callable[[int, bytes, int, int, Any], int] | None", found)


def _opened(top: str, folders: Sequence[str]) -> int:
    """A descriptor of a folder in the folder `top`, reached without following a link."""
    found = os.open(top, _FOLDER)
    for name in folders:
        try:
            below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=found)
        finally:
            os.close(found)
        found = below
    return found


def _after_fork() -> None:
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
