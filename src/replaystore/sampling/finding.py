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


class _Region:
    """Parts of one stride; `keys` are the transposed numbers of their first rows."""

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.keys, self.parts = Grown(np.empty(0, np.int64)), Grown(np.empty(0, np.int64))
        self.new_keys, self.new_parts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._guesses: Guesses | None = None

    def key(self, rows: Rows) -> Rows:
        if self.stride == 1:
            return rows
        number = rows // self.stride  # by one number: a third of what `divmod` takes
        found: Rows = (rows - number * self.stride << LANE) + number
        return found

    def add(self, starts: Rows, parts: Rows) -> None:
        keys = self.key(starts)
        if self.stride == 1 or not len(self.keys):
            if self.stride != 1:
                order = np.argsort(keys, kind="stable")
                keys, parts = keys[order], parts[order]
            self._guesses = None
            if not len(self.keys):
                self.keys, self.parts = Grown(keys), Grown(parts)
                return
            self.keys.add(keys)
            self.parts.add(parts)
            return
        if len(keys) > 1:
            order = np.argsort(keys, kind="stable")
            keys, parts = keys[order], parts[order]
        at = self.new_keys.searchsorted(keys)
        self.new_keys = np.insert(self.new_keys, at, keys)
        self.new_parts = np.insert(self.new_parts, at, parts)
        if len(self.new_keys) > max(APART, len(self.keys) // SHARE):
            keys = np.concatenate([self.keys.values, self.new_keys])
            order = np.argsort(keys, kind="stable")  # merges what is sorted
            parts = np.concatenate([self.parts.values, self.new_parts])[order]
            self.keys, self.parts = Grown(keys[order]), Grown(parts)
            self.new_keys, self.new_parts = self.new_keys[:0], self.new_parts[:0]

    def find(self, rows: Rows) -> Rows:
        keys, known = self.key(rows), self.keys.values
        if self.stride == 1 and len(rows) >= MANY:
            self._guesses = self._guesses or Guesses(known)
            return self.parts.values[self._guesses.last_before(keys)]
        at = np.maximum(known.searchsorted(keys, side="right") - 1, 0)
        found: Rows = self.parts.values[at]
        if len(self.new_keys):
            other = self.new_keys.searchsorted(keys, side="right") - 1
            mine = known[at]
            mine = np.where(mine > keys, -1, mine)
            newer = (other >= 0) & (self.new_keys[other] > mine)
            if newer.any():
                found = np.where(newer, self.new_parts[other], found)
        return found


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

    def find(self, rows: Rows) -> Rows:
        """The only part that each row may lie in."""
        if len(self._regions) == 1:
            return self._regions[0].find(rows)
        found = np.zeros(len(rows), np.int64)
        if not self._regions:
            return found
        region = np.maximum(self._starts.searchsorted(rows, side="right") - 1, 0)
        for number in np.unique(region).tolist():
            mine = np.flatnonzero(region == number)
            found[mine] = self._regions[number].find(rows[mine])
        return found
