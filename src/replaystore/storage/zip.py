"""A Zarr folder packed into one zip file, read where it lies on a disk: members are stored, not compressed,
and large ones begin on pages, so that raw rows are mapped straight from the zip. `pack` makes such files;
members that begin elsewhere (small ones, those of other software's zips) are read all the same.

Small members that nobody maps (metadata, the log, tables) are deflated where that helps: they are most of a
small store, and are read whole. A member that is read a little here and there is inflated whole for it.

Nothing in the file is believed before it is compared with the file itself (zip_directory.py).
"""

from __future__ import annotations

import builtins
import io
import os
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence

from replaystore.errors import StorageError, UnsupportedError
from replaystore.refusals import named, refusal
from replaystore.storage.descriptors import read_all
from replaystore.storage.folder import FolderReader
from replaystore.storage.inside import open_regular
from replaystore.storage.protocol import PAGE, Reads
from replaystore.storage.temporary import NewFile, sync_folder
from replaystore.storage.zip_directory import LOCAL_HEADER, MOST_DEFLATED, MOST_DIRECTORY, Directory, Member

__all__ = ["ZipFiles", "pack"]

_ALIGNMENT = 0xD935
"""The extra field that Android's zipalign pads with: readers skip it."""
_ZIP64 = 20
"""Bytes of the extra field that the zip module adds to a large member's local header."""
_LARGE = 1 << 30
_BLOCK = 4 << 20
_ALIGNED = 64 << 10
"""Bytes of a member from which on it begins on a page: a small store would be pages of nothing."""
_KEPT = 4 << 20
"""Bytes of deflated members that are kept inflated."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


class _Ending(io.FileIO):
    """A zip file whose directory is read at once, if that is no larger than one can be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MOST_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {size} bytes, over the limit of {MOST_DIRECTORY}")
        return super().read(size) or b""


class ZipFiles(FolderReader):
    """The members of a zip file, for reading. `close` forgets what it says, so that one that has replaced it
    is read anew."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, writable=False)
        self._zip = -1
        self._directory: Directory | None = None
        self._inflated: OrderedDict[str, bytes] = OrderedDict()

    def descriptor(self, name: str) -> int:
        """The zip file's descriptor, if it has such a member. `place` says where in it the member lies."""
        return self._place(name)[0]

    def _place(self, name: str) -> tuple[int, int, int]:
        """(the zip file's descriptor, where the member's bytes begin, their number)."""
        with self._lock:
            member = self._member(name)
            if member.deflated:
                raise UnsupportedError(
                    f"{self.path(name)} is compressed, so it cannot be mapped: unpack {self.root}, and "
                    "convert the folder with `replaystore convert`"
                )
            return self._zip, member.data, member.size

    def _member(self, name: str) -> Member:
        """A member, and where its bytes begin; the lock is held."""
        directory = self._load()
        member = directory.members.get(name)
        if member is None:
            raise FileNotFoundError(2, "No such file", self.path(name))
        if member.data < 0:
            member.data = self._data(directory, name, member)
        return member

    def _whole(self, name: str) -> bytes | None:
        """The bytes of a member that is deflated; None: it is not."""
        with self._lock:
            found = self._inflated.get(name)
            member = self._member(name)
            if found is not None or not member.deflated:
                return found
            data = read_all(self._zip, member.data, member.length)
            found = self._inflated[name] = self._load().inflated(name, member, data)
            while len(self._inflated) > 1 and sum(map(len, self._inflated.values())) > _KEPT:
                self._inflated.popitem(last=False)
            return found

    def _data(self, directory: Directory, name: str, member: Member) -> int:
        header = read_all(self._zip, member.header, LOCAL_HEADER.size + len(name.encode()))
        return directory.data(name, member, header)

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        whole = self._whole(name)
        if whole is not None:
            return whole[offset : None if length is None else offset + max(0, length)]
        with self.place(name) as (fd, begin, size):
            return read_all(
                fd, begin + offset, max(0, size - offset if length is None else min(size - offset, length))
            )

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        if self._whole(name) is not None:
            return [self.read(name, offset, length) for offset, length in ranges]
        size = self.size(name)  # what follows in the zip file is another member
        return super().read_ranges(
            name, [(offset, max(0, min(length, size - offset))) for offset, length in ranges]
        )

    def read_whole(self, name: str, most: int) -> bytes:
        return self.read(name, 0, self._bounded(name, self.size(name), most))

    def read_into(self, name: str, offset: int, target: memoryview) -> int:
        if self._whole(name) is None:
            return super().read_into(name, offset, target)
        found = self.read(name, offset, len(target))
        target[: len(found)] = found
        return len(found)

    def size(self, name: str) -> int:
        with self._lock:
            return self._member(name).size

    def status(self, name: str) -> tuple[int, Hashable]:
        with self._lock:
            member = self._member(name)
            found = os.fstat(self._zip)
        return member.size, (found.st_dev, found.st_ino, member.data)

    def exists(self, name: str) -> bool:
        with self._lock:
            return self._load().exists(name)

    def list(self, folder: str = "") -> list[str]:
        with self._lock:
            return sorted(self._load().folders.get(folder, ()))

    def walk(self) -> Iterator[str]:
        with self._lock:
            return iter(sorted(self._load().members))

    def forget(self, name: str) -> None:
        """Nothing to forget: members are not opened one by one."""

    def close(self) -> None:
        with self._lock:
            super().close()
            self._zip, self._directory = -1, None
            self._inflated.clear()

    def _load(self) -> Directory:
        if self._directory is None:
            fd = open_regular(self.real_path(""), os.O_RDONLY, follow=True)
            try:
                self._directory = Directory(self.root, _Ending(os.dup(fd), "rb"))
            except BaseException:
                os.close(fd)
                raise
            self._zip = self._keep("", fd)
        return self._directory


