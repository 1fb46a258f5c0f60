"""Which steps come next: what may be drawn from one commit of a buffer, and the orders it is drawn in. NumPy
only, no reading.

An item is what one entry of a batch is made of: a step, with the steps before it (a frame stack) and after it
(a fragment, an n-step return). It is named by the row of its step and by the part that this lies in; `Steps`
knows which rows can be such a step.

Invariants:
(1) How a trajectory is cut into parts changes nothing: items are counted in trajectories and found in parts.
(2) A draw depends on the seed, the epoch and its own number only, and not on the draws before it (but for
weights that changed). (3) Memory and time to make these tables grow with the parts, not with the steps (but
for weights of single steps).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling.weights import WeightTree
from replaystore.trajectories.table import Parts

__all__ = ["Drawn", "EpochOrder", "Order", "Steps", "TrajectoryOrder", "UniformOrder", "WeightedOrder"]

Rows = NDArray[np.int64]

GUESSES = 4
"""Parts that are looked at for an item before they are searched."""
BATCHES = 32
"""Random numbers for so many weighted batches are made at once."""
MOST_BLOCKS = 1 << 16
"""Of an epoch: blocks are larger where there are more rows."""
POOL_ROWS = 1 << 17
"""Rows among which an epoch is shuffled at a time, where memory for decoded chunks does not ask for less."""


@dataclass(frozen=True)
class Drawn:
    """Items, in the order they were drawn in."""

    rows: Rows
    """The row of each item's step."""
    part: Rows
    """The part that it lies in."""
    index: Rows | None = None
    """Of weighted draws: whose weight it was."""
    importance: NDArray[np.float64] | None = None
    """Of weighted draws: the share that corrects for how likely they were."""


