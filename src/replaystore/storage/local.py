"""Every byte that is read or written goes through here: named files below one folder, on disk or in memory.

The primitive operations are few and each is one method, so that a test can record them, replay them with
unsynced ones lost, or make them fail. Names are relative paths with `/`. A write is durable after `sync_file`
of the file and, if the file was made or renamed, `sync_folder` of the folder that gained the entry.

A store may come from a stranger: below the root no link is followed and only regular files are opened
(inside.py). What is read whole is bounded (`read_whole`); other reads ask for no more than their caller knows
to be there.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import os
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from replaystore.errors import CorruptError, ReplayStoreError, StorageError
from replaystore.forks import renew_in_children
from replaystore.storage.inside import DEEPEST, check_folder, open_regular, open_sized

__all__ = ["Files", "MemoryFiles", "read_all"]

SMALL_BYTES = 1 << 16
"""Files in memory up to this size take no descriptor."""
MEMORY_FOLDER = "/dev/shm"  # noqa: S108  # files there are unlinked as soon as they are made
ONE_READ = 1 << 30
"""Bytes that one call reads at most: the system gives no more than 2 GiB."""
OPEN_FILES = 256
"""Descriptors kept open; reopening costs some microseconds, a process may have 1024."""

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2."""
SYNC_FILE_RANGE_WRITE = 2
"""Of Linux's sync_file_range."""

_TOO_DEEP = f"folders lie more than {DEEPEST} deep in each other, as in no store; do not trust this one"

SYNCING = 8
"""Files synced at the same time."""


