"""A Zarr folder packed into one zip file, read where it lies: members are stored, not compressed, and begin
on pages, so that raw rows are mapped straight from the zip. `pack` makes such files; members that begin
elsewhere (of other software's zips) are read all the same.

Nothing in the file is believed before it is compared with the file itself: members lie inside it, one behind
the other, under names that stay inside the store. A compressed or encrypted member is refused by name when
the zip is opened.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from replaystore.errors import CorruptError, StorageError, UnsupportedError
from replaystore.refusals import named, refusal
from replaystore.storage.descriptors import read_all
from replaystore.storage.folder import FolderReader
from replaystore.storage.inside import open_regular
from replaystore.storage.protocol import PAGE, Reads
from replaystore.storage.temporary import NewFile, sync_folder

__all__ = ["ZipFiles", "pack"]

MOST_MEMBERS = 1 << 20
"""A store of a terabyte has tens of thousands of files."""
MOST_DIRECTORY = 32 << 20
"""Bytes of the directory at the end of a zip file, some 80 a member: each takes a thousand of memory once it
is understood."""
LONGEST_NAME = 4096
_LOCAL = struct.Struct("<4s5H3I2H")
"""The header before each member's data."""
_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED, _UTF8 = 0x1, 0x800
"""Flags of a member."""
_ALIGNMENT = 0xD935
"""The extra field that Android's zipalign pads with: readers skip it."""
_ZIP64 = 20
"""Bytes of the extra field that the zip module adds to a large member's local header."""
_LARGE = 1 << 30
_BLOCK = 4 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_REPACK = "unpack it and convert the folder with `replaystore convert`"


