"""A physical ring, kept in a buffer whose rows lie oldest first: where each row lay, and where it would lie
by now. (A buffer's own `capacity` is kept by buffers/writing.py, at each commit.)

A foreign ring has `capacity` rows of which `size` are in use; the row at `position` is written next. When it
becomes a buffer, its rows are written in the order of their age: from `position` on, round the end, if all
are in use; otherwise from 0 on. The document's extension `ring` keeps `capacity`, `size`, `position` and
`rows` (how many rows there were then), and whose ring it is (`format`), which keeps there what else it needs.
Rows that are appended later lie where the ring would have put them, so the ring's state can be told of every
commit since.

If rows have a field of flags that says where episodes end, `ends` is [its name, what it flags]: LAST_STEP, or
AFTER_IT.

Usually rows beyond `size` are zeros, and are not kept. Where they are not (a writer that failed in the middle
of a row left them), they are kept up to the last one, as rows of no trajectory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.views.reader import BufferReader

__all__ = [
    "AFTER_IT",
    "EXTENSION",
    "LAST_STEP",
    "Placement",
    "Ring",
    "carried",
    "counts_appends",
    "ring_of",
    "runs",
    "state_of",
]

EXTENSION = "ring"
"""The key of the document's extensions under which the state of a ring is kept."""
LAST_STEP, AFTER_IT = "last step", "after it"
"""What a row is that is flagged in a ring: the last step of an episode; or the observation after that, in a
row of its own, which is no step."""

_NUMBERS = {"capacity", "size", "position", "rows"}

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Which rows lie at the places of a ring: `count[i]` rows from `row[i]` on at `place[i]`. Sorted by
    place, not overlapping."""

    capacity: int
    place: Rows
    row: Rows
    count: Rows

    def rows(self, start: int, stop: int) -> Rows:
        """The rows at places [start, stop); -1 where none is."""
        found = np.full(stop - start, -1, np.int64)
        first = max(0, int(np.searchsorted(self.place, start, side="right")) - 1)
        last = int(np.searchsorted(self.place, stop, side="left"))
        place, row, count = self.place[first:last], self.row[first:last], self.count[first:last]
        begin, end = np.maximum(place, start), np.minimum(place + count, stop)
        kept = end > begin
        begin, length, row = begin[kept], (end - begin)[kept], (row + begin - place)[kept]
        found[runs(begin - start, length)] = runs(row, length)
        return found


def runs(starts: Rows, lengths: Rows) -> Rows:
    """start, start + 1, … of each run, one run after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Rows = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


@dataclass(frozen=True)
class Ring:
    """The state of a ring as of the commit that a buffer shows."""

    capacity: int
    size: int
    position: int
    added: int
    """Rows that were appended since the ring became a buffer."""
    rows: int
    """Rows there were then."""
    begin: int
    """The place of the first row then."""
    then: int
    """The position then."""
    adds: Rows
    """Where what was appended at once begins and ends, counted from place 0 without going round: shape (adds,
    2)."""
    placement: Placement
    """Of rows as the buffer numbers them, from its oldest on."""

    @property
    def orderly(self) -> bool:
        """Whether the rows that it began with are those in use, and end at its position, as they should."""
        return (self.begin + self.rows - self.then) % self.capacity == 0

    def place(self, rows: Rows) -> Rows:
        """The places of rows, which count from the buffer's first row ever."""
        moved = rows + np.where(rows < self.rows, self.begin, self.then - self.rows).astype(np.int64)
        places: Rows = np.remainder(moved, self.capacity)
        return places


