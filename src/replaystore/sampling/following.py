"""The steps of a buffer that grows: what it has got since is added to the tables of `Steps`, and what has
left its ring is taken out, at the cost of that.

Invariants: (1) after `go_on` the tables are those that would be made of the whole buffer; (2) parts that end
are those that were open the last time, or are new.
"""

from __future__ import annotations

import numpy as np

from replaystore.sampling.steps import PENDING, Rows, Steps
from replaystore.trajectories.growth import Growth, OpenParts

__all__ = ["Follower"]


class Follower:
    """Brings `steps` to what a buffer is now."""

    def __init__(self, growth: Growth, steps: Steps) -> None:
        self.growth, self.steps = growth, steps
        self._generation = growth.generation
        self._anew()
        self.go_on()

    def _anew(self) -> None:
        self.steps.clear()
        self._seen = self.growth.oldest_part
        self._trajectories = self._starts = np.empty(0, np.int64)
        """Of the parts that were open the last time: their trajectories, in order, where they begin,"""
        self.open = np.empty(0, np.int64)
        """their numbers,"""
        self._lengths = self._pending = np.empty(0, np.int64)
        """their lengths, what follows them,"""
        self._told = b""
        """and whether that is known, as `followed` says it."""

    def go_on(self) -> None:
        """Add what is new."""
        growth, steps = self.growth, self.steps
        (first, stop), count = growth.bounds, growth.closed_parts
        if growth.generation != self._generation or growth.oldest_part > self._seen or first > steps.stop_row:
            self._generation = growth.generation
            self._anew()
        opened = growth.opened()
        if not steps.stop_row:
            steps.first_row = first
        moved = None if steps.changes else steps.compact(self.open)  # whose parts have numbers
        if moved is not None:
            self.open = moved[self.open]
        if count == self._seen and self._same(opened):
            self._lengthen(opened)
        else:
            self._add(growth.closed(self._seen), opened)
            self._seen = count
        steps.reach(max(stop, first))
        if first > steps.first_row:
            steps.evict(first)

    def _same(self, opened: OpenParts) -> bool:
        """Whether these are the parts that were open the last time."""
        if opened.start is self._starts and opened.trajectory is self._trajectories:
            return True
        return np.array_equal(opened.trajectory, self._trajectories) and np.array_equal(
            opened.start, self._starts
        )

    def _lengthen(self, opened: OpenParts) -> None:
        length, told, pending = opened.length, opened.followed.tobytes(), self._pending
        more = length - self._lengths
        every = len(more) and 0 not in more.tolist()
        if every and told == self._told and self.steps.grow(self.open, more):  # as nearly always
            self._lengths = length
            return
        different = more != 0
        if told != self._told:
            pending = _pending(opened)
            different |= pending != self._pending
        changed = different.nonzero()[0]
        if 0 < len(changed) == len(self.open):
            self.steps.extend(self.open, length, pending)
        elif len(changed):
            self.steps.extend(self.open[changed], length[changed], pending[changed])
        self._lengths, self._pending, self._told = length, pending, told

    def _add(self, closed: Rows, opened: OpenParts) -> None:
        steps, pending = self.steps, _pending(opened)
        mine, there = self._known(closed[:, 3], closed[:, 0])
        steps.lengthen(mine, closed[there, 4] + closed[there, 1], closed[there, 5])
        still, going = self._known(opened.trajectory, opened.start)
        steps.lengthen(still, (opened.offset + opened.length)[going], pending[going])
        new = closed[~there] if len(mine) else closed
        count = len(new)
        if len(still) < len(going):
            columns = (opened.start, opened.length, opened.stride, opened.trajectory, opened.offset, pending)
            new = np.concatenate([new, np.stack(columns, axis=1)[~going]])
        opening = np.arange(len(new)) >= count
        if not (new[1:, 0] >= new[:-1, 0]).all():
            order = np.argsort(new[:, 0], kind="stable")
            new, opening = new[order], opening[order]
        base = len(steps)
        if steps.first_row:  # of what had left a ring before it was looked at nothing is needed
            kept = opening | (new[:, 0] + (new[:, 1] - 1) * new[:, 2] >= steps.first_row)
            new, opening = new[kept], opening[kept]
        known = dict(zip(self._trajectories.tolist(), self.open.tolist(), strict=True))
        steps.register(tuple(new.T.copy()), known=known, fresh=True)
        changed = np.concatenate([mine, still])
        if len(changed):
            steps.recount_last(changed)
        self.open = np.empty(len(opened.start), np.int64)
        self.open[going] = still
        fresh = base + np.flatnonzero(opening)
        begun = np.flatnonzero(~going)
        self.open[begun[np.argsort(opened.start[begun], kind="stable")]] = fresh
        self._trajectories, self._starts = opened.trajectory, opened.start
        self._lengths, self._pending, self._told = opened.length, pending, opened.followed.tobytes()

    def _known(self, trajectory: Rows, start: Rows) -> tuple[Rows, Rows]:
        """The parts that were open the last time among these, and which of these they are."""
        if not len(self.open) or not len(trajectory):
            return self.open[:0], np.zeros(len(trajectory), np.bool_)
        at = np.minimum(self._trajectories.searchsorted(trajectory), len(self.open) - 1)
        there = (self._trajectories[at] == trajectory) & (start == self._starts[at])
        return self.open[at[there]], there


def _pending(opened: OpenParts) -> Rows:
    """The numbers of the observations that follow open parts, or -1."""
    found = np.arange(PENDING, PENDING + len(opened.start))
    if not opened.followed.all():
        found[~opened.followed] = -1
    return found
