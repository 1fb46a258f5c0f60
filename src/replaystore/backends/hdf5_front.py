"""The user block of an HDF5 file of ours: heads, journal header, applied marker. Where they lie is said in hdf5_transaction.py.

Each is a sealed record (its crc32c follows it) within one sector of a page of its own, so that a torn write spoils one at most.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import google_crc32c

from replaystore.errors import CorruptError, FormatError, FormatVersionError

__all__ = ["APPLIED", "HEADS", "JOURNAL", "JOURNAL_BYTES", "REGION", "USERBLOCK", "Front", "Head", "Header", "front_block", "pack_marker"]

USERBLOCK = 1 << 18
MAGIC = b"REPLAYSTORE HDF5 1\n"
HEADS = (4096, 8192)
JOURNAL = 12288
APPLIED = 16384
REGION = 20480
"""Where a journal payload begins; also the length of what precedes it, which is read in one piece."""

DIRECT = 4096
"""Writes of at least this size into new space are not copied through the journal; it holds their checksums. Encoded chunks and log
records never are, whatever their size: readers find them without looking at the journal."""
GAP = 8
"""How far beyond the true end the library sees the end of the file."""
USERBLOCK_ROOM = USERBLOCK - REGION
INLINE = (1 << 64) - 1
ATTEMPTS = 200

HEADER = struct.Struct("<8sQQQQQI")
MARKER = struct.Struct("<8sQ")
HEAD = struct.Struct("<8sQqQQ")
PIECE = struct.Struct("<QQ")
ENTRY = struct.Struct("<QQQ")
CHECKSUM = struct.Struct("<I")
SUPERBLOCK = 48
MOST_PIECES = 28


def _sealed(data: bytes) -> bytes:
    return data + CHECKSUM.pack(google_crc32c.value(data))


def _opened(block: bytes, offset: int, form: struct.Struct, magic: bytes) -> tuple[Any, ...] | None:
    """The fields of a sealed record of fixed form, without its magic; None if it is torn or was never written."""
    data = block[offset : offset + form.size]
    if data[:8] != magic or block[offset + form.size :][: CHECKSUM.size] != CHECKSUM.pack(google_crc32c.value(data)):
        return None
    return form.unpack(data)[1:]


@dataclass(frozen=True)
class Head:
    """Where the newest segment of the commit log lies."""

    sequence: int
    commit: int
    """The commit that the segment begins with."""
    used: int
    """Bytes of it that count."""
    pieces: tuple[tuple[int, int], ...]
    """(offset, length) of each piece of room, in order."""

    @property
    def slot(self) -> int:
        return HEADS[self.sequence % 2]

    @property
    def room(self) -> int:
        return sum(length for _, length in self.pieces)

    def pack(self) -> bytes:
        pieces = b"".join(PIECE.pack(*piece) for piece in self.pieces)
        return _sealed(HEAD.pack(b"RSHEAD01", self.sequence, self.commit, self.used, len(self.pieces)) + pieces)

    @classmethod
    def unpack(cls, block: bytes, slot: int) -> Head | None:
        magic, sequence, commit, used, count = HEAD.unpack_from(block, slot)
        if magic != b"RSHEAD01" or count > MOST_PIECES:
            return None
        stop = slot + HEAD.size + count * PIECE.size
        if block[stop : stop + CHECKSUM.size] != CHECKSUM.pack(google_crc32c.value(block[slot:stop])):
            return None
        return cls(sequence, commit, used, tuple(PIECE.iter_unpack(block[slot + HEAD.size : stop])))

    def inside(self, size: int) -> bool:
        """Whether what counts lies inside a file of this size."""
        rest = self.used
        for offset, length in self.pieces:
            if rest > 0 and offset + min(rest, length) > size:
                return False
            rest -= length
        return rest <= 0


@dataclass(frozen=True)
class Header:
    """The journal header."""

    sequence: int
    old_end: int
    new_end: int
    place: int
    length: int
    crc: int

    def pack(self) -> bytes:
        return _sealed(HEADER.pack(b"RSJOURN1", self.sequence, self.old_end, self.new_end, self.place, self.length, self.crc))


@dataclass(frozen=True)
class Front:
    """What lies before the journal payload, read at one moment."""

    block: bytes
    journal: Header | None
    applied: int

    @property
    def pending(self) -> Header | None:
        """The header of a journal that is not known to be in place."""
        return self.journal if self.journal is not None and self.journal.sequence > self.applied else None


def front_block() -> bytes:
    """The user block of a new file. It is written out so that later journals never need new space on the disk."""
    block = bytearray(USERBLOCK)
    text = MAGIC + b"The first 262144 bytes belong to replaystore; an ordinary HDF5 file follows them.\n"
    block[: len(text)] = text
    marker = _sealed(MARKER.pack(b"RSAPPLY1", 0))
    block[APPLIED : APPLIED + len(marker)] = marker
    return bytes(block)


