"""Mean, spread and range of columns, over blocks of rows that are merged: nothing larger than a block is in
memory.

Blocks are merged as Chan, Golub and LeVeque give it (1983, "Algorithms for computing the sample variance"),
in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Statistics"]


@dataclass(frozen=True, eq=False, repr=False)
class Statistics:
    """Of the rows of a column, element by element: arrays of the shape of a row.

    Attributes:
        count: how many rows.
        mean: float64 (complex128 for complex fields); NaN where there are no rows.
        std: the standard deviation of the population, float64; NaN where there are no rows.
        squares: the sum of squared deviations from the mean, float64.
        min, max: in the column's dtype; None where there are no rows, or for complex fields.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    min: NDArray[Any] | None
    max: NDArray[Any] | None

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of the population."""
        if not self.count:
            return np.full(self.squares.shape, np.nan)
        return np.sqrt(self.squares / self.count)

    def __repr__(self) -> str:
        known = {name: getattr(self, name) for name in ("mean", "std", "min", "max")}
        texts = [f"{name} {_short(values)}" for name, values in known.items() if values is not None]
        shape = f" of shape {self.mean.shape}" if self.mean.shape else ""
        return f"<Statistics of {self.count} rows{shape}: {', '.join(texts)}>"

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


def _short(values: NDArray[Any]) -> str:
    """A few of the values, in one line."""
    flat = np.asarray(values).reshape(-1)
    shown = [f"{value:.4g}" if flat.dtype.kind in "fc" else str(value) for value in flat[:4].tolist()]
    return f"[{', '.join(shown)}{', …' if len(flat) > len(shown) else ''}]" if np.ndim(values) else shown[0]
