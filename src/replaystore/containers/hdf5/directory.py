"""The directory of an HDF5 file: what its objects say, in short and in one place, for readers to whom each of
the places that the HDF5 library looks at is a request: the document, where the chunks of arrays lie, and the
older segments of the log.

It is written with every transaction: the front names a place, and the transaction, and there records (as
those of the commit log) say one behind the other what each has changed. Where the front names another
transaction (older software, which knows nothing of it, has written to the file) the library is asked, and the
next transaction writes the directory anew.

1. It is a copy: the library finds the same, which `verify` compares.
2. It is as long as what it says, twice over at most: where its room ends, it is written anew in twice as
   much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.checks import is_count
from replaystore.containers.records import encode_record, open_payload, whole_records
from replaystore.errors import CorruptError

__all__ = ["MOST_DOCUMENT", "Directory", "Notes", "room_for"]

MOST_DOCUMENT = 1 << 16
"""Bytes of a document that is kept here; a larger one is read from its own place."""
LEAST = 64 << 10
_DAMAGED = "the directory of the file is damaged; run `replaystore verify`"

_LIMITS = np.array([1 << 26, 1 << 26, 1 << 61, 1 << 34], np.int64)
"""Of the numbers of a run: none of ours has more, and their sums stay 64-bit numbers."""
Runs = NDArray[np.int64]
"""Rows (first chunk, chunks, offset of the first, bytes of each): chunks that lie side by side."""
Table = NDArray[np.int64]
"""Rows (chunk, offset, length)."""
Segment = tuple[int, tuple[tuple[int, int], ...]]
"""Of an ended segment of the log: bytes of it that count, and its pieces."""


@dataclass
class Notes:
    """What a transaction changes."""

    document: str | None = None
    forgotten: list[str] = field(default_factory=list)
    """Arrays that are made or removed: nothing that was said of them counts."""
    places: dict[str, list[Table]] = field(default_factory=dict)
    dropped: list[tuple[int, int]] = field(default_factory=list)
    """(first, last) of the commits that removed segments of the log begin with."""
    ended: dict[int, Segment] = field(default_factory=dict)

    def place(self, name: str, found: Table) -> None:
        self.places.setdefault(name, []).append(found)

    def record(self, *, whole: bool = False) -> bytes:
        """As a record; `whole`: what came before it does not count. Empty: nothing has changed."""
        blobs = {f"places:{name}": _runs(np.concatenate(found)) for name, found in self.places.items()}
        data = {name: runs.astype("<i8").tobytes() for name, runs in blobs.items() if len(runs)}
        meta: dict[str, Any] = {"whole": True} if whole else {}
        if self.document is not None:
            text = self.document.encode()
            meta["document"] = len(text) <= MOST_DOCUMENT
            data |= {"document": text} if len(text) <= MOST_DOCUMENT else {}
        for key, value in (("forgotten", self.forgotten), ("dropped", self.dropped)):
            meta |= {key: value} if value else {}
        if self.ended:
            meta["ended"] = [[commit, *segment] for commit, segment in self.ended.items()]
        return encode_record(meta, data) if meta or data else b""


class Directory:
    """What a directory says."""

    def __init__(self) -> None:
        self.document: str | None = None
        """None: it is read from its own place."""
        self.segments: dict[int, Segment] = {}
        """Those that have ended, by the commits that they begin with."""
        self._runs: dict[str, list[Runs]] = {}

    def apply(self, data: bytes) -> None:
        """Go on with these records. CorruptError: they are not what a writer writes."""
        end = 0
        for payload, stop in whole_records(data):
            end = stop
            try:
                self._apply(*open_payload(payload))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise CorruptError(f"{_DAMAGED} ({error!s:.80})") from None
        if end != len(data):
            raise CorruptError(_DAMAGED)

    def _apply(self, meta: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
        if meta.get("whole"):
            self.document, self.segments, self._runs = None, {}, {}
        if "document" in meta:
            self.document = blobs["document"].decode() if meta["document"] else None
        for name in meta.get("forgotten", ()):
            self._runs.pop(name, None)
        for first, last in meta.get("dropped", ()):
            self.segments = {n: known for n, known in self.segments.items() if not first <= n <= last}
        for commit, used, pieces in meta.get("ended", ()):
            known = tuple((offset, length) for offset, length in pieces)
            if not all(map(is_count, (commit, used, *(number for piece in known for number in piece)))):
                raise ValueError("a segment of the log that there cannot be")
            self.segments[commit] = used, known
        for name, blob in blobs.items():
            kind, _, array = name.partition(":")
            if kind == "places":
                self._runs.setdefault(array, []).append(np.frombuffer(blob, "<i8").reshape(-1, 4))

    def places(self, name: str, most: int) -> Table:
        """Where the chunks of an array lie, the last said of each. CorruptError: there cannot be such, or
        more than `most`."""
        runs = np.concatenate([np.empty((0, 4), np.int64), *self._runs.get(name, ())])
        counts = runs[:, 1]
        if (runs < 0).any() or (runs > _LIMITS).any():
            raise CorruptError(_DAMAGED)
        ends = np.cumsum(counts)
        if len(ends) and ends[-1] > most + len(runs):
            raise CorruptError(f"{_DAMAGED}: more chunks of {name} than the file can hold")
        at = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)
        table = np.empty((len(at), 3), np.int64)
        table[:, 0] = np.repeat(runs[:, 0], counts) + at
        table[:, 1] = np.repeat(runs[:, 2], counts) + at * np.repeat(runs[:, 3], counts)
        table[:, 2] = np.repeat(runs[:, 3], counts)
        _, last = np.unique(table[::-1, 0], return_index=True)
        return table[len(table) - 1 - last]

    def notes(self) -> Notes:
        """All of it."""
        places = {name: [self.places(name, self.count(name))] for name in self._runs}
        return Notes(document=self.document, places=places, ended=dict(self.segments))

    def count(self, name: str) -> int:
        """Of how many chunks of an array something is said, at most."""
        return sum(int(runs[:, 1].clip(0, 1 << 40).sum()) for runs in self._runs.get(name, ()))


def room_for(data: bytes) -> int:
    """Of a directory that is written anew."""
    return -(-max(LEAST, 2 * len(data)) // 4096) * 4096


def _runs(table: Table) -> Runs:
    """Chunks that follow each other, and whose bytes do, as one run. The last said of each chunk counts."""
    if len(table) == 0:
        return np.empty((0, 4), np.int64)
    _, last = np.unique(table[::-1, 0], return_index=True)
    table = table[len(table) - 1 - last]
    table = table[table[:, 1] >= 0]
    numbers, offsets, lengths = table.T
    follows = (
        (np.diff(numbers) == 1) & (offsets[:-1] + lengths[:-1] == offsets[1:]) & (lengths[:-1] == lengths[1:])
    )
    starts = np.concatenate([[0], np.flatnonzero(~follows) + 1]) if len(table) else np.empty(0, np.int64)
    counts = np.diff(np.concatenate([starts, [len(table)]]))
    return np.stack([numbers[starts], counts, offsets[starts], lengths[starts]], axis=1)
