"""What the directory of a zip file says of its members, compared with the file.

Nothing is believed: members lie inside the file, one behind the other, under names that stay inside the
store; each has a header that says the same as the directory. Small members may be deflated: they are read
whole. Other compressed members, and encrypted ones, are refused by name.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from replaystore.errors import CorruptError, UnsupportedError

__all__ = ["LOCAL_HEADER", "MOST_DEFLATED", "MOST_DIRECTORY", "Directory", "Member"]

MOST_MEMBERS = 1 << 20
"""A store of a terabyte has tens of thousands of files."""
MOST_DIRECTORY = 32 << 20
"""Bytes of the directory at the end of a zip file, some 80 a member: each takes a thousand of memory once it
is understood."""
LONGEST_NAME = 4096
MOST_DEFLATED = 1 << 20
"""Bytes of a member that may be deflated."""
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""The header before each member's data."""
_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED, _UTF8 = 0x1, 0x800
"""Flags of a member."""
_REPACK = "unpack it and convert the folder with `replaystore convert`"


@dataclass
class Member:
    """A file in the zip file."""

    header: int
    """Where its local header begins."""
    size: int
    length: int
    """Bytes that it takes in the file: `size`, unless it is deflated."""
    method: int = zipfile.ZIP_STORED
    checksum: int = 0
    """crc32 of its bytes."""
    stop: int = 0
    """Where what follows it in the file begins."""
    data: int = -1
    """Where its bytes begin; -1: not looked up yet."""

    @property
    def deflated(self) -> bool:
        return self.method == zipfile.ZIP_DEFLATED


class Directory:
    """The members of a zip file: `where` is its name, for messages; `file`, an open file of Python's, is
    closed."""

    def __init__(self, where: object, file: Any) -> None:
        self.where = where
        self.members = self._checked(*self._said(file))
        self.folders = _tree(self.members)
        """The names of what lies in each folder."""

    def exists(self, name: str) -> bool:
        """Whether something has the name, be it a folder."""
        return not name or name in self.members or name in self.folders

    def data(self, name: str, member: Member, header: bytes) -> int:
        """Where the bytes of a member begin: behind its header, whose length only the header itself says; its
        first bytes are given, and the name in it."""
        where = f"{self.where}: the member {name!r}"
        if len(header) < LOCAL_HEADER.size or header[:4] != _SIGNATURE:
            raise CorruptError(f"{where} has no header; restore it from a copy")
        _, _, flags, method, *_, name_length, extra_length = LOCAL_HEADER.unpack_from(header)
        stored = header[LOCAL_HEADER.size : LOCAL_HEADER.size + name_length]
        if method != member.method or flags & _ENCRYPTED or stored != _encoded(name, flags):
            raise CorruptError(f"{where} is not what the directory of the zip says; restore it from a copy")
        begin = member.header + LOCAL_HEADER.size + int(name_length) + int(extra_length)
        if begin + member.length > member.stop:
            raise CorruptError(f"{where} reaches into what follows it; restore it from a copy")
        return begin

    def inflated(self, name: str, member: Member, data: bytes) -> bytes:
        """The bytes of a deflated member, of which this is what lies in the file."""
        inflating, found = zlib.decompressobj(-zlib.MAX_WBITS), b""
        with contextlib.suppress(zlib.error):  # it is not what it has to be, as below
            found = inflating.decompress(data, member.size + 1)
        if len(found) != member.size or zlib.crc32(found) != member.checksum:
            raise CorruptError(
                f"{self.where}: the member {name!r} does not match its checksum; restore it from a copy"
            )
        return found

    def _said(self, file: Any) -> tuple[Sequence[zipfile.ZipInfo], int]:
        """What the directory at the end of the file says of each member, and where it begins."""
        try:
            with file, zipfile.ZipFile(file) as found:
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
                f"{self.where}: not a zip file that can be read ({error}); restore it from a copy"
            ) from error

    def _checked(self, infos: Sequence[zipfile.ZipInfo], end: int) -> dict[str, Member]:
        """The members, if they are such as can be read in place; they must end before `end`, where the
        directory begins."""
        if len(infos) > MOST_MEMBERS:
            raise UnsupportedError(
                f"{self.where} has {len(infos)} members; at most {MOST_MEMBERS} are read: {_REPACK}"
            )
        members: dict[str, Member] = {}
        for info in infos:
            name, where = info.filename, f"{self.where}: the member {info.filename[:LONGEST_NAME]!r}"
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
            deflated = info.compress_type == zipfile.ZIP_DEFLATED and info.file_size <= MOST_DEFLATED
            if info.compress_type != zipfile.ZIP_STORED and not deflated:
                raise UnsupportedError(f"{where} is compressed, so it cannot be read in place: {_REPACK}")
            if name in members:
                raise CorruptError(f"{where} is there twice: do not trust this zip")
            lengths = info.file_size, info.compress_size, info.header_offset
            if min(lengths) < 0 or (info.file_size != info.compress_size and not deflated):
                raise CorruptError(
                    f"{where} has {info.compress_size} bytes, but says {info.file_size}; "
                    "restore it from a copy"
                )
            members[name] = Member(
                info.header_offset, info.file_size, info.compress_size, info.compress_type, info.CRC
            )
        self._check_places(members, end)
        return members

    def _check_places(self, members: dict[str, Member], end: int) -> None:
        """Members follow each other: none shares its bytes with another or with the directory."""
        ordered = sorted(members.items(), key=lambda item: item[1].header)
        stops = [member.header for _, member in ordered[1:]] + [end] * bool(ordered)
        for (name, member), stop in zip(ordered, stops, strict=True):
            member.stop = stop
            if member.header + LOCAL_HEADER.size + len(name) + member.length > stop:
                raise CorruptError(
                    f"{self.where}: the member {name!r} reaches into what follows it; restore it from a copy"
                )


def _encoded(name: str, flags: int) -> bytes:
    """A member's name as its header has it."""
    return name.encode("utf-8" if flags & _UTF8 else "cp437", "replace")


def _tree(members: dict[str, Member]) -> dict[str, set[str]]:
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