class Steps:
    """The rows of a buffer that items can be made of.

    Args:
        parts: all parts of the buffer.
        selected: bool, for each part: whether its trajectory may be drawn from; None: all may.
        span: how many steps an item has, from its own on.
        history: how many steps before its own it shows; the first step of a trajectory stands in for those
        before it.
        following: whether the observation after an item's steps must be known.
        pending: for open trajectories, by id, a number that stands for the observation that follows the last
        step, as `final` does.
    """

    def __init__(
        self,
        parts: Parts,
        selected: NDArray[np.bool_] | None = None,
        *,
        span: int = 1,
        history: int = 0,
        following: bool = False,
        pending: Mapping[int, int] | None = None,
    ) -> None:
        order, count = parts.order, len(parts)
        in_order = bool((order[1:] > order[:-1]).all())
        self.start, self.stop = parts.start, parts.start + parts.length
        self._order: Rows | slice = slice(None) if in_order else order
        """Parts by trajectory and the order of steps; a slice makes views."""
        ordered, length = parts.trajectory[self._order], parts.length[self._order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[:count])
        sizes = np.diff(np.append(begins, count))
        """Of each trajectory, the place of its first part in the order, and how many parts it has."""
        ids = ordered[begins]
        self._place = np.cumsum(length) - length
        """Where each part would begin if trajectories lay one behind the other, by its place in the order."""
        lasts = order[begins + sizes - 1] if count else order
        self.final = parts.final
        if pending:
            self.final = parts.final.copy()
            for trajectory, number in pending.items():
                at = int(np.searchsorted(ids, trajectory))
                if at < len(ids) and ids[at] == trajectory and self.final[lasts[at]] < 0:
                    self.final[lasts[at]] = number
        self.next = np.full(count, -1, np.int64)
        """The part that goes on with the same trajectory, or -1."""
        inner = np.flatnonzero(ordered[1:] == ordered[:-1])
        self.next[order[inner]] = order[inner + 1]
        lengths = np.add.reduceat(length, begins) if count else np.zeros(0, np.int64)
        low = np.where(parts.offset[order[begins]] > 0, history, 0)  # what a ring has dropped cannot be shown
        known = lengths - (self.final[lasts] < 0) if following else lengths
        high = known - span + 1
        if selected is not None:
            chosen = selected[order[begins]]
            high, lengths = np.where(chosen, high, 0), lengths[chosen]
        beyond = self._place - np.repeat(self._place[begins], sizes)
        """The place of each part in its trajectory."""
        skipped = np.minimum(np.maximum(np.repeat(low, sizes) - beyond, 0), length)
        items = np.minimum(np.maximum(np.repeat(high, sizes) - beyond, 0), length)
        items = np.maximum(items - skipped, 0)
        self.first = self._by_part(skipped) + parts.start
        """The first row of each part that is an item's."""
        self.items = self._by_part(items)
        """How many rows from there on are."""
        self._end = self._by_part(np.repeat(known, sizes) - beyond) + parts.start
        """The row behind the last known step of its trajectory, if that went on in this part."""
        self.before = np.cumsum(self.items) - self.items
        self.total = int(self.items.sum())
        self.left_out = int(lengths.sum()) - self.total
        """Steps of the selected trajectories that are no item's."""
        chosen = np.maximum(high - low, 0)
        self._trajectories = np.flatnonzero(chosen)
        self.trajectory_items = chosen[self._trajectories]
        """Of each trajectory that has items, how many."""
        self.trajectory_ids = ids[self._trajectories]
        self._trajectory_place = (self._place[begins] + low)[self._trajectories]

    def _by_part(self, ordered: Rows) -> Rows:
        if isinstance(self._order, slice):
            return ordered
        found = np.empty_like(ordered)
        found[self._order] = ordered
        return found

    # --- items

    def at(self, numbers: Rows) -> Drawn:
        """The items of these numbers, from 0 to `total` - 1, in the order of rows."""
        shift, guesses, ends = self._guesses
        part = guesses[numbers >> shift]
        for _ in range(GUESSES):
            wrong = numbers >= ends[part]
            if not wrong.any():
                break
            part += wrong
        else:  # parts of very different lengths
            part = np.searchsorted(self.before, numbers, side="right") - 1
        return Drawn(numbers + self._shift_of[part], part)

    @cached_property
    def _guesses(self) -> tuple[int, Rows, Rows]:
        """For runs of 2 ** shift items, the part of the first; and where each part's items end. Most items
        are in the part that is guessed, which is found in a fifth of the time that a search takes."""
        shift = max(0, (max(1, self.total) // (4 * max(1, len(self.items)))).bit_length() - 1)
        starts = np.arange((max(1, self.total) - 1 >> shift) + 1) << shift
        return shift, np.searchsorted(self.before, starts, side="right") - 1, self.before + self.items

    @cached_property
    def _shift_of(self) -> Rows:
        """The row of an item is its number and this, of its part."""
        return self.first - self.before

    def of(self, trajectories: Rows, numbers: Rows) -> Drawn:
        """The items of these numbers of trajectories, which are named by their place in
        `trajectory_items`."""
        place = self._trajectory_place[trajectories] + numbers
        at = np.searchsorted(self._place, place, side="right") - 1
        part = at if isinstance(self._order, slice) else self._order[at]
        return Drawn(self.start[part] + place - self._place[at], part)

    def where(self, rows: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """The part of each row, and whether the row is an item's."""
        part = np.maximum(np.searchsorted(self.start, rows, side="right") - 1, 0)
        if not len(self.start):
            return part, np.zeros(len(rows), np.bool_)
        return part, (rows >= self.first[part]) & (rows < self.first[part] + self.items[part])

    def left(self, drawn: Drawn) -> Rows:
        """How many steps there are from each item's own to the last of its trajectory that can be used, its
        own included."""
        return self._end[drawn.part] - drawn.rows

    # --- rows around them

    def advance(self, rows: Rows, part: Rows, by: Rows | int = 0) -> tuple[Rows, Rows]:
        """The rows so many steps later in the same trajectories, which must have them, and their parts."""
        rows, part = np.broadcast_arrays(rows + by, part)
        over = rows >= self.stop[part]
        if over.any():
            rows, part = rows.copy(), part.copy()
        while over.any():
            here, at = part[over], rows[over]
            part[over] = self.next[here]
            rows[over] = self.start[self.next[here]] + at - self.stop[here]
            over = rows >= self.stop[part]
        return rows, part

    def back(self, rows: Rows, part: Rows, by: Rows | int) -> Rows:
        """The rows so many steps earlier in the same trajectories; their first rows where they have none."""
        found, part = np.broadcast_arrays(rows - by, part)
        short = found < self.start[part]
        if short.any():
            found, part = found.copy(), part.copy()
        while short.any():
            here = part[short]
            before = self._previous[here]
            there = before >= 0
            lacking = self.start[here] - found[short]
            found[short] = np.where(there, self.stop[before] - lacking, self.start[here])
            part[short] = np.where(there, before, here)
            short = found < self.start[part]
        return found

    @cached_property
    def _previous(self) -> Rows:
        found = np.full(len(self.next), -1, np.int64)
        goes_on = np.flatnonzero(self.next >= 0)
        found[self.next[goes_on]] = goes_on
        return found

    def after(self, rows: Rows, part: Rows) -> tuple[Rows, Rows]:
        """Where the observation after these rows is: the row whose observation it is, and the number of a
        final observation or -1.

        Where there is a final observation the row is the row itself."""
        following, final = rows + 1, np.full(len(rows), -1, np.int64)
        last = np.flatnonzero(following == self.stop[part])
        if len(last):
            here = part[last]
            # Also within a trajectory, where the next part does not begin with what followed.
            final[last] = self.final[here]
            following[last] = np.where(
                (self.final[here] >= 0) | (self.next[here] < 0), rows[last], self.start[self.next[here]]
            )
        return following, final


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
