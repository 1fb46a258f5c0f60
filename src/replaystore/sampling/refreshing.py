"""How a sampler goes on: to newer commits, to what has been appended, and to what a rollback has left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.arrays.history import ATTEMPTS
from replaystore.arrays.live import LiveColumns
from replaystore.errors import ConflictError, EvictedError
from replaystore.sampling import given_weights
from replaystore.sampling.ahead import Ahead, Place
from replaystore.sampling.batches import Batches
from replaystore.sampling.cautions import Cautions
from replaystore.sampling.hindsight import Goals
from replaystore.sampling.live import live_of
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.weighed import Weighed
from replaystore.schema.names import listed
from replaystore.views.commit_columns import CommitColumns
from replaystore.views.growth import CommitGrowth

if TYPE_CHECKING:
    from replaystore.views.reader import BufferReader

__all__ = ["Refreshing"]


class Refreshing(Weighed):
    """What a sampler shows, and what it goes on to."""

    seed: int
    _buffer: BufferReader
    _generation: int
    """Of the buffer, when the batches were made."""
    _live: LiveColumns | None = None
    _following: CommitColumns | None = None
    _new: float | None
    """The weight of new steps, as it was given."""
    goals: Goals | None
    _place: Place
    _thread: Ahead | None = None
    _process: int
    """Which has the thread."""
    _cautions: Cautions

    @property
    def where(self) -> str:
        """Of the buffer."""
        return self._buffer.where

    @property
    def batches(self) -> Batches:
        """What makes the batches."""
        return self._batches

    def _made(
        self, recipe: Recipe, seed: int, weights: ArrayLike | None, largest: float | None
    ) -> tuple[Batches, LiveColumns | None]:
        """The batches of what there is now, and what a live sampler looks at."""
        buffer = self._buffer
        if not recipe.live:
            values = None if weights is None else given_weights.checked(buffer, weights, recipe)
            return Batches(buffer, recipe, seed, values, largest, goals=self.goals), None
        live, growth = live_of(buffer, recipe.names)
        first, stop = growth.bounds
        values = None if weights is None else given_weights.checked(buffer, weights, recipe, stop - first)
        batches = Batches(
            buffer, recipe, seed, values, largest, growth=growth, columns=live, goals=self.goals
        )
        return batches, live

    def _look(self) -> None:
        """See that batches can be made, and what has been appended."""
        buffer: Any = self._buffer
        if self._recipe.transitions and self._batches.ragged is None:  # staged values have no place yet
            buffer.look()
        else:
            buffer.flush()
        self._check_generation()
        growth, live = self._batches.growth, self._live
        assert growth is not None
        assert live is not None
        anew = live.go_on(*growth.bounds)
        self._batches.go_on(buffer, columns=anew)

    def _stop_for(self, place: int) -> int:
        """As `Weighed` has it: a step may be weighed as soon as it is recorded."""
        if self._live is not None and place >= self._weighted().stop:
            self._check()
            self._look()
        return super()._stop_for(place)

    def refresh(self) -> bool:
        """Go on to the newest commit, and the buffer with it; whether there was one.

        An order "epoch" begins a new epoch then, and a `for` loop over the one before ends.

        New steps and trajectories get the largest weight that there is."""
        self._buffer.check_open()
        self._check_process()
        changed = self._newest() if self._live is None else self._live_again()
        self._cautions.tell([self], 2)
        return changed

    def _newest(self) -> bool:
        """Go on to the newest commit; whether there was one."""
        attempts = 0
        while True:
            try:
                return self._going_on() or attempts > 0
            except EvictedError:  # the ring has gone on since it was looked at
                attempts += 1
                if attempts == ATTEMPTS:
                    raise

    def _going_on(self) -> bool:
        """As `_newest`. EvictedError: a ring has dropped rows of the newest commit, since there is a newer
        one."""
        buffer = self._buffer
        buffer.refresh()
        if buffer.commit_id == self._batches.commit and buffer.store.state.generation == self._generation:
            return False
        self._check_fields()
        self._stop()
        with buffer.turn:
            old, generation = self._batches, buffer.store.state.generation
            if old.growth is not None and generation == self._generation:
                assert self._following is not None
                old.go_on(buffer, columns=self._following.go_on())
                return True
            weighted = self._recipe.weighted
            weights = (
                self._carried(slice(buffer.first_row, buffer.first_row + len(buffer))) if weighted else None
            )
            largest = self._weighted().largest if weighted else None
            growth = CommitGrowth(buffer) if old.goes_on else None
            self._following = columns = CommitColumns(buffer) if old.goes_on else None
            self._batches = Batches(
                buffer,
                self._recipe,
                self.seed,
                weights,
                largest,
                growth=growth,
                columns=columns,
                goals=self.goals,
            )
            before, self._generation = self._generation, generation
        epoch, number = self._place
        self._place = (epoch + 1, 0) if self._batches.per_epoch is not None and number else (epoch, number)
        if self._generation == before:
            self._batches.gather.adopt(old.gather)
        return True

    def _live_again(self) -> bool:
        """See what has been appended, or what a rollback has left; whether that is anything else."""
        buffer, steps = self._buffer, self._batches.steps
        before, generation = (steps.first_row, steps.stop_row), buffer.store.state.generation
        if generation == self._generation:
            self._look()
            return (steps.first_row, steps.stop_row) != before
        self._check_fields()
        weights, largest = None, None
        live, growth = live_of(buffer, self._recipe.names)
        if self._recipe.weighted:
            weights, largest = self._carried(slice(*growth.bounds)), self._weighted().largest
        self._live = live
        self._batches = Batches(
            buffer, self._recipe, self.seed, weights, largest, growth=growth, columns=live, goals=self.goals
        )
        self._generation = generation
        return True

    def _carried(self, rows: slice) -> NDArray[np.float64]:
        """The weights for these rows, or for the trajectories that there are now."""
        kept = self._buffer.store.rows_since(self._generation, "steps")
        return given_weights.carried(self._batches, self._buffer, rows, kept)

    def _check_fields(self) -> None:
        gone = [name for name in self._recipe.names if name not in self._buffer.schema.fields]
        if gone:
            raise ConflictError(
                f"{self._buffer.where}: went back to a commit without {listed(gone)}, which this "
                "sampler shows: make another sampler"
            )

    def _stop(self) -> None:
        self._check_process()
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def _check(self) -> None:
        self._buffer.check_open()
        self._check_process()
        self._check_generation()

    def _check_generation(self) -> None:
        buffer = self._buffer
        if buffer.store.state.generation != self._generation:
            raise ConflictError(
                f"{buffer.where}: went back to an older commit, which this sampler does "
                "not show; call its refresh()"
            )

    def _check_process(self) -> None:
        """In a forked child, which has no threads, leave what they were doing."""
        if self._process != os.getpid():
            self._process, self._thread = os.getpid(), None
            self._batches.forget()