# --- packing


def pack(
    files: Reads,
    target: str,
    *,
    leave_out: frozenset[str] = frozenset(),
    deflate: Callable[[str], int] = lambda _: 0,
) -> None:
    """Pack files into a zip that appears whole, durably: equal files give equal zips. What is at `target` is
    replaced. `deflate`: the most bytes of a file, by its name, that may be deflated; nobody can map it then.

    StorageError: the disk refused; nothing is left behind."""
    try:
        new = NewFile(target)
        try:
            with zipfile.ZipFile(new.file, "w", zipfile.ZIP_STORED, allowZip64=True) as packed:
                for name in files.walk():
                    if name not in leave_out:
                        _add(packed, files, name, new.file.tell(), deflate=deflate(name))
            new.sync()
            new.put()
        except BaseException:
            new.discard()
            raise
        sync_folder(os.path.dirname(target))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        text = f"{named(str(target))} cannot be written: {refusal(error, str(target))}"
        raise StorageError(f"{text}; make room, or choose another place", error.errno) from error


def _add(packed: zipfile.ZipFile, files: Reads, name: str, position: int, *, deflate: int) -> None:
    """Write a member at `position`; if it is large, its header is padded so that its data begin on a page."""
    size = files.size(name)
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr, info.file_size = 3, 0o644 << 16, size
    if size <= min(deflate, MOST_DEFLATED):
        data = files.read(name)
        if 8 * len(zlib.compress(data, 9)) < 7 * size:
            packed.writestr(info, data, zipfile.ZIP_DEFLATED, 9)
            return
    large = size >= _LARGE
    if size >= _ALIGNED:
        # 6: the padding field's own header.
        begin = position + LOCAL_HEADER.size + len(name.encode()) + (_ZIP64 if large else 0) + 6
        info.extra = struct.pack("<3H", _ALIGNMENT, 2 + -begin % PAGE, PAGE) + bytes(-begin % PAGE)
    with packed.open(info, "w", force_zip64=large) as member:
        for offset in range(0, size, _BLOCK):
            member.write(files.read(name, offset, min(_BLOCK, size - offset)))
    info.extra = b""  # the directory at the end does not need the padding
