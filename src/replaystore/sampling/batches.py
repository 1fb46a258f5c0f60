"""The batches of one commit: which items each is made of.

Batches are planned a window at a time, so that drawing costs little for each (`windows.py`). What a batch
holds depends on the seed, the epoch and its number only; with order="epoch" on the memory for decoded chunks,
too, as far as is shuffled at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.live import LiveColumns
from replaystore.sampling.finals import Finals, GrownFinals
from replaystore.sampling.following import Follower
from replaystore.sampling.fragments import reads_as
from replaystore.sampling.gather import Batch, Columns, Gather, check_out
from replaystore.sampling.hindsight import Goals, Relabelling
from replaystore.sampling.orders import (
    POOL_ROWS,
    EpochOrder,
    TrajectoryOrder,
    UniformOrder,
)
from replaystore.sampling.ragged_batches import Resolver
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.stacks_and_returns import Items, Out, flags_of, observations_of
from replaystore.sampling.steps import Drawn, Rows, Steps
from replaystore.sampling.weighted_order import StepWeights, TrajectoryWeights
from replaystore.sampling.windows import NothingToDrawError, Window, Windows
from replaystore.trajectories.growth import Growth
from replaystore.views.reader import BufferReader

__all__ = ["Batches"]

WINDOW_ROWS = 16384
"""Items that are drawn at once."""
WINDOW_BATCHES = 256
BESIDE = 4
"""Chunks of a block of an epoch for each one beside it that its items show."""
LEAST_BLOCK = 16
"""Rows."""


class Batches(Windows):
    """Makes batches from what a buffer shows now.

    Args:
        weights: with order "weights": one for each step of the buffer, or for each row of its table of
        trajectories.
        largest: the weight of what is new.
        growth: what tells of what the buffer has got when these batches `go_on`.
        columns: where rows are taken from, if it is not the buffer: columns that grow as that does.
        goals: how goals are relabelled.

    Raises:
        ArgumentError: there is nothing that can be drawn so.
    """

    def __init__(
        self,
        buffer: BufferReader,
        recipe: Recipe,
        seed: int,
        weights: NDArray[np.float64] | None = None,
        largest: float | None = None,
        *,
        growth: Growth | None = None,
        columns: Columns | None = None,
        goals: Goals | None = None,
    ) -> None:
        self.recipe, self.commit, self.shows = recipe, buffer.commit_id, buffer.shows
        self.where = buffer.where
        following = observations_of(recipe, buffer.schema) if recipe.next_observation else ()
        self._columns: Columns = buffer if columns is None else columns
        self.growth = growth
        self._relabel = None if goals is None else Relabelling(goals, seed)
        self._finals = (
            Finals(buffer, following, recipe.slab_bytes) if growth is None else GrownFinals(growth, following)
        )
        shape: dict[str, Any] = {
            "span": 1 if recipe.pad else recipe.fragment_length or 1,
            "history": recipe.history,
            "following": bool(following),
        }
        if isinstance(self._finals, Finals):
            bounds = slice(buffer.first_row, buffer.first_row + len(buffer))
            parts, chosen = buffer.whole_parts(), _selected(buffer, recipe)
            self.steps = Steps.of(parts, chosen, bounds=bounds, pending=self._finals.numbers, **shape)
        else:
            self.steps = Steps(**shape)
            self._follower = Follower(self._finals.growth, self.steps)
            self.steps.take_changes()
            self._finals.go_on(live=recipe.live)
        if not self.steps.total and not recipe.live:
            raise NothingToDrawError(f"{buffer.where}: {self._nothing(buffer)}")
        self._open_columns()
        fragment = recipe.fragment_length is not None
        self._behind = (recipe.after if fragment else recipe.n_step) - 1 + bool(following)
        """How many steps behind its own an item shows."""
        self.order = self._ordered(buffer, seed, weights, largest)
        if growth is not None:
            self.order.go_on(None)
        self._version = self.steps.version
        self._window: Window | None = None
        self._later: dict[tuple[int, int], Window] = {}
        """Those after it that are drawn already, by epoch and first batch."""
        self._pools: tuple[int, int, int] | None = None
        """The epoch, and the pools of it, that were held last."""
        size = recipe.batch_size
        self.together = 1
        """Batches whose raw rows are fetched at once, if they are far; at least."""
        self._group = 1
        self._singles, self._chosen = 0, 1
        self._most = max(1, min(WINDOW_BATCHES, WINDOW_ROWS // size)) if self.order.ahead else 1
        self._ahead = 1 if recipe.live else self._most
        """Batches of the next window."""

    def _open_columns(self) -> None:
        """Open what is read, with what is known of it already."""
        recipe, schema = self.recipe, self._columns.schema
        extra = [*schema.names("reward"), *flags_of(schema)] if recipe.n_step > 1 else []
        names = list(dict.fromkeys([*recipe.names, *extra]))
        old: Gather | None = getattr(self, "gather", None)
        self.gather = Gather(self._columns, names, recipe.slab_bytes)
        if old is not None:
            self.gather.adopt(old)
        if recipe.live:  # rows of one's own are in memory, and pages that are mapped ahead are in no file yet
            self.gather.until_look = 1 << 62
        have = self._columns.have if isinstance(self._columns, LiveColumns) else None
        self._items = Items(recipe, schema, self.gather, self._finals, self.steps, have)
        self.ragged = Resolver.of(self._columns, recipe.names)
        """What brings values of any length; None: no field has such."""

    @property
    def goes_on(self) -> bool:
        """Whether these batches, once they follow the growth of what they are of, can go on to more: not if
        the order begins anew, and not with a selection of trajectories."""
        recipe = self.recipe
        anew = recipe.order == "epoch" or recipe.per_trajectory
        return not anew and recipe.where is None and recipe.split is None

    def go_on(self, buffer: BufferReader, *, columns: bool = True) -> None:
        """Go on to what there is now, at the cost of what is new. `columns`: which have got rows, too."""
        assert isinstance(self._finals, GrownFinals)
        self._follower.go_on()
        self._finals.go_on(live=self.recipe.live)
        change = self.steps.take_changes()
        if change is not None or self.steps.version != self._version:
            self.order.go_on(change)
            self._version = self.steps.version
        self.commit, self.shows = buffer.commit_id, buffer.shows
        if columns:
            self._open_columns()
        elif self.ragged is not None:
            self.ragged.go_on()
        self._window = self._pools = None
        self._later.clear()
        self._singles, self._chosen = 0, 1
        # Nobody knows how many batches are going to be asked for until it goes on again.
        self._ahead = self._most if self.gather.coded and columns else 1

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
        of = f" with {' and '.join(selection)}" if selection else ""
        bounds = slice(buffer.first_row, buffer.first_row + len(buffer))
        parts, chosen = buffer.whole_parts(), _selected(buffer, recipe)
        following = observations_of(recipe, buffer.schema) if recipe.next_observation else ()
        pending = Finals(buffer, following, recipe.slab_bytes).numbers
        if not Steps.of(parts, chosen, bounds=bounds).total:
            return f"there is no step to sample: no trajectory has {' and '.join(selection)}"
        usable = Steps.of(parts, chosen, bounds=bounds, following=bool(following), pending=pending)
        if not usable.total:
            return (
                f"there is no step to sample{of}: no next observation is known; ask for "
                "next_observation=False"
            )
        longest, length = int(usable.trajectories()[2].max()), recipe.fragment_length or 1
        if not recipe.pad and longest < length:
            return (
                f"no trajectory{of} has {length} steps{' here' if buffer.first_row else ''}; the longest has "
                f"{longest}: use a smaller fragment_length, or pad"
            )
        return (
            f"there is no step to sample{of}: the {recipe.history} steps before it that each is to show have "
            'left the ring: ask for fewer (burn_in, frame_stack, pad="start"), or make a ring of a larger '
            "capacity"
        )

    def _ordered(
        self, buffer: BufferReader, seed: int, weights: NDArray[np.float64] | None, largest: float | None
    ) -> Any:
        recipe, steps = self.recipe, self.steps
        if recipe.order == "trajectory":
            return TrajectoryOrder(steps, seed)
        if recipe.order == "epoch":
            return self._blocks(seed)
        if not recipe.weighted:
            return UniformOrder(steps, seed)
        order: StepWeights | TrajectoryWeights
        if recipe.per_trajectory:
            assert weights is not None
            ids = buffer.trajectories["trajectory"]
            order = TrajectoryWeights(steps, seed, weights, trajectories=ids, beta=recipe.beta)
        else:
            order = StepWeights(
                steps, seed, weights, capacity=buffer.capacity, beta=recipe.beta, largest=largest
            )
        order.where = buffer.where
        if not order.weights.total > 0 and not recipe.live:
            raise NothingToDrawError(
                f"{buffer.where}: all weights are 0 where there is something to sample: give some above 0"
            )
        return order

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

    def mostly_left_out(self) -> str:
        """What to say to who asks for more than most steps can show."""
        steps = self.steps
        return (
            f"{steps.left_out} of {steps.steps} steps cannot be drawn: what their items would show "
            'of other steps is not there; shorter fragments, pad="end" or next_observation=False leave out '
            "fewer"
        )

    def explain(self, seed: int) -> list[str]:
        """A few lines for people: the order, what is left out, how each field is read."""
        recipe, steps = self.recipe, self.steps
        item = "fragments" if recipe.fragment_length else "stacks" if recipe.frame_stack else "steps"
        of = f"of commit {self.commit}" + (" and what was appended since" if recipe.live else "")
        lines = [
            f"{recipe.order}: batches of {recipe.batch_size} out of {steps.total} {item} {of}, seed {seed}"
        ]
        if steps.left_out:
            reasons = "no next observation is known, or the trajectory is too short behind them"
            lines.append(f"left out: {steps.left_out} steps ({reasons})")
        if recipe.fragment_length:
            lines.append(reads_as(recipe))
        if self._relabel is not None:
            lines += self._relabel.goals.explain()
        return lines + self.gather.explain() + ([] if self.ragged is None else self.ragged.explain())

    # --- batches

    def forget(self) -> None:
        """Begin anew in a forked child: a thread may have been half through with a batch, and nobody decodes
        what was expected."""
        self._window = self._pools = None
        self._later.clear()
        self.gather.forget()
        self._finals.forget()
        if isinstance(self.order, EpochOrder):
            self.order.forget()

    def make(self, epoch: int, number: int, out: Out | None = None, count: int | None = None) -> Batch:
        """Batch `number` of an epoch. `out`: what an earlier call returned, to be filled again. `count`: only
        the first so many of its items, for who joins several, and chooses rows itself."""
        recipe, window = self.recipe, self._window
        size = recipe.batch_size
        if (
            window is None
            or window.epoch != epoch
            or not window.first <= number < window.first + window.count
            or not self.order.ahead
        ):
            window = self._window = self._entered(epoch, number)
        begin = (number - window.first) * size
        end = min(begin + (size if count is None else count), len(window.planned.drawn.rows))
        alone = count is None
        if self.gather.coded and end > window.held and (alone or not self.gather.crowded) and not recipe.live:
            self._hold(window, begin)
        if self.gather.far and end > window.fetched and alone:
            self._fetch(window, begin)
        batch = self._items.show(window.planned, begin, end, out)
        if self.ragged is not None:
            batch = self.ragged.resolve(batch)
        self.gather.used(end - begin)
        drawn, some = window.planned.drawn, slice(begin, end)
        named = self._named(batch, drawn, some)
        if self._relabel is not None:
            named |= self._relabelled(batch, drawn, some, epoch, number * size)
        if out is not None:
            for name in named.keys() & out.keys():
                check_out(name, out[name], named[name].shape, named[name].dtype)
                np.copyto(out[name], named[name])
                named[name] = out[name]
        batch |= named
        return batch

    def take(self, epoch: int, start: int, stop: int) -> Batch:
        """The items of these numbers in the sequence of an epoch, as a batch: for who joins several."""
        drawn = self._drawn(epoch, start, stop)
        batch = self._batch_of(drawn, stop - start)
        self.gather.used(stop - start)
        some = slice(0, stop - start)
        return batch | self._named(batch, drawn, some) | self._relabelled(batch, drawn, some, epoch, start)

    def _relabelled(self, batch: Batch, drawn: Drawn, some: slice, epoch: int, start: int) -> Batch:
        """Give some items the goals of hindsight; what is to be added to them."""
        if self._relabel is None:
            return {}
        return self._relabel(batch, self._items, Drawn(drawn.rows[some], drawn.part[some]), epoch, start)

    def _named(self, batch: Batch, drawn: Drawn, some: slice) -> Batch:
        """Which rows these items are, for ever; of which trajectories, and how much they weigh."""
        recipe = self.recipe
        found: Batch = {} if "index" in batch else {"index": drawn.rows[some]}  # a field may have this name
        if drawn.importance is not None:
            found["weight"] = drawn.importance[some]
        if recipe.trajectory or recipe.per_trajectory:
            found["trajectory"] = self.steps.trajectory_of(drawn.part[some])
        return found

    def items(self, numbers: Rows) -> Batch:
        """The items of these numbers, from 0 to `steps.total` - 1 in the order of rows, as a batch."""
        if not len(numbers):
            return {}
        return self._batch_of(self.steps.at(numbers), len(numbers))

    def _batch_of(self, drawn: Drawn, count: int) -> Batch:
        batch = self._items.show(self._items.plan(drawn, count), 0, count)
        return batch if self.ragged is None else self.ragged.resolve(batch)


def _selected(buffer: BufferReader, recipe: Recipe) -> NDArray[np.bool_] | None:
    """Of each part, whether its trajectory is selected; None: all are."""
    if recipe.where is None and recipe.split is None:
        return None
    equals = {} if recipe.split is None else {"split": recipe.split}
    chosen = buffer.trajectories.where(recipe.where, **equals)["trajectory"]
    return np.isin(buffer.whole_parts().trajectory, chosen)
