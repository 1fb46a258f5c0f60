"""HDF5 files of other software: the only way to the HDF5 library for formats that read them.

    with hdf5.opened_hdf5(path) as root:
        for name in root:                             # names of links, in the library's order
            demo = root.group(name)                   # FormatError if it is no group
            rows = demo.dataset("obs/camera")         # a path of names
            rows.dtype, rows.shape, rows.read(0, 100)
        root.attributes["env_args"]                   # str, numbers, arrays of them

Invariants:
1. Nothing but this file is read: soft links are followed inside it, a few; external links, external storage,
   and virtual datasets are refused in words. Nothing in a file is run: there are no objects to unpickle, no
   references are followed, and only the filters that come with h5py are used.
2. Sizes are compared with the bytes that are there before anything is allocated for them, and a chunk never
   becomes larger than it is said to be. Who reads slices needs memory for slices (and for one row of chunks).
3. What the library raises comes out as FormatError, CorruptError or StorageError, with path and name.
4. Values are as they are in the file, but for byte order, which becomes little-endian.
"""

from __future__ import annotations

import fcntl
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py  # type: ignore[import-untyped]

from replaystore import not_stores
from replaystore.errors import CorruptError, FormatError, StorageError
from replaystore.formats.shared.file_rows import opened
from replaystore.formats.shared.hdf5.datasets import Dataset
from replaystore.formats.shared.hdf5.reads import Reads
from replaystore.formats.shared.hdf5.values import OpenFile, attributes_of, called
from replaystore.storage.local import read_all

