"""Mean, spread and range of columns, over blocks of rows that are merged: nothing larger than a block is in memory.

Blocks are merged as Chan, Golub and LeVeque give it (1983, "Algorithms for computing the sample variance"), in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Statistics"]


@dataclass(frozen=True)
class Statistics:
    """Of the rows of a column, element by element: arrays of the shape of a row."""

    count: int
    mean: NDArray[np.float64]
    """float64 (complex128 for complex fields); NaN where there are no rows."""
    squares: NDArray[np.float64]
    """The sum of squared deviations from the mean."""
    min: NDArray[Any] | None
    """In the column's dtype; None where there are no rows, or for complex fields."""
    max: NDArray[Any] | None

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of the population."""
        if not self.count:
            return np.full(self.squares.shape, np.nan)
        return np.sqrt(self.squares / self.count)

    @classmethod
    def nothing(cls, shape: tuple[int, ...]) -> Statistics:
        return cls(0, np.full(shape, np.nan), np.zeros(shape), None, None)

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Statistics:
        """Of one block, shape (rows, *shape)."""
        if not len(rows):
            return cls.nothing(rows.shape[1:])
        ordered = rows.dtype.kind != "c"
        values = rows.astype(np.float64 if ordered else np.complex128)
        mean = values.mean(axis=0)
        squares = (np.abs(values - mean) ** 2).sum(axis=0)
        low, high = (rows.min(axis=0), rows.max(axis=0)) if ordered else (None, None)
        return cls(len(rows), mean, squares, low, high)

    def merged(self, other: Statistics) -> Statistics:
        """Of both."""
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        distance = other.mean - self.mean
        mean = self.mean + distance * (other.count / count)
        squares = self.squares + other.squares + np.abs(distance) ** 2 * (self.count * other.count / count)
        low = None if self.min is None or other.min is None else np.minimum(self.min, other.min)
        high = None if self.max is None or other.max is None else np.maximum(self.max, other.max)
        return Statistics(count, mean, squares, low, high)
