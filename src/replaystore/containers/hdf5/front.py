"""The user block of an HDF5 file of ours: heads, journal header, applied marker.

    0        the magic line; never rewritten
    4096     head slot 0     where the newest segment of the commit log lies and how much of it counts; the
             slots take turns
    8192     head slot 1
    12288    journal header  {sequence, ends, place, length, crc32c}
    16384    applied marker  the sequence of the newest transaction that is wholly in place
    18432    directory       where what the objects say is written down in short, and of which transaction
    20480    journal payload, unless it is too large: then it lies after everything else
    65536    HDF5

Each is a sealed record (its crc32c follows it) in one sector of a page of its own, so that a torn write
spoils one at most. One that is sealed but names places or sizes that no file of ours has is taken for torn:
it is not of our making.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import google_crc32c

from replaystore.containers.checks import MOST_NUMBER
from replaystore.errors import CorruptError, FormatError, FormatVersionError

__all__ = [
    "APPLIED",
    "DIRECTORY",
    "HEADS",
    "JOURNAL",
    "MOST_PAYLOAD",
    "REGION",
    "USERBLOCK",
    "Front",
    "Head",
    "Header",
    "Slot",
    "front_block",
    "pack_marker",
]

USERBLOCK = 1 << 16
MAGIC = b"REPLAYSTORE HDF5 1\n"
HEADS = (4096, 8192)
JOURNAL = 12288
APPLIED = 16384
DIRECTORY = 18432
REGION = 20480
"""Where a journal payload begins; also the length of what precedes it, which is read in one piece."""
MOST_PIECES = 28
"""Of a head, in a sector."""
MOST_PAYLOAD = 256 << 20
"""Bytes of a journal payload, which is read whole: what the library writes of metadata in one transaction."""

_HEADER = struct.Struct("<8sQQQQQI")
_MARKER = struct.Struct("<8sQ")
_HEAD = struct.Struct("<8sQqQQ")
_PIECE = struct.Struct("<QQ")
_SLOT = struct.Struct("<8sQQQQ")
_CHECKSUM = struct.Struct("<I")
_HEADER_MAGIC, _MARKER_MAGIC, _HEAD_MAGIC = b"RSJOURN1", b"RSAPPLY1", b"RSHEAD01"
_SLOT_MAGIC = b"RSDIREC1"


def _sealed(data: bytes) -> bytes:
    return data + _CHECKSUM.pack(google_crc32c.value(data))


def _intact(block: bytes, start: int, stop: int) -> bool:
    return block[stop : stop + _CHECKSUM.size] == _CHECKSUM.pack(google_crc32c.value(block[start:stop]))


def _opened(block: bytes, offset: int, form: struct.Struct, magic: bytes) -> tuple[Any, ...] | None:
    """The fields of a sealed record of fixed form, without its magic; None if it is torn or was never
    written."""
    stop = offset + form.size
    if block[offset : offset + 8] != magic or not _intact(block, offset, stop):
        return None
    return form.unpack(block[offset:stop])[1:]


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
        if len(self.pieces) > MOST_PIECES:  # each is as large as those before it together
            raise CorruptError(f"a segment of the commit log in {len(self.pieces)} pieces; reopen the store")
        pieces = b"".join(_PIECE.pack(*piece) for piece in self.pieces)
        return _sealed(
            _HEAD.pack(_HEAD_MAGIC, self.sequence, self.commit, self.used, len(self.pieces)) + pieces
        )

    @classmethod
    def unpack(cls, block: bytes, slot: int) -> Head | None:
        """The head in this slot of the front; None if it is torn or was never written."""
        magic, sequence, commit, used, count = _HEAD.unpack_from(block, slot)
        stop = slot + _HEAD.size + min(count, MOST_PIECES) * _PIECE.size
        if magic != _HEAD_MAGIC or count > MOST_PIECES or not _intact(block, slot, stop):
            return None
        head = cls(sequence, commit, used, tuple(_PIECE.iter_unpack(block[slot + _HEAD.size : stop])))
        places = all(
            USERBLOCK <= offset <= MOST_NUMBER and length <= MOST_NUMBER for offset, length in head.pieces
        )
        return (
            head
            if places and sequence <= MOST_NUMBER and 0 <= commit <= MOST_NUMBER and used <= head.room
            else None
        )

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

    SIZE = _HEADER.size + _CHECKSUM.size

    def pack(self) -> bytes:
        return _sealed(
            _HEADER.pack(
                _HEADER_MAGIC, self.sequence, self.old_end, self.new_end, self.place, self.length, self.crc
            )
        )

    @classmethod
    def unpack(cls, block: bytes, offset: int) -> Header | None:
        fields = _opened(block, offset, _HEADER, _HEADER_MAGIC)
        if fields is None:
            return None
        header = cls(*fields)
        possible = (
            USERBLOCK <= header.old_end <= header.new_end <= MOST_NUMBER and header.length <= MOST_PAYLOAD
        )
        return (
            header
            if possible and REGION <= header.place <= MOST_NUMBER and header.sequence <= MOST_NUMBER
            else None
        )


@dataclass(frozen=True)
class Slot:
    """Where the directory lies: see directory.py."""

    sequence: int
    """Of the transaction that it was written with: that of the newest, or it is out of date."""
    offset: int
    room: int
    used: int

    SIZE = _SLOT.size + _CHECKSUM.size

    def pack(self) -> bytes:
        return _sealed(_SLOT.pack(_SLOT_MAGIC, self.sequence, self.offset, self.room, self.used))

    @classmethod
    def unpack(cls, block: bytes, offset: int = DIRECTORY) -> Slot | None:
        """None: it is torn, or there is no directory."""
        fields = _opened(block, offset, _SLOT, _SLOT_MAGIC)
        slot = cls(*fields) if fields is not None else None
        possible = slot is not None and slot.used <= slot.room and USERBLOCK <= slot.offset <= MOST_NUMBER
        return slot if possible else None


@dataclass(frozen=True)
class Front:
    """What lies before the journal payload, read at one moment."""

    block: bytes
    journal: Header | None
    applied: int

    @classmethod
    def unpack(cls, block: bytes, path: str) -> Front:
        """FormatError: not a file of ours; `path` is for the message."""
        if not block.startswith(MAGIC):
            if block.startswith(MAGIC[:17]):
                raise FormatVersionError(
                    f"{path} is of a newer form of replaystore's HDF5 files; upgrade replaystore"
                )
            raise FormatError(
                f"{path} is not a replaystore HDF5 file; check the path, or choose another name"
            )
        if len(block) < REGION:
            raise CorruptError(
                f"{path} is cut short: {len(block)} bytes are left of at least {USERBLOCK}; "
                "restore it from a copy"
            )
        marker = _opened(block, APPLIED, _MARKER, _MARKER_MAGIC)
        return cls(
            block, Header.unpack(block, JOURNAL), marker[0] if marker and marker[0] <= MOST_NUMBER else 0
        )

    @property
    def damaged(self) -> list[str]:
        """The records that were written once and are not intact: torn by a power cut, being written just now,
        or changed since.

        What they said of the log is then looked up in the log itself."""
        heads = [Head.unpack(self.block, slot) for slot in HEADS]
        marker = _opened(self.block, APPLIED, _MARKER, _MARKER_MAGIC)
        found: dict[str, object] = {
            f"head {number} of the commit log": known for number, known in enumerate(heads)
        }
        found |= {"the journal's header": self.journal, "the marker of the applied journal": marker}
        places = dict(zip(found, (*HEADS, JOURNAL, APPLIED), strict=True))
        return [
            name
            for name, known in found.items()
            if known is None and any(self.block[places[name] : places[name] + _HEAD.size])
        ]

    @property
    def pending(self) -> Header | None:
        """The header of a journal that is not known to be in place."""
        return self.journal if self.journal is not None and self.journal.sequence > self.applied else None


def pack_marker(sequence: int) -> bytes:
    """The applied marker."""
    return _sealed(_MARKER.pack(_MARKER_MAGIC, sequence))


def front_block() -> bytes:
    """The user block of a new file. It is written out so that later journals never need new space on the
    disk."""
    block = bytearray(USERBLOCK)
    told = f"The first {USERBLOCK} bytes belong to replaystore; an ordinary HDF5 file follows them.\n"
    text = MAGIC + told.encode()
    block[: len(text)] = text
    block[APPLIED : APPLIED + len(pack_marker(0))] = pack_marker(0)
    return bytes(block)
