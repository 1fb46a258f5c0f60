"""Places of a ring, and where their rows are: in a store as a ring, among rows that were set, or waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.compat.lazy import Rows
from replaystore.formats.shared.outgoing import Output
from replaystore.views.foreign_ring import Placement

__all__ = ["NONE", "Arrays", "Edits", "Layout", "Located", "Move", "View", "sorted_out"]

Arrays = Mapping[str, NDArray[Any]]
NONE = np.zeros(0, np.int64)


class Move:
    """How the rows of a ring, of which `size` are in use, come to lie in one of another capacity: oldest
    first, from place 0 on."""

    def __init__(self, before: int, size: int, position: int, capacity: int) -> None:
        self.before = before
        self.size = size
        self.begin = position if size == before else 0
        """The place of the oldest row."""
        self.capacity = capacity
        self.dropped = max(0, size - capacity)
        """So many oldest rows do not fit."""
        self.kept = size - self.dropped
        self.position = self.kept % capacity

    def placement(self, old: Placement) -> Placement:
        """Where the rows lie then."""
        stop = old.place + old.count
        # Those before the oldest row come last.
        place = np.concatenate([np.maximum(old.place, self.begin), old.place])
        end = np.concatenate([stop, np.minimum(stop, self.begin)])
        row = np.concatenate([old.row, old.row]) + place - np.concatenate([old.place, old.place])
        age = np.where(place < self.begin, place - self.begin + self.before, place - self.begin)
        first, last = np.maximum(age, self.dropped), np.minimum(age + end - place, self.size)
        kept = last > first
        return Placement(
            self.capacity, (first - self.dropped)[kept], (row + first - age)[kept], (last - first)[kept]
        )


class View(Protocol):
    """A store as a ring, as of its commit."""

    placement: Placement
    tensors: Mapping[str, Output]
    size: int
    position: int
    numbers: Mapping[str, Any]
    """What else the ring's files say of it."""
    infos: Sequence[Any]
    """The trajectories of the ring, as its files list them."""
    living: bool
    """Whether rows that are appended go where the ring has them."""

    def resized(self, capacity: int) -> Self:
        """The same with another capacity (but for `numbers` and `infos`), to be read only."""


class Layout(Protocol):
    """How the buffers of one project lie in a store."""

    def view(self, buffer: Buffer) -> View:
        """The store as a ring. UnsupportedError: it holds something else."""

    def append(self, buffer: Buffer, rows: Arrays, splits: Sequence[tuple[int, str]]) -> None:
        """Append rows, of which each of `splits` says how many make a trajectory of which split (none: that
        is for the layout to say)."""


class Edits:
    """Rows that were set, by place; the last one counts."""

    def __init__(self) -> None:
        self.places: Rows = np.zeros(0, np.int64)
        self.values: NDArray[Any] = np.zeros((0, 1))

    def set(self, places: Rows, values: NDArray[Any]) -> None:
        both = np.concatenate([places[::-1], self.places[::-1]])
        rows = np.concatenate([values[::-1], self.values[::-1]]) if len(self.places) else values[::-1]
        self.places, first = np.unique(both, return_index=True)
        self.values = rows[first]

    def drop(self, places: Rows) -> None:
        kept = ~np.isin(self.places, places)
        self.places, self.values = self.places[kept], self.values[kept]

    def apply(self, places: Rows, rows: NDArray[Any]) -> None:
        at = np.searchsorted(self.places, places)
        at[at == len(self.places)] = 0
        found = self.places[at] == places
        rows[found] = self.values[at[found]]


class Located(NamedTuple):
    """Where the rows at some places are, worked out once for all fields."""

    stored: Rows
    """Their numbers in the store; any number of a row there for those that are elsewhere; none at all if all
    of them are elsewhere."""
    waiting: Rows = NONE
    """Which of them wait,"""
    pending: Rows = NONE
    """their numbers among those,"""
    unwritten: Rows = NONE
    """and which of them are nowhere."""


def sorted_out(rows: Rows) -> Located:
    """What `StoredRing._locate` says, sorted out."""
    if not len(rows) or rows.min() >= 0:
        return Located(rows)
    newest = int(rows.max())
    waiting = np.flatnonzero(rows < -1)
    stored = np.where(rows < 0, newest, rows) if newest >= 0 else NONE
    return Located(stored, waiting, -2 - rows[waiting], np.flatnonzero(rows == -1))
