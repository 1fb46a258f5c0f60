"""Buffer: a stored, growing run of steps, and the trajectories that they form.

What a buffer shows is always one commit: `len`, the columns, the table of trajectories. A buffer open for
writing goes on to each commit it makes, one open for reading to the newest when `refresh` is called. Row
numbers count from the oldest step that is kept.

Several threads may read one buffer; writing is for one thread at a time.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from numpy.typing import ArrayLike, DTypeLike

from replaystore.arrays import sealing
from replaystore.arrays.array_store import ArrayStore
from replaystore.buffers.later import LaterFields
from replaystore.containers.located import is_one_file
from replaystore.errors import (
    ArgumentError,
    ConflictError,
    MissingDependencyError,
    ReplayStoreError,
    ReplayStoreWarning,
)
from replaystore.sampling.finishing import Finish
from replaystore.sampling.hindsight import Goals
from replaystore.sampling.padding import asked
from replaystore.sampling.recipe import Recipe, check_order
from replaystore.sampling.sampler import Sampler
from replaystore.storage.places import places_of
from replaystore.views.describing import CommitDescription, Description, describe, describe_commits

if TYPE_CHECKING:
    from replaystore.views.zarr_store import ZarrStore

__all__ = ["Buffer"]


class Buffer(LaterFields):
    """A buffer. Made by `replaystore.create` and `replaystore.open`; use it with `with`, or call `close`."""

    def describe(self) -> Description:
        """What it holds and how, in plain values: what `replaystore info --json` prints. No steps are
        read."""
        self.check_open()
        return describe(self)

    def commits(self) -> list[CommitDescription]:
        """The commits that can be opened (`replaystore.open(location, commit=N)`), oldest first, with the
        names that they have."""
        self.check_open()
        return describe_commits(self._store)

    @property
    def names(self) -> list[str]:
        """The names that commits have, oldest first: `replaystore.open(location, commit=buffer.names[-1])`.

        Rows of older ones may have left a ring (`keep_named`): `commits()` has those that can be opened, and
        `forget` takes the others."""
        return list(self._store.places.names)

    @property
    def more(self) -> dict[str, Any]:
        """What other software keeps with the commit (JSON), by keys with a dot or a colon: it is carried
        along, from commit to commit, through a rollback too, and into conversions. `commit(more=…)` sets
        it."""
        return dict(self._store.state.more)

    def sampler(
        self,
        batch_size: int = 256,
        *,
        fields: Iterable[str] | None = None,
        next_observation: bool = True,
        fragment_length: int | None = None,
        pad: Literal["start", "end"] | None = None,
        pad_values: str | Mapping[str, Any] | None = None,
        burn_in: int = 0,
        frame_stack: int | None = None,
        n_step: int = 1,
        gamma: float = 0.99,
        order: Literal["uniform", "trajectory", "epoch", "prioritized"] = "uniform",
        weights: ArrayLike | None = None,
        per: Literal["step", "trajectory"] = "step",
        alpha: float = 0.6,
        beta: float = 0.0,
        priority: float | None = None,
        trajectory: bool = False,
        live: bool = False,
        where: str | None = None,
        split: str | None = None,
        seed: int | None = None,
        prefetch: int | None = None,
        relabel: Literal["future"] | None = None,
        goals: float = 4,
        reward: Callable[..., Any] | None = None,
        terminated: Callable[..., Any] | None = None,
        dtype: DTypeLike | Mapping[str, DTypeLike] | None = None,
        transform: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        device: Any = None,
        slab_bytes: int = 256 << 20,
    ) -> Sampler:
        """Batches of steps as an iterator of {field: array of shape (batch_size, *field shape)}, from the
        commit that is shown now. `index` is the row of each step, which is its for ever; a rollback alone
        gives rows of steps that are no more to others: what was drawn before is not to be used then.

        Args:
            fields: names, or beginnings of paths; None for all that there are when the sampler is made.
            next_observation: add `next_observation` (and its nested fields). Steps that no observation is
            known to follow are left out.
            fragment_length: so many consecutive steps of one trajectory from each step on: arrays of shape
            (batch_size, length, ...).
            pad: what to do where a trajectory has fewer steps. None: steps that have too few behind them are
                left out. "end": each step begins a fragment, and what is missing at its end is zeros.
                "start": each step ends one, as decision transformers have it, and zeros come first. `mask`
                (batch_size, length) is True where there is a step. `index` is the step that the fragment was
                drawn for: its first, with "start" its last.
                Without fragments: `pad_values`.
            pad_values: give the values of fields of any length as arrays (batch_size, longest, ...), with
                zeros at the "end" or "start" of shorter ones; or of some fields alone, {field: fill} or
                {field: (fill, side)}. `mask/<field>` (batch_size, longest) is True where there is a value.
            burn_in: so many steps more before each fragment, for the state of a recurrent net; zeros, and not
                in the mask, before the first step of a trajectory. `index` is the first step behind them.
            frame_stack: so many observations up to each step, oldest first: (batch_size, depth, ...). The
                first of a trajectory stands in for those before it. An observation and its next are views of
                the same memory. In fragments: (batch_size, length, depth, ...).
            n_step: the reward is the discounted sum of so many rewards, up to the end of the trajectory; the
                next observation and the flags are those of its last step; `discount` is what to multiply the
                next value with: gamma ** steps, 0 if terminated.
            order: "uniform" over steps, with replacement; "trajectory": uniform over trajectories, then over
                steps; "epoch": each step once, shuffled in blocks; "prioritized": in proportion to
                priority ** alpha, which `update_priorities` sets (Schaul et al., 2016).
            weights: instead of an order: draw in proportion to these numbers, which `update_weights` sets.
                Batches have `weight` then, as with priorities: importance weights.
            per: what has a weight: each "step" of the buffer, or each "trajectory" (row of `trajectories`).
            alpha: the exponent of priorities.
            beta: the exponent of importance weights.
            priority: of new steps; None: the largest that there was.
            trajectory: add `trajectory`, the number of the trajectory of each step.
            live: show steps as soon as they are appended, before any commit has them: in the process that
                writes, and in the thread that does. Each batch is drawn when it is asked for, from what there
                is then; `sample` hands over what writers have staged where a batch shows some of it. Neither
                `commit` nor `refresh` is needed for it.
            where, split: only steps of these trajectories, as `trajectories.where` selects them.
            seed: the same seed and the same commit give the same batches (with order="epoch" of coded fields:
                and the same slab_bytes).
            prefetch: batches to be made ahead by a thread; None: 8 if raw fields are far away, 2 if fields
            have to be decoded, else none.
            relabel: "future": give steps of a goal environment the goal that was achieved after a later step
                of their trajectory, as Hindsight Experience Replay does (Andrychowicz et al., 2017), in the
                observation and the next one. `relabelled` says which steps these are.
            goals: so many steps are relabelled for each that is not.
            reward, terminated: functions of (achieved_goal, desired_goal, info), such as
                `env.unwrapped.compute_reward`, that get arrays of several relabelled steps and return what
                becomes of their reward and flag; without the second one the flag stays.
            dtype: of all floating-point values of a batch, such as "float32"; or {field: dtype}, which holds
                for the next observation too.
            transform: gets each batch, in these dtypes, and returns it as it is to be, before it is brought
                to a device; with prefetch in the thread that makes them ahead.
            device: give PyTorch tensors on this device.
            slab_bytes: memory for decoded chunks.

        Raises:
            ArgumentError: a setting that makes no sense, or nothing to draw from.
        """
        check_order(order, weights, per)
        self.check_open()
        if live and not isinstance(self._store, ArrayStore):
            raise ArgumentError(
                f"{self.where} is open for reading, and what no commit has is known to the writer alone: "
                'open it with mode="r+" to sample live, or leave out live and call refresh()'
            )
        with self.turn:  # the fields may become others
            names = tuple(self._names(fields))
            declared = {name: self.schema.fields[name] for name in names}
            pad, pad_values = asked(pad, pad_values, fragment_length, declared)
            recipe = Recipe(
                batch_size,
                names,
                next_observation,
                fragment_length,
                frame_stack,
                n_step,
                gamma,
                order if weights is None else "weights",
                beta,
                per == "trajectory",
                where=where,
                split=split,
                slab_bytes=slab_bytes,
                alpha=alpha if order == "prioritized" else None,
                trajectory=bool(trajectory),
                live=bool(live),
                pad=pad,
                burn_in=burn_in,
                relabel=relabel,
                goals=goals,
            )
            recipe.check()
            return Sampler(
                self,
                recipe,
                seed=seed,
                weights=weights,
                priority=priority,
                prefetch=prefetch,
                device=device,
                goals=Goals.of(recipe, self.schema, reward, terminated),
                every_field=fields is None,
                finish=Finish.of(dtype, transform, declared, pad_values),
            )

    def zarr_store(self) -> ZarrStore:
        """The commit that is shown now as a read-only store of zarr-python, for xarray, dask and what else
        reads Zarr: `zarr.open_group(buffer.zarr_store(), mode="r")`,
        `xarray.open_zarr(buffer.zarr_store(), group="steps")`.

        It goes on showing that commit, until the buffer is closed, and has the files open for itself. A
        ConflictError says that rows of it have left a ring, or were rolled back."""
        try:
            from replaystore.views.commit_source import CommitSource
            from replaystore.views.zarr_store import ZarrStore
        except ImportError as error:
            raise MissingDependencyError(f"zarr_store() needs zarr ({error}): pip install zarr") from error
        self.check_open()
        with self.turn:
            known = self._zarr_stores.get(self.commit_id)
            if known is None:
                where, store = self.whereabouts.text, self._store
                source = CommitSource(
                    self._open_commit, where, self.commit_id, store.state.store, store.cache
                )
                source.tree()
                sent = places_of(self._place).shared_between_processes
                known = self._zarr_stores[self.commit_id] = ZarrStore(source, sent=sent)
            return known

    @cached_property
    def _zarr_stores(self) -> weakref.WeakValueDictionary[int, ZarrStore]:
        """By commit, those that somebody uses."""
        return weakref.WeakValueDictionary()

    def refresh(self) -> bool:
        """Go on to the newest commit; whether there was one. A buffer open for writing, or as of an older
        commit, stays where it is."""
        if isinstance(self._store, ArrayStore):
            return False
        return super().refresh()

    def close(self) -> None:
        """Commit what is written, let other software see it, and release everything. An archive is sealed: it
        is only read from now on."""
        if self._closed:
            self._lock.release()  # closing was interrupted, perhaps
            return
        if os.getpid() != self._process:  # a forked child has no part in what its parent writes
            self._release()
            return
        if self._is_interrupted():
            self._release()
            raise ConflictError(self._gone_back)
        try:
            if isinstance(self._store, ArrayStore):
                with self._operations("close"), self.turn:
                    self._close(self._store)
        finally:
            self._release()
        archive = isinstance(self._store, ArrayStore) and self.layout == "archive"
        if archive and is_one_file(self._place):
            sealing.write_sidecar(self._place)

    def _close(self, store: ArrayStore) -> None:
        for writer in list(self._writers):
            writer.finish()
        self._commit()
        if self.layout == "archive":
            sealing.seal_store(store)
        else:
            store.publish()
            store.tidy()

    def abandon(self) -> None:
        """Release everything without committing: what is not committed is given up."""
        self._release()

    def _release(self) -> None:
        try:
            for store in list(self._zarr_stores.values()):
                store.end()
            super().close()
        finally:  # also if closing was interrupted before
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close. After an exception what was written is committed as well, since it is whole steps, if the
        disk lets us.

        If the exception has interrupted an operation of the buffer, so that what was written is not known, a
        warning says what is lost."""
        try:
            self.close()
        except ReplayStoreError as error:
            if kind is None:
                raise
            warnings.warn(str(error), ReplayStoreWarning, stacklevel=2)

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "len(buffer) counts steps, so iterating over it could mean steps or trajectories: go through "
            "buffer.trajectories, or read "
            "trajectories with buffer.trajectory(i) for i in range(buffer.num_trajectories)"
        )