@dataclass
class _Member:
    header: int
    """Where its local header begins."""
    size: int
    stop: int = 0
    """Where what follows it in the file begins."""
    data: int = -1
    """Where its bytes begin; -1: not looked up yet."""


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
        self._members: dict[str, _Member] = {}
        self._folders: dict[str, set[str]] = {}

    def descriptor(self, name: str) -> int:
        """The zip file's descriptor, if it has such a member. `place` says where in it the member lies."""
        return self.place(name)[0]

    def place(self, name: str) -> tuple[int, int, int]:
        """(the zip file's descriptor, where the member's bytes begin, their number)."""
        with self._lock:
            self._load()
            member = self._members.get(name)
            if member is None:
                raise FileNotFoundError(2, "No such file", self.path(name))
            if member.data < 0:
                member.data = self._data(name, member)
            return self._zip, member.data, member.size

    def _beginning(self, name: str) -> int:
        return self.place(name)[1]

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        with self.borrowed(name) as fd:
            _, begin, size = self.place(name)
            return read_all(
                fd, begin + offset, max(0, size - offset if length is None else min(size - offset, length))
            )

    def read_whole(self, name: str, most: int) -> bytes:
        return self.read(name, 0, self._bounded(name, self.size(name), most))

    def size(self, name: str) -> int:
        return self.place(name)[2]

    def exists(self, name: str) -> bool:
        with self._lock:
            self._load()
            return not name or name in self._members or name in self._folders

    def list(self, folder: str = "") -> list[str]:
        with self._lock:
            self._load()
            return sorted(self._folders.get(folder, ()))

    def walk(self) -> Iterator[str]:
        with self._lock:
            self._load()
            return iter(sorted(self._members))

    def forget(self, name: str) -> None:
        """Nothing to forget: members are not opened one by one."""

    def close(self) -> None:
        with self._lock:
            if self._zip >= 0:
                self._close(self._zip)
            self._zip, self._members, self._folders = -1, {}, {}

    # --- the directory of the zip file

    def _load(self) -> None:
        if self._zip >= 0:
            return
        fd = open_regular(self.real_path(""), os.O_RDONLY, follow=True)
        try:
            self._members = self._checked(*self._directory(fd))
        except BaseException:
            os.close(fd)
            raise
        self._zip = fd
        self._folders = _tree(self._members)

    def _directory(self, fd: int) -> tuple[Sequence[zipfile.ZipInfo], int]:
        """What the directory at the end of the file says of each member, and where it begins."""
        try:
            with _Ending(os.dup(fd), "rb") as file, zipfile.ZipFile(file) as found:
                return found.infolist(), found.start_dir
        except (
            UnicodeDecodeError,
            zipfile.BadZipFile,
            NotImplementedError,
            struct.error,
            ValueError,
            OverflowError,
            EOFError,
        ) as error:
            raise CorruptError(
                f"{self.root}: not a zip file that can be read ({error}); restore it from a copy"
            ) from error

    def _checked(self, infos: Sequence[zipfile.ZipInfo], end: int) -> dict[str, _Member]:
        """The members, if they are such as can be read in place; they must end before `end`, where the
        directory begins."""
        if len(infos) > MOST_MEMBERS:
            raise UnsupportedError(
                f"{self.root} has {len(infos)} members; at most {MOST_MEMBERS} are read: {_REPACK}"
            )
        members: dict[str, _Member] = {}
        for info in infos:
            name, where = info.filename, f"{self.root}: the member {info.filename[:LONGEST_NAME]!r}"
            parts = name.rstrip("/").split("/")
            if (
                info.orig_filename != name
                or "\\" in name
                or ":" in parts[0]
                or len(name) > LONGEST_NAME
                or {"", ".", ".."} & set(parts)
            ):
                raise CorruptError(f"{where} has a name that no file of a store has: do not trust this zip")
            if name.endswith("/"):
                continue
            if info.flag_bits & _ENCRYPTED:
                raise UnsupportedError(f"{where} is encrypted: {_REPACK}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise UnsupportedError(f"{where} is compressed, so it cannot be read in place: {_REPACK}")
            if name in members:
                raise CorruptError(f"{where} is there twice: do not trust this zip")
            if info.file_size != info.compress_size or info.file_size < 0 or info.header_offset < 0:
                raise CorruptError(
                    f"{where} has {info.compress_size} bytes, but says {info.file_size}; "
                    "restore it from a copy"
                )
            members[name] = _Member(info.header_offset, info.file_size)
        self._check_places(members, end)
        return members

    def _check_places(self, members: dict[str, _Member], end: int) -> None:
        """Members follow each other: none shares its bytes with another or with the directory."""
        ordered = sorted(members.items(), key=lambda item: item[1].header)
        stops = [member.header for _, member in ordered[1:]] + [end] * bool(ordered)
        for (name, member), stop in zip(ordered, stops, strict=True):
            member.stop = stop
            if member.header + _LOCAL.size + len(name) + member.size > stop:
                raise CorruptError(
                    f"{self.root}: the member {name!r} reaches into what follows it; restore it from a copy"
                )

    def _data(self, name: str, member: _Member) -> int:
        """Where the bytes of a member begin: behind its local header, whose length only the header itself
        says."""
        where = f"{self.root}: the member {name!r}"
        header = read_all(self._zip, member.header, _LOCAL.size)
        if len(header) != _LOCAL.size or header[:4] != _SIGNATURE:
            raise CorruptError(f"{where} has no header; restore it from a copy")
        _, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack(header)
        stored = read_all(self._zip, member.header + _LOCAL.size, name_length)
        if method != zipfile.ZIP_STORED or flags & _ENCRYPTED or stored != _encoded(name, flags):
            raise CorruptError(f"{where} is not what the directory of the zip says; restore it from a copy")
        begin = member.header + _LOCAL.size + int(name_length) + int(extra_length)
        if begin + member.size > member.stop:
            raise CorruptError(f"{where} reaches into what follows it; restore it from a copy")
        return begin


def _encoded(name: str, flags: int) -> bytes:
    """A member's name as its header has it."""
    return name.encode("utf-8" if flags & _UTF8 else "cp437", "replace")


def _tree(members: dict[str, _Member]) -> dict[str, set[str]]:
    """What lies in each folder."""
    folders: dict[str, set[str]] = {"": set()}
    for name in members:
        path = name
        while path:
            folder, _, last = path.rpartition("/")
            known = folders.setdefault(folder, set())
            if last in known:
                break
            known.add(last)
            path = folder
    return folders


# --- packing


def pack(files: Reads, target: str, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Pack files into a zip that appears whole, durably: equal files give equal zips. What is at `target` is
    replaced.

    StorageError: the disk refused; nothing is left behind."""
    try:
        new = NewFile(target)
        try:
            with zipfile.ZipFile(new.file, "w", zipfile.ZIP_STORED, allowZip64=True) as packed:
                for name in files.walk():
                    if name not in leave_out:
                        _add(packed, files, name, new.file.tell())
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


def _add(packed: zipfile.ZipFile, files: Reads, name: str, position: int) -> None:
    """Write a member at `position`, its header padded so that its data begin on a page."""
    size = files.size(name)
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr, info.file_size = 3, 0o644 << 16, size
    large = size >= _LARGE
    # 6: the padding field's own header.
    begin = position + _LOCAL.size + len(name.encode()) + (_ZIP64 if large else 0) + 6
    info.extra = struct.pack("<3H", _ALIGNMENT, 2 + -begin % PAGE, PAGE) + bytes(-begin % PAGE)
    with packed.open(info, "w", force_zip64=large) as member:
        for offset in range(0, size, _BLOCK):
            member.write(files.read(name, offset, min(_BLOCK, size - offset)))
    info.extra = b""  # the directory at the end does not need the padding
