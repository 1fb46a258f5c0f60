"""The members of a zip file that lies in any storage, read by ranges of it: what zip.py does for one on a
disk that can be mapped.

The directory comes with the end of the file, in one request; the header of a member comes with the first
bytes that are read of it. The file is pinned: another one that takes its name is not read as if it were this
one.
"""

from __future__ import annotations

import builtins
import io
import os
import threading
import zipfile
from collections.abc import Hashable, Iterable, Iterator, Sequence

from replaystore.errors import ReplayStoreError, StorageError
from replaystore.forks import renew_in_children
from replaystore.storage.protocol import Reads
from replaystore.storage.zip_directory import LOCAL_HEADER, MOST_DIRECTORY, Directory, Member

__all__ = ["ZipReads"]

END = 64 << 10
"""Bytes that are read of the end at once: the directory of some 800 members."""

SMALL, MOST_KEPT = 256 << 10, 4 << 20
"""Bytes of a member that is kept once it was read whole, and of all that are."""


class ZipReads(Reads):
    """The members of the zip file of this name. `close` forgets what it says, so that one that has replaced
    it is read anew."""

    def __init__(self, files: Reads, name: str) -> None:
        self._files, self._name = files, name
        self.far = files.far
        self._directory: Directory | None = None
        self._kept: dict[str, bytes] = {}
        """Small members that were read whole."""
        self._lock = threading.RLock()
        renew_in_children(self, "_lock")

    def __str__(self) -> str:
        return self._files.path(self._name)

    def path(self, name: str) -> str:
        return f"{self}/{name}" if name else str(self)

    def _load(self) -> Directory:
        with self._lock:
            if self._directory is None:
                self._files.pin(self._name)
                try:
                    self._directory = Directory(self, _Ending(self._files, self._name))
                except ReplayStoreError:
                    self._files.forget(self._name)
                    raise
                except OSError as error:
                    self._files.forget(self._name)
                    if isinstance(error, FileNotFoundError):
                        raise
                    raise StorageError(f"{self} cannot be read: {error.strerror or error}") from error
            return self._directory

    def _member(self, name: str) -> Member:
        member = self._load().members.get(name)
        if member is None:
            raise FileNotFoundError(2, "No such file", self.path(name))
        return member

    # --- reading

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        member = self._member(name)
        return self._read(name, member, [(offset, member.size if length is None else length)])[0]

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        return self._read(name, self._member(name), ranges)

    def read_whole(self, name: str, most: int) -> bytes:
        return self.read(name, 0, self._bounded(name, self.size(name), most))

    def _read(self, name: str, member: Member, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        kept = self._kept.get(name)
        if kept is None and member.deflated:
            (data,) = self._fetched(name, member, [(0, member.length)])
            kept = self._load().inflated(name, member, data)
            self._keep(name, kept)
        if kept is not None:
            return [kept[offset : offset + max(0, length)] for offset, length in ranges]
        found = self._fetched(name, member, ranges)
        for (offset, _), data in zip(ranges, found, strict=True):
            if not offset and len(data) == member.size <= SMALL:
                self._keep(name, data)
        return found

    def _keep(self, name: str, data: bytes) -> None:
        """The file does not change, and what opens a store asks for small members more than once."""
        with self._lock:
            if sum(map(len, self._kept.values())) + len(data) > MOST_KEPT:
                self._kept.clear()
            self._kept[name] = data

    def _fetched(self, name: str, member: Member, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        if member.data >= 0:
            return self._files.read_ranges(self._name, _places(member, member.data, ranges))
        # Members follow each other without gaps, nearly always: the end says where one begins.
        guess = member.stop - member.length
        header, *found = self._files.read_ranges(
            self._name, [_header(name, member), *_places(member, guess, ranges)]
        )
        member.data = self._load().data(name, member, header)
        if member.data == guess:
            return found
        return self._files.read_ranges(self._name, _places(member, member.data, ranges))

    def fetch_ahead(self, places: Iterable[tuple[str, int, int | None]]) -> None:
        """Of members whose headers are known, and of others, too, which are announced with them."""
        wanted: builtins.list[tuple[str, int, int | None]] = []
        for name, offset, length in places:
            member = self._load().members.get(name)
            if member is None or name in self._kept:
                continue
            count = member.length if length is None or member.deflated else length
            place = 0 if member.deflated else offset, count
            if member.data < 0:
                wanted.append((self._name, *_header(name, member)))
            begin = member.stop - member.length if member.data < 0 else member.data
            wanted += [(self._name, *found) for found in _places(member, begin, [place])]
        self._files.fetch_ahead(dict.fromkeys(wanted))

    # --- what the directory says

    def size(self, name: str) -> int:
        return self._member(name).size

    def status(self, name: str) -> tuple[int, Hashable]:
        member = self._member(name)
        return member.size, member.header

    def exists(self, name: str) -> bool:
        return self._load().exists(name)

    def list(self, folder: str = "") -> builtins.list[str]:
        return sorted(self._load().folders.get(folder, ()))

    def walk(self) -> Iterator[str]:
        return iter(sorted(self._load().members))

    def forget(self, name: str) -> None:
        """Nothing to forget: the file is one."""

    def close(self) -> None:
        with self._lock:
            self._directory = None
            self._kept.clear()
        self._files.close()


def _header(name: str, member: Member) -> tuple[int, int]:
    """Where the header lies, and the name in it."""
    return member.header, LOCAL_HEADER.size + len(name.encode())


def _places(member: Member, begin: int, ranges: Sequence[tuple[int, int]]) -> builtins.list[tuple[int, int]]:
    """Where in the zip file these ranges of a member lie, whose bytes begin there; none reaches beyond it."""
    return [(begin + offset, max(0, min(length, member.length - offset))) for offset, length in ranges]


class _Ending(io.RawIOBase):
    """A file whose end is read at once, with its size; what lies before is read when it is asked for."""

    def __init__(self, files: Reads, name: str) -> None:
        self._files, self._name = files, name
        self._end, self._size = files.read_end(name, END)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if begin + offset < 0:
            raise OSError(22, "before the beginning of the file")
        self._at = begin + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        size = max(0, self._size - self._at) if size is None or size < 0 else size
        if size > MOST_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {size} bytes, over the limit of {MOST_DIRECTORY}")
        known = self._size - len(self._end)
        if self._at >= known:
            found = self._end[self._at - known :][:size]
        else:
            found = self._files.read(self._name, self._at, size)
        self._at += len(found)
        return found
