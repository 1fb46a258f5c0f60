"""The steps that items are made of: which of a buffer's rows can be one, and the rows around them. NumPy
only, no reading.

An item is what one entry of a batch is made of: a step, with the steps before it (a frame stack) and after it
(a fragment, an n-step return). It is named by the row of its step and by the part that this lies in.
stacks_and_returns.py makes its arrays.

Invariants:
(1) How a trajectory is cut into parts changes nothing: items are counted in trajectories and found in parts.
(2) Memory and time to make these tables grow with the parts, not with the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from replaystore.trajectories.parts import Parts

__all__ = ["Drawn", "Rows", "Steps"]

Rows = NDArray[np.int64]

GUESSES = 4
"""Parts that are looked at for an item before they are searched."""


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
        assert parts.dense, "rows of strides are not found here yet"
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
