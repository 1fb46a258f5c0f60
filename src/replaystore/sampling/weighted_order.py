"""Items in proportion to weights that may change between draws: of their steps, or of their trajectories.

Weights of steps lie by row, modulo the room that there is, so that in a ring each new one takes the place of
one that has left it. How much room there is depends on the capacity and the number of rows alone: the same
weights of the same rows give the same draws, whatever was there before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling.orders import Stream
from replaystore.sampling.steps import Change, Drawn, Rows, Steps
from replaystore.sampling.weights import WeightTree

__all__ = ["ALL_ZERO", "StepWeights", "TrajectoryWeights"]

Floats = NDArray[np.float64]
ROOM = 4096
"""Positions for weights, at least, and in a ring beside its capacity."""


ALL_ZERO = (
    "all weights have become 0, so that there is nothing to draw: set some above 0, with update_weights or "
    "update_priorities"
)


class _Weighted:
    """What both have: draws, and importance weights, (number of items x probability) ** -beta, as a share of
    the largest there can be (Schaul et al., Prioritized Experience Replay, 2016)."""

    ahead = False
    weights: WeightTree
    where = "this sampler"
    """Of the buffer, for people."""

    def __init__(self, steps: Steps, seed: int, beta: float) -> None:
        self._steps, self.beta = steps, beta
        self._stream = Stream(seed)

    @property
    def mass(self) -> float:
        """As `Order.mass` says."""
        return self.weights.total

    def _drawn(self, epoch: int, start: int, stop: int) -> tuple[Rows, Floats]:
        if not self.weights.total > 0:
            raise ArgumentError(f"{self.where}: {ALL_ZERO}")
        position, shares = self.weights.draw(self._stream.numbers(epoch, start, stop))
        with np.errstate(over="ignore"):  # beside the very smallest of all others are as good as none
            return position, (shares / self.weights.smallest) ** -self.beta


class StepWeights(_Weighted):
    """Items in proportion to weights of their steps.

    Args:
        weights: one for each row of the buffer, finite and not negative; None: all are `largest`.
        capacity: of a ring.
        largest: the weight of new steps; None: the largest of those given.
    """

    def __init__(
        self,
        steps: Steps,
        seed: int,
        weights: Floats | None,
        *,
        capacity: int | None,
        beta: float,
        largest: float | None = None,
    ) -> None:
        super().__init__(steps, seed, beta)
        self._capacity = capacity
        if largest is None:
            largest = 1.0 if weights is None or not len(weights) else float(weights.max())
        self.largest = largest
        self._room = self._needed()
        self._last: Rows | None = None
        """What was drawn last, if nothing has changed since: items."""
        self._build(weights)

    def _needed(self) -> int:
        """Room for the rows that there are."""
        rows = self._steps.stop_row - self._steps.first_row
        room = ROOM if self._capacity is None else self._capacity + max(ROOM, self._capacity // 8)
        while room < rows:
            room *= 2
        return room

    def _build(self, weights: Floats | None) -> None:
        steps, room = self._steps, self._room
        first, count = steps.first_row, steps.stop_row - steps.first_row
        self._begun, self._rows = steps.begun, slice(first, first + count)
        used = count if first == 0 else room
        placed = np.zeros(used)
        if steps.total == count and weights is None:
            placed[(first + np.arange(count)) % room if first else slice(None)] = self.largest
        else:
            rows = steps.item_rows()
            placed[rows % room] = self.largest if weights is None else weights[rows - first]
        smallest = self.largest if weights is None and self.largest > 0 and steps.total else None
        self.weights = WeightTree(placed, room=room, smallest=smallest)

    @property
    def values(self) -> Floats:
        """The weight of each row of the buffer."""
        rows = np.arange(self._steps.first_row, self._steps.stop_row)
        found: Floats = self.weights.values[rows % self._room]
        return found

    @property
    def there(self) -> NDArray[np.bool_]:
        """Of each row, whether it is an item's."""
        steps = self._steps
        found = np.zeros(steps.stop_row - steps.first_row, np.bool_)
        found[steps.item_rows() - steps.first_row] = True
        return found

    @property
    def stop(self) -> int:
        """Rows end before this one."""
        return self._steps.stop_row

    def go_on(self, change: Change | None) -> None:
        """Take up what has changed: new items weigh `largest`, and what is none any more nothing."""
        steps, self._last = self._steps, None
        if steps.begun != self._begun:
            self._anew()
            return
        self._rows = slice(steps.first_row, steps.stop_row)
        if change is not None:
            parts, first, stop, new_first, new_stop = change
            # What has left first: in a ring something new may take its place.
            if steps.first_row or np.count_nonzero(new_stop < stop):
                self._set(_steps_of(steps, parts, first, np.minimum(stop, new_first)), 0.0)
                self._set(_steps_of(steps, parts, np.maximum(new_stop, first), stop), 0.0)
        if self._needed() != self._room:
            old, known = self.weights.values, self._room
            self._room = self._needed()
            rows = steps.item_rows()
            placed = np.zeros(self._room)
            placed[rows % self._room] = old[rows % known]
            self.weights = WeightTree(placed, room=self._room)
        if change is not None:
            self._set(_steps_of(steps, parts, np.maximum(stop, new_first), new_stop), self.largest)

    def _anew(self) -> None:
        """Weigh the rows of tables that were begun anew; those that were there before keep their weights."""
        steps, old, known = self._steps, self._rows, self._room
        first, stop = max(old.start, steps.first_row), min(old.stop, steps.stop_row)
        weights = np.full(steps.stop_row - steps.first_row, self.largest)
        if first < stop:
            kept = self.weights.values[np.arange(first, stop) % known]
            weights[first - steps.first_row : stop - steps.first_row] = np.where(kept > 0, kept, self.largest)
        self._room = self._needed()
        self._build(weights)

    def _set(self, rows: Rows, weight: float) -> None:
        if len(rows):
            self.weights.update(rows % self._room, np.full(len(rows), weight))

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """As `Order.draw` says, by the weights of this moment."""
        position, importance = self._drawn(epoch, start, stop)
        steps = self._steps
        first = steps.first_row
        rows = first + (position - first) % self._room if first else position
        self._last = rows.copy()
        return Drawn(rows, steps.where(rows)[0], importance)

    def update(self, rows: Rows, weights: Floats) -> int:
        """Set the weights of rows; how many of them have left the ring, which is no error. Where there is no
        item they stay 0."""
        steps = self._steps
        there = rows >= steps.first_row
        gone = len(rows) - int(np.count_nonzero(there))
        if gone:
            rows, weights = rows[there], weights[there]
        if len(rows):
            self.largest = max(self.largest, float(weights.max()))
            if self._last is None or not np.array_equal(rows, self._last):
                weights = np.where(steps.where(rows)[1], weights, 0.0)
            self.weights.update(rows % self._room, weights)
        return gone


