"""Numbers of rows in which every part is one run, whatever its stride.

Where environments take turns row by row, their rows are a table with a column for each of them, and parts are
pieces of columns (lanes). Rows are numbered here from the top to the bottom of one lane after another. Parts
of another stride lie in rows of their own, a stretch, whose numbers follow.

    row     0  1  2  3  4  5  6  7  8       stride 3: lane 0 is rows 0, 3, 6; lane 1 is rows 1, 4, 7; …
    number  0  3  6  1  4  7  2  5  8
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_STRIDE", "Lanes"]

Rows = NDArray[np.int64]

MOST_STRIDE = 1 << 23
"""So that no number of a row is beyond int64, wherever there is room for the row."""


class Lanes:
    """Finds parts, sorted by `start`, which have rows at `start + i * stride` for i in [0, length)."""

    def __init__(self, start: Rows, length: Rows, stride: Rows) -> None:
        begins = np.flatnonzero(np.append(True, stride[1:] != stride[:-1])[: len(stride)])
        self._stride = stride[begins]
        self._first = start[begins]
        last = start + (length - 1) * stride
        self._last = np.maximum.reduceat(last, begins) if len(begins) else last
        """Of each stretch, its first and last row."""
        self._top = self._first // self._stride
        self._height = self._last // self._stride - self._top + 1
        cells = self._stride * self._height
        self._base = np.cumsum(cells) - cells
        self._stretch: Rows | int = 0  # dividing by one number takes a third of the time
        if len(begins) != 1:
            self._stretch = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(start))))
        begin = self._numbers(start, self._stretch)
        if len(begins) == 1 and self._stride[0] <= 1 << 16:
            # By lane alone, since rows are sorted: small numbers are sorted in a fifth of the time.
            self.order: Rows = np.argsort((start % self._stride[0]).astype(np.uint16), kind="stable")
        else:
            self.order = np.argsort(begin, kind="stable")
        """The parts, lane after lane."""
        self._begin = begin[self.order]
        self._stop = self._begin + length[self.order]

    def _numbers(self, rows: Rows, stretch: Rows | int) -> Rows:
        stride = self._stride[stretch]
        step = rows // stride
        found: Rows = self._base[stretch] + (rows - step * stride) * self._height[stretch] + step
        found -= self._top[stretch]
        return found

    def part_of(self, rows: Rows) -> Rows:
        """The part that each row lies in, or -1; the shape of `rows`."""
        rows = np.asarray(rows)
        if not len(self._begin):
            return np.full(rows.shape, -1, np.int64)
        stretch: Rows | int = 0
        if len(self._first) == 1:
            inside = (rows >= self._first[0]) & (rows <= self._last[0])
        else:
            stretch = np.searchsorted(self._first, rows, side="right") - 1
            inside = (stretch >= 0) & (rows <= self._last[stretch])
        numbers = self._numbers(rows, stretch)
        at = np.searchsorted(self._begin, numbers, side="right") - 1
        return np.where(inside & (at >= 0) & (numbers < self._stop[at]), self.order[at], -1)

    def crossed(self) -> NDArray[np.bool_]:
        """For each part, whether it has a row of another one, or lies between rows of another stride."""
        found = np.zeros(len(self._begin), np.bool_)
        found[self.order[:-1]] = self._stop[:-1] > self._begin[1:]
        if len(self._first) == 1:
            return found
        reaches = np.maximum.accumulate(self._last)[:-1] >= self._first[1:]
        found[np.flatnonzero(np.diff(self._stretch))] |= reaches
        return found
