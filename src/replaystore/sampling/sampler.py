"""Sampler: batches of one commit of a buffer, one after the other, made ahead by a thread where that helps.

Invariants:
(1) The same seed, settings and commit give the same batches, however many are made ahead.
(2) A sampler shows one commit until `refresh`.
(3) The thread belongs to the sampler, but does not keep it alive.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from replaystore.arrays.live import LiveColumns
from replaystore.errors import (
    ArgumentError,
    ConflictError,
    CorruptError,
    EvictedError,
    UnsupportedError,
)
from replaystore.sampling import given_weights, states
from replaystore.sampling.ahead import Ahead, Place, following
from replaystore.sampling.batches import Batches
from replaystore.sampling.cautions import LOOK, Cautions
from replaystore.sampling.finishing import Finish, Finished
from replaystore.sampling.hindsight import Goals
from replaystore.sampling.iterating import Iterating, check_filled
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.refreshing import Refreshing
from replaystore.sampling.steps import Rows
from replaystore.sampling.to_device import Transfer
from replaystore.sampling.weights import as_text

if TYPE_CHECKING:
    from replaystore.views.reader import BufferReader

__all__ = ["Sampler", "check_numbers"]

AHEAD, FAR_AHEAD = 2, 8
"""Batches made ahead where nobody says how many: far away, rows of many batches come at once, and until they
have come and are sorted out a learner lives on those that are ready."""


class Prepared(NamedTuple):
    """What a sampler goes on with from a state."""

    recipe: Recipe
    seed: int
    place: Place
    batches: Batches
    live: LiveColumns | None


class Sampler(Refreshing, Iterating):
    """Batches of a buffer, made by `buffer.sampler`; an iterator that ends with the epoch if the order is
    "epoch", and else never.

    It is for one thread at a time, beside others that sample, or write, the same buffer. A forked child goes
    on with its own copy."""

    def __init__(
        self,
        buffer: BufferReader,
        recipe: Recipe,
        *,
        seed: int | None = None,
        weights: ArrayLike | None = None,
        priority: float | None = None,
        prefetch: int | None = None,
        device: Any = None,
        finish: Finish | None = None,
        goals: Goals | None = None,
        every_field: bool = False,
    ) -> None:
        """`every_field`: nobody said which fields: they are those that there are."""
        recipe.check()
        check_numbers(seed, prefetch)
        if recipe.weighted and prefetch:
            raise ArgumentError(
                "weights may change with every batch, so that none can be made ahead: leave out prefetch"
            )
        taken = {"discount"} if recipe.n_step > 1 else set[str]()
        taken |= {"index", "weight"} if recipe.weighted else set()
        taken |= {"relabelled"} if recipe.relabel else set()
        taken |= {"mask"} if recipe.padded else set()
        taken |= {"trajectory"} if recipe.trajectory or recipe.per_trajectory else set()
        for name in sorted(taken & set(recipe.names)):
            raise ArgumentError(
                f"a field is called {name!r}, as a value that the sampler adds: leave it out of `fields`"
            )
        self._buffer, self._recipe = buffer, recipe
        self.every_field = every_field
        """Whether nobody said which fields: a state says which there were then."""
        self.seed = int(np.random.SeedSequence().entropy if seed is None else seed)  # type: ignore[arg-type]
        """What the batches depend on; drawn by the system if none was given."""
        self._to_device = None if device is None else Transfer(device)
        self.goals = goals
        """How goals are relabelled."""
        self.finish = finish
        """What is done to batches when they have been gathered."""
        self._new = given_weights.of_new(priority, recipe)
        live = recipe.live
        anew = recipe.order == "epoch" or recipe.per_trajectory
        if live and (prefetch or anew or recipe.where is not None or recipe.split is not None):
            raise ArgumentError(
                "a live sampler draws each batch when it is asked for, from all steps that there are then: "
                'leave out prefetch, where, split, order="epoch" and per="trajectory", or leave out live'
            )
        with buffer.turn:
            self._batches, self._live = self._made(recipe, self.seed, weights, self._new)
            self._generation = buffer.store.state.generation
        self._place: Place = (0, 0)
        self._ignored = 0
        gather, ragged = self._batches.gather, self._batches.ragged
        far = gather.far or (ragged is not None and ragged.far)
        slow = gather.coded or far or (ragged is not None and ragged.coded)
        usual = (FAR_AHEAD if far else AHEAD) if slow and self._batches.order.ahead else 0
        self._depth = 0 if live else usual if prefetch is None else int(prefetch)
        self._process = os.getpid()
        self._cautions = Cautions()
        self._cautions.tell([self], 3)

    # --- batches

    def sample(self, out: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The next batch: {field: array of shape (batch_size, *field shape)}; `Buffer.sampler` says
        what else is in it.

        Args:
            out: NumPy arrays to be filled and returned, such as an earlier batch; not with `prefetch` or
            `device`.
        """
        self.look()
        if out is not None:
            self._check_out(out)
        place = self._place
        if self._live is not None and not place[1] % LOOK:
            self._cautions.tell([self], 2)
        try:
            if self._depth:
                if self._thread is None:
                    batches, finish = self._batches, self.finish
                    maker = batches if finish is None else Finished(batches, finish)
                    self._thread = Ahead(self, maker, self._place, self._depth)
                batch = self._thread.next()
            else:
                batch = self._batches.make(*place, out)
                batch = batch if self.finish is None else self.finish(batch)
        except (CorruptError, EvictedError):
            self._check_eviction()
            raise
        self._place = following(place, self._batches.per_epoch)
        return batch if self._to_device is None else self._to_device(batch)

    def _check_out(self, out: Any) -> None:
        """ArgumentError: it is nothing that batches are put into, or these batches are not."""
        check_filled(out)
        if self._batches.ragged is not None:
            raise ArgumentError(
                "values of any length are new arrays, since those of each batch are others: leave out `out`, "
                "or name the other fields (fields=...)"
            )
        if self.prefetch or self._to_device is not None or self.finish is not None:
            what = "made ahead" if self.prefetch else "brought to a device, or changed"
            raise ArgumentError(
                f"batches that are {what} are new arrays: leave out `out`, or make the "
                "sampler with prefetch=0, and no device, dtype or transform"
            )

    def look(self) -> None:
        """See that batches can be made; a live sampler also what has been appended."""
        if self._live is None:
            self._check()
        else:
            self._look()

    def take(self, epoch: int, number: int, count: int, start: int | None = None) -> dict[str, Any]:
        """The first so many items of batch `number`, or those from `start` on in the sequence of an epoch,
        whatever has been drawn: for who joins several samplers, and looks before."""
        try:
            if start is None:
                return self._batches.make(epoch, number, count=count)
            return self._batches.take(epoch, start, start + count)
        except (CorruptError, EvictedError):
            self._check_eviction()
            raise

    @property
    def at_once(self) -> int | None:
        """Items whose rows are decoded at once by who joins several samplers, `choose`; None: each batch may
        as well be decoded by itself."""
        batches = self._batches
        ahead = batches.order.ahead and batches.per_epoch is None and not self._recipe.live
        return batches.at_once if ahead and batches.gather.crowded else None

    def choose(self, epoch: int, first: int, counts: Rows, following: Rows) -> None:
        """Have rows decoded for `take`: of so many items of each batch from number `first` on; begin with
        those of the following."""
        self._batches.choose(epoch, first, counts, following)

    @property
    def recipe(self) -> Recipe:
        """What a batch is made of."""
        return self._recipe

    @property
    def per_epoch(self) -> int | None:
        """How many batches an epoch has; None: the order has no end."""
        return self._batches.per_epoch

    @property
    def num_items(self) -> int:
        """How many items there are to draw from: steps, fragments or stacks that can be had."""
        return self._batches.steps.total

    @property
    def commit_id(self) -> int:
        """The commit that batches are drawn from."""
        return self._batches.commit

    @property
    def prefetch(self) -> int:
        """How many batches are made ahead."""
        return self._depth

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands; another one of the same settings and commit goes on from there with
        `load_state_dict`.

        That of a live sampler knows the rows that no commit has by their numbers alone: take it when all is
        committed.

        It says nothing of `dtype` and `transform`. Numbers, texts, lists and dicts of Python's own: `json`
        and `torch.load` take it as it is. (`weights` are a text in base64.)"""
        if self._live is not None:
            self._look()
        epoch, number = self._place
        state = {
            "seed": self.seed,
            "commit": self._batches.shows,
            "epoch": epoch,
            "batch": number,
            "settings": self._recipe.to_json(),
        }
        if self._recipe.weighted:
            state |= {"weights": as_text(self.weights), "largest": self._weighted().largest}
        if self._live is not None:
            state["rows"] = [self._batches.steps.first_row, self._batches.steps.stop_row]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another sampler stood. If neither was told which fields to show, they are those
        that there were when the other one was made.

        Raises:
            ArgumentError: not such a state, or one of a sampler with other settings.
            ConflictError: it was of a commit that shows something else."""
        self.resume(self.prepared(state))

    def prepared(self, state: Mapping[str, Any]) -> Prepared:
        """What is to go on from a state, with the errors of `load_state_dict`; nothing has changed yet."""
        recipe = self._recipe
        if self.every_field:
            recipe = states.with_fields_of(state, recipe, self._buffer.schema)
        seed, commit, place, weights, largest = states.checked(state, recipe)
        if self._live is not None:
            self._look()
        shows, steps = self._batches.shows, self._batches.steps
        rows = state.get("rows", [steps.first_row, steps.stop_row])
        # What a live sampler showed beyond a commit, a later one has: unless a rollback has given that up,
        # and there are as many other rows.
        if commit != shows and self._buffer.store.state.is_dead(commit):
            raise ConflictError(
                f"{self._buffer.where}: the state is of commit {commit}, which a rollback has given up: what "
                "it was to be drawn from is not there any more; take a state of a commit that is"
            )
        self._check_generation()
        if list(rows) != [steps.first_row, steps.stop_row] or (
            commit > shows if self._live is not None else commit != shows
        ):
            where = f"{self._buffer.where}: the state is of commit {commit}, this sampler shows {shows}"
            if commit == shows or self._live is not None:
                where += f", and of rows {rows}, this one of rows {[steps.first_row, steps.stop_row]}"
            raise ConflictError(f"{where}; open the buffer with commit={commit}, or roll it back")
        with self._buffer.turn:
            if self._buffer.commit_id != self.commit_id:
                raise ConflictError(
                    f"{self._buffer.where}: shows commit {self._buffer.commit_id} by now; open it with "
                    f"commit={self.commit_id}"
                )
            return Prepared(recipe, seed, place, *self._made(recipe, seed, weights, largest))

    def resume(self, prepared: Prepared) -> None:
        """Go on from a state."""
        self._stop()
        self._recipe, self.seed, self._place, self._batches, self._live = prepared

    def close(self) -> None:
        """End the thread that makes batches ahead. The buffer stays open; calling `sample` starts it
        again."""
        self._stop()

    def _check_eviction(self) -> None:
        """EvictedError if what could not be read has left the ring."""
        buffer = self._buffer
        if buffer.capacity is not None:
            first = type(buffer.store).load(buffer.store.container).first.get("steps", 0)
            if first > self._batches.steps.first_row:
                raise EvictedError(
                    f"{buffer.where}: steps before {first} have left the ring; call the sampler's refresh()"
                ) from None

    # --- what it is like

    def explain(self) -> str:
        """How batches are made: order, what is left out, how each field is read, what is made ahead; for
        people."""
        ahead = f"{self.prefetch} batches, by a thread" if self.prefetch else "nothing"
        then = () if self.finish is None else self.finish.explain()
        return "\n".join([*self._batches.explain(self.seed), *then, f"made ahead: {ahead}"])

    def __reduce__(self) -> str:
        raise UnsupportedError(
            "a sampler cannot be copied or sent to another process: use replaystore.torch.BatchDataset with "
            "a DataLoader"
        )

    def __repr__(self) -> str:
        return (
            f"<Sampler of {self._buffer.where!r}: {self._recipe.order}, batches of {self._recipe.batch_size}>"
        )


def check_numbers(seed: object, prefetch: object) -> None:
    """ArgumentError: a seed, or a number of batches to be made ahead, that there cannot be."""
    if seed is not None and not (_is_integer(seed) and seed >= 0):  # type: ignore[operator]
        raise ArgumentError(f"seed must be an integer that is not negative, not {seed!r}")
    if prefetch is not None and not (_is_integer(prefetch) and prefetch >= 0):  # type: ignore[operator]
        raise ArgumentError(f"prefetch must be a number of batches, not {prefetch!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
