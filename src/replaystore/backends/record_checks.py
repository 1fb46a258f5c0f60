"""What is asked of the commit log before it is believed: how much of a segment is read at all."""

from __future__ import annotations

import struct
from collections.abc import Callable

from google_crc32c import extend

from replaystore.errors import CorruptError

__all__ = ["segment_end"]

WHOLE = 64 << 20
"""Bytes of a segment that are read without looking at them first: a segment is ended at 1 MiB, or with the record that exceeds it."""
MOST_RECORD = 1 << 33
"""Bytes of a record: the tables' rows of one commit, of a conversion perhaps."""
_HEADER = struct.Struct("<4sIQ")
_BLOCK = 8 << 20

Read = Callable[[int, int], bytes]
"""(offset, length) → bytes of a segment; fewer where it ends."""


def segment_end(read: Read, start: int, size: int, where: str) -> int:
    """Up to where a segment of so many bytes is to be read from `start` on: a file may be of any size, and hold nothing.

    All of it if that is little; else to the end of its valid records, and a little of what follows them. CorruptError: more follows
    them than the torn record that a killed writer leaves."""
    at = start
    if size - start <= WHOLE:
        return size
    while at + _HEADER.size <= size:
        magic, checksum, length = _HEADER.unpack(read(at, _HEADER.size))
        begin = at + _HEADER.size
        if magic != b"RSC1" or length > min(MOST_RECORD, size - begin):
            break
        if length > WHOLE:
            found = extend(0, length.to_bytes(8, "little"))
            for offset in range(begin, begin + length, _BLOCK):
                found = extend(found, read(offset, min(_BLOCK, begin + length - offset)))
            if found != checksum:
                break
        at = begin + length
    if size - at > MOST_RECORD:
        raise CorruptError(f"{where}: {size - at} bytes follow the last record of the commit log, more than a writer leaves; cut them off")
    return min(size, at + WHOLE)
