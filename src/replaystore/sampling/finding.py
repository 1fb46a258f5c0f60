"""Which part a row lies in, while parts are added.

A part of stride E lies in one lane: the rows of one remainder by E, which are numbered r // E there. Regions
of one stride each do not overlap in rows; parts are found by lane and number, at a cost that depends neither
on how many there are nor on when they were added.

Invariant: parts are added in the order of their first rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.sampling.growing import Grown

__all__ = ["Finder", "Guesses"]

Rows = NDArray[np.int64]

NONE = -1 << 62
"""Less than every number."""
BLOCKS, EACH, SPARE = 1 << 15, 2, 64
"""Blocks of a region, if there are so many numbers, and for each part; and how many there are ahead."""
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
    """Parts of one stride, counted from 1 on in the order of their first rows; 0 stands for none.

    A row has a number in its lane. Of each lane, cut into blocks of 2 ** shift numbers, it is known which
    part is the last that begins in or before each block: the one that is looked for, or one soon after it in
    the same lane. There are a few times as many blocks as parts, whatever their lengths."""

    def __init__(self, stride: int, number: int) -> None:
        """`number`: that of the first part, for who asks."""
        self.stride, self._base = stride, number - 1
        self._begins = Grown(np.array([NONE]))
        """The number in its lane of the first row of each part."""
        self._lanes, self._earlier = Grown(np.zeros(1, np.int64)), Grown(np.zeros(1, np.int64))
        """The lane of each, and the part before it there. Where there is one lane only they are not kept."""
        self._newest = np.zeros(stride, np.int64)
        """By lane."""
        self._shift = self._low = self._high = 0
        """Blocks [low, high) are known, one lane beside the other."""
        self._blocks = np.zeros(0, np.int64)

    def add(self, starts: Rows) -> None:
        base, stride = len(self._begins), self.stride
        begins = starts // stride
        self._begins.add(begins)
        parts = np.arange(base, base + len(starts))
        lanes = np.zeros(1, np.int64)
        if stride > 1:
            lanes = starts - begins * stride
            order = np.argsort(lanes, kind="stable")
            of, earlier = lanes[order], np.empty(len(parts), np.int64)
            earlier[order] = np.where(
                np.append(True, of[1:] != of[:-1]), self._newest[of], parts[np.roll(order, 1)]
            )
            self._lanes.add(lanes)
            self._earlier.add(earlier)
        high = (int(begins[-1]) >> self._shift) + 1
        if high <= self._high or not self._widen(high):
            first = (int(begins[0]) >> self._shift) - self._low
            known = self._blocks[first * stride : (self._high - self._low) * stride]
            self._put(known, begins, lanes, parts)
        self._newest[lanes] = parts if stride > 1 else parts[-1:]

    def _widen(self, high: int) -> bool:
        """Have blocks before `high`; whether they are others, because they were too many."""
        before, stride = self._high - self._low, self.stride
        if (high - self._low) * stride > len(self._blocks):
            self._choose(high << self._shift)
            return True
        self._blocks[before * stride : (high - self._low) * stride].reshape(-1, stride)[:] = self._newest
        self._high = high
        return False

    def _choose(self, stop: int) -> None:
        """Choose how many numbers a block has; `stop`: numbers end before this one."""
        begins, stride = self._begins.values[1:], self.stride
        low = int(begins.min())
        each = (stop - low) * stride // max(BLOCKS, EACH * len(begins))
        self._shift = each.bit_length()
        self._low, self._high = low >> self._shift, (stop - 1 >> self._shift) + 1
        count = self._high - self._low
        self._blocks = np.zeros((count + count // 4 + SPARE) * stride, np.int64)
        known = self._blocks[: count * stride]
        lanes = self._lanes.values[1:] if stride > 1 else np.zeros(1, np.int64)
        self._put(known, begins, lanes, np.arange(1, len(begins) + 1))

    def _put(self, known: Rows, begins: Rows, lanes: Rows, parts: Rows) -> None:
        """Add parts to the last of the blocks."""
        at = (begins >> self._shift) * self.stride
        at += lanes - (self._high * self.stride - len(known))
        known[at] = parts  # of those of one place the last remains
        rows = known if self.stride == 1 else known.reshape(-1, self.stride)
        np.maximum.accumulate(rows, axis=0, out=rows)

    def reach(self, stop: int) -> None:
        """Rows end before this one."""
        high = ((stop - 1) // self.stride >> self._shift) + 1
        if high > self._high:
            self._widen(high + SPARE // 2)

    def find(self, rows: Rows) -> tuple[Rows, Rows]:
        stride = self.stride
        number, lane = (rows, 0) if stride == 1 else np.divmod(rows, stride)
        at = number >> self._shift
        if self._low:
            at -= self._low
        if stride != 1:
            at *= stride
            at += lane
        part = self._blocks.take(at, mode="clip")
        place = number - self._begins.values.take(part)
        if 1 in (place < 0).tobytes():  # in a third of the time of `any`
            self._correct(number, part, place)
        if self._base:
            part += self._base
        return part, place

    def _correct(self, number: Rows, part: Rows, place: Rows) -> None:
        """Go back where a part begins behind a number."""
        at = (place < 0).nonzero()[0]
        while len(at):
            some = part[at]
            part[at] = some = self._earlier.values.take(some) if self.stride > 1 else some - 1
            place[at] = rest = number[at] - self._begins.values.take(some)
            at = at[rest < 0]


class Finder:
    """Finds parts, by their numbers: from 0 on, in the order in which they are added."""

    def __init__(self) -> None:
        self._starts = np.empty(0, np.int64)
        self._regions: list[_Region] = []
        self._count = 0

    def add(self, start: Rows, stride: Rows) -> None:
        """Add parts, of which these are the first rows, in their order."""
        if not len(start):
            return
        last = self._regions[-1].stride if self._regions else -1
        edges = np.flatnonzero(np.concatenate([[int(stride[0]) != last], stride[1:] != stride[:-1]]))
        begins = edges.tolist() if len(edges) and edges[0] == 0 else [0, *edges.tolist()]
        for begin, end in zip(begins, [*begins[1:], len(start)], strict=True):
            if begin or int(stride[0]) != last:
                self.reach(int(start[begin]))
                self._starts = np.append(self._starts, start[begin])
                self._regions.append(_Region(int(stride[begin]), self._count + begin))
            self._regions[-1].add(start[begin:end])
        self._count += len(start)

    def reach(self, stop: int) -> None:
        """Rows end before this one: none behind it is looked for."""
        if self._regions:
            self._regions[-1].reach(stop)

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
