"""What the layers above ask of the place where bytes lie: named objects (files) below one root, by relative
paths with `/`.

* `Reads` is enough for all that reads a store. Five methods are asked for; the others are made of them, for a
  place that has a quicker way to put its own in their place.
* `Writes` is what commits need. The primitive operations are few, and each is one method. A write is durable
  after `sync_file` of the file and, if the file was made or renamed, `sync_folder` of the folder that gained
  the entry.
* `Maps`: bytes lie in files of the system, so that they can be mapped into memory.

Nobody asks what class a place is of; whether it `Maps` is the one question.
"""

from __future__ import annotations

import builtins
import os
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from replaystore.errors import CorruptError

__all__ = ["FIRST_BYTES", "PAGE", "Maps", "MapsReads", "Reads", "Storage", "Writes"]

PAGE = 4096
"""What is to be mapped begins on a multiple of this: runs of raw rows, and so the members of a zip file."""
FIRST_BYTES = 1 << 20
"""What `read_whole` asks for first, as it is to be announced; few files that are read so have more."""


class Reads(Protocol):
    """Files to read. FileNotFoundError: there is none of this name; CorruptError: it is no file;
    StorageError: it cannot be read."""

    entrance: str = ""
    """The file that the whole store is, if it is one; its name may be that of a link."""
    far: bool = False
    """Each question is a request over a network. Nothing is asked then that the bytes will tell when they are
    read, what is going to be read is announced (`fetch_ahead`), and a file that another has replaced is not
    kept: who must not mix the two asks afterwards whether the store has gone back."""
    lists: bool = True
    """It can say what there is (`list`, `walk`); a static server cannot."""

    @abstractmethod
    def path(self, name: str) -> str:
        """The path of a file as the user would write it, for messages; of the root, if the name is empty."""

    def real_path(self, name: str) -> str:
        """The path of a file for the system, which stays right when the process changes its folder."""
        return self.path(name)

    @abstractmethod
    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file; fewer than asked for where it ends."""

    @abstractmethod
    def size(self, name: str) -> int:
        """The size in bytes."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether something has the name, be it a folder."""

    @abstractmethod
    def list(self, folder: str = "") -> list[str]:
        """The names in a folder, sorted; none if it does not exist, or is a file. UnsupportedError: the place
        does not list (`lists`)."""

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        """The bytes at several (offset, length) of a file, asked for at once; fewer than asked for where it
        ends."""
        return [self.read(name, offset, length) for offset, length in ranges]

    def fetch_ahead(self, places: Iterable[tuple[str, int, int | None]]) -> None:
        """These (name, offset, length) are going to be read, each once and just so: whoever is far fetches
        them side by side, and keeps each until it is read. What goes wrong is told then.

        It need not wait until they are there: what comes first may be used while the others are on their way.
        Who announces sees to it that it is not too much at one time; what is not read after all is dropped by
        `forget` or `close`."""
        return

    def read_end(self, name: str, length: int) -> tuple[bytes, int]:
        """The last bytes of a file, so many or all there are, and its size."""
        size = self.size(name)
        return self.read(name, max(0, size - length), min(length, size)), size

    def read_into(self, name: str, offset: int, target: memoryview) -> int:
        """Fill a buffer with the bytes of a file from `offset` on; how many there were."""
        found = self.read(name, offset, len(target))
        target[: len(found)] = found
        return len(found)

    def read_whole(self, name: str, most: int) -> bytes:
        """All bytes of a file that has a use for at most so many. CorruptError: it has more."""
        found = self.read(name, 0, min(FIRST_BYTES, most + 1))
        if len(found) == FIRST_BYTES:
            found += self.read(name, FIRST_BYTES, most + 1 - FIRST_BYTES)
        if len(found) > most:
            self._bounded(name, self.size(name), most)
        return found

    def _bounded(self, name: str, size: int, most: int) -> int:
        if size > most:
            raise CorruptError(
                f"{self.path(name)} has {size} bytes, and at most {most} make sense; restore it from a copy"
            )
        return size

    def status(self, name: str) -> tuple[int, Hashable]:
        """The size of a file, and something that is another once another file has taken its name."""
        return self.size(name), None

    def identity(self) -> object:
        """Another one after another folder has taken the root's name; None if that cannot be, or is not
        known."""
        return None

    def walk(self) -> Iterator[str]:
        """The names of all files, sorted."""
        found, folders = builtins.list[str](), [""]
        for folder in folders:  # it grows meanwhile
            below = [f"{folder}/{name}" if folder else name for name in self.list(folder)]
            inner = {name for name in below if self.list(name)}
            folders += sorted(inner)
            found += [name for name in below if name not in inner]
        return iter(sorted(found))

    def pin(self, name: str) -> None:
        """This file does not change, and what is read of it must fit together: where another one that takes
        its name would be read from then on, a ConflictError is raised instead, until `forget` or `close`."""
        return

    def forget(self, name: str) -> None:
        """Keep nothing of a file; the next use asks what then has the name."""

    def close(self) -> None:
        """Keep nothing open."""


@runtime_checkable
class Writes(Protocol):
    """Files to write. OSError: what was asked for is not done, or not all of it."""

    @abstractmethod
    def create(self, name: str) -> None:
        """Make an empty file in place of what has the name; folders are made as needed."""

    @abstractmethod
    def write(self, name: str, offset: int, data: Any) -> None:
        """Write all of `data` (a buffer of bytes) at `offset`."""

    @abstractmethod
    def resize(self, name: str, size: int) -> None:
        """Cut a file, or extend it by what reads as zeros."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing what has it, at once."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; no error if it is not there."""

    @abstractmethod
    def clear(self, folder: str) -> None:
        """Remove a folder: all files below it, in the order of their names, then all folders, those that were
        empty too."""

    @abstractmethod
    def sync_file(self, name: str) -> None:
        """Make a file's bytes and size durable."""

    @abstractmethod
    def sync_folder(self, folder: str) -> None:
        """Make the entries of a folder durable."""

    def sync_files(self, names: Iterable[str]) -> None:
        """Make several files durable. OSError: not all of them are."""
        for name in builtins.list(names):
            self.sync_file(name)

    def sync_folders(self, folders: Iterable[str]) -> None:
        """Make the entries of several folders durable. OSError: not all of them are."""
        for folder in builtins.list(folders):
            self.sync_folder(folder)

    def write_back(self, name: str, offset: int, length: int) -> None:
        """These bytes are complete: begin to make them durable, if that helps the sync that is to come. It
        promises nothing."""

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


class Storage(Reads, Writes, Protocol):
    """Files to read and write: what a container that can be written to lies in."""


@runtime_checkable
class Maps(Protocol):
    """Files whose bytes can be mapped into memory."""

    @abstractmethod
    def place(self, name: str) -> AbstractContextManager[tuple[int, int, int]]:
        """Where a file's bytes lie: (descriptor of a file of the system, offset in it, size).

        The descriptor is that file's as long as the context lasts, whatever other threads open and close."""


class MapsReads(Reads, Maps, Protocol):
    """Files to read, which can be mapped."""
