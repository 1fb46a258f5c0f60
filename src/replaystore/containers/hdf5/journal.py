"""The journal of a transaction: the pieces of the file that it changes, as they are written and read; and the
superblock, which says where the file ends."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence

import google_crc32c

from replaystore.containers.checks import MOST_NUMBER
from replaystore.containers.hdf5.front import USERBLOCK
from replaystore.containers.hdf5.overlay import Pieces, lookup3
from replaystore.errors import CorruptError

__all__ = ["COUNT", "INLINE", "entries_of", "payload_of", "show_end", "superblock"]

INLINE = (1 << 64) - 1
"""Stands for the checksum of bytes that the journal holds itself."""
COUNT = struct.Struct("<I")
ENTRY = struct.Struct("<QQQ")
SUPERBLOCK = 48


def payload_of(journaled: Pieces, straight: Sequence[tuple[int, bytes]]) -> bytes:
    entries = [ENTRY.pack(offset, len(data), INLINE) for offset, data in journaled]
    entries += [ENTRY.pack(offset, len(data), google_crc32c.value(bytes(data))) for offset, data in straight]
    return b"".join([COUNT.pack(len(entries)), *entries, *(data for _, data in journaled)])


def entries_of(payload: bytes, end: int) -> tuple[list[tuple[int, int, int]], int]:
    """The (offset, length, checksum) of the pieces of a payload, and where in it the bytes of those begin
    that it holds itself.

    CorruptError: pieces that overlap or lie beyond `end`, or more than the payload holds: no writer of ours
    has made it."""
    (count,) = COUNT.unpack_from(payload)
    begin = COUNT.size + count * ENTRY.size
    entries = list(ENTRY.iter_unpack(payload[COUNT.size : begin])) if begin <= len(payload) else []
    ordered = sorted((offset, offset + length) for offset, length, _ in entries)
    apart = all(stop <= following for (_, stop), (following, _) in itertools.pairwise(ordered))
    held = sum(length for _, length, crc in entries if crc == INLINE)
    if (
        len(entries) != count
        or not apart
        or (ordered and ordered[-1][1] > end)
        or begin + held != len(payload)
    ):
        raise CorruptError(
            "the journal of the newest transaction is not of a writer's making; restore the file from a copy"
        )
    return entries, begin


def superblock(read: Callable[[int, int], bytes], pieces: Pieces, path: str) -> tuple[bytes, int]:
    """The superblock of HDF5 and the end of the file that it names."""
    data = bytearray(read(USERBLOCK, SUPERBLOCK).ljust(SUPERBLOCK, b"\0"))
    pieces.lay_over(USERBLOCK, data)
    block = bytes(data)
    if block[:8] != b"\x89HDF\r\n\x1a\n" or block[8] not in (2, 3) or block[9:11] != b"\x08\x08":
        raise CorruptError(f"{path}: the HDF5 superblock at byte {USERBLOCK} is damaged or missing")
    base, _, end, _, checksum = struct.unpack("<QQQQI", block[12:])
    if checksum != lookup3(block[:44]) or base != USERBLOCK or not USERBLOCK <= end <= MOST_NUMBER:
        raise CorruptError(
            f"{path}: the HDF5 superblock at byte {USERBLOCK} fails its checksum, or is of no file of ours"
        )
    return block, end


def show_end(pieces: Pieces, block: bytes, end: int) -> int:
    """Make a superblock name another end."""
    shown = block[:28] + struct.pack("<Q", end) + block[36:44]
    pieces.write(USERBLOCK, shown + COUNT.pack(lookup3(shown)))
    return end
