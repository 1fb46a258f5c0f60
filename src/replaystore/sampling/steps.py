"""The steps that items are made of: which of a buffer's rows can be one, and the rows around them. NumPy
only, no reading.

An item is what one entry of a batch is made of: a step, with the steps before it (a frame stack) and after it
(a fragment, an n-step return). It is named by the row of its step, and by the part that this lies in.
stacks_and_returns.py makes its arrays, following.py adds what a buffer has got meanwhile.

Invariant: how a trajectory is cut into parts changes nothing: items are counted in trajectories and found in
parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.sampling.finding import Guesses
from replaystore.sampling.part_tables import Change, Rows, Tables
from replaystore.trajectories.parts import Parts

__all__ = ["PENDING", "Change", "Drawn", "Rows", "Steps"]

UINT64 = np.dtype(np.uint64)

PENDING = 1 << 60
"""Numbers of final observations from here on are those of the observations that follow what is open."""


class Drawn(NamedTuple):
    """Items, in the order they were drawn in."""

    rows: Rows
    """The row of each item's step."""
    part: Rows
    """The part that it lies in."""
    importance: NDArray[np.float64] | None = None
    """Of weighted draws: the share that corrects for how likely they were."""
    place: Rows | None = None
    """Which of its part's steps it is; where that is known from drawing it."""


