"""The newest steps of a ring, in memory: those that are not in the store yet, and the one before them. A
batch that draws one of them need not wait until they are handed over, which is then done for many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Schema

__all__ = ["Fresh"]

Arrays = Mapping[str, NDArray[Any]]
Rows = NDArray[np.int64]
MOST_STEPS = 1000
MOST_BYTES = 8 << 20


class Fresh:
    """Steps of `envs` environments, by their numbers."""

    def __init__(self, schema: Schema, envs: int, begun: int) -> None:
        """`begun`: the number of the first step that is added."""
        observed = schema.names("observation")
        width = sum(declared.row_bytes for declared in schema.fields.values()) * envs
        width += sum(schema.fields[name].row_bytes for name in observed) * envs
        self.room = max(2, min(MOST_STEPS, MOST_BYTES // max(1, width)))
        """Steps, one of them in the store."""

        def empty(name: str) -> NDArray[Any]:
            declared = schema.fields[name]
            return np.zeros((self.room, envs, *declared.shape), declared.dtype)

        self._steps = {name: empty(name) for name in schema.fields}
        self._after = {name: empty(name) for name in observed}
        self._begun = self.first = begun
        """The oldest step that is here."""

    def add(self, step: int, columns: Arrays, following: Arrays) -> None:
        """A step of each environment, and the observations after it."""
        at = step % self.room
        for name, rows in self._steps.items():
            rows[at] = columns[name]
        for name, rows in self._after.items():
            rows[at] = following[name]

    def full(self, steps: int) -> bool:
        """Whether there is room for no other step before those so far are handed over."""
        return steps - self.first >= self.room

    def handed_over(self, steps: int) -> None:
        """The store has all steps before this number."""
        self.first = max(self._begun, steps - 1)

    def put(
        self, names: Sequence[str], found: Arrays, after: Arrays, at: Rows, times: Rows, envs: Rows
    ) -> None:
        """Put these steps into places of a batch."""
        rows = times % self.room
        for name in names:
            found[name][at] = self._steps[name][rows, envs]
        for name, values in after.items():
            values[at] = self._after[name][rows, envs]

    def taken(
        self, names: Sequence[str], times: Rows, envs: Rows
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """These steps alone."""
        rows = times % self.room
        found = {name: self._steps[name][rows, envs] for name in names}
        return found, {name: values[rows, envs] for name, values in self._after.items()}