class _Syncing:
    """The threads of the process that wait for the disk, started on first use."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """As in a forked child, where threads and held locks did not come along."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, sync: Callable[[str], None], names: Sequence[str]) -> None:
        """Call `sync` with each name, and return when all calls have; raise what one of them raised."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(SYNCING, thread_name_prefix="replaystore-sync")
            pool = self._pool
        try:
            jobs = [pool.submit(sync, name) for name in names]
        except RuntimeError:  # the interpreter is ending (a finalizer closes a buffer): no more threads start
            for name in names:
                sync(name)
            return
        wait(jobs)
        for job in jobs:
            job.result()


_syncing = _Syncing()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_syncing.start_anew)


def read_all(fd: int, offset: int, length: int | None = None) -> bytes:
    """Bytes of an open file; fewer than asked for where it ends, and only there: one call may give fewer for
    other reasons."""
    if length is None:
        length = max(0, os.fstat(fd).st_size - offset)
    first = os.pread(fd, min(length, ONE_READ), offset) if length > 0 else b""
    if len(first) == length or not first:  # nearly always
        return first
    pieces = [first]
    while pieces[-1] and length > len(pieces[-1]):
        offset += len(pieces[-1])
        length -= len(pieces[-1])
        pieces.append(os.pread(fd, min(length, ONE_READ), offset))
    return b"".join(pieces)


def _wherever(path: str) -> str:
    """The same path, seen from any folder; only its beginning changes, since what is before `..` may be a
    link."""
    try:
        return os.path.join(os.getcwd(), path)
    except OSError:  # the folder of the process is gone, and with it what a relative path means
        return path


class Files:
    """The files below one folder."""

    def __init__(self, root: str | os.PathLike[str], *, writable: bool) -> None:
        self.root = Path(root)
        self._shown = os.path.join(self.root, "")
        self._top = _wherever(str(self.root))
        self._prefix = os.path.join(self._top, "")
        self.writable = writable
        self.entrance = ""
        """The file that may be a link, if the store is one file and its name that of a link to it."""
        self._open: OrderedDict[str, int] = OrderedDict()
        self._sound = {""}
        """Folders that are known to be folders, and no links."""
        self._users: dict[int, int] = {}
        """How many threads read from a descriptor."""
        self._unwanted: set[int] = set()
        """Descriptors that the last of them closes."""
        self._lock = threading.RLock()
        renew_in_children(self, "_lock")

    def __str__(self) -> str:
        return str(self.root)

    def path(self, name: str) -> str:
        """The path of a file as the user would write it, for messages."""
        return self._shown + name if name else str(self.root)

    def real_path(self, name: str) -> str:
        """The path of a file for the system, which stays right when the process changes its folder."""
        return self._prefix + name if name else self._top

    def _inside(self, name: str, *, make: bool = False) -> str:
        """The path of a file, whose folders are folders of the store. FileNotFoundError; CorruptError: one is
        a link."""
        folder = name.rpartition("/")[0]
        if folder not in self._sound or name[:1] == "/":
            self._folder_path(folder or name, make=make)
        return self.real_path(name)

    def _folder_path(self, folder: str, *, make: bool = False) -> str:
        """The path of a folder, none of whose parts is a link; each part is looked at once."""
        path = self.real_path(folder)
        if folder not in self._sound:
            above, _, last = folder.rpartition("/")
            if folder.count("/") >= DEEPEST:
                raise CorruptError(f"{self.root}: {_TOO_DEEP}")
            check_folder(self._folder_path(above, make=make), last, make=make)
            self._sound.add(folder)
        return path

    # --- reading

    def identity(self) -> object:
        """Another one after another folder has taken the name; None if there is none."""
        try:
            found = os.stat(self._top)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def descriptor(self, name: str) -> int:
        """An open descriptor, owned by this object. FileNotFoundError if there is no such file; CorruptError:
        it is no regular file.

        It is valid until the next call, in any thread: `borrowed` is for more than one thread."""
        found = self._open.get(name)
        if found is not None:
            self._open.move_to_end(name)
            return found
        path, follow = self._inside(name), name == self.entrance
        try:
            opened = open_regular(path, os.O_RDWR if self.writable else os.O_RDONLY, follow=follow)
        except PermissionError:
            if not self.writable:
                raise
            opened = open_regular(path, os.O_RDONLY, follow=follow)
        return self._keep(name, opened)

    @contextlib.contextmanager
    def borrowed(self, name: str) -> Iterator[int]:
        """A descriptor that no other thread closes meanwhile."""
        with self._lock:
            fd = self.descriptor(name)
            # A duplicate would cost two system calls more, and each of them lets other threads go first.
            self._users[fd] = self._users.get(fd, 0) + 1
        try:
            yield fd
        finally:
            with self._lock:
                self._users[fd] -= 1
                if not self._users[fd]:
                    del self._users[fd]
                    if fd in self._unwanted:
                        self._unwanted.remove(fd)
                        os.close(fd)

    def place(self, name: str) -> tuple[int, int, int]:
        """Where a file's bytes lie: (descriptor, offset, size). The offset is 0 unless the files are members
        of a larger one."""
        fd = self.descriptor(name)
        return fd, 0, os.fstat(fd).st_size

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file; fewer than asked for where it ends. FileNotFoundError, StorageError, as all that
        reads."""
        try:
            return self._read(name, offset, length)
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        with self.borrowed(name) as fd:
            return read_all(fd, offset, length)

    def _unreadable(self, name: str, error: OSError) -> OSError:
        """Why a file cannot be read, as an error of ours; that it is missing, or no file, means something
        else to every caller."""
        if isinstance(error, ReplayStoreError | FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return error
        return StorageError(
            (
                f"{self.path(name)} cannot be read: {error.strerror or error}; check the disk "
                "and its permissions"
            ),
            error.errno,
        )

    def read_whole(self, name: str, most: int) -> bytes:
        """All bytes of a file that has a use for at most so many. CorruptError: it has more.

        No descriptor is kept: such files are replaced by renaming, so that each time another one may have the
        name."""
        try:
            fd, size = open_sized(self._inside(name), os.O_RDONLY, follow=name == self.entrance)
            try:
                return read_all(fd, 0, self._bounded(name, size, most))
            finally:
                os.close(fd)
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _bounded(self, name: str, size: int, most: int) -> int:
        if size > most:
            raise CorruptError(
                f"{self.path(name)} has {size} bytes, and at most {most} make sense; restore it from a copy"
            )
        return size

    def read_places(self, name: str, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes at several (offset, length) of a file, which is looked up once; fewer than asked for
        where it ends."""
        try:
            with self.borrowed(name) as fd:
                base = self._beginning(name)
                return [read_all(fd, base + offset, length) for offset, length in places]
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _beginning(self, name: str) -> int:
        """Where in its descriptor a file's bytes begin."""
        return 0

    def _close(self, fd: int) -> None:
        """Close a descriptor as soon as nobody reads from it; the lock is held."""
        if fd in self._users:
            self._unwanted.add(fd)
        else:
            os.close(fd)

    def read_into(self, name: str, offset: int, target: memoryview) -> int:
        """Fill a buffer with the bytes of a file from `offset` on; how many there were.

        Memory that is used again is read into several times as fast as new memory, which the system has to
        clear."""
        try:
            with self.borrowed(name) as fd:
                _, base, size = self.place(name)
                target, done = target[: max(0, size - offset)], 0
                while done < len(target):
                    count = os.preadv(fd, [target[done:]], base + offset + done)
                    if not count:
                        break
                    done += count
                return done
        except OSError as error:
            raise self._unreadable(name, error) from error

    def size(self, name: str) -> int:
        """The size in bytes. FileNotFoundError if there is no such file."""
        try:
            with self._lock:
                return os.fstat(self.descriptor(name)).st_size
        except OSError as error:
            raise self._unreadable(name, error) from error

    def exists(self, name: str) -> bool:
        """Whether something has the name, be it a link that leads nowhere."""
        try:
            os.lstat(self._inside(name))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._unreadable(name, error) from error
        return True

    def list(self, folder: str = "") -> list[str]:
        """The names in a folder, sorted; none if it does not exist, or is a file."""
        found, prefix = [], f"{folder}/" if folder else ""
        try:
            with os.scandir(self._folder_path(folder)) as entries:
                for entry in entries:
                    found.append(entry.name)
                    if entry.is_dir(follow_symlinks=False):  # the listing says so, at no cost
                        self._sound.add(prefix + entry.name)
            return sorted(found)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._unreadable(folder, error) from error

    def walk(self) -> Iterator[str]:
        """The names of all files, sorted; links are among them. CorruptError: folders lie too deep in each
        other."""
        return iter(self._below("")[0])

    def _below(self, top: str) -> tuple[builtins.list[str], builtins.list[str]]:
        """The files below a folder, and the folders, sorted."""
        found: builtins.list[str] = []
        folders = [top]
        for folder in folders:  # it grows meanwhile
            if folder.count("/") >= DEEPEST:
                raise CorruptError(f"{self.root}: {_TOO_DEEP}")
            try:
                with os.scandir(self.real_path(folder)) as entries:
                    for entry in entries:
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        (folders if entry.is_dir(follow_symlinks=False) else found).append(name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._unreadable(folder, error) from error
        return sorted(found), sorted(folders[1:])

    # --- writing: the primitive operations

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
        with self._lock:
            fd = self.descriptor(name)
            try:
                written = os.pwrite(fd, data, offset)
                if written != len(data):  # a signal, a size limit of the system, or the last bytes of a disk
                    rest = memoryview(data)
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

    def remove_folder(self, folder: str) -> None:
        """Remove a folder that has become empty; no error if it is not there, or not empty."""
        with contextlib.suppress(OSError):
            os.rmdir(self._inside(folder))
            self._sound.discard(folder)

    # --- made of them

    def sync_files(self, names: Iterable[str]) -> None:
        """Make several files durable, side by side: the disk then takes hardly longer than for one. OSError:
        not all of them are."""
        self._side_by_side(self.sync_file, list(names))

    def sync_folders(self, folders: Iterable[str]) -> None:
        """Make the entries of several folders durable, side by side. OSError: not all of them are."""
        self._side_by_side(self.sync_folder, list(folders))

    def _side_by_side(self, sync: Callable[[str], None], names: Sequence[str]) -> None:
        if len(names) > 1:
            _syncing.run(sync, names)
        else:
            for name in names:
                sync(name)

    def clear(self, folder: str) -> None:
        """Remove a folder: all files below it, in the order of their names, then all folders, those that were
        empty too."""
        if not self.exists(folder):
            return
        files, folders = self._below(folder)
        for name in files:
            self.remove(name)
        for name in [*reversed(folders), folder]:
            self.remove_folder(name)

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file's content at once: a reader sees the old or the new, also after a crash."""
        self.replace_files({name: data})

    def replace_files(self, contents: Mapping[str, bytes]) -> None:
        """Replace the contents of several files, each at once, in this order."""
        for name, data in contents.items():
            self.create(name + ".new")
            self.write(name + ".new", 0, data)
        self.sync_files([name + ".new" for name in contents])
        for name in contents:
            self.rename(name + ".new", name)
        self.sync_folders(dict.fromkeys(os.path.dirname(name) for name in contents))

    def forget(self, name: str) -> None:
        """Close the descriptor kept for a file; the next use opens what then has the name."""
        with self._lock:
            found = self._open.pop(name, None)
            if found is not None:
                self._close(found)

    def close(self) -> None:
        """Close all descriptors."""
        for name in list(self._open):
            self.forget(name)

    def _keep(self, name: str, fd: int) -> int:
        if len(self._open) >= OPEN_FILES:
            self._close(self._open.popitem(last=False)[1])
        self._open[name] = fd
        return fd


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


class MemoryFiles(Files):
    """Files that have no name in any folder: they are gone with the process.

    A small file is an array of bytes. A larger one, and one that is to be mapped, is an unlinked temporary
    file, in memory where the system has a folder for that (Linux: /dev/shm), so that a store takes few
    descriptors and yet can be mapped like any other."""

    def __init__(self, label: str) -> None:
        super().__init__(label, writable=True)
        self._small: dict[str, bytearray] = {}
        self._large: dict[str, int] = {}

    def identity(self) -> object:
        """These files have no name that others could take."""
        return None

    def path(self, name: str) -> str:
        return f"memory:{self.root}/{name}" if name else f"memory:{self.root}"

    def real_path(self, name: str) -> str:
        return self.path(name)

    def descriptor(self, name: str) -> int:
        with self._lock:
            if name in self._small:
                folder = MEMORY_FOLDER if os.path.isdir(MEMORY_FOLDER) else None
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(self._small[name])
                    file.flush()
                    self._large[name] = os.dup(file.fileno())
                del self._small[name]
            try:
                return self._large[name]
            except KeyError:
                raise FileNotFoundError(2, "No such file", self.path(name)) from None

    def exists(self, name: str) -> bool:
        return any(known == name or known.startswith(name + "/") for known in self.walk())

    def list(self, folder: str = "") -> list[str]:
        prefix = folder + "/" if folder else ""
        return sorted({name[len(prefix) :].split("/")[0] for name in self.walk() if name.startswith(prefix)})

    def walk(self) -> Iterator[str]:
        with self._lock:
            return iter(sorted([*self._small, *self._large]))

    def _below(self, top: str) -> tuple[builtins.list[str], builtins.list[str]]:
        return [name for name in self.walk() if name.startswith(top + "/")], []

    def create(self, name: str) -> None:
        with self._lock:
            self.remove(name)
            self._small[name] = bytearray()

    def read_whole(self, name: str, most: int) -> bytes:
        return self.read(name, 0, self._bounded(name, self.size(name), most))

    def read_places(self, name: str, places: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        return [self.read(name, offset, length) for offset, length in places]

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._lock:
            small = self._small.get(name)
            if small is not None:
                return bytes(small[offset:] if length is None else small[offset : offset + length])
        return super().read(name, offset, length)

    def read_into(self, name: str, offset: int, target: memoryview) -> int:
        found = self.read(name, offset, len(target))
        target[: len(found)] = found
        return len(found)

    def size(self, name: str) -> int:
        with self._lock:
            return len(self._small[name]) if name in self._small else super().size(name)

    def write(self, name: str, offset: int, data: Any) -> None:
        with self._lock:
            small = self._small.get(name)
            if small is None or offset + len(data) > SMALL_BYTES:
                super().write(name, offset, data)
            else:
                small.extend(bytes(max(0, offset - len(small))))
                small[offset : offset + len(data)] = data

    def resize(self, name: str, size: int) -> None:
        with self._lock:
            small = self._small.get(name)
            if small is None or size > SMALL_BYTES:
                super().resize(name, size)
            else:
                del small[size:]
                small.extend(bytes(size - len(small)))

    def sync_file(self, name: str) -> None:
        """Nothing outlives the process."""

    def write_back(self, name: str, offset: int, length: int) -> None:
        """Nothing outlives the process."""

    def sync_folder(self, folder: str) -> None:
        """Nothing outlives the process."""

    def _side_by_side(self, sync: Callable[[str], None], names: Sequence[str]) -> None:
        """Nothing outlives the process."""

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            self.remove(new)
            if old in self._small:
                self._small[new] = self._small.pop(old)
            else:
                self._large[new] = self._large.pop(old)

    def remove(self, name: str) -> None:
        with self._lock:
            self._small.pop(name, None)
            found = self._large.pop(name, None)
            if found is not None:
                self._close(found)

    def forget(self, name: str) -> None:
        """Nothing to forget: the descriptor is the file."""

    def close(self) -> None:
        """Keep the files: the store can be opened again while the process lives."""

    # Bound early: modules may be gone when this runs.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        for fd in self._large.values():
            close(fd)