class TrajectoryWeights(_Weighted):
    """Trajectories in proportion to their weights, and then any item of one.

    Args:
        weights: one for each of `trajectories`, which are their ids.
    """

    def __init__(self, steps: Steps, seed: int, weights: Floats, *, trajectories: Rows, beta: float) -> None:
        super().__init__(steps, seed, beta)
        self.trajectories = trajectories
        self._sorted = np.argsort(trajectories, kind="stable")
        ids, lasts, items = steps.trajectories()
        at = np.minimum(ids.searchsorted(trajectories), max(0, len(ids) - 1))
        self._allowed = ids[at] == trajectories if len(ids) else np.zeros(len(trajectories), np.bool_)
        self._last = lasts[at] if len(ids) else at
        self._items = np.where(self._allowed, items[at] if len(ids) else 1, 1)
        self.largest = float(weights.max(initial=0.0))
        self.weights = WeightTree(np.where(self._allowed, weights, 0), self._items)

    @property
    def values(self) -> Floats:
        """The weight of each trajectory, in the order of the table."""
        return self.weights.values[: len(self.trajectories)].copy()

    @property
    def there(self) -> NDArray[np.bool_]:
        """Of each trajectory, whether it has items."""
        return self._allowed

    @property
    def stop(self) -> int:
        """Ids end before this one."""
        return int(self.trajectories.max(initial=-1)) + 1

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """As `StepWeights.draw`."""
        position, importance = self._drawn(epoch, start, stop)
        numbers = (self._stream.numbers(epoch, start, stop, 1) * self._items[position]).astype(np.int64)
        drawn = self._steps.nth(self._last[position], numbers)
        return Drawn(drawn.rows, drawn.part, importance)

    def update(self, trajectories: Rows, weights: Floats) -> int:
        """Set the weights of trajectories, by id; how many of them there are not any more."""
        known = self.trajectories[self._sorted]
        at = np.minimum(known.searchsorted(trajectories), len(known) - 1)
        there = known[at] == trajectories
        position = self._sorted[at[there]]
        self.largest = max(self.largest, float(weights.max(initial=0.0)))
        self.weights.update(position, np.where(self._allowed[position], weights[there], 0.0))
        return len(trajectories) - int(np.count_nonzero(there))


def _steps_of(steps: Steps, parts: Rows, begin: Rows, end: Rows) -> Rows:
    """The rows of steps [begin, end) of parts; there may be none."""
    count = end - begin
    if np.count_nonzero(count != 1):
        used = (count > 0).nonzero()[0]
        parts, begin, count = parts[used], begin[used], count[used]
    first, _, stride = steps.bounds(parts)
    if not np.count_nonzero(count != 1):  # as nearly always, one step of each
        one: Rows = first + begin * stride
        return one
    place = np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
    found: Rows = np.repeat(first, count) + place * np.repeat(stride, count)
    return found
