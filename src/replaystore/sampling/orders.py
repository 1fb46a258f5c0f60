"""Which items come next: the orders in which the steps of one commit are drawn. NumPy only, no reading.

Invariants:
(1) A draw depends on the seed, the epoch, its own number and the buffer only, not on the draws before it, nor
on what the buffer was before. (2) Memory and time to make an order grow with the parts of a buffer, not with
its steps; to go on with it costs what is new (but for epochs, which begin anew).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.sampling.steps import Change, Drawn, Rows, Steps
from replaystore.sampling.weights import FAN, WeightTree

__all__ = ["EpochOrder", "Order", "Stream", "TrajectoryOrder", "UniformOrder"]

DRAWS, BLOCKS = 8192, 24
"""Random numbers that are made at once, and how many times so many are kept."""
MOST_BLOCKS = 1 << 16
"""Of an epoch: blocks are larger where there are more rows."""
POOL_ROWS = 1 << 17
"""Rows among which an epoch is shuffled at a time, where memory for decoded chunks does not ask for less."""


class Order(Protocol):
    """A sequence of items, cut into batches that are numbered from 0 on."""

    ahead: bool
    """Whether batches may be drawn before those before them have been used."""

    @property
    def mass(self) -> float:
        """How much there is to draw from: items, trajectories, or weights."""
        ...

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """The items of these numbers in the sequence of an epoch."""
        ...


class Stream:
    """Random numbers in [0, 1), each by its own number: several thousand are made at once."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._known: OrderedDict[tuple[int, int, int], NDArray[np.float64]] = OrderedDict()

    def numbers(self, epoch: int, start: int, stop: int, attempt: int = 0) -> NDArray[np.float64]:
        """The numbers [start, stop) of an epoch; each attempt has others."""
        block, at = divmod(start, DRAWS)
        if at + stop - start <= DRAWS:
            return self._block(epoch, block, attempt)[at : at + stop - start]
        last = (stop - 1) // DRAWS
        several = [self._block(epoch, number, attempt) for number in range(block, last + 1)]
        return np.concatenate(several)[at : at + stop - start]

    def _block(self, epoch: int, number: int, attempt: int) -> NDArray[np.float64]:
        key = epoch, number, attempt
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = np.random.default_rng([self._seed, *key]).random(DRAWS)
            while len(self._known) > BLOCKS:
                self._known.popitem(last=False)
        return found


class UniformOrder:
    """Any item is as likely as any other, each time.

    Where most rows are items, rows are drawn, and those that are none are drawn again; else items by their
    number."""

    ahead = True

    def __init__(self, steps: Steps, seed: int) -> None:
        self._steps, self._stream = steps, Stream(seed)
        self._counts: Counts | None = None

    def go_on(self, change: Change | None) -> None:
        """Draw from what the steps have become."""
        if self._counts is not None:
            self._counts.go_on(change)
        elif not self._steps.mostly_items:
            self._counts = Counts(self._steps, _items_of)

    @property
    def mass(self) -> float:
        """As `Order.mass` says."""
        return self._steps.total

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """As `Order.draw` says."""
        steps, uniform = self._steps, self._stream.numbers(epoch, start, stop)
        if not steps.mostly_items:
            numbers = (uniform * steps.total).astype(np.int64)
            return steps.at(numbers) if self._counts is None else steps.inside(*self._counts.find(numbers))
        first, count = steps.first_row, steps.stop_row - steps.first_row
        rows = (uniform * count).astype(np.int64)
        if first:
            rows += first
        part, there, place = steps.placed(rows)
        if 0 not in there.tobytes():  # in a tenth of the time of `all`
            return Drawn(rows, part, None, place)
        wrong, attempt = np.flatnonzero(~there), 1
        while len(wrong):
            again = self._stream.numbers(epoch, start, stop, attempt)[wrong]
            rows[wrong] = (again * count).astype(np.int64) + first
            part[wrong], there, place[wrong] = steps.placed(rows[wrong])
            wrong, attempt = wrong[~there], attempt + 1
        return Drawn(rows, part, None, place)


