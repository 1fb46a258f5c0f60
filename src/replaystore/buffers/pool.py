"""The values of any length among the steps that a writer has staged.

A step is staged as arrays of one shape (staging.py): of a field of any length as the numbers that its values
have here. So what moves steps about, leaves some out and puts others in their places knows nothing of
lengths; when the steps become rows, the numbers become values again.

Invariants:
1. Value 0 of each field is the empty one: what a field starts from that was added late.
2. A value never changes while it is here, whatever becomes of the memory that it was given in.
3. What is put here for a step that is then not staged is named by nothing, and goes with the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Field
from replaystore.schema.ragged import Ragged

__all__ = ["NUMBER", "Pool"]

NUMBER = np.dtype(np.int64)
"""The dtype of the number of a value."""

Numbers = NDArray[np.int64]


class Pool:
    """Values of the fields of any length of a schema."""

    def __init__(self, ragged: Mapping[str, Field]) -> None:
        self._values = {
            name: [(0, Ragged.empty(1, field.dtype, field.inner, text=field.text))]
            for name, field in ragged.items()
        }
        """Of each field the values that came together, and the number of the first of them."""
        self.bytes = 0
        """Of all values."""

    def put(self, values: Mapping[str, Ragged]) -> dict[str, Numbers]:
        """Keep copies of values; their numbers."""
        numbers: dict[str, Numbers] = {}
        for name, ragged in values.items():
            before, last = self._values[name][-1]
            begin, own = before + len(last), ragged.compact().map(np.copy)
            self._values[name].append((begin, own))  # at once, so that an interrupt leaves numbers right
            self.bytes += own.nbytes
            numbers[name] = np.arange(begin, begin + len(own))
        return numbers

    def take(self, name: str, numbers: Numbers) -> Ragged:
        """The values of these numbers."""
        parts = self._values[name]
        if len(parts) > 1:
            parts[:] = [(0, Ragged.concatenate([part for _, part in parts]))]
        _, known = parts[0]
        if not len(numbers) or (np.diff(numbers) != 1).any():
            return known.take(numbers)
        begin = int(numbers[0])  # as nearly always: nothing is copied
        return Ragged(known.values, known.offsets[begin : begin + len(numbers) + 1], text=known.text)

    def values(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The same columns, with the values of numbers in place of these."""
        return {
            name: self.take(name, column) if name in self._values else column
            for name, column in columns.items()
        }
