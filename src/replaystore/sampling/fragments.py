"""Fragments: consecutive steps of one trajectory, from each item's own step on, up to it, or around it;
padded where the trajectory has no more, with a mask.

Invariants:
(1) Where the mask is False, every value is zero; True stand together, and one of them is the item's own step.
(2) Steps that have left a ring are no reason to pad: what would show them is no item. So a mask that begins
with False says that the trajectory begins there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replaystore.sampling.finals import Finals, GrownFinals
from replaystore.sampling.gather import Batch, Gather
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.steps import Drawn, Rows, Steps
from replaystore.schema.fields import Schema

__all__ = ["Fragments", "reads_as"]


@dataclass
class _Around:
    """What there is around the own steps of items, which is shown from `-before` to `after`."""

    drawn: Drawn
    have: Rows
    """Steps before the own one that the trajectory has, of those that are shown."""
    left: Rows
    """Steps from the own one on that it has."""
    start: Rows
    count: Rows
    stride: Rows
    place: Rows
    """Where in its part the own step is."""
    lane: int
    """The stride of all of them; 0: there are several."""


class Fragments:
    """Makes the arrays of fragments; `observations` are the fields whose next values are known, and that
    stacks are made of."""

    def __init__(
        self,
        recipe: Recipe,
        schema: Schema,
        gather: Gather,
        finals: Finals | GrownFinals,
        steps: Steps,
        observations: tuple[str, ...],
    ) -> None:
        self.recipe, self.gather, self.steps = recipe, gather, steps
        self._schema, self._finals = schema, finals
        self._depth = recipe.frame_stack or 1
        self._stacked = observations if recipe.frame_stack is not None else ()
        self._names = tuple(name for name in recipe.names if name not in self._stacked)
        self._next = observations if recipe.next_observation and not self._stacked else ()
        self._before, self._after = recipe.before, recipe.after
        self._offsets = np.arange(-self._before, self._after)
        self._length = recipe.before + recipe.after

    def whole(self, drawn: Drawn) -> NDArray[np.bool_] | None:
        """Which items have all of their steps, and the observations behind them, in one part, so that `show`
        need not look for any; None: it looks itself."""
        stride = self.steps.finder.stride
        if not stride or self.recipe.padded or self._stacked:
            return None
        start, count, _ = self.steps.bounds(drawn.part)
        return (drawn.rows - start) // stride + (self._after + bool(self._next)) <= count

    def show(self, drawn: Drawn, *, whole: bool = False) -> Batch:
        """{field: array of shape (items, steps, *field shape)}, and `mask` if there may be padding.

        `whole`: all items are that."""
        if whole:
            return self._side_by_side(drawn.rows, self.steps.finder.stride)
        steps, recipe = self.steps, self.recipe
        start, count, stride = steps.bounds(drawn.part)
        items = len(drawn.rows)
        lane = steps.finder.stride or (int(stride[0]) if items and (stride == stride[0]).all() else 0)
        place = drawn.rows - start
        if lane != 1:
            place //= lane or stride
        have = self._have(drawn, self._before)
        left = steps.left(drawn, self._after) if recipe.pad == "end" else np.full(items, self._after)
        around = _Around(drawn, have, left, start, count, stride, place, lane)
        batch = self._plain(around)
        offsets, mask = self._offsets, None
        if recipe.padded:
            mask = offsets < left[:, None]
            if self._before:
                mask &= offsets >= -have[:, None]
        if self._stacked:
            batch |= self._stacks(around, offsets, mask)
            names = self.recipe.names
            extra = [name for name in batch if name not in names]
            batch = {name: batch[name] for name in (*names, *extra)}
        if mask is None:
            return batch
        item, step = np.nonzero(~mask)
        if len(item):
            for values in batch.values():
                values[item, step] = 0  # quicker than by the mask: few items are padded
        batch["mask"] = mask
        return batch

    # --- fields that are shown as they are

    def _plain(self, around: _Around) -> Batch:
        """All but stacks; what is padding is not defined."""
        drawn, steps, before, lane = around.drawn, self.steps, self._before, around.lane
        begin, over = around.place - around.have, around.place + around.left - around.count
        cut, ended = over > 0, (over == 0).nonzero()[0] if self._next else ()
        if before:
            cut |= begin < 0
        places = before + around.left[ended] - 1 if len(ended) else ()
        last = steps.stop_row - 1 - (self._length - 1 + bool(self._next)) * lane
        if lane and last >= steps.first_row:
            first = drawn.rows - before * lane
            cut |= first > last
            if before:
                cut |= first < steps.first_row
            batch = self._side_by_side(np.maximum(np.minimum(first, last), steps.first_row), lane)
        else:
            rows = drawn.rows[:, None] + around.stride[:, None] * self._offsets
            beyond = self.recipe.padded or np.count_nonzero(cut) > 0
            batch = self._spread(self._names, self._clipped(rows, around) if beyond else rows)
            rows += around.stride[:, None]
            if beyond:
                rows = self._clipped(rows, around)
            elif len(ended):
                rows[ended, places] -= around.stride[ended]
            batch |= {f"next_{name}": v for name, v in self._spread(self._next, rows).items()}
        if len(ended):
            rows = around.start[ended] + (around.count[ended] - 1) * around.stride[ended]
            for name, values in self._following(rows, drawn.part[ended]).items():
                batch[f"next_{name}"][ended, places] = values
        at = cut.nonzero()[0]
        if not len(at):
            return batch
        rows, part = self._walked(around, at, self._offsets)
        for name, values in self.gather.take(self._names, rows.reshape(-1)).items():
            batch[name][at] = values.reshape(*rows.shape, *values.shape[1:])
        for name, values in (self._following(rows, part) if self._next else {}).items():
            batch[f"next_{name}"][at] = values
        return batch

    def _clipped(self, rows: Rows, around: _Around) -> Rows:
        """Rows of items, or the nearest ones that their parts have."""
        low = np.maximum(around.start, self.steps.first_row)[:, None]
        return rows.clip(low, (around.start + (around.count - 1) * around.stride)[:, None])

    def _have(self, drawn: Drawn, most: int) -> Rows:
        """How many steps there are before each item's own in its trajectory; `most` where there are more."""
        if not most:
            return np.zeros(len(drawn.rows), np.int64)
        return np.minimum(self.steps.steps_before(drawn.rows, drawn.part), most)

    def _walked(self, around: _Around, at: Rows, offsets: Rows, more: int = 0) -> tuple[Rows, Rows]:
        """Rows of some items, and their parts, so far from their own; where the trajectory has none the
        nearest one. `more`: steps before those that `have` counts."""
        drawn = around.drawn
        have = around.have[at] if not more else self._have(_some(drawn, at), self._before + more)
        by = np.minimum(np.maximum(offsets, -have[:, None]), around.left[at, None] - 1)
        return self.steps.advance(drawn.rows[at, None], drawn.part[at, None], by)

    def _following(self, rows: Rows, part: Rows) -> Batch:
        """The observations after these rows, of any shape: {field: array of that shape and the field's}."""
        following, final = self.steps.after(rows.reshape(-1), part.reshape(-1))
        return self._observed(self._next or self._stacked, following.reshape(rows.shape), final)

    def _observed(self, names: Sequence[str], rows: Rows, final: Rows) -> Batch:
        """Observations at rows; `final`: the number of the final observation instead of each, or -1."""
        if (final >= 0).all():  # as at the ends of trajectories, nearly always
            found = self._finals.read(final)
        else:
            found = self.gather.take(names, rows.reshape(-1))
            self._finals.put(found, final)
        return {name: values.reshape(*rows.shape, *values.shape[1:]) for name, values in found.items()}

    def _spread(self, names: tuple[str, ...], rows: Rows) -> Batch:
        """Rows that are given one by one: {field: array of their shape and the field's}."""
        found = self.gather.take(names, rows.reshape(-1)) if names else {}
        return {name: values.reshape(*rows.shape, *values.shape[1:]) for name, values in found.items()}

    def _side_by_side(self, first: Rows, stride: int) -> Batch:
        """What lies from these rows on, `stride` rows apart."""
        batch = self.gather.runs(self._names, first, self._length, stride)
        if self._next:
            following = self.gather.runs(self._next, first + stride, self._length, stride)
            batch |= {f"next_{name}": values for name, values in following.items()}
        return batch

    # --- stacks of frames

    def _stacks(self, around: _Around, offsets: Rows, mask: NDArray[np.bool_] | None) -> Batch:
        """Observations as (items, steps, depth, ...), the newest last: views of frames that are gathered
        once, but for those that are padded."""
        depth, following = self._depth, self.recipe.next_observation
        every = np.arange(len(around.drawn.rows))
        offsets = np.concatenate([offsets[0] - np.arange(depth - 1, 0, -1), offsets])
        rows, part = self._walked(around, every, offsets, depth - 1)
        final = np.full((len(rows), len(offsets) + following), -1, np.int64)
        item = at = every[:0]
        if following:
            number = self._before + depth - 1 + around.left  # of the frame after the last step
            last, after = self.steps.after(rows[every, number - 1], part[every, number - 1])
            inner = self.steps.after(rows.reshape(-1), part.reshape(-1))[1].reshape(rows.shape)
            shown = (offsets >= -around.have[:, None]) & (offsets < around.left[:, None] - 1)
            item, at = np.nonzero((inner >= 0) & shown)
            rows = np.concatenate([rows, rows[:, -1:]], axis=1)
            rows[every, number], final[every, number] = last, after
        frames = self._observed(self._stacked, rows, final.reshape(-1))
        batch: Batch = {}
        copied = mask is not None and not mask.all()
        for name, values in frames.items():
            stacks = np.lib.stride_tricks.sliding_window_view(values, depth, axis=1, writeable=True)
            stacks = np.moveaxis(stacks, -1, 2)
            own, after_own = stacks[:, : self._length], stacks[:, 1:]
            batch[name] = own.copy() if copied else own
            if following:
                batch[f"next_{name}"] = after_own.copy() if copied or len(item) else after_own
        if len(item):  # a part may end with an observation that its trajectory does not go on with
            for name, found in self._observed(self._stacked, rows[item, at], inner[item, at]).items():
                batch[f"next_{name}"][item, at - (depth - 1), depth - 1] = found
        return batch


def _some(drawn: Drawn, at: Rows) -> Drawn:
    return Drawn(drawn.rows[at], drawn.part[at])


def reads_as(recipe: Recipe) -> str:
    """For people: what fragments are, and where they are padded."""
    text = f"{recipe.fragment_length} steps"
    if recipe.pad == "start":
        text = f"the {recipe.fragment_length} steps up to each"
    if recipe.burn_in:
        text += f", behind {recipe.burn_in} to burn in"
    where = {"start": "at the start", "end": "at the end", None: ""}[recipe.pad]
    if recipe.burn_in:
        where = " and ".join(filter(None, ["at the start", where]))
    return f"fragments: {text}" + (f"; padded {where} with zeros, and masked" if where else "")
