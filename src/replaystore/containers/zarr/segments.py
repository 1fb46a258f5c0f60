"""Which segments the commit log has, for readers that cannot ask what is in its folder: one small file in it.

    journal/log/segments   one record in the form of the log's: {"segments": [commit, …], "store": name}

A writer replaces it, durably, *before* a new segment gets its name, and before one is removed: so the last
one that it names may not be there yet, or not any more, and all others are. Whoever reads it then reads the
newest segment, if need be the one before it, and sees what is seen in the folder. Ordinary commits do not
touch it. Older software ignores it, as all that is no number.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from replaystore.containers.checks import is_count
from replaystore.containers.records import encode_record, open_payload, whole_records
from replaystore.errors import CorruptError
from replaystore.schema.tree import LOG

__all__ = ["MOST_NAMES", "SEGMENTS", "Named", "named_by", "store_of"]

SEGMENTS = f"{LOG}/segments"
MOST_NAMES = 8 << 20
"""Bytes of the file: some ten for each segment."""
_WRONG = (KeyError, TypeError, ValueError, AttributeError, RecursionError, struct.error)


@dataclass(frozen=True)
class Named:
    """What the file says."""

    segments: tuple[int, ...]
    store: str
    """The name of the store: another store that takes its place has another one."""

    def to_bytes(self) -> bytes:
        return encode_record({"segments": list(self.segments), "store": self.store}, {})

    def fits(self, there: Sequence[int]) -> bool:
        """Whether it names what is there; the last one may be missing."""
        return tuple(there) in (self.segments, self.segments[:-1])

    def covers(self, there: Sequence[int]) -> bool:
        """Whether who believes it finds what is there: older segments that it does not name are on their way
        in, or out."""
        return set(self.segments[:-1]) <= set(there) and there[-1] in self.segments[-2:]


def named_by(data: bytes, where: str) -> Named:
    """The inverse of `to_bytes`. CorruptError: it is not what a writer writes."""
    for payload, end in whole_records(data):
        try:
            meta, _ = open_payload(payload)
            segments, store = meta["segments"], meta["store"]
            ascending = all(is_count(number) for number in segments) and segments == sorted(set(segments))
            if end == len(data) and segments and ascending and isinstance(store, str):
                return Named(tuple(segments), store)
        except _WRONG:
            break
        break
    raise CorruptError(
        f"{where} is damaged, which says what segments the commit log has: open the store once for writing, "
        "or run `replaystore repair`, where it is written"
    )


def store_of(segment: bytes) -> str:
    """The name of the store that a segment of the log is of; empty if it does not say one."""
    for payload, _ in whole_records(segment):
        try:
            return str(open_payload(payload)[0]["store"])
        except _WRONG:
            break
    return ""
