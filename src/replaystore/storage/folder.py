"""Files below one folder, read.

A store may come from a stranger: below the root no link is followed and only regular files are opened
(inside.py). What is read whole is bounded (`read_whole`); other reads ask for no more than their caller knows
to be there.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from replaystore.errors import CorruptError, ReplayStoreError, StorageError
from replaystore.storage.descriptors import Descriptors, read_all
from replaystore.storage.inside import DEEPEST, check_folder, open_regular, open_sized
from replaystore.storage.protocol import Reads

__all__ = ["FolderReader"]

_TOO_DEEP = f"folders lie more than {DEEPEST} deep in each other, as in no store; do not trust this one"


def _wherever(path: str) -> str:
    """The same path, seen from any folder; only its beginning changes, since what is before `..` may be a
    link."""
    try:
        return os.getcwd() if path == os.curdir else os.path.join(os.getcwd(), path)
    except OSError:  # the folder of the process is gone, and with it what a relative path means
        return path


class FolderReader(Descriptors, Reads):
    """The files below one folder, for reading."""

    def __init__(self, root: str | os.PathLike[str], *, writable: bool) -> None:
        super().__init__()
        self.root = Path(root)
        self._shown = os.path.join(self.root, "")
        self._top = _wherever(str(self.root))
        self._prefix = os.path.join(self._top, "")
        self.writable = writable
        self._sound = {""}
        """Folders that are known to be folders, and no links."""

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

    @contextmanager
    def place(self, name: str) -> Iterator[tuple[int, int, int]]:
        """Where a file's bytes lie: (descriptor, offset, size). The offset is 0 unless the files are members
        of a larger one. No other thread closes the descriptor meanwhile."""
        with self._lock:
            fd, base, size = self._place(name)
            self._lent(fd)
        try:
            yield fd, base, size
        finally:
            self._give_back(fd)

    def _place(self, name: str) -> tuple[int, int, int]:
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

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        try:
            with self.place(name) as (fd, base, _):
                return [read_all(fd, base + offset, length) for offset, length in ranges]
        except OSError as error:
            raise self._unreadable(name, error) from error

    def read_into(self, name: str, offset: int, target: memoryview) -> int:
        """Fill a buffer with the bytes of a file from `offset` on; how many there were.

        Memory that is used again is read into several times as fast as new memory, which the system has to
        clear."""
        try:
            with self.place(name) as (fd, base, size):
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

    def status(self, name: str) -> tuple[int, Hashable]:
        try:
            with self._lock:
                fd, base, size = self._place(name)
                found = os.fstat(fd)
        except OSError as error:
            raise self._unreadable(name, error) from error
        return size, (found.st_dev, found.st_ino, base)

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
