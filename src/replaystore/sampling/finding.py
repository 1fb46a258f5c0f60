"""Which part a row lies in, while parts are added.

Among parts of one stride E, row r <-> (r % E) * 2^40 + r // E makes each part a contiguous run; so parts are
searched by that number, in regions of one stride each, which do not overlap in rows. In a region of stride 1
parts come in the order of their numbers. In others the newest are kept apart, sorted, until there are many of
them: so the cost of an added part does not grow with those that there are.

Invariant: parts are added in the order of their first rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.sampling.growing import Grown

__all__ = ["LANE", "Finder", "Guesses"]

Rows = NDArray[np.int64]

LANE = 40
"""Bits of a transposed number that count within a lane."""
APART, SHARE = 256, 8
"""Parts that are kept apart at most: so many, or one for so many others."""
MANY = 512
"""Rows from which on it pays to guess."""
NONE = -1 << 62
"""Less than every number."""
GUESSES = 4
"""Parts that are looked at for a row before they are searched."""


class Guesses:
    """Which of many sorted numbers is the last that is not behind each of some.

    For runs of 2 ** shift numbers that of the first is known; most lie where that guesses, which takes a
    fifth of the time of a search."""

    def __init__(self, known: Rows) -> None:
        self._known = known
        span = int(known[-1] - known[0]) + 1 if len(known) else 1
        self._low = int(known[0]) if len(known) else 0
        self._shift = max(0, (span // (4 * max(1, len(known)))).bit_length() - 1)
        begins = (np.arange((span - 1 >> self._shift) + 1) << self._shift) + self._low
        self._guesses = np.maximum(known.searchsorted(begins, side="right") - 1, 0)
        self._next = np.append(known[1:], np.iinfo(np.int64).max)
        """What comes after each number."""

    def last_before(self, numbers: Rows) -> Rows:
        """0 where there is none."""
        at: Rows = self._guesses.take((numbers - self._low) >> self._shift, mode="clip")
        for _ in range(GUESSES):
            wrong = self._next.take(at) <= numbers
            if not wrong.any():
                return at
            at += wrong
        return np.maximum(self._known.searchsorted(numbers, side="right") - 1, 0)


class _Sorted:
    """Sorted keys and the parts that they are of, behind one that is less than all: there is always a last
    one that is not behind a number."""

    def __init__(self, keys: Rows, parts: Rows) -> None:
        self.keys, self.parts = Grown(np.append(NONE, keys)), Grown(np.append(0, parts))

    def __len__(self) -> int:
        return len(self.keys) - 1

    def add(self, keys: Rows, parts: Rows) -> None:
        """Add those that come behind all."""
        self.keys.add(keys)
        self.parts.add(parts)

    def last_before(self, keys: Rows) -> Rows:
        found: Rows = self.keys.values[1:].searchsorted(keys, "right")
        return found


class _Region:
    """Parts of one stride; `keys` are the transposed numbers of their first rows."""

    def __init__(self, stride: int) -> None:
        self.stride = stride
        none = np.empty(0, np.int64)
        self._known, self._new = _Sorted(none, none), _Sorted(none, none)
        self._guesses: Guesses | None = None

    def key(self, rows: Rows) -> Rows:
        if self.stride == 1:
            return rows
        number = rows // self.stride  # by one number: a third of what `divmod` takes
        found: Rows = rows - number * self.stride
        found <<= LANE
        found += number
        return found

    def add(self, starts: Rows, parts: Rows) -> None:
        keys = self.key(starts)
        self._guesses = None
        if self.stride == 1:
            self._known.add(keys, parts)
            return
        keys, parts = _in_order(keys, parts)
        if not len(self._known):
            self._known = _Sorted(keys, parts)
            return
        at = self._new.last_before(keys)
        keys = np.insert(self._new.keys.values[1:], at, keys)
        parts = np.insert(self._new.parts.values[1:], at, parts)
        if len(keys) > max(APART, len(self._known) // SHARE):
            known = self._known
            # merges what is sorted
            self._known = _Sorted(
                *_in_order(
                    np.concatenate([known.keys.values[1:], keys]),
                    np.concatenate([known.parts.values[1:], parts]),
                )
            )
            keys, parts = keys[:0], parts[:0]
        self._new = _Sorted(keys, parts)

    def find(self, rows: Rows) -> tuple[Rows, Rows]:
        keys, known, new = self.key(rows), self._known, self._new
        if self.stride == 1 and len(rows) >= MANY:
            self._guesses = self._guesses or Guesses(known.keys.values[1:])
            at = self._guesses.last_before(keys) + 1
        else:
            at = known.last_before(keys)
        part, begin = known.parts.values.take(at), known.keys.values.take(at)
        if len(new):
            at = new.last_before(keys)
            newer = new.keys.values.take(at)
            later = (newer > begin).nonzero()[0]
            if len(later):
                part[later], begin[later] = new.parts.values[at[later]], newer[later]
        return part, np.subtract(keys, begin, out=begin)


def _in_order(keys: Rows, parts: Rows) -> tuple[Rows, Rows]:
    order = np.argsort(keys, kind="stable")
    return keys[order], parts[order]


class Finder:
    """Finds parts, by the numbers that they are added with."""

    def __init__(self) -> None:
        self._starts = np.empty(0, np.int64)
        self._regions: list[_Region] = []

    def add(self, start: Rows, stride: Rows, parts: Rows) -> None:
        """Add parts, of which these are the first rows, in their order."""
        if not len(start):
            return
        last = self._regions[-1].stride if self._regions else -1
        edges = np.flatnonzero(np.concatenate([[int(stride[0]) != last], stride[1:] != stride[:-1]]))
        begins = edges.tolist() if len(edges) and edges[0] == 0 else [0, *edges.tolist()]
        for begin, end in zip(begins, [*begins[1:], len(start)], strict=True):
            if begin or int(stride[0]) != last:
                self._starts = np.append(self._starts, start[begin])
                self._regions.append(_Region(int(stride[begin])))
            self._regions[-1].add(start[begin:end], parts[begin:end])

    @property
    def strides(self) -> tuple[Rows, Rows]:
        """The first row of each region, and its stride."""
        return self._starts, np.array([region.stride for region in self._regions], np.int64)

    @property
    def stride(self) -> int:
        """The stride of all parts; 0: there are several."""
        return self._regions[0].stride if len(self._regions) == 1 else 0

    def find(self, rows: Rows) -> tuple[Rows, Rows]:
        """The only part that each row may lie in, and which of its steps the row is then: a number that is
        negative, or behind the last, where it lies in none."""
        if len(self._regions) == 1:
            return self._regions[0].find(rows)
        part, place = np.zeros(len(rows), np.int64), np.full(len(rows), -NONE)
        if not self._regions:
            return part, place
        region = np.maximum(self._starts.searchsorted(rows, side="right") - 1, 0)
        for number in np.unique(region).tolist():
            mine = np.flatnonzero(region == number)
            part[mine], place[mine] = self._regions[number].find(rows[mine])
        return part, place
