"""The parts that a buffer's steps lie in, and which of their steps are items: tables that are added to.

Invariants:
(1) Memory and time to make these tables grow with the parts, not with the steps; what is added costs what is
new, and parts that have left a ring are let go of.
(2) Parts are numbered in the order of their first rows, those that have left a ring included: what was added
when makes no difference to their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.sampling.finding import Finder, Guesses
from replaystore.sampling.growing import Grown

__all__ = ["Change", "Rows", "Tables"]

Rows = NDArray[np.int64]

COLUMNS = ("start", "length", "stride", "trajectory", "offset", "final")
"""Of parts, as they are given."""
FEW = 64
"""Parts that Python's own sets sort out in less time than NumPy."""
DEAD = 1024
"""Parts that have left a ring are let go of when there are more of them than of others, and than this."""


class Change(NamedTuple):
    """Parts whose items have become others: which steps of each are items, before and after."""

    parts: Rows
    first: Rows
    stop: Rows
    new_first: Rows
    new_stop: Rows


class Tables:
    """Parts, and which steps of each are items; they lie together.

    Args:
        span: how many steps an item has, from its own on.
        history: how many steps before its own it shows; the first step of a trajectory stands in for those
        before it.
        following: whether the observation after an item's steps must be known.
    """

    def __init__(self, *, span: int = 1, history: int = 0, following: bool = False) -> None:
        self.span, self.history, self.following = span, history, following
        self.version = self.begun = 0
        """How many times parts have got other numbers, and how many of those all was begun anew."""
        self.clear()

    def clear(self) -> None:
        """Have no parts."""
        none = np.empty(0, np.int64)
        self._start, self._length, self._stride = Grown(none), Grown(none), Grown(none)
        self._trajectory, self._offset, self._final = Grown(none), Grown(none), Grown(none)
        self._next, self._previous = Grown(none), Grown(none)
        self._low, self._skipped, self._items = Grown(none), Grown(none), Grown(none)
        self.finder = Finder()
        self.selected = False
        """Whether only some trajectories may be drawn from."""
        self.first_row = self.stop_row = 0
        self.total = 0
        """Items."""
        self.steps = 0
        """Steps that items could be made of, if what they show were known."""
        self.changes: list[Change] = []
        """Since somebody emptied it."""
        self.cut = False
        """Whether the first steps of any part are no items."""
        self.dead = 0
        """Parts that have left a ring altogether."""
        self._before: tuple[Rows, Guesses] | None = None
        self._lasts: tuple[Rows, Rows] | None = None
        self.version, self.begun = self.version + 1, self.begun + 1

    # --- parts

    @property
    def items(self) -> Rows:
        """Of each part, how many of its steps are items; they lie together."""
        return self._items.values

    @property
    def length(self) -> Rows:
        return self._length.values

    @property
    def final(self) -> Rows:
        return self._final.values

    def bounds(self, part: Rows) -> tuple[Rows, Rows, Rows]:
        """The first row of parts, their lengths and strides."""
        return self._start.values[part], self._length.values[part], self._stride.values[part]

    def register(
        self,
        columns: tuple[Rows, ...],
        selected: NDArray[np.bool_] | None = None,
        known: Mapping[int, int] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Add parts (the columns of `columns.PARTS`, sorted by `start`); none begins before one that there
        is. Steps of them that have left the ring are no items. `known`: the last part so far of trajectories
        that go on. `fresh`: the columns are for these tables alone."""
        start, length, stride, trajectory, offset, final = columns
        count, base = len(start), len(self._start)
        if not count:
            return
        for column, values in zip(COLUMNS, columns, strict=True):
            self._add(column, values, owned=fresh)
        self.finder.add(start, stride)
        order, begins, sizes = _by_trajectory(trajectory, offset)
        alone = len(begins) == count
        heads: Any = slice(None) if alone else order[begins]
        lasts: Any = heads if alone else order[begins + sizes - 1]
        following, previous = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
        if not alone:
            goes_on = np.ones(count, np.bool_)
            goes_on[begins] = False
            at = np.flatnonzero(goes_on)
            following[order[at - 1]], previous[order[at]] = base + order[at], base + order[at - 1]
        low = gone = np.zeros(count, np.int64)
        if self.first_row:
            gone = np.clip(-((start - self.first_row) // stride), 0, length)
        if self.first_row or offset[heads].any():
            low = np.empty(count, np.int64)
            low[order] = np.repeat(self._lows(columns, order, begins, gone), sizes)
        for at in order[begins].tolist() if known else ():
            before = known.get(int(trajectory[at]), -1) if known else -1
            if before >= 0:
                previous[at] = before
                self._next.own()[before] = base + at
                mine = trajectory == trajectory[at]
                kept = bool((gone[mine] == 0).all())  # else the ring has taken the steps before too
                low[mine] = self._low.values[before] if kept else low[at]
        high = self._high(offset[lasts], length[lasts], final[lasts])
        kept_steps = length - gone
        if selected is not None:
            high, kept_steps = np.where(selected[lasts], high, 0), kept_steps[selected]
        self.steps += int(kept_steps.sum())
        highs = high
        if not alone:
            highs = np.empty(count, np.int64)
            highs[order] = np.repeat(high, sizes)
        first, stop = _items(low - offset, highs - offset, length)
        for column, values in (("next", following), ("previous", previous), ("low", low), ("skipped", first)):
            self._add(column, values, owned=True)
        self._add("items", stop - first, owned=True)
        self.total += int(self._items.values[base:].sum())
        self.cut = self.cut or bool(first.any())
        none = np.zeros(count, np.int64)
        self.changes.append(Change(np.arange(base, base + count), none, none, first, stop))
        going = previous[heads] >= 0
        if going.any():
            self.recount(previous[heads][going], high[going])
        self._before = self._lasts = None

    def _add(self, column: str, values: Rows, *, owned: bool) -> None:
        """Add values to a column; `owned`: nobody else has them."""
        name = f"_{column}"
        if len(getattr(self, name)):
            getattr(self, name).add(values)
        else:
            setattr(self, name, Grown(values, owned=owned))

    def _lows(self, columns: tuple[Rows, ...], order: Rows, begins: Rows, gone: Rows) -> Rows:
        """For each trajectory, the place where items can begin: behind what has left a ring, and so far
        behind that they show nothing of it."""
        length, offset = columns[1][order], columns[4][order]
        cut = gone[order]
        places = np.where(cut < length, offset + cut, offset + length)
        # Behind a part that is gone altogether the next one begins.
        first = np.minimum.reduceat(np.where(cut < length, places, np.iinfo(np.int64).max), begins)
        first = np.minimum(first, np.maximum.reduceat(places, begins))
        return np.where(first > 0, first + self.history, 0)

    def reach(self, stop: int) -> None:
        """Rows end before this one."""
        self.stop_row = stop
        self.finder.reach(stop)

    def lengthen(self, parts: Rows, end: Rows, final: Rows) -> None:
        """The last parts of trajectories end there, as places in the trajectories, and what follows them is
        `final`; `recount` them then."""
        if len(parts):
            lengths = self._length.own()
            length = end - self._offset.values[parts]
            self.steps += int((length - lengths[parts]).sum())
            lengths[parts] = length
            self._final.own()[parts] = final

    def extend(self, parts: Rows, length: Rows, final: Rows) -> None:
        """These parts, the last ones of their trajectories, have so many steps, and what follows them is
        `final`."""
        old, had = self._skipped.values.take(parts), self._items.values.take(parts)
        stop = length - (self.span - 1) if self.span > 1 else length
        if self.following:
            stop = stop - (final < 0)
        count = stop - old
        # Where a part has items, those before it in its trajectory have all that they can have.
        if np.count_nonzero(had) < len(had) or np.count_nonzero(count < had):
            self.lengthen(parts, self._offset.values[parts] + length, final)
            self.recount(parts)
            return
        lengths, items = self._length.own(), self._items.own()
        self.steps += sum((length - lengths.take(parts)).tolist())  # of few in less time than NumPy's
        self.total += sum((count - had).tolist())
        lengths[parts], items[parts] = length, count
        self._final.own()[parts] = final
        self.changes.append(Change(parts, old, old + had, old, stop))
        self._before = self._lasts = None

    def grow(self, parts: Rows, more: Rows) -> bool:
        """These parts, the last ones of their trajectories, have so many more steps, and what follows them is
        known as it was; False if that has to be told by `extend`."""
        lengths, items = self._length.own(), self._items.own()
        had = items.take(parts)
        if 0 in had.tolist():
            return False
        first = self._skipped.values.take(parts)
        stop, count = first + had, sum(more.tolist())
        lengths[parts] += more
        items[parts] = had + more
        self.steps += count
        self.total += count
        self.changes.append(Change(parts, first, stop, first, stop + more))
        self._before = self._lasts = None
        return True

    def recount_last(self, parts: Rows) -> None:
        """Recount those of these parts that are the last ones."""
        self.recount(parts[self._next.values[parts] < 0])

    def _high(self, offset: Rows, length: Rows, final: Rows) -> Rows:
        """The place in their trajectories, of which such parts are the last, where no item begins any
        more."""
        end = offset + length
        end -= self.span - 1
        if self.following:
            end -= final < 0
        return end

    def recount(self, parts: Rows, high: Rows | None = None) -> None:
        """Count the items of these parts anew, and of those before them in their trajectories as far as they
        depend on how these go on. Without `high` they are the last ones."""
        if high is None:
            high = self._high(
                self._offset.values[parts], self._length.values[parts], self._final.values[parts]
            )
        while len(parts):
            self._count(parts, high)
            parts = self._previous.values[parts]
            going = parts >= 0
            known = parts[going]
            # Only the last items of a trajectory depend on what comes after them.
            going[going] = (
                self._skipped.values[known] + self._items.values[known] < self._length.values[known]
            )
            parts, high = parts[going], high[going]

    def _count(self, parts: Rows, high: Rows) -> None:
        offset, length = self._offset.values[parts], self._length.values[parts]
        first, stop = _items(self._low.values[parts] - offset, high - offset, length)
        skipped, items = self._skipped.own(), self._items.own()
        old, had = skipped[parts], items[parts]
        count = stop - first
        self.cut = self.cut or bool(first.any())
        skipped[parts], items[parts] = first, count
        self.total += int(count.sum()) - int(had.sum())
        self.changes.append(Change(parts, old, old + had, first, stop))
        self._before = self._lasts = None

    def steps_before(self, rows: Rows, part: Rows) -> Rows:
        """How many steps there are before these in their trajectories, those that have left a ring
        included."""
        place = (rows - self._start.values[part]) // self._stride.values[part]
        found: Rows = self._offset.values[part] + place
        return found

    def evict(self, first: int) -> None:
        """Rows before this one have left the ring."""
        before, self.first_row = self.first_row, first
        if first <= before or not len(self._start):
            return
        rows = np.arange(before, min(first, self.stop_row))
        part, inside = self.finder.find(rows)
        part = part[(inside >= 0) & (inside < self._length.values.take(part))]
        self.steps -= len(part)
        parts = np.unique(part) if len(part) > FEW else np.array(sorted(set(part.tolist())), np.int64)
        stride, length = self._stride.values[parts], self._length.values[parts]
        cut = np.minimum(-((self._start.values[parts] - first) // stride), length)
        self.dead += int((cut == length).sum())
        low = self._offset.values[parts] + cut + self.history
        lows, skipped, items = self._low.own(), self._skipped.own(), self._items.own()
        self.cut = True
        while len(parts):
            low = lows[parts] = np.maximum(lows[parts], low)
            offset = self._offset.values[parts]
            old, had = skipped[parts], items[parts]
            begin = np.minimum(np.maximum(low - offset, 0), self._length.values[parts])
            stop = np.maximum(old + had, begin)
            stop = np.where(had > 0, stop, begin)
            skipped[parts], items[parts] = begin, stop - begin
            self.total += int((stop - begin - had).sum())
            self.changes.append(Change(parts, old, old + had, begin, stop))
            parts = self._next.values[parts]
            going = parts >= 0
            parts, low = parts[going], low[going]
        self._before = self._lasts = None

    def compact(self, needed: Rows) -> Rows | None:
        """Let go of parts that have left the ring and are not `needed`, if they are many; the new number of
        each part then, or -1."""
        if self.dead <= max(DEAD, len(self._start) // 2):
            return None
        start, length, stride = self._start.values, self._length.values, self._stride.values
        there = start + (length - 1) * stride >= self.first_row
        there[needed] = True
        kept = np.flatnonzero(there)
        moved = np.full(len(start) + 1, -1, np.int64)  # the last for -1
        moved[kept] = np.arange(len(kept))
        for name in ("_start", "_length", "_stride", "_trajectory", "_offset", "_final", "_low", "_skipped"):
            setattr(self, name, Grown(getattr(self, name).values[kept]))
        self._items = Grown(self._items.values[kept])
        self._next = Grown(moved[self._next.values[kept]])
        self._previous = Grown(moved[self._previous.values[kept]])
        self.finder = Finder()
        self.finder.add(self._start.values, self._stride.values)
        self.dead, self.version = 0, self.version + 1
        self._before = self._lasts = None
        return moved[:-1]

    def take_changes(self) -> Change | None:
        """What has become of parts since this was asked last: each of them once."""
        changes, self.changes = self.changes, []
        if len(changes) < 2:
            return changes[0] if changes else None
        every = Change(*(np.concatenate(columns) for columns in zip(*changes, strict=True)))
        if len(every.parts) <= FEW and len(set(every.parts.tolist())) == len(every.parts):
            return every
        parts, oldest = np.unique(every.parts, return_index=True)
        if len(parts) == len(every.parts):
            return every
        newest = len(every.parts) - 1 - np.unique(every.parts[::-1], return_index=True)[1]
        return Change(
            parts, every.first[oldest], every.stop[oldest], every.new_first[newest], every.new_stop[newest]
        )


def _items(low: Rows, high: Rows, length: Rows) -> tuple[Rows, Rows]:
    """From which of its steps to before which a part has items, by where they may begin and where none begins
    any more; which both become what is found."""
    np.minimum(np.maximum(low, 0, out=low), length, out=low)
    np.maximum(np.minimum(high, length, out=high), low, out=high)
    return low, high


def _by_trajectory(trajectory: Rows, offset: Rows) -> tuple[Rows, Rows, Rows]:
    """The order of parts by trajectory and place in it, where each trajectory begins in that, and how many
    parts it has."""
    count = len(trajectory)
    if (trajectory[1:] > trajectory[:-1]).all():  # as most often, one each: it is known then
        order = np.arange(count)
        return order, order, np.ones(1, np.int64)
    order = np.lexsort((offset, trajectory))
    of = trajectory[order]
    begins = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
    return order, begins, np.diff(np.append(begins, count))
