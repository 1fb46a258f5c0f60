"""The batches of one commit: which items each is made of, and what they show. The next observation, stacks,
fragments and n-step returns are made here, from rows that are stored once.

Batches are planned a window at a time, so that drawing costs little for each, and chunks are decoded for many
batches at once. What a batch holds depends on the seed, the epoch and its number only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling.finals import Ends, Finals
from replaystore.sampling.gather import Batch, Gather, check_out
from replaystore.sampling.orders import (
    POOL_ROWS,
    Drawn,
    EpochOrder,
    Steps,
    TrajectoryOrder,
    UniformOrder,
    WeightedOrder,
)
from replaystore.sampling.recipe import Recipe

if TYPE_CHECKING:
    from replaystore.views.reader import BufferReader

__all__ = ["Batches"]

WINDOW_ROWS = 8192
"""Items that are drawn at once."""
WINDOW_BATCHES = 256
HOLD_BATCHES = 32
"""Batches that chunks are decoded for at once."""
BESIDE = 4
"""Chunks of a block of an epoch for each one beside it that its items show."""
LEAST_BLOCK = 16
"""Rows."""

Rows = NDArray[np.int64]
Out = Mapping[str, NDArray[Any]]


@dataclass
class _Window:
    """Items drawn at once."""

    epoch: int
    first: int
    """The number of its first batch."""
    drawn: Drawn
    shown: Rows
    """Of transitions the row with the next observation; of stacks the rows of their observations, (items,
    depth (+ 1))."""
    ends: Ends | None
    """Where there are final observations among those; None if nobody asks."""
    held: int = 0
    """Items whose chunks have been decoded."""


class Batches:
    """Makes batches from what a buffer shows now.

    Args:
        weights: with order "weights": one for each step of the buffer, or for each row of its table of
        trajectories.

    Raises:
        ArgumentError: there is nothing that can be drawn so.
    """

    def __init__(
        self, buffer: BufferReader, recipe: Recipe, seed: int, weights: NDArray[np.float64] | None = None
    ) -> None:
        self.recipe, self.commit = recipe, buffer.commit_id
        self._schema = buffer.schema
        self._observations = tuple(
            name for name in recipe.names if buffer.schema.fields[name].role == "observation"
        )
        self._next = self._observations if recipe.next_observation else ()
        self._others = tuple(name for name in recipe.names if name not in self._observations)
        self._rewards = buffer.schema.names("reward")
        self._flags = tuple(role for role in ("terminated", "truncated") if role in buffer.schema.fields)
        extra = [*self._rewards, *self._flags] if recipe.n_step > 1 else []
        self.gather = Gather(buffer, list(dict.fromkeys([*recipe.names, *extra])), recipe.slab_bytes)
        self._finals = Finals(buffer, self._next, recipe.slab_bytes)
        self.steps = Steps(
            buffer.parts,
            _selected(buffer, recipe),
            span=recipe.fragment_length or 1,
            history=(recipe.frame_stack or 1) - 1,
            following=bool(self._next),
            pending=self._finals.numbers,
        )
        if not self.steps.total:
            raise ArgumentError(f"{buffer.location}: {self._nothing(buffer)}")
        self.first_row, self.stop_row = buffer._first, buffer._stop
        self.order = self._ordered(buffer, seed, weights)
        self._window: _Window | None = None
        self._coming: _Window | None = None
        """The one after it, once it is drawn."""
        self._pools: tuple[int, int, int] | None = None
        """The epoch, and the pools of it, that were held last."""
        size = recipe.batch_size
        self._ahead = max(1, min(WINDOW_BATCHES, WINDOW_ROWS // size)) if self.order.ahead else 1
        """Batches of a window; it may depend on nothing but the recipe, or batches would."""

    def _nothing(self, buffer: BufferReader) -> str:
        """Why nothing can be drawn."""
        recipe = self.recipe
        if not len(buffer):
            return "there is no step to sample: the buffer is empty, or nothing was committed yet"
        selection = [
            f"{name} {value!r}"
            for name, value in (("split", recipe.split), ("where", recipe.where))
            if value is not None
        ]
        lengths = buffer.trajectories.where(
            recipe.where, **({} if recipe.split is None else {"split": recipe.split})
        ).length
        if not len(lengths):
            return f"there is no step to sample: no trajectory has {' and '.join(selection)}"
        of = f" with {' and '.join(selection)}" if selection else ""
        if recipe.fragment_length is not None and int(lengths.max()) < recipe.fragment_length:
            return (
                f"no trajectory{of} has {recipe.fragment_length} steps; the longest has "
                f"{int(lengths.max())}: use a smaller fragment_length"
            )
        return f"there is no step to sample{of}: no next observation is known; ask for next_observation=False"

    def _ordered(self, buffer: BufferReader, seed: int, weights: NDArray[np.float64] | None) -> Any:
        recipe, steps = self.recipe, self.steps
        if recipe.order == "trajectory":
            return TrajectoryOrder(steps, seed)
        if recipe.order == "epoch":
            return self._blocks(seed)
        if recipe.order == "weights":
            assert weights is not None
            trajectories = buffer.trajectories["trajectory"] if recipe.per_trajectory else None
            order = WeightedOrder(
                steps, seed, weights, first=buffer._first, trajectories=trajectories, beta=recipe.beta
            )
            if not order.weights.total > 0:
                raise ArgumentError(
                    f"{buffer.location}: all weights are 0 where there is something to sample"
                )
            return order
        return UniformOrder(steps, seed)

    def _blocks(self, seed: int) -> EpochOrder:
        """Blocks of so many chunks that those beside them, which their first and last items show too, are
        few; pools of which two fit in the memory for decoded chunks: one that is used, and the next."""
        unit = self.gather.block_rows
        beside = sum(-(-rows // unit) for rows in self._around)
        chunks = max(1, BESIDE * beside, -(-LEAST_BLOCK // unit))
        room = self.gather.room * 2 // 5 * chunks // (chunks + beside)
        return EpochOrder(
            self.steps, seed, block_rows=unit * chunks, pool_rows=min(POOL_ROWS, max(unit * chunks, room))
        )

    @property
    def per_epoch(self) -> int | None:
        """How many batches an epoch has; None: it does not end."""
        return -(-self.steps.total // self.recipe.batch_size) if self.recipe.order == "epoch" else None

    # --- batches

    def forget(self) -> None:
        """Begin anew in a forked child: a thread may have been half through with a batch, and nobody decodes
        what was expected."""
        self._window = self._coming = self._pools = None
        self.gather.forget()
        self._finals.forget()
        if isinstance(self.order, EpochOrder):
            self.order.forget()

    def make(self, epoch: int, number: int, out: Out | None = None) -> Batch:
        """Batch `number` of an epoch. `out`: what an earlier call returned, to be filled again."""
        size = self.recipe.batch_size
        window = self._window
        if (
            window is None
            or window.epoch != epoch
            or not window.first <= number < window.first + self._ahead
            or not self.order.ahead
        ):
            window = self._window = self._entered(epoch, number // self._ahead * self._ahead)
        begin = (number - window.first) * size
        end = min(begin + size, len(window.drawn.rows))
        if self.gather.coded and end > window.held:
            self._hold(window, begin)
        batch = self._show(window, begin, end, out)
        if window.drawn.index is not None and window.drawn.importance is not None:
            batch["index"], batch["weight"] = (
                window.drawn.index[begin:end],
                window.drawn.importance[begin:end],
            )
        return batch

    def items(self, numbers: Rows) -> Batch:
        """The items of these numbers, from 0 to `steps.total` - 1 in the order of rows, as a batch."""
        return (
            self._show(self._window_of(-1, 0, self.steps.at(numbers), len(numbers)), 0, len(numbers), None)
            if len(numbers)
            else {}
        )

    def _entered(self, epoch: int, first: int) -> _Window:
        """The window that begins with batch `first`; it may be drawn already."""
        coming, self._coming = self._coming, None
        if coming is not None and (coming.epoch, coming.first) == (epoch, first) and self.order.ahead:
            return coming
        return self._plan(epoch, first)

    def _plan(self, epoch: int, first: int) -> _Window:
        size = self.recipe.batch_size
        start, stop = first * size, (first + self._ahead) * size
        stop = min(stop, self.steps.total) if self.per_epoch is not None else stop
        return self._window_of(epoch, first, self.order.draw(epoch, start, stop), size)

    def _window_of(self, epoch: int, first: int, drawn: Drawn, size: int) -> _Window:
        recipe, following = self.recipe, bool(self._next)
        if recipe.fragment_length is not None or recipe.n_step > 1 or not (recipe.frame_stack or following):
            return _Window(epoch, first, drawn, drawn.rows, None)
        if recipe.frame_stack is None:
            shown, final = self.steps.after(drawn.rows, drawn.part)
            return _Window(epoch, first, drawn, shown, Ends(self._finals, final, size))
        shown, final = self._stacked(drawn.rows, drawn.part, recipe.frame_stack, following=following)
        return _Window(
            epoch,
            first,
            drawn,
            shown,
            Ends(self._finals, final, size, recipe.frame_stack + 1) if following else None,
        )

    def _show(self, window: _Window, begin: int, end: int, out: Out | None) -> Batch:
        """What the fields of some of a window's items are."""
        recipe = self.recipe
        if recipe.fragment_length is not None:
            batch = self._fragments(
                Drawn(window.drawn.rows[begin:end], window.drawn.part[begin:end]), recipe.fragment_length
            )
        elif recipe.n_step > 1:
            drawn = Drawn(window.drawn.rows[begin:end], window.drawn.part[begin:end])
            batch = (
                self._n_step(drawn)
                if recipe.frame_stack is None
                else self._stacked_n_step(drawn, recipe.frame_stack)
            )
        elif recipe.frame_stack is not None:
            batch = self._stacks(window, begin, end)
        else:
            return self._transitions(window, begin, end, out)
        return batch if out is None else self._copied(batch, out)

    def _hold(self, window: _Window, begin: int) -> None:
        """Decode for the next batches, or for so many of them as there is room for; begin with those behind
        them then."""
        size = self.recipe.batch_size
        if self.order.ahead and not isinstance(self.order, EpochOrder):  # which asks for nothing again
            coming = self._coming = self._coming or self._plan(window.epoch, window.first + self._ahead)
            rows = np.concatenate([window.drawn.rows[begin:], coming.drawn.rows])
            self.gather.foresee(*self._widened(rows, rows))
        count = min(HOLD_BATCHES * size, len(window.drawn.rows) - begin)
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
        if not self.order.ahead:
            return
        if isinstance(self.order, EpochOrder):
            pool = self.order.pools(0, window.first * size + end)[1]
            first, last = self._widened(*self.order.reach(pool, pool + 1))
        else:
            if end == len(window.drawn.rows) and self._coming is not None:
                window, end = self._coming, 0
            first, last = self._reach(window, end, end + HOLD_BATCHES * size)
        if len(first):
            self.gather.expect(first, last)

    def _reach(self, window: _Window, begin: int, end: int) -> tuple[Rows, Rows]:
        """The first and last row that each of some items shows, if its trajectory lies in one part; of an
        epoch those of whole pools, which are about to be needed."""
        if isinstance(self.order, EpochOrder):
            start = window.first * self.recipe.batch_size
            return self._widened(*self.order.reach(*self.order.pools(start + begin, start + end)))
        return self._widened(window.drawn.rows[begin:end], window.drawn.rows[begin:end])

    def _widened(self, first: Rows, last: Rows) -> tuple[Rows, Rows]:
        """From items' own rows to those that they show."""
        before, behind = self._around
        return np.maximum(first - before, self.first_row), last + behind

    @property
    def _around(self) -> tuple[int, int]:
        """How many rows before and behind its own an item shows."""
        recipe = self.recipe
        return (recipe.frame_stack or 1) - 1, (recipe.fragment_length or recipe.n_step) - 1 + bool(self._next)

    def _copied(self, batch: Batch, out: Out) -> Batch:
        for name, values in batch.items():
            given = out.get(name)
            check_out(name, given, values.shape, values.dtype)
            np.copyto(out[name], values)
        return {name: out[name] for name in batch}

    # --- transitions

    def _transitions(self, window: _Window, begin: int, end: int, out: Out | None) -> Batch:
        names, rows = self.recipe.names, window.drawn.rows[begin:end]
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
            found = self.gather.take(self._next, window.shown[begin:end], again)
            if window.ends is not None:
                window.ends.put(found, begin // self.recipe.batch_size)
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
            self._finals.put(found, final)
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
        left = np.minimum(self.steps.left(drawn), count)
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

    # --- fragments

    def _fragments(self, drawn: Drawn, length: int) -> Batch:
        batch = self._runs(self.recipe.names, drawn.rows, length)
        batch |= {
            f"next_{name}": values for name, values in self._runs(self._next, drawn.rows + 1, length).items()
        }
        cut = np.flatnonzero(drawn.rows + length + bool(self._next) > self.steps.stop[drawn.part])
        if not len(cut):
            return batch
        rows, part = self.steps.advance(drawn.rows[cut, None], drawn.part[cut, None], np.arange(length))
        for name, values in self.gather.take(self.recipe.names, rows.reshape(-1)).items():
            batch[name][cut] = values.reshape(len(cut), length, *values.shape[1:])
        for name, values in (self._after(rows, part) if self._next else {}).items():
            batch[f"next_{name}"][cut] = values
        return batch

    def _runs(self, names: Sequence[str], rows: Rows, length: int) -> Batch:
        """From each row on so many that lie side by side, or some others where the buffer ends before."""
        if not names:
            return {}
        last = self.stop_row - length
        if last < self.first_row:
            shapes = {name: self._schema.fields[name] for name in names}
            return {
                name: np.empty((len(rows), length, *field.shape), field.dtype)
                for name, field in shapes.items()
            }
        return self.gather.runs(names, np.maximum(np.minimum(rows, last), self.first_row), length)

    # --- stacks

    def _stacks(self, window: _Window, begin: int, end: int) -> Batch:
        """Observations as (batch, depth, ...), the newest last; two views of the same frames where the next
        one is asked for."""
        depth = self.recipe.frame_stack or 1
        batch = self.gather.take(self._others, window.drawn.rows[begin:end]) if self._others else {}
        shown = window.shown[begin:end]
        # Taking stacks that lie side by side whole is no quicker.
        found = self.gather.take(self._observations, shown.reshape(-1))
        if window.ends is not None:
            window.ends.put(found, begin // self.recipe.batch_size)
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
        shown, final = rows[:, None] - np.arange(depth - 1, -1 - following, -1), np.full(len(rows), -1)
        cut = np.flatnonzero((rows - depth + 1 < steps.start[part]) | (rows + following >= steps.stop[part]))
        shown[cut, :depth] = steps.back(rows[cut, None], part[cut, None], back)
        if following:
            shown[cut, depth], final[cut] = steps.after(rows[cut], part[cut])
        return shown, final


def _selected(buffer: BufferReader, recipe: Recipe) -> NDArray[np.bool_] | None:
    """Of each part, whether its trajectory is selected; None: all are."""
    if recipe.where is None and recipe.split is None:
        return None
    equals = {} if recipe.split is None else {"split": recipe.split}
    chosen = buffer.trajectories.where(recipe.where, **equals)["trajectory"]
    return np.isin(buffer.parts.trajectory, chosen)
