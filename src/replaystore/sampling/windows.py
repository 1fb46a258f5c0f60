"""Items that are drawn for many batches at once, and what is read for many at once: which chunks are decoded
and when, and which rows are fetched from far away.

Nothing that batches hold depends on it (how far an epoch shuffles at a time is its order's matter). Chunks
are kept where all fit, or where an order asks for each once; else the rows of many batches are chosen out of
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from replaystore.errors import ArgumentError
from replaystore.sampling.gather import Gather
from replaystore.sampling.orders import EpochOrder
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.stacks_and_returns import Items, Planned
from replaystore.sampling.steps import Drawn, Rows, Steps

__all__ = ["SINGLES", "NothingToDrawError", "Window", "Windows"]

HOLD_BATCHES = 32
"""Batches that chunks are decoded for at once."""
FAR_BATCHES, FAR_BYTES = 16, 8 << 20
"""Batches whose raw rows are fetched from far away at once, and bytes of them."""
SINGLES = 4
"""Batches for each of which chunks are decoded where not all fit, before rows are decoded for many: who goes
on to another commit at each step would throw those away."""
CHOSEN = 1 << 17
"""Items at most whose rows are decoded at once then: each of them may cost a chunk."""


class NothingToDrawError(ArgumentError):
    """There is no item, so far at least."""


@dataclass
class Window:
    """Items drawn at once."""

    epoch: int
    first: int
    """The number of its first batch."""
    planned: Planned
    count: int
    """How many batches it has."""
    held: int = 0
    """Items whose chunks have been decoded."""
    fetched: int = 0
    """Items whose rows have been fetched from far away."""


class Windows:
    """The half of `Batches` that knows what comes next."""

    recipe: Recipe
    where: str
    """Of the buffer."""
    steps: Steps
    gather: Gather
    order: Any
    per_epoch: Any
    together: int
    """Batches whose raw rows are fetched at once, if they are far; at least."""
    _items: Items
    _behind: int
    """How many steps behind its own an item shows."""
    _later: dict[tuple[int, int], Window]
    """Windows that are drawn already, by epoch and first batch."""
    _pools: tuple[int, int, int] | None
    """The epoch, and the pools of it, that were held last."""
    _group: int
    _singles: int
    """Batches for each of which chunks were decoded."""
    _chosen: int
    """Batches whose rows were decoded last."""
    _most: int
    _ahead: int
    """Batches of the next window."""

    def _entered(self, epoch: int, first: int) -> Window:
        """A window with batch `first`, which it begins with unless it is drawn already. Those before it are
        not needed any more, whether or not any of their batches was asked for."""
        for place in sorted(self._later):
            if place > (epoch, first):
                break
            window = self._later.pop(place)
            if window.epoch == epoch and first < window.first + window.count:
                return window
        return self._plan(epoch, first)

    def _following(self, window: Window) -> Window:
        """The one after it, of an order without end, or before the end."""
        place = window.epoch, window.first + window.count
        if place not in self._later:
            self._later[place] = self._plan(*place)
        return self._later[place]

    def _plan(self, epoch: int, first: int) -> Window:
        size = self.recipe.batch_size
        count = self._ahead
        self._ahead = min(2 * count, self._most)
        start, stop = first * size, (first + count) * size
        stop = min(stop, self.steps.total) if self.per_epoch is not None else stop
        return Window(epoch, first, self._items.plan(self._drawn(epoch, start, stop), size), count)

    def _drawn(self, epoch: int, start: int, stop: int) -> Drawn:
        """The items of these numbers in the sequence of an epoch. No order is asked where there is nothing,
        as in what has grown so far, or in what a ring has kept."""
        if not self.steps.total:
            raise NothingToDrawError(
                f"{self.where}: there is no step to sample {'yet' if self.recipe.live else 'any more'}: none "
                "that there is has all that it is to show, such as a next observation, and all the steps "
                "before and behind it"
            )
        drawn: Drawn = self.order.draw(epoch, start, stop)
        return drawn

    def _hold(self, window: Window, begin: int) -> None:
        """Decode for the next batches, or for so many of them as there is room for; begin with those behind
        them then."""
        if self.gather.whole:
            window.held = len(window.planned.drawn.rows)
            return
        size = self.recipe.batch_size
        scattered = self.order.ahead and not isinstance(self.order, EpochOrder) and self.gather.crowded
        if scattered and self._singles >= SINGLES:
            self._choose(window, begin)
            return
        self._singles += scattered
        count = 1 if scattered else HOLD_BATCHES
        count = min(count * size, len(window.planned.drawn.rows) - begin)
        most, start = count, window.first * size + begin
        pools = (
            (window.epoch, *self.order.pools(start, start + count))
            if isinstance(self.order, EpochOrder)
            else None
        )
        if pools is not None and pools == self._pools:  # which were held as wholes
            window.held = begin + count
            return
        while count > size and not self.gather.hold(*self._reach(window, begin, begin + count)):
            count = -(-count // 2 // size) * size
        end = window.held = begin + count
        self._pools = pools if size < count == most else None
        if not self.order.ahead or scattered:
            return
        if isinstance(self.order, EpochOrder):
            pool = self.order.pools(0, window.first * size + end)[1]
            first, last = self._widened(*self.order.reach(pool, pool + 1))
        else:
            first, last = self._reach(window, end, end + HOLD_BATCHES * size)
        if len(first):
            self.gather.expect(first, last)

    @property
    def at_once(self) -> int:
        """Items whose rows may be decoded at once."""
        return min(self.gather.chosen_rows // (self.recipe.history + 1 + self._behind), CHOSEN)

    def choose(self, epoch: int, first: int, counts: Rows, following: Rows) -> None:
        """For who takes the first so many items of each batch from `first` on, and then of those behind them:
        have their rows decoded, and begin with those of the following."""
        self.gather.choose(self._rows_of_some(epoch, first, counts))
        self.gather.choose_next(self._rows_of_some(epoch, first + len(counts), following))

    def _rows_of_some(self, epoch: int, first: int, counts: Rows) -> Rows:
        size = self.recipe.batch_size
        mine = np.flatnonzero((np.arange(size) < counts[:, None]).reshape(-1))
        if not len(mine):
            return np.empty((0, 1), np.int64)
        drawn = self._drawn(epoch, first * size, (first + len(counts)) * size)
        drawn = Drawn(drawn.rows[mine], drawn.part[mine])
        return self._rows_of(self._items.plan(drawn, len(mine)), 0, len(mine))

    def _choose(self, window: Window, begin: int) -> None:
        """Have the rows of the next batches decoded, of twice as many each time, as far as there is room for
        them; begin with those behind them."""
        size = self.recipe.batch_size
        most = self.at_once // size
        count = self._chosen = max(1, min(2 * self._chosen, most))
        rows, window, begin = self._over(window, begin, count * size, held=True)
        self.gather.choose(rows)
        self.gather.choose_next(self._over(window, begin, max(1, min(2 * count, most)) * size)[0])

    def _over(
        self, window: Window, begin: int, count: int, *, held: bool = False
    ) -> tuple[Rows, Window, int]:
        """The rows that so many items show, in this window from `begin` on and in those after it; where they
        end. `held`: note that they will have been decoded."""
        found = []
        while True:
            end = min(begin + count, len(window.planned.drawn.rows))
            found.append(self._rows_of(window.planned, begin, end))
            window.held = end if held else window.held
            count -= end - begin
            if not count:
                return np.concatenate(found), window, end
            window, begin = self._following(window), 0

    def _rows_of(self, planned: Planned, begin: int, end: int) -> Rows:
        """The rows that some items show, (items, rows of each); of trajectories that were recorded in parts
        some may be left to be decoded when they are needed."""
        drawn, shown = planned.drawn, planned.shown[begin:end]
        rows = drawn.rows[begin:end]
        if planned.shown is not drawn.rows:  # of transitions and stacks it is known
            return np.column_stack([rows, shown])
        stride = self.steps.bounds(drawn.part[begin:end])[2]
        steps = np.arange(-self.recipe.history, self._behind + 1)
        between = rows[:, None] + stride[:, None] * steps
        return between.clip(self.steps.first_row, self.steps.stop_row - 1)

    def _fetch(self, window: Window, begin: int) -> None:
        """Fetch the rows of the next batches; of trajectories that were recorded in parts some may be left to
        be fetched when they are needed. If batches are made ahead, they are more each time, up to a limit,
        and those behind them are on their way meanwhile."""
        size, rows = self.recipe.batch_size, window.planned.drawn.rows
        count = max(self.together, self._group)
        end = window.fetched = min(begin + count * size, len(rows))
        self.gather.fetch(*self._shown(rows[begin:end]))
        if self.together == 1 or not self.order.ahead:
            return
        most = FAR_BYTES // max(1, size * self.gather.far_bytes)
        self._group = max(self.together, min(2 * count, most, FAR_BATCHES))
        if end == len(rows):
            following = window.first + window.count
            if self.per_epoch is not None and following >= self.per_epoch:
                return
            rows, end = self._following(window).planned.drawn.rows, 0
        self.gather.announce(*self._shown(rows[end : end + self._group * size]))

    def _shown(self, rows: Rows) -> tuple[Rows, Rows]:
        """The first and last row that items show whose own rows these are."""
        first, last = self._widened(rows, rows)
        return first, np.minimum(last, self.steps.stop_row - 1)

    def _reach(self, window: Window, begin: int, end: int) -> tuple[Rows, Rows]:
        """The first and last row that each of some items shows, if its trajectory lies in one part; of an
        epoch those of whole pools, which are about to be needed."""
        if isinstance(self.order, EpochOrder):
            start = window.first * self.recipe.batch_size
            return self._widened(*self.order.reach(*self.order.pools(start + begin, start + end)))
        return self._widened(window.planned.drawn.rows[begin:end], window.planned.drawn.rows[begin:end])

    def _widened(self, first: Rows, last: Rows) -> tuple[Rows, Rows]:
        """From items' own rows to those that they show."""
        before, behind = self._around
        return np.maximum(first - before, self.steps.first_row), last + behind

    @property
    def _around(self) -> tuple[int, int]:
        """How many rows before and behind its own an item shows."""
        stride = self.steps.widest
        return self.recipe.history * stride, self._behind * stride
