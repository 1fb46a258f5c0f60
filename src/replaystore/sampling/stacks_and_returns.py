"""What the items of a batch show: transitions, stacks of frames, n-step returns; fragments.py has those of
many steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.sampling.finals import Ends, Finals, GrownFinals
from replaystore.sampling.fragments import Fragments
from replaystore.sampling.gather import Batch, Gather, check_out
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.steps import Drawn, Rows, Steps
from replaystore.schema.fields import Schema

__all__ = ["Items", "Out", "Planned", "flags_of", "observations_of"]

Out = Mapping[str, NDArray[Any]]


@dataclass
class Planned:
    """Items that were drawn at once."""

    drawn: Drawn
    shown: Rows
    """Of transitions the row with the next observation; of stacks the rows of their observations, (items,
    depth (+ 1))."""
    ends: Ends | None
    """Where there are final observations among those; None if nobody asks."""
    whole: NDArray[np.bool_] | None = None
    """Of fragments, those for which nothing has to be looked for."""


class Items:
    """Makes the fields of items, from rows that are stored once: the next observation, stacks, fragments and
    n-step returns are made here."""

    def __init__(
        self,
        recipe: Recipe,
        schema: Schema,
        gather: Gather,
        finals: Finals | GrownFinals,
        steps: Steps,
        have: Callable[[int], None] | None = None,
    ) -> None:
        """`have` has the rows before one in the store, where some may be staged yet; it is asked for those of
        transitions alone."""
        self._have = have
        self.recipe, self.gather, self.steps = recipe, gather, steps
        self._schema, self.finals = schema, finals
        self._observations = observations_of(recipe, schema)
        self._next = self._observations if recipe.next_observation else ()
        self._others = tuple(name for name in recipe.names if name not in self._observations)
        self._rewards = schema.names("reward")
        self._flags = flags_of(schema)
        self._fragments = Fragments(recipe, schema, gather, finals, steps, self._observations)

    def plan(self, drawn: Drawn, size: int) -> Planned:
        """Find out for many items at once what they show; batches will be of `size` items."""
        recipe, following = self.recipe, bool(self._next)
        if recipe.fragment_length is not None:
            return Planned(drawn, drawn.rows, None, self._fragments.whole(drawn))
        if recipe.n_step > 1 or not (recipe.frame_stack or following):
            return Planned(drawn, drawn.rows, None)
        if recipe.frame_stack is None:
            shown, at, number = self.steps.next_of(*drawn[:2], drawn.place)
            return Planned(drawn, shown, Ends(self.finals, at, number, count=len(shown), size=size))
        shown, final = self._stacked(drawn.rows, drawn.part, recipe.frame_stack, following=following)
        if not following:
            return Planned(drawn, shown, None)
        at = np.flatnonzero(final >= 0)
        depth = recipe.frame_stack + 1
        ends = Ends(self.finals, at, final[at], count=len(shown), size=size, shown=depth)
        return Planned(drawn, shown, ends)

    def show(self, planned: Planned, begin: int, end: int, out: Out | None = None) -> Batch:
        """What the fields of some of these items are. `out`: what an earlier call returned, to be filled
        again."""
        recipe = self.recipe
        if recipe.fragment_length is not None:
            drawn, whole = planned.drawn, planned.whole
            batch = self._fragments.show(
                Drawn(drawn.rows[begin:end], drawn.part[begin:end]),
                whole=whole is not None and bool(whole[begin:end].all()),
            )
        elif recipe.n_step > 1:
            drawn = Drawn(planned.drawn.rows[begin:end], planned.drawn.part[begin:end])
            batch = (
                self._n_step(drawn)
                if recipe.frame_stack is None
                else self._stacked_n_step(drawn, recipe.frame_stack)
            )
        elif recipe.frame_stack is not None:
            batch = self._stacks(planned, begin, end)
        else:
            return self._transitions(planned, begin, end, out)
        return batch if out is None else self._copied(batch, out)

    def _copied(self, batch: Batch, out: Out) -> Batch:
        for name, values in batch.items():
            given = out.get(name)
            check_out(name, given, values.shape, values.dtype)
            np.copyto(out[name], values)
        return {name: out[name] for name in batch}

    # --- transitions

    def _transitions(self, planned: Planned, begin: int, end: int, out: Out | None) -> Batch:
        names, rows = self.recipe.names, planned.drawn.rows[begin:end]
        shown = planned.shown[begin:end]
        if self._have is not None and len(shown):  # it is the row itself, or one behind it
            self._have(int(np.maximum.reduce(shown)) + 1)
        if out is not None:
            for name in names:
                declared = self._schema.fields[name]
                check_out(name, out.get(name), (len(rows), *declared.shape), declared.dtype)
                if name in self._next:
                    check_out(
                        f"next_{name}", out.get(f"next_{name}"), (len(rows), *declared.shape), declared.dtype
                    )
        batch = self.gather.take(names, rows, out)
        if self._next:
            again = None if out is None else {name: out[f"next_{name}"] for name in self._next}
            found = self.gather.take(self._next, shown, again)
            if planned.ends is not None:
                planned.ends.put(found, begin // self.recipe.batch_size)
            for name, values in found.items():
                batch[f"next_{name}"] = values
        return batch

    def _after(self, rows: Rows, part: Rows) -> Batch:
        """The observations after these rows, of any shape: {field: array of that shape and the field's}."""
        following, final = self.steps.after(rows.reshape(-1), part.reshape(-1))
        return self._observed(following.reshape(rows.shape), final)

    def _observed(self, rows: Rows, final: Rows | None = None) -> Batch:
        """The observations at these rows, of any shape: {field: array of that shape and the field's}.
        `final`: for each row, in order, the number of the final observation that stands for it, or -1."""
        found = self.gather.take(self._observations, rows.reshape(-1))
        if final is not None:
            self.finals.put(found, final)
        return {name: values.reshape(*rows.shape, *values.shape[1:]) for name, values in found.items()}

    # --- n-step returns

    def _n_step(self, drawn: Drawn) -> Batch:
        names = [name for name in self.recipe.names if name not in self._rewards and name not in self._flags]
        batch = self.gather.take(names, drawn.rows)
        more, last, part = self._returns(drawn)
        batch |= more
        if self._next:
            batch |= {f"next_{name}": values for name, values in self._after(last, part).items()}
        return batch

    def _returns(self, drawn: Drawn) -> tuple[Batch, Rows, Rows]:
        """Discounted sums of rewards up to n steps on or the end of the trajectory, flags of the last step,
        the discount of the value of what follows; the row of the last step, and its part."""
        count, steps = self.recipe.n_step, np.arange(self.recipe.n_step)
        left = self.steps.left(drawn, count)
        rows, part = self.steps.advance(
            drawn.rows[:, None], drawn.part[:, None], np.minimum(steps, left[:, None] - 1)
        )
        read = self.gather.take([*self._rewards, *self._flags], rows.reshape(-1))
        values = {name: column.reshape(len(rows), count, *column.shape[1:]) for name, column in read.items()}
        none = np.zeros((len(rows), count), np.bool_)
        terminated, truncated = values.get("terminated", none), values.get("truncated", none)
        # Flags may stand within a trajectory, where its source says so.
        ends = (terminated | truncated) & (steps < left[:, None])
        used = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, left)
        item = np.arange(len(rows))
        batch: Batch = {}
        wanted = self.recipe.names
        for name in [name for name in self._rewards if name in wanted]:
            reward = values[name]
            kind = reward.dtype if reward.dtype.kind == "f" else np.dtype(np.float64)
            factors = np.where(steps < used[:, None], self.recipe.gamma**steps, 0.0)
            summed = np.einsum(
                "ij,ij...->i...",
                factors,
                np.where(factors.reshape(*factors.shape, *[1] * (reward.ndim - 2)) > 0, reward, 0),
            )
            batch[name] = summed.astype(kind)
        for name in [name for name in self._flags if name in wanted]:
            batch[name] = values[name][item, used - 1]
        batch["discount"] = self.recipe.gamma**used * ~terminated[item, used - 1]
        return batch, rows[item, used - 1], part[item, used - 1]

    # --- stacks

    def _stacks(self, planned: Planned, begin: int, end: int) -> Batch:
        """Observations as (batch, depth, ...), the newest last; two views of the same frames where the next
        one is asked for."""
        depth = self.recipe.frame_stack or 1
        batch = self.gather.take(self._others, planned.drawn.rows[begin:end]) if self._others else {}
        shown = planned.shown[begin:end]
        # Taking stacks that lie side by side whole is no quicker.
        found = self.gather.take(self._observations, shown.reshape(-1))
        if planned.ends is not None:
            planned.ends.put(found, begin // self.recipe.batch_size)
        for name, values in found.items():
            stacks = values.reshape(*shown.shape, *values.shape[1:])
            batch[name] = stacks[:, :depth]
            if self._next:
                batch[f"next_{name}"] = stacks[:, 1:]
        return batch

    def _stacked_n_step(self, drawn: Drawn, depth: int) -> Batch:
        others = [name for name in self._others if name not in self._rewards and name not in self._flags]
        batch = self.gather.take(others, drawn.rows)
        batch |= self._observed(self._stacked(drawn.rows, drawn.part, depth, following=False)[0])
        more, last, part = self._returns(drawn)
        batch |= more
        if self._next:
            shown, final = self._stacked(last, part, depth, following=True)
            final = np.where(np.arange(depth) == depth - 1, final[:, None], -1)
            batch |= {
                f"next_{name}": values
                for name, values in self._observed(shown[:, 1:], final.reshape(-1)).items()
            }
        return batch

    def _stacked(self, rows: Rows, part: Rows, depth: int, *, following: bool) -> tuple[Rows, Rows]:
        """The rows whose observations stacks show, oldest first, with the one that follows: (stacks, depth (+
        1)); and the number of the final observation that stands for the last, or -1."""
        steps, back = self.steps, np.arange(depth - 1, -1, -1)
        start, length, stride = steps.bounds(part)
        shown = rows[:, None] - stride[:, None] * np.arange(depth - 1, -1 - following, -1)
        final = np.full(len(rows), -1)
        cut = np.flatnonzero((shown[:, 0] < start) | (rows + following * stride >= start + length * stride))
        shown[cut, :depth] = steps.back(rows[cut, None], part[cut, None], back)
        if following:
            shown[cut, depth], final[cut] = steps.after(rows[cut], part[cut])
        return shown, final


def observations_of(recipe: Recipe, schema: Schema) -> tuple[str, ...]:
    """The fields of observations that are asked for."""
    return tuple(name for name in recipe.names if schema.fields[name].role == "observation")


def flags_of(schema: Schema) -> tuple[str, ...]:
    """The fields that say how a trajectory ends."""
    return tuple(role for role in ("terminated", "truncated") if role in schema.fields)