def state_of(extensions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The state of the ring that a buffer was made of; None if it was none."""
    known = extensions.get(EXTENSION)
    return known if isinstance(known, Mapping) and known.keys() >= _NUMBERS else None


def ring_of(buffer: BufferReader, known: Mapping[str, Any]) -> Ring | None:
    """The ring whose state `known` is, as of the commit that a buffer shows; None if that is one before the
    ring became a buffer."""
    capacity, size, then, rows = (int(known[key]) for key in ("capacity", "size", "position", "rows"))
    first, stop = buffer.first_row, buffer.first_row + len(buffer)
    added = stop - rows
    if added < 0:
        return None
    begin = then if size == capacity else 0
    newer = max(rows, first, stop - capacity)
    over = _wrapped(np.array([(then + newer - rows) % capacity, newer, stop - newer]), capacity)
    under = _wrapped(
        np.array([(begin + first) % capacity, first, max(0, min(rows, first + capacity) - first)]), capacity
    )
    pieces = [*over]
    for piece in under:
        pieces += _without(piece, over)
    table = np.array(
        sorted((place, row - first, count) for place, row, count in pieces if count > 0), np.int64
    ).reshape(-1, 3)
    placement = Placement(capacity, *(np.ascontiguousarray(column) for column in table.T))
    adds = _adds(buffer, rows, stop)
    adds = (adds[:, :1] - rows + then) % capacity + adds - adds[:, :1]
    return Ring(
        capacity,
        min(size + added, capacity),
        (then + added) % capacity,
        added,
        rows,
        begin,
        then,
        adds,
        placement,
    )


def _adds(buffer: BufferReader, rows: int, stop: int) -> Rows:
    """Rows from `rows` on, dropped or not, as runs [start, stop) that were appended at once: parts, and what
    lies between them. Parts that lie between each other's rows are one run."""
    if stop == rows:
        return np.zeros((0, 2), np.int64)
    edges = np.concatenate([*buffer.whole_parts().spans(), [rows, stop]])
    edges = np.unique(edges[edges >= rows])
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _wrapped(run: Rows, capacity: int) -> list[tuple[int, int, int]]:
    """A run (place, row, count) that may reach round the end, as runs that do not."""
    place, row, count = (int(value) for value in run)
    head = min(count, capacity - place)
    return [piece for piece in ((place, row, head), (0, row + head, count - head)) if piece[2] > 0]


def _without(run: tuple[int, int, int], over: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """What is left of a run under others."""
    left = [run]
    for place, _, count in over:
        cut = []
        for begin, row, length in left:
            head = min(max(place - begin, 0), length)
            tail = min(max(begin + length - place - count, 0), length)
            cut += [(begin, row, head), (begin + length - tail, row + length - tail, tail)]
        left = [piece for piece in cut if piece[2] > 0]
    return left


def counts_appends(extensions: Mapping[str, Any]) -> bool:
    """Whether what becomes of a ring depends on where each append has begun and ended, also of steps that
    have left (see `survives`): then no table may forget any."""
    known = state_of(extensions)
    if known is None:
        return False
    capacity, size, then, rows = (int(known[key]) for key in ("capacity", "size", "position", "rows"))
    orderly = ((then if size == capacity else 0) + rows - then) % capacity == 0
    return bool(known.get("irregular") or known.get("longer")) or not orderly


def carried(
    buffer: BufferReader, extensions: Mapping[str, Any], *, whole: bool
) -> tuple[dict[str, Any], list[str]]:
    """The extensions for a copy of a buffer, whose rows then count from 0; and notes of what is lost.

    Of a part of the buffer (not `whole`) the state of the ring has no meaning."""
    kept, known = dict(extensions), state_of(extensions)
    if known is None:
        return kept, []
    del kept[EXTENSION]
    if not whole:
        lost = (
            f"the state of the physical ring of {known['format']} is left out, because not all rows are there"
        )
        return kept, [lost]
    moved = dict(known)
    # Without evicted rows, all numbers stay as they are.
    ring = ring_of(buffer, known) if buffer.first_row else None
    if ring is not None:
        moved |= {"size": ring.size, "position": ring.position, "rows": len(buffer)}
        if "global_step" in known:
            moved["global_step"] = known["global_step"] + ring.added
        if "irregular" in known:
            moved["irregular"] = [entry for entry in known["irregular"] if survives(ring, entry[1], entry[2])]
        if known.get("longer") and not survives(ring, *known["longer"][1:]):
            moved["longer"] = None
    kept[EXTENSION] = moved
    return kept, []


def survives(ring: Ring, start: int, length: int) -> bool:
    """Whether what was appended since has left alone a trajectory at [start, start + length): the ring's own
    rule for what is removed."""
    begin, end, stop = ring.adds[:, 0], ring.adds[:, 1], start + length
    flat = (start < end) & (stop > begin)
    around = (stop > begin) | (start < end - ring.capacity)
    return not np.where(end <= ring.capacity, flat, around).any()
