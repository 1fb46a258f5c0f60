"""A column that grows: a flat NumPy array to which values are added at the cost of what is added."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Grown"]

LEAST = 64


class Grown:
    """Values [0, len) of one dtype; `values` is a view of them that is good until more are added.

    What it is made of is not copied until something is added or `own` is called."""

    def __init__(self, values: NDArray[Any], *, owned: bool = False) -> None:
        """`owned`: nobody else has the values."""
        self._data = values
        self._owned = owned
        self.values: NDArray[Any] = values
        """May be written to once the column owns them."""

    def __len__(self) -> int:
        return len(self.values)

    def own(self) -> NDArray[Any]:
        """The values, to be written to."""
        if not self._owned:
            self._data = self.values = self.values.copy()
            self._owned = True
        return self.values

    def add(self, more: ArrayLike) -> None:
        """Put values behind those that there are."""
        added = np.asarray(more, self._data.dtype)
        size = len(self.values)
        self.widen(size + len(added))
        self.values[size:] = added

    def widen(self, size: int) -> None:
        """Have so many values; what is in the new ones is not defined."""
        if not self._owned or size > len(self._data):
            kept = self.values
            self._data = np.empty(max(LEAST, size + size // 4), kept.dtype)
            self._data[: len(kept)] = kept
            self._owned = True
        self.values = self._data[:size]