class TrajectoryOrder:
    """Any trajectory is as likely as any other, and then any item of it."""

    ahead = True

    def __init__(self, steps: Steps, seed: int) -> None:
        self._steps, self._stream = steps, Stream(seed)
        self._counts: Counts | None = None

    def go_on(self, change: Change | None) -> None:
        """Draw from what the steps have become."""
        if self._counts is None:
            self._counts = Counts(self._steps, _is_last)
        else:
            self._counts.go_on(change)

    @property
    def mass(self) -> float:
        """As `Order.mass` says."""
        return len(self._steps.lasts()[0]) if self._counts is None else self._counts.total

    def draw(self, epoch: int, start: int, stop: int) -> Drawn:
        """As `Order.draw` says."""
        uniform, steps = self._stream.numbers(epoch, start, stop), self._steps
        if self._counts is None:
            lasts, counts = steps.lasts()
            chosen = (uniform * len(lasts)).astype(np.int64)
            last, items = lasts[chosen], counts[chosen]
        else:
            last, _ = self._counts.find((uniform * self._counts.total).astype(np.int64))
            items = steps.items_until(last)
        uniform = self._stream.numbers(epoch, start, stop, 1)
        return steps.nth(last, (uniform * items).astype(np.int64))


class Counts:
    """Of each part of steps that grow a whole number, to be drawn from in proportion to it.

    `count(steps, parts)` says it; whatever changes it is among `steps.changes`."""

    def __init__(self, steps: Steps, count: Callable[[Steps, Rows], Rows]) -> None:
        self._steps, self._count = steps, count
        self._begin()

    def _begin(self) -> None:
        steps = self._steps
        counts = self._count(steps, np.arange(len(steps))).astype(np.float64)
        self._tree = WeightTree(counts, room=2 * len(counts) + FAN, least=False)
        self._version = steps.version

    def go_on(self, change: Change | None) -> None:
        """Take up what has changed."""
        steps = self._steps
        if steps.version != self._version or len(steps) > len(self._tree):
            self._begin()
        elif change is not None:
            self._tree.update(change.parts, self._count(steps, change.parts).astype(np.float64))

    @property
    def total(self) -> int:
        """The sum of all."""
        return int(self._tree.total)

    def find(self, numbers: Rows) -> tuple[Rows, Rows]:
        """The parts that these numbers, from 0 to `total` - 1, fall to, and which of its own they are."""
        part, rest = self._tree.find(numbers.astype(np.float64))
        return part, rest.astype(np.int64)


def _items_of(steps: Steps, parts: Rows) -> Rows:
    return steps.items[parts]


def _is_last(steps: Steps, parts: Rows) -> Rows:
    """1 where a trajectory that has items ends."""
    found: Rows = (steps.is_last(parts) & (steps.items_until(parts) > 0)).astype(np.int64)
    return found


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
        rows = steps.stop_row - steps.first_row if steps.total else 0
        self._rows = None if steps.in_rows else steps.item_rows()
        """The rows of all items in their order, where they are not numbered so."""
        block_rows *= max(1, -(-rows // (MOST_BLOCKS * block_rows)))
        self._pool_blocks = max(1, pool_rows // block_rows)
        edges = np.unique(np.concatenate([self._items_before(block_rows), [0, steps.total]]))
        self._edges = edges
        self._epoch = -1
        self._pools: OrderedDict[int, Rows] = OrderedDict()

    def forget(self) -> None:
        """Begin anew, as in a forked child: a thread may have been drawing."""
        self._epoch = -1
        self._pools.clear()

    @property
    def mass(self) -> float:
        """As `Order.mass` says."""
        return self._steps.total

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
        return self._at(np.concatenate(pieces) if pieces else np.empty(0, np.int64))

    def _at(self, numbers: Rows) -> Drawn:
        """The items of these numbers in the order of rows."""
        if self._rows is None:
            return self._steps.at(numbers)
        rows = self._rows[numbers]
        return Drawn(rows, self._steps.where(rows)[0])

    def _items_before(self, block_rows: int) -> Rows:
        """For each block of rows, how many items lie before it."""
        steps = self._steps
        if not steps.total:
            return np.zeros(1, np.int64)
        low, high = self._at(np.array([0, steps.total - 1])).rows.tolist()
        edges = np.arange(low // block_rows, high // block_rows + 1) * block_rows
        return steps.items_before(edges) if self._rows is None else self._rows.searchsorted(edges)

    def pools(self, start: int, stop: int) -> tuple[int, int]:
        """The first pool that items [start, stop) of the epoch drawn last lie in, and the one after the
        last."""
        first, last = np.searchsorted(self._starts, [start, stop - 1], side="right").tolist()
        return first - 1, last

    def reach(self, first: int, last: int) -> tuple[Rows, Rows]:
        """The first and last row of each block of pools [first, last); there may be none."""
        blocks = self._blocks[first * self._pool_blocks : last * self._pool_blocks]
        return self._at(self._edges[blocks]).rows, self._at(self._edges[blocks + 1] - 1).rows

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


def _generator(seed: int, epoch: int, start: int) -> np.random.Generator:
    """The source of randomness of one draw."""
    return np.random.default_rng([seed, epoch, start])