class Steps(Tables):
    """The rows of a buffer that items can be made of."""

    @classmethod
    def of(
        cls,
        parts: Parts,
        selected: NDArray[np.bool_] | None = None,
        *,
        bounds: slice,
        span: int = 1,
        history: int = 0,
        following: bool = False,
        pending: Mapping[int, int] | None = None,
    ) -> Steps:
        """The steps of one commit.

        Args:
            parts: all parts of the buffer; steps of them may have left a ring.
            selected: bool, for each part: whether its trajectory may be drawn from; None: all may.
            bounds: the rows that the buffer has.
            pending: for open trajectories, by id, a number that stands for the observation that follows the
            last step, as `final` does.
        """
        steps = cls(span=span, history=history, following=following)
        steps.first_row, steps.stop_row = bounds.start, bounds.stop
        final = _with_pending(parts, pending) if pending else parts.final
        columns = (parts.start, parts.length, parts.stride, parts.trajectory, parts.offset, final)
        if bounds.start and len(parts):
            kept = parts.last >= bounds.start
            columns = tuple(column[kept] for column in columns)
            selected = None if selected is None else selected[kept]
        steps.selected = selected is not None
        steps.register(columns, selected)
        steps.reach(bounds.stop)
        steps.changes.clear()
        return steps

    # --- what there is

    def __len__(self) -> int:
        return len(self._start)

    @property
    def left_out(self) -> int:
        """Steps of the selected trajectories that are no item's."""
        return self.steps - self.total

    @property
    def mostly_items(self) -> bool:
        """Whether most rows are items, so that it pays to draw rows."""
        return self.span == 1 and not self.selected and 2 * self.total >= self.stop_row - self.first_row

    @property
    def in_rows(self) -> bool:
        """Whether the items are numbered in the order of rows."""
        return self.finder.stride == 1 or not len(self)

    def item_rows(self) -> Rows:
        """The rows of all items, in order."""
        items, skipped = self._items.values, self._skipped.values
        first = self._start.values + skipped * self._stride.values
        rows = np.repeat(first, items)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(items) - items, items)
        rows += place * np.repeat(self._stride.values, items)
        return rows if self.in_rows else np.sort(rows)

    def trajectories(self) -> tuple[Rows, Rows, Rows]:
        """The ids of the trajectories that have items, sorted, the last part of each, and how many items it
        has."""
        lasts, counts = self.lasts()
        ids = self._trajectory.values[lasts]
        order = np.argsort(ids, kind="stable")
        return ids[order], lasts[order], counts[order]

    def lasts(self) -> tuple[Rows, Rows]:
        """The last part of each trajectory that has items, in the order of parts, and how many it has."""
        if self._lasts is None:
            lasts = np.flatnonzero(self._next.values < 0)
            counts = self.items_until(lasts)
            used = np.flatnonzero(counts)
            self._lasts = lasts[used], counts[used]
        return self._lasts

    def items_until(self, lasts: Rows) -> Rows:
        """How many items there are in trajectories that these parts are the last of."""
        whole = self._previous.values[lasts] < 0
        if whole.all():
            found: Rows = self._items.values[lasts]
            return found
        counts = self._items.values[lasts].copy()
        at = np.flatnonzero(~whole)
        parts = self._previous.values[lasts[at]]
        while len(at):
            counts[at] += self._items.values[parts]
            parts = self._previous.values[parts]
            going = parts >= 0
            at, parts = at[going], parts[going]
        return counts

    def nth(self, lasts: Rows, numbers: Rows) -> Drawn:
        """The items of these numbers, from 0 on, of trajectories that these parts are the last of."""
        back = self.items_until(lasts) - 1 - numbers
        """How many items come after it."""
        part = np.array(lasts)
        over = np.flatnonzero(back >= self._items.values[part])
        while len(over):
            back[over] -= self._items.values[part[over]]
            part[over] = self._previous.values[part[over]]
            over = over[back[over] >= self._items.values[part[over]]]
        place = self._skipped.values[part] + self._items.values[part] - 1 - back
        return Drawn(self._start.values[part] + place * self._stride.values[part], part)

    # --- items

    def at(self, numbers: Rows) -> Drawn:
        """The items of these numbers, from 0 to `total` - 1, by part."""
        if self._before is None:
            before = np.cumsum(self._items.values) - self._items.values
            self._before = before, Guesses(before)
        before, guesses = self._before
        part = guesses.last_before(numbers)
        return self.inside(part, numbers - before[part])

    def inside(self, part: Rows, numbers: Rows) -> Drawn:
        """The items of these numbers of parts."""
        place = self._skipped.values[part] + numbers
        return Drawn(self._start.values[part] + place * self._stride.values[part], part)

    def items_before(self, rows: Rows) -> Rows:
        """How many items lie before these rows, where items are numbered in the order of rows."""
        if not len(self._start):
            return np.zeros(len(rows), np.int64)
        part = np.maximum(self._start.values.searchsorted(rows, side="right") - 1, 0)
        before = np.cumsum(self._items.values) - self._items.values
        inside = np.clip(
            rows - self._start.values[part] - self._skipped.values[part], 0, self._items.values[part]
        )
        found: Rows = before[part] + inside
        return found

    def trajectory_of(self, parts: Rows) -> Rows:
        """The ids of the trajectories that these parts are of."""
        found: Rows = self._trajectory.values[parts]
        return found

    @property
    def widest(self) -> int:
        """The largest stride."""
        return int(self.finder.strides[1].max(initial=1))

    def is_last(self, parts: Rows) -> NDArray[np.bool_]:
        """Whether these parts are the last ones of their trajectories."""
        found: NDArray[np.bool_] = self._next.values[parts] < 0
        return found

    def where(self, rows: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """The part of each row, and whether the row is an item's."""
        return self.placed(rows)[:2]

    def placed(self, rows: Rows) -> tuple[Rows, NDArray[np.bool_], Rows]:
        """As `where`, and which of the part's steps each row is, if it is an item's."""
        if not len(self._start):
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.int64)
        part, place = self.finder.find(rows)
        items = self._items.values.take(part)
        if not self.cut:
            return part, place < items, place
        item = place - self._skipped.values.take(part)
        # As unsigned numbers the negative ones are the largest.
        return part, item.view(UINT64) < items.view(UINT64), place

    def left(self, drawn: Drawn, most: int) -> Rows:
        """How many steps there are from each item's own to the last of its trajectory that can be used, its
        own included; `most` where there are more."""
        part = drawn.part
        place = (drawn.rows - self._start.values[part]) // self._stride.values[part]
        found = self._length.values[part] - place
        at = np.flatnonzero(found <= most)
        part = part[at]
        while len(at):
            following = self._next.values[part]
            ends = following < 0
            if self.following:
                found[at[ends]] -= self._final.values[part[ends]] < 0
            at, part = at[~ends], following[~ends]
            found[at] += self._length.values[part]
            short = found[at] <= most
            at, part = at[short], part[short]
        usable: Rows = np.minimum(found, most)
        return usable

    # --- rows around them

    def advance(self, rows: Rows, part: Rows, by: Rows | int = 0) -> tuple[Rows, Rows]:
        """The rows so many steps later, or earlier, in the same trajectories, which must have them, and their
        parts."""
        rows, part, by = np.broadcast_arrays(rows, part, by)
        start, length, stride = self.bounds(part)
        place = (rows - start) // stride + by
        if (short := place < 0).any():
            part = part.copy()
            while short.any():
                part[short] = self._previous.values[part[short]]
                place[short] += self._length.values[part[short]]
                short = place < 0
            start, length, stride = self.bounds(part)
        if (over := place >= length).any():
            part = part.copy()
            while over.any():
                place[over] -= self._length.values[part[over]]
                part[over] = self._next.values[part[over]]
                over = place >= self._length.values[part]
            start, length, stride = self.bounds(part)
        return start + place * stride, part

    def back(self, rows: Rows, part: Rows, by: Rows | int) -> Rows:
        """The rows so many steps earlier in the same trajectories; their first rows where they have none."""
        rows, part, by = np.broadcast_arrays(rows, part, by)
        start, _, stride = self.bounds(part)
        place = (rows - start) // stride - by
        if (short := place < 0).any():
            part = part.copy()
            while short.any():
                before = self._previous.values[part[short]]
                there = before >= 0
                place[short] = np.where(there, place[short] + self._length.values[before], 0)
                part[short] = np.where(there, before, part[short])
                short = place < 0
            start, _, stride = self.bounds(part)
        return start + place * stride

    def after(self, rows: Rows, part: Rows) -> tuple[Rows, Rows]:
        """Where the observation after these rows is: the row whose observation it is, and the number of a
        final observation or -1.

        Where there is a final observation the row is the row itself."""
        following, at, number = self.next_of(rows, part)
        final = np.full(len(rows), -1, np.int64)
        final[at] = number
        return following, final

    def next_of(self, rows: Rows, part: Rows, place: Rows | None = None) -> tuple[Rows, Rows, Rows]:
        """As `after`; of which of the rows it is a final observation, and the numbers of those.

        `place`: which of their parts' steps the rows are, if that is known."""
        stride = self.finder.stride or self._stride.values.take(part)
        following = rows + stride
        length = self._length.values.take(part)
        if place is None:
            length *= stride
            length += self._start.values.take(part)
            last = (following == length).nonzero()[0]
        else:
            last = (place + 1 == length).nonzero()[0]
        if not len(last):
            return following, last, last
        here = part[last]
        # Also within a trajectory, where the next part does not begin with what followed.
        number, further = self._final.values[here], self._next.values[here]
        final = number >= 0
        following[last] = np.where(final | (further < 0), rows[last], self._start.values[further])
        return following, last[final], number[final]


def _with_pending(parts: Parts, pending: Mapping[int, int]) -> Rows:
    """What follows parts, as `final` says it, where that is known of trajectories that are open."""
    numbers = np.array(sorted(pending), np.int64)
    at = numbers.searchsorted(parts.trajectory).clip(max=len(numbers) - 1)
    mine = np.flatnonzero(numbers[at] == parts.trajectory)
    mine = mine[np.lexsort((parts.offset[mine], parts.trajectory[mine]))]
    trajectory = parts.trajectory[mine]
    lasts = mine[np.append(trajectory[1:] != trajectory[:-1], True)[: len(mine)]]
    lasts = lasts[parts.final[lasts] < 0]
    final = parts.final.copy()
    final[lasts] = [pending[number] for number in parts.trajectory[lasts].tolist()]
    return final
