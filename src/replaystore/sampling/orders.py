"""Which items come next: the orders in which the steps of one commit are drawn. NumPy only, no reading.

Invariants:
(1) A draw depends on the seed, the epoch and its own number only, and not on the draws before it (but for
weights that changed). (2) Memory and time to make an order grow with the parts of a buffer, not with its
steps (but for weights of single steps).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling.steps import Drawn, Rows, Steps
from replaystore.sampling.weights import WeightTree

__all__ = ["EpochOrder", "Order", "TrajectoryOrder", "UniformOrder", "WeightedOrder"]

BATCHES = 32
"""Random numbers for so many weighted batches are made at once."""
MOST_BLOCKS = 1 << 16
"""Of an epoch: blocks are larger where there are more rows."""
POOL_ROWS = 1 << 17
"""Rows among which an epoch is shuffled at a time, where memory for decoded chunks does not ask for less."""


class Order(Protocol):
    """A sequence of items, cut into batches that are numbered from 0 on."""

    ahead: bool
    """Whether batches may be drawn before those before them have been used."""

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """The items of these numbers in the sequence of an epoch."""
        ...


class UniformOrder:
    """Any item is as likely as any other, each time."""

    ahead = True

    def __init__(self, steps: Steps, seed: int) -> None:
        self._steps, self._seed = steps, seed

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """As `Order.draw` says; the same for the same `start` and `stop`."""
        numbers = _generator(self._seed, epoch, start).integers(0, self._steps.total, stop - start)
        return self._steps.at(numbers)


class TrajectoryOrder:
    """Any trajectory is as likely as any other, and then any item of it."""

    ahead = True

    def __init__(self, steps: Steps, seed: int) -> None:
        self._steps, self._seed = steps, seed

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """As `UniformOrder.draw`."""
        generator, steps = _generator(self._seed, epoch, start), self._steps
        chosen = generator.integers(0, len(steps.trajectory_items), stop - start)
        return steps.of(chosen, generator.integers(0, steps.trajectory_items[chosen]))


class EpochOrder:
    """Every item once, in an order that reads each block of rows once: blocks at random, pools of them
    shuffled.

    Args:
        block_rows: rows of a block, or a divisor of them; whole chunks.
        pool_rows: rows of the blocks that are shuffled together.
    """

    ahead = True

    def __init__(self, steps: Steps, seed: int, *, block_rows: int, pool_rows: int = POOL_ROWS) -> None:
        self._steps, self._seed = steps, seed
        rows = int(steps.stop[-1] - steps.start[0]) if steps.total else 0
        block_rows *= max(1, -(-rows // (MOST_BLOCKS * block_rows)))
        self._pool_blocks = max(1, pool_rows // block_rows)
        edges = np.unique(np.concatenate([_items_before(steps, block_rows), [0, steps.total]]))
        self._edges = edges
        self._epoch = -1
        self._pools: OrderedDict[int, Rows] = OrderedDict()

    def forget(self) -> None:
        """Begin anew, as in a forked child: a thread may have been drawing."""
        self._epoch = -1
        self._pools.clear()

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """Items [start, stop) of the epoch's permutation."""
        if epoch != self._epoch:
            self._blocks = _generator(self._seed, epoch, 0).permutation(len(self._edges) - 1)
            sizes = (self._edges[1:] - self._edges[:-1])[self._blocks]
            self._starts = np.concatenate([[0], np.cumsum(sizes)])[:: self._pool_blocks]
            self._epoch = epoch
            self._pools.clear()
        pieces = []
        pool = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            items = self._pool(pool)
            begin = start - int(self._starts[pool])
            pieces.append(items[begin : begin + stop - start])
            start += len(pieces[-1])
            pool += 1
        return self._steps.at(np.concatenate(pieces) if pieces else np.empty(0, np.int64))

    def pools(self, start: int, stop: int) -> tuple[int, int]:
        """The first pool that items [start, stop) of the epoch drawn last lie in, and the one after the
        last."""
        first, last = np.searchsorted(self._starts, [start, stop - 1], side="right").tolist()
        return first - 1, last

    def reach(self, first: int, last: int) -> tuple[Rows, Rows]:
        """The first and last row of each block of pools [first, last); there may be none."""
        blocks = self._blocks[first * self._pool_blocks : last * self._pool_blocks]
        return self._steps.at(self._edges[blocks]).rows, self._steps.at(self._edges[blocks + 1] - 1).rows

    def _pool(self, number: int) -> Rows:
        """The items of a pool, shuffled."""
        found = self._pools.get(number)
        if found is None:
            blocks = self._blocks[number * self._pool_blocks : (number + 1) * self._pool_blocks]
            begin, size = self._edges[blocks], self._edges[blocks + 1] - self._edges[blocks]
            items = np.repeat(begin - (np.cumsum(size) - size), size) + np.arange(int(size.sum()))
            found = self._pools[number] = _generator(self._seed, self._epoch, 1 + number).permutation(items)
            while len(self._pools) > 2:
                self._pools.popitem(last=False)
        return found