__all__ = ["SIGNATURE", "Dataset", "Group", "opened_hdf5"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH = 32
"""Groups in groups."""
MAX_HOPS = 8
"""Soft links on the way to one object."""
LINK_BYTES = 16
"""No link takes fewer in a file."""
_HARD, _SOFT, _EXTERNAL = h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT, h5py.h5l.TYPE_EXTERNAL


def _begin(descriptor: int, size: int) -> int:
    """Where the signature is; -1: nowhere. At byte 0, 512, 1024, 2048, …"""
    place = 0
    while place < size:
        if read_all(descriptor, place, len(SIGNATURE)) == SIGNATURE:
            return place
        place = place * 2 or 512
    return -1


@contextmanager
def opened_hdf5(path: str) -> Iterator[Group]:
    """The root of a file, which is open meanwhile. NotFoundError, StorageError; FormatError: it is something
    else, or damaged."""
    with opened(path) as (descriptor, size):
        begin = _begin(descriptor, size)
        if begin < 0:
            raise FormatError(f"{path} is no HDF5 file{not_stores.addition(path)}")
        _check_lock(path, descriptor)
        reads = Reads(descriptor, size, begin)
        file = OpenFile(path, descriptor, size, plain=begin == 0)
        try:
            handle = called(path, lambda: h5py.File(reads, "r"))
        except BaseException as error:
            # A frame that is kept with the error would keep what the library reads through beyond its end.
            traceback.clear_frames(error.__traceback__)
            raise
        try:
            yield Group(file, handle.id, "", 0)
        finally:
            called(path, handle.close)
        if reads.failure is not None:
            raise _failed(path, reads.failure)


def _check_lock(path: str, descriptor: int) -> None:
    """StorageError: the library locks it for writing, in another process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        raise StorageError(f"{path} is being written by another program: wait until it has ended") from None
    except OSError:  # a file system without locks
        return


def _failed(path: str, error: BaseException) -> BaseException:
    if isinstance(error, OSError):
        return StorageError(f"{path} cannot be read: {error.strerror or error}", error.errno)
    return error


class Group:
    """A group of a file, as a mapping from names to groups and datasets."""

    __slots__ = ("_file", "_handle", "_kinds", "_last", "_links", "depth", "name")

    def __init__(self, file: OpenFile, handle: Any, name: str, depth: int) -> None:
        self._file, self.name, self.depth = file, name, depth
        if isinstance(handle, h5py.h5f.FileID):
            handle = called(file.path, lambda: h5py.h5g.open(handle, b"/"))
        self._handle, self._links = handle, handle.links
        self._kinds: dict[str, int] | None = None
        self._last: tuple[str, Group] | None = None
        """The group in it that was asked for last: paths have it in common."""

    # --- what is in it

    @property
    def where(self) -> str:
        """The file and the group, for messages."""
        return self._file.where(self.name)

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return self._file.size

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    def __contains__(self, name: str) -> bool:
        """Whether there is a link of this name, wherever it leads; of a path, an object."""
        return name in self._known() if "/" not in name else self.get(name) is not None

    def may_have(self, name: str) -> bool:
        """Whether there is a link of this name, without a look at all others: quick in a group of many."""
        return self._kind(name) is not None

    def _known(self) -> dict[str, int]:
        """The names of all links, and of which kind they are."""
        if self._kinds is None:
            self._kinds = called(self.where, self._listed)
        return self._kinds

    def _listed(self) -> dict[str, int]:
        found: dict[str, int] = {}
        most = self._file.size // LINK_BYTES + LINK_BYTES

        def add(name: bytes, info: Any) -> int | None:
            found[name.decode()] = info.type
            return 1 if len(found) > most else None

        self._links.iterate(add, info=True)
        if len(found) > most:
            raise CorruptError(f"{self.where}: it has more links than there is room for: the file is damaged")
        return found

    def addresses(self) -> dict[str, int] | None:
        """Where in the file the heads of the objects in it begin, by name, but for those behind soft links.
        None: HDF5 does not begin at byte 0."""
        if not self._file.plain:
            return None
        found: dict[str, int] = {}
        self._known()  # which looks at how many there are

        def add(name: bytes, info: Any) -> None:
            if info.type == _HARD:
                found[name.decode()] = info.u

        called(self.where, lambda: self._links.iterate(add, info=True))
        return found

    # --- objects

    def get(self, name: str) -> Group | Dataset | None:
        """What a name, or a path of names, leads to; None: nothing, or neither a group nor a dataset."""
        found: Group | Dataset | None = self
        for part in name.split("/"):
            found = found.child(part, MAX_HOPS) if isinstance(found, Group) else None
        return found

    def group(self, name: str) -> Group:
        """FormatError: there is none."""
        found = self.get(name)
        if not isinstance(found, Group):
            raise FormatError(f"{self.where}: there is no group {name!r}{_instead(found)}")
        return found

    def dataset(self, name: str) -> Dataset:
        """FormatError: there is none."""
        found = self.get(name)
        if not isinstance(found, Dataset):
            raise FormatError(f"{self.where}: there is no dataset {name!r}{_instead(found)}")
        return found

    def groups(self) -> Iterator[tuple[str, Group]]:
        """The groups in it."""
        return ((name, found) for name, found in self.items() if isinstance(found, Group))

    def items(self) -> Iterator[tuple[str, Group | Dataset]]:
        """All groups and datasets in it."""
        for name in self._known():
            found = self.child(name, MAX_HOPS)
            if found is not None:
                yield name, found

    def walk(self, begin: str = "") -> Iterator[tuple[str, Dataset]]:
        """All datasets in it and below, with their paths from here. CorruptError: it has no end."""
        room = [self._file.size // LINK_BYTES + LINK_BYTES]
        yield from self.walk_within(begin, room)

    def walk_within(self, begin: str, room: list[int]) -> Iterator[tuple[str, Dataset]]:
        """`walk`, while there is room for more objects."""
        for name, found in self.items():
            room[0] -= 1
            if room[0] < 0:
                raise CorruptError(f"{self._file.path}: groups hold each other in it: the file is damaged")
            if isinstance(found, Dataset):
                yield begin + name, found
            else:
                yield from found.walk_within(f"{begin}{name}/", room)

    def child(self, name: str, hops: int) -> Group | Dataset | None:
        """What one name leads to, over at most so many soft links."""
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        kind = self._kind(name)
        if kind is None:
            return None
        if kind == _HARD:
            handle = called(self._at(name), lambda: h5py.h5o.open(self._handle, name.encode()))
            return self._wrapped(name, handle)
        if kind == _SOFT:
            return self._followed(name, hops)
        if kind == _EXTERNAL:
            other = called(self._at(name), lambda: self._links.get_val(name.encode()))
            raise FormatError(
                f"{self._at(name)} is a link to another file ({other[0]!r:.80}), which is not followed: make "
                "one file of them (h5py: file.copy(source, target, expand_external=True))"
            )
        raise FormatError(f"{self._at(name)} is a link of a kind that is not known")

    def _kind(self, name: str) -> int | None:
        if self._kinds is not None:
            return self._kinds.get(name)
        try:
            found: int = self._links.get_info(name.encode()).type
            return found
        except KeyError:
            return None
        except RuntimeError:
            return self._known().get(name)

    def _wrapped(self, name: str, handle: Any) -> Group | Dataset | None:
        path = f"{self.name}/{name}" if self.name else name
        if isinstance(handle, h5py.h5d.DatasetID):
            return Dataset(self._file, handle, path)
        if not isinstance(handle, h5py.h5g.GroupID):
            return None  # a type that has a name
        if self.depth >= MAX_DEPTH:
            raise CorruptError(f"{self.where}: groups are nested deeper than {MAX_DEPTH}: it is damaged")
        found = Group(self._file, handle, path, self.depth + 1)
        self._last = name, found
        return found

    def _followed(self, name: str, hops: int) -> Group | Dataset | None:
        """What a soft link leads to."""
        target = called(self._at(name), lambda: self._links.get_val(name.encode()).decode())
        parts = [part for part in target.split("/") if part not in ("", ".")]
        if not hops or len(parts) > MAX_DEPTH or ".." in parts:
            raise FormatError(f"{self._at(name)} is a link to {target!r:.80}, which leads nowhere")
        found: Group | Dataset | None = self
        if target.startswith("/"):
            found = Group(self._file, called(self.where, lambda: h5py.h5g.open(self._handle, b"/")), "", 0)
        for part in parts:
            found = found.child(part, hops - 1) if isinstance(found, Group) else None
        return found

    def _at(self, name: str) -> str:
        return self._file.where(f"{self.name}/{name}" if self.name else name)

    # --- attributes

    @property
    def attributes(self) -> dict[str, Any]:
        """All of them, read anew: str, bool, int, float, or arrays of numbers or str; None: of something
        else."""
        return attributes_of(self._handle, self.where)


def _instead(found: Group | Dataset | None) -> str:
    if found is None:
        return ""
    return ": that is a dataset" if isinstance(found, Dataset) else ": that is a group"
