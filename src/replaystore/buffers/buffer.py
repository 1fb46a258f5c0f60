"""Buffer: a stored, growing run of steps, and the trajectories that they form.

What a buffer shows is always one commit: `len`, the columns, the table of trajectories. A buffer open for
writing goes on to each commit it makes, one open for reading to the newest when `refresh` is called. Row
numbers count from the oldest step that is kept.

Several threads may read one buffer; writing is for one thread at a time.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.arrays import sealing
from replaystore.arrays.commits import ArrayStore
from replaystore.arrays.reading import StoreReader
from replaystore.buffers.opening import open_container
from replaystore.buffers.recorder import Recorder, attachments_of
from replaystore.buffers.writer import Writer
from replaystore.containers.located import is_one_file
from replaystore.errors import (
    ArgumentError,
    ConflictError,
    ReplayStoreError,
    ReplayStoreWarning,
    SchemaError,
    UnsupportedError,
)
from replaystore.interrupts import Operations
from replaystore.location import Location
from replaystore.sampling.recipe import Recipe, check_order
from replaystore.sampling.sampler import Sampler
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.fields import Field
from replaystore.schema.names import flatten
from replaystore.schema.values import array_of, is_tensor
from replaystore.storage.locks import Lock
from replaystore.storage.places import places_of
from replaystore.trajectories.assembler import End, Run
from replaystore.views.column import Column
from replaystore.views.describing import CommitDescription, Description, describe, describe_commits
from replaystore.views.layout import field_specs
from replaystore.views.reader import BufferReader

__all__ = ["Buffer"]

Columns = Mapping[str, Any]


class Buffer(BufferReader):
    """A buffer. Made by `replaystore.create` and `replaystore.open`; use it with `with`, or call `close`."""

    def __init__(
        self,
        place: Location,
        store: StoreReader,
        document: documents.Document,
        *,
        lock: Lock | None,
        reopen: Callable[[str, int, str], Column],
    ) -> None:
        """`reopen`: (location, commit, field) → the column, in another process."""
        super().__init__(place, store, document)
        self._reopen = reopen
        self._lock = lock or Lock()
        self._process = os.getpid()
        self._operations = Operations(place)
        self._gone_back = ""
        """Says what was interrupted, and given up by it, once the last commit is shown again."""
        self._writers: list[Writer] = []
        if isinstance(store, ArrayStore):
            self._start(store)

    def _start(self, store: ArrayStore) -> None:
        """Be ready to write."""
        self._recorder = Recorder(
            store,
            self.schema,
            opened=self.open_trajectories(),
            check=functools.partial(self._lock.check, often=True),
        )

    def reopened(self, name: str) -> tuple[Any, ...]:
        """As `Source.reopened` says; of a commit of a store that other processes can open."""
        if not places_of(self._place).shared_between_processes:
            raise UnsupportedError(
                f"{self.location} is in the memory of this process: convert it to a store on a disk, and "
                "send that"
            )
        return self._reopen, (str(self.whereabouts), self.commit_id, name)

    @property
    def mode(self) -> str:
        """ "r+" if the buffer is open for writing, else "r"."""
        return "r+" if isinstance(self._store, ArrayStore) else "r"

    # --- what there is to know and to draw

    def describe(self) -> Description:
        """What it holds and how, in plain values: what `replaystore info --json` prints. No steps are
        read."""
        self.check_open()
        return describe(self)

    def commits(self) -> list[CommitDescription]:
        """The commits that can be opened (`replaystore.open(location, commit=N)`), oldest first."""
        self.check_open()
        return describe_commits(self._store)

    def sampler(
        self,
        batch_size: int = 256,
        *,
        fields: Iterable[str] | None = None,
        next_observation: bool = True,
        fragment_length: int | None = None,
        frame_stack: int | None = None,
        n_step: int = 1,
        gamma: float = 0.99,
        order: Literal["uniform", "trajectory", "epoch"] = "uniform",
        weights: ArrayLike | None = None,
        per: Literal["step", "trajectory"] = "step",
        beta: float = 0.0,
        where: str | None = None,
        split: str | None = None,
        seed: int | None = None,
        prefetch: int | None = None,
        device: Any = None,
        slab_bytes: int = 256 << 20,
    ) -> Sampler:
        """Batches of steps as an iterator of {field: array of shape (batch_size, *field shape)}, from the
        commit that is shown now.

        Args:
            fields: names, or beginnings of paths; None for all.
            next_observation: add `next_observation` (and its nested fields). Steps that no observation is
            known to follow are left out.
            fragment_length: so many consecutive steps of one trajectory from each step on: arrays of shape
            (batch_size, length, ...).
            frame_stack: so many observations up to each step, oldest first: (batch_size, depth, ...). The
                first of a trajectory stands in for those before it. An observation and its next are views of
                the same memory.
            n_step: the reward is the discounted sum of so many rewards, up to the end of the trajectory; the
                next observation and the flags are those of its last step; `discount` is what to multiply the
                next value with: gamma ** steps, 0 if terminated.
            order: "uniform" over steps, with replacement; "trajectory": uniform over trajectories, then over
                steps; "epoch": each step once, shuffled in blocks.
            weights: instead of an order: draw in proportion to these numbers. The batch has `index` (whose
                weights they were, for `update_weights`) and `weight` (importance weights).
            per: what has a weight: each "step" of the buffer, or each "trajectory" (row of `trajectories`).
            beta: the exponent of importance weights.
            where, split: only steps of these trajectories, as `trajectories.where` selects them.
            seed: the same seed and the same commit give the same batches.
            prefetch: batches to be made ahead by a thread; None: 2 if fields have to be decoded, else none.
            device: give PyTorch tensors on this device.
            slab_bytes: memory for decoded chunks.

        Raises:
            ArgumentError: a setting that makes no sense, or nothing to draw from.
        """
        check_order(order, weights, per)
        self.check_open()
        with self._turn:  # the fields may become others
            recipe = Recipe(
                batch_size,
                tuple(self._names(fields)),
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
            )
            return Sampler(self, recipe, seed=seed, weights=weights, prefetch=prefetch, device=device)

    # --- writing

    def append(
        self,
        columns: Columns,
        *,
        final_observation: Any = None,
        env: int = 0,
        split: str = "",
        ends: Sequence[int] | None = None,
    ) -> None:
        """Append consecutive steps of one environment. They are safe, and visible, after `commit`.

        Args:
            columns: one array or tensor of shape (steps, *field shape) for each field, of exactly its dtype
                (a tensor of bfloat16 is one of float32, which holds it); nested observations, actions and
                rewards as dicts or tuples of them, or by field name.
            final_observation: one row for each trajectory that the steps touch, in order: the observation
                after its last step here. For a single trajectory also a single observation. Without it, what
                followed the last steps is unknown.
            env: which environment; what follows the last end is an open trajectory that its next `append`
            continues.
            split: the split of trajectories that begin here.
            ends: where trajectories end (places of their last steps in `columns`), if not where `terminated`
            or `truncated` says so.

        Raises:
            SchemaError: a missing or unknown field, a wrong dtype or shape; nothing is appended then.
            StorageError: the disk refused; nothing is appended then.
        """
        self._writable()
        given = None if ends is None else array_of("ends", ends)
        _check_kinds(columns, env, split, given)
        if any(env < writer.num_envs for writer in self._writers):
            raise ConflictError(
                f"{self._place}: environment {env} belongs to the writer: close it first, "
                "or append as another environment"
            )
        flat: dict[str, Any] = {}
        for name, value in columns.items():
            if type(value) is np.ndarray:
                flat[name] = value
                continue
            leaves = flatten(value, name) if isinstance(value, (Mapping, tuple)) else {name: value}
            for leaf, item in leaves.items():
                flat[leaf] = self._array(leaf, item) if is_tensor(item) else item
        count = self.schema.check(flat)
        if count == 0:
            return
        no = np.zeros(count, np.bool_)
        terminated, truncated = flat.get("terminated", no), flat.get("truncated", no)
        places = (
            np.flatnonzero(terminated | truncated) if given is None else np.unique(given.astype(np.int64))
        )
        if len(places) and not 0 <= places[0] <= places[-1] < count:
            raise SchemaError(f"ends must lie among the {count} steps, not at {places.tolist()}")
        touched = len(places) + (not len(places) or int(places[-1]) != count - 1)
        finals = self._final_rows(final_observation, touched)
        run = Run(env, 0, terminated, truncated, self.schema.total_reward(flat))
        run.ends = {
            int(place): End((int(place), 1), finals[number]) for number, place in enumerate(places.tolist())
        }
        run.following = finals[-1] if touched > len(places) else None
        run.continues = self._recorder.goes_on(env, flat)
        with self._operations("append"):
            self._recorder.add(flat, count, [run], split=split)

    def _array(self, name: str, value: Any, what: str = "") -> NDArray[Any]:
        """A value of a field as an array."""
        declared = self.schema.fields.get(name)
        return array_of(f"{what}field {name!r}", value, None if declared is None else declared.dtype)

    def _final_rows(self, observation: Any, touched: int) -> list[dict[str, NDArray[Any]] | None]:
        """The observation after each trajectory that an append touches."""
        if observation is None:
            return [None] * touched
        names = self.schema.names("observation")
        given = self.schema.flatten(observation, "observation")
        leaves = {name: self._array(name, value, "final_observation: ") for name, value in given.items()}
        if touched == 1 and all(
            name in leaves and leaves[name].shape == self.schema.fields[name].shape for name in names
        ):
            leaves = {name: leaf[None] for name, leaf in leaves.items()}
        try:
            rows = self.schema.select(names).check(leaves)
        except SchemaError as error:
            raise SchemaError(f"final_observation: {error}") from None
        if rows != touched:
            raise SchemaError(
                f"final_observation has {rows} rows, but these steps touch {touched} trajectories: give the "
                "observation after each"
            )
        return [{name: leaf[row].copy() for name, leaf in leaves.items()} for row in range(rows)]

    @property
    def rows_recorded(self) -> int:
        """Steps written so far, committed or not, dropped or not; of a buffer open for writing."""
        self._writable()
        return self._recorder.rows + sum(writer.staged for writer in self._writers)

    def writer(self, num_envs: int = 1, *, split: str = "") -> Writer:
        """A writer for the steps of several environments. Trajectories that an earlier recording left open
        are cut off."""
        self._writable()
        if self._writers:
            raise ConflictError(f"{self._place} has a writer already: close it first")
        with self._operations("writer"):
            self._recorder.cut_all()
            writer = Writer(
                self._recorder,
                num_envs,
                split=split,
                writable=self._writable,
                operations=self._operations,
                closed=self._writers.remove,
            )
            self._writers.append(writer)
        return writer

    def add_field(self, name: str, declared: Field, *, fill: Literal[0, 1] = 0) -> None:
        """Add a field. In steps recorded before, all bytes of its values are `fill`: zeros (False), or ones
        (True) for a bool."""
        self.add_fields({name: declared}, fill={name: fill})

    def add_fields(
        self, declared: Mapping[str, Field], *, fill: Mapping[str, Literal[0, 1]] | None = None
    ) -> None:
        """Add several fields at once, in much less time than one by one; `fill` as that of `add_field`, by
        name (default 0)."""
        self._writable()
        assert isinstance(self._store, ArrayStore)
        schema = self.schema.with_fields(declared)
        specs = field_specs(
            declared,
            "live",
            self._store.container.capabilities,
            capacity=self.capacity,
            storage={name: {"codec": "raw"} for name in declared},
        )
        with self._operations("add_fields"):
            for writer in self._writers:
                writer.hand_over()
            self._replace_document(schema=schema)
            self._recorder.add_fields(schema, specs, fill or {})
            self._schema = schema
            for writer in self._writers:
                writer.take_schema(schema)

    def set_trajectory_column(self, name: str, values: Any) -> None:
        """Set a column of the table of trajectories: one number or bool for each that has ended (for "split"
        one string each).

        A new name makes a new column; trajectories that end later have NaN, 0 or False there until it is set
        again."""
        self._set_trajectory_columns({name: values})

    def _set_trajectory_columns(self, columns: Mapping[str, Any]) -> None:
        """Set several columns in one commit; none is set if one of them does not fit."""
        self._writable()
        assert isinstance(self._store, ArrayStore)
        self.commit()
        ended = self._store.table(tree.trajectories("trajectory"))
        at = np.flatnonzero(np.isin(ended, self.parts.trajectory))  # in a ring: those of which a step is left
        given = {name: array_of(f"column {name!r}", values) for name, values in columns.items()}
        with self._operations("set_trajectory_column"):
            self._recorder.set_columns(at, given)
            with self._turn:
                self._commit()

    # --- commits

    def commit(self) -> int:
        """Make all steps written so far safe and visible, at once; return the number of the commit (the last
        one if nothing is new).

        StorageError: the disk refused; what was committed before is safe, nothing is lost, and `commit` may
        be tried again (after a failed sync only by opening the buffer anew)."""
        self._writable()
        with self._operations("commit"), self._turn:
            return self._commit()

    def _commit(self) -> int:
        self._lock.check()
        for writer in self._writers:
            writer.hand_over()
        recorder = self._recorder
        first = None
        if self.capacity is not None and recorder.rows > self.capacity:
            first = {"steps": recorder.rows - self.capacity}
        if not recorder.waiting:
            return self.commit_id
        number = recorder.commit(first=first)
        self._moved()
        return number

    def publish(self) -> None:
        """Commit, and let other software (zarr-python, xarray, h5py) see all steps; `close` does this too."""
        self._writable()
        assert isinstance(self._store, ArrayStore)
        with self._operations("publish"), self._turn:
            self._commit()
            self._store.publish()

    def rollback(self, commit: int) -> None:
        """Go back to an older commit: what was committed after it, and what is not committed, is given up.

        Readers that have the buffer open go on seeing what they saw, or get a ConflictError until they
        refresh. NotFoundError, EvictedError: there is no such commit, or not any more."""
        self._writable()
        if self._writers:
            raise ConflictError(f"{self._place} has a writer: close it before rolling back")
        assert isinstance(self._store, ArrayStore)
        self._lock.check()
        opened = BufferReader(self._place, self._store.pin(commit), self._document).open_trajectories()
        attachments = attachments_of(opened, self.schema.names("observation"))
        before = self._store.state
        with self._operations("rollback"), self._turn:
            try:
                self._store.rollback(commit, attachments=attachments)
            finally:
                # It is done, even if the disk refuses what tidies up after it.
                if self._store.state is not before:
                    self._forget_columns()
                    self._moved()
                    self._schema = self._visible_schema()
                    self._start(self._store)

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
                with self._operations("close"), self._turn:
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

    # --- small things

    def _replace_document(self, **sections: Any) -> None:
        assert isinstance(self._store, ArrayStore)
        self._lock.check()
        document = self._document.replace(**sections)
        with self._store.storage("replace the document"):
            self._store.container.replace_document(document.to_json())
        self._document = document

    def _is_interrupted(self) -> bool:
        """Whether an operation was interrupted, so that what is in memory may be half of it. Then the last
        commit is shown again."""
        if self._gone_back or not (what := self._operations.interrupted):
            return bool(self._gone_back)
        half = self._store
        container = open_container(self.whereabouts, writable=False)
        try:
            self._store = StoreReader(container, StoreReader.load(container))
            self._store.keep_tails()
            self._document = documents.parse(container.document(), str(self._place))
            self._forget_columns()
            self._moved()
            self._schema = self._visible_schema()
        except BaseException:
            container.close()
            self._store = half
            raise
        self._gone_back = (
            f"{self._place}: {what} was interrupted, so that steps since commit {self.commit_id} that were "
            "not committed are lost; "
            "close it, and open it again to go on"
        )
        half.close()
        return True

    def check_open(self) -> None:
        super().check_open()
        self._is_interrupted()

    def _writable(self) -> None:
        self.check_open()
        if self._gone_back:
            raise ConflictError(self._gone_back)
        if not isinstance(self._store, ArrayStore):
            raise ConflictError(f'{self._place} is open for reading: open it with mode="r+" to write')
        # Two processes that believe to be the writer would write over each other's commits.
        if os.getpid() != self._process:
            raise ConflictError(
                f"{self._place} was opened for writing by the process that this one was "
                "forked from: only that one writes"
            )

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "len(buffer) counts steps, so iterating over it could mean steps or trajectories: go through "
            "buffer.trajectories, or read "
            "trajectories with buffer.trajectory(i) for i in range(buffer.num_trajectories)"
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's own metadata (JSON); assign a dict to replace it."""
        return dict(self._document.user)

    @metadata.setter
    def metadata(self, value: Mapping[str, Any]) -> None:
        self._writable()
        if not isinstance(value, Mapping):
            raise SchemaError(f"metadata are a dict, not a {type(value).__name__}")
        with self._operations("metadata"):
            self._replace_document(user=dict(value))


def _check_kinds(columns: Any, env: Any, split: Any, ends: Any) -> None:
    """ArgumentError: an argument of `append` is not of the kind that it should be."""
    if not isinstance(columns, Mapping):
        raise ArgumentError(f"steps are a dict {{field name: array}}, not a {type(columns).__name__}")
    if isinstance(env, bool) or not isinstance(env, (int, np.integer)) or env < 0:
        raise ArgumentError(f"env is the number of an environment, from 0 on, not {env!r}")
    if not isinstance(split, str):
        raise ArgumentError(f"split is a string, not {split!r}")
    if ends is not None and (ends.ndim != 1 or (len(ends) and ends.dtype.kind not in "iu")):
        raise ArgumentError("ends are the places of last steps: a flat sequence of integers")