class WeightedOrder:
    """Items in proportion to weights that may change between draws: of their steps, or of their trajectories
    (then any item of it).

    Args:
        weights: one for each step of the buffer, or for each row of its table of trajectories; finite and not
        negative.
        first: the row of the buffer's first step.
        trajectories: the ids of the trajectories that weights are for; None: they are for steps.
        beta: the exponent of importance weights, (number of items x probability) ** -beta, as a share of the
            largest there can be (Schaul et al., Prioritized Experience Replay, 2016).
    """

    ahead = False

    def __init__(
        self,
        steps: Steps,
        seed: int,
        weights: NDArray[np.float64],
        *,
        first: int,
        trajectories: Rows | None,
        beta: float,
    ) -> None:
        self._steps, self._seed, self._first, self._beta = steps, seed, first, beta
        self.trajectories = trajectories
        self._numbers: NDArray[np.float64] | None = None
        self._block = (-1, -1, -1)
        self._items: Rows | None = None
        if trajectories is None:
            self._allowed = np.zeros(len(weights), np.bool_)
            self._allowed[
                np.repeat(steps.first - first - steps.before, steps.items) + np.arange(steps.total)
            ] = True
            self.weights = WeightTree(np.where(self._allowed, weights, 0))
        else:
            at = np.searchsorted(steps.trajectory_ids, trajectories)
            at[at == len(steps.trajectory_ids)] = 0
            self._allowed = steps.trajectory_ids[at] == trajectories
            self._trajectory = at
            self._items = np.where(self._allowed, steps.trajectory_items[at], 1)
            self.weights = WeightTree(np.where(self._allowed, weights, 0), self._items)

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """As `Order.draw` says, by the weights of this moment."""
        steps = self._steps
        if not self.weights.total > 0:
            raise ArgumentError("all weights have become 0: there is nothing to draw")
        uniform = self._uniform(epoch, start, stop)
        index, weights = self.weights.draw(uniform[0])
        importance = (weights / self.weights.smallest) ** -self._beta
        if self._items is None:
            rows = index + self._first
            return Drawn(rows, np.searchsorted(steps.start, rows, side="right") - 1, index, importance)
        items = self._items[index]
        drawn = steps.of(
            self._trajectory[index], np.minimum((uniform[1] * items).astype(np.int64), items - 1)
        )
        return Drawn(drawn.rows, drawn.part, index, importance)

    def _uniform(self, epoch: int, start: int, stop: int) -> NDArray[np.float64]:
        """Numbers in [0, 1) for a batch, of which several are made at once."""
        size = stop - start
        block, at = divmod(start // size, BATCHES)
        if self._numbers is None or self._block != (epoch, block, size):
            self._block = epoch, block, size
            self._numbers = _generator(self._seed, epoch, block).random((2, BATCHES * size))
        return self._numbers[:, at * size : (at + 1) * size]

    def update(self, index: Rows, weights: NDArray[np.float64]) -> None:
        """Set weights; where there is no item they stay 0."""
        self.weights.update(index, np.where(self._allowed[index], weights, 0))


def _generator(seed: int, epoch: int, start: int) -> np.random.Generator:
    """The source of randomness of one draw."""
    return np.random.default_rng([seed, epoch, start])


def _items_before(steps: Steps, block_rows: int) -> Rows:
    """For each block of rows, how many items lie before it."""
    if not steps.total:
        return np.zeros(1, np.int64)
    used = np.flatnonzero(steps.items)
    low, high = int(steps.first[used[0]]), int(steps.first[used[-1]] + steps.items[used[-1]])
    rows = np.arange(low // block_rows, high // block_rows + 1) * block_rows
    part = np.searchsorted(steps.first[used], rows, side="right") - 1
    inside = np.clip(rows - steps.first[used][part], 0, steps.items[used][part])
    return np.where(part < 0, 0, steps.before[used][part] + inside)
