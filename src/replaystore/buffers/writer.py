"""Steps of several environments, staged until there are enough of them, become rows.

A step is staged as the bytes of its arrays, which is the quickest copy there is; when there are enough steps,
or at a commit, each environment's steps become a run of adjacent rows. So the cost of a step is that of
copying it, and an environment's steps lie together.

The observation after a step is that of the next step. When a trajectory ends, `reset` puts the first
observation of the next one in its place; the one that was there is kept as the final observation of the
trajectory that ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.recorder import Recorder
from replaystore.buffers.staged import Reset, staged_run
from replaystore.errors import ArgumentError, ConflictError, SchemaError
from replaystore.interrupts import Operations
from replaystore.schema.fields import Schema
from replaystore.schema.names import listed
from replaystore.schema.values import array_of

__all__ = ["Writer"]

STAGE_BYTES = 16 << 20
"""Staged steps take at most about this much memory."""
STAGE_STEPS = 1024
"""Steps of each environment staged at most."""
PLAIN = ("observation", "action", "reward", "terminated", "truncated")
"""The fields of most buffers, whose steps are checked and copied in the fewest operations."""


class Writer:
    """Writes the steps of `num_envs` environments, which take turns in one call. Made by `buffer.writer`.

    Call `reset` with the first observations, then `step` after each step of the environments. After a step in
    which a trajectory ended, call `reset` for it (`mask`); otherwise the observation passed with the step is
    also the first of the next trajectory. Without fields of flags in the schema, it is `reset` alone that
    ends a trajectory.

    What the schema has no fields of (actions, rewards, flags, observations) is left out, or None. Values are
    arrays, tensors or what NumPy makes an array of the field's dtype of, nested as Gymnasium does it or by
    field name (`{"reward/a0": …}` as well as `{"a0": …}`).
    """

    def __init__(
        self,
        recorder: Recorder,
        num_envs: int,
        *,
        split: str = "",
        writable: Callable[[], None],
        operations: Operations,
        closed: Callable[[Writer], None],
    ) -> None:
        """`writable` raises if nothing is to be written (any more); handing rows over is one of the
        `operations`; `closed` is called when the writer has been closed."""
        _check_arguments(num_envs, split)
        self.num_envs = num_envs
        self.split = split
        self._recorder = recorder
        self._writable, self._operations, self._on_closed = writable, operations, closed
        self._time = 0
        """How many steps are staged."""
        self._staged = BytesIO()
        """The staged steps: the arrays of all fields in the order of `_names`; of an observation those of the
        one after the step.

        Nothing takes an array's bytes more quickly. It cannot be written to while a view of it is left."""
        self._masks: dict[int, NDArray[np.bool_]] = {}
        """The masks of staged steps that not all environments record."""
        self._resets: list[Reset] = []
        self._rooms: dict[str, NDArray[Any]] = {}
        """Where the rows of a field are put in order; to take new memory each time would cost more than the
        work."""
        self._start: dict[str, NDArray[Any]] = {}
        """The observations that the first staged step starts from."""
        self._started = False
        self._closed = False
        self._like: tuple[Any, ...] | None = None
        """dtype and shape of each field, in the order of PLAIN, while `step` takes these fields and no
        others."""
        self.take_schema(recorder.schema)

    def take_schema(self, schema: Schema) -> None:
        """Be ready for steps of this schema; nothing is staged."""
        self._schema = schema
        self._step_bytes = sum(declared.row_bytes for declared in schema.fields.values()) * self.num_envs
        self._steps = int(min(max(STAGE_BYTES // self._step_bytes, 1), STAGE_STEPS))
        self._observations = schema.names("observation")
        self._expected = {
            name: (declared.dtype, (self.num_envs, *declared.shape))
            for name, declared in schema.fields.items()
        }
        self._seen = {name: self._expected[name] for name in self._observations}
        zeros = {name: np.zeros(shape, dtype) for name, (dtype, shape) in self._seen.items()}
        self._start, self._rooms = zeros | self._start, {}
        plain = self._expected.keys() == set(PLAIN)
        self._names = PLAIN if plain else tuple(schema.fields)
        sizes = [schema.fields[name].row_bytes * self.num_envs for name in self._names]
        self._offsets = dict(zip(self._names, accumulate(sizes, initial=0), strict=False))
        self._plain = tuple(part for name in PLAIN for part in self._expected[name]) if plain else None
        self._like = self._plain if self._started else None

    def reset(
        self,
        observation: Any = None,
        *,
        seed: int | Sequence[int | None] | NDArray[np.integer] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Trajectories begin with these observations, in all environments or in those where `mask` (shape
        (num_envs,)) is True.

        Those that are open there are cut off: they end neither terminated nor truncated. Observations are
        batched as Gymnasium does (first dimension num_envs; dict or tuple of such arrays). `seed`: what the
        environments were reset with."""
        self._check_open()
        chosen = (
            np.ones(self.num_envs, np.bool_) if mask is None else np.array(array_of("mask", mask), np.bool_)
        )
        values = self._checked(self._given("observation", observation), self._observations)
        given = seed.tolist() if isinstance(seed, np.ndarray) else seed
        seeds = [
            -1 if one is None else int(one)
            for one in (given if isinstance(given, Sequence) else [given] * self.num_envs)
        ]
        if len(seeds) != self.num_envs or chosen.shape != (self.num_envs,):
            raise SchemaError(
                f"reset takes one seed and one mask entry for each of the {self.num_envs} environments"
            )
        before = self._current()
        begins = {name: value.copy() for name, value in values.items()}
        for name, value in begins.items():
            value[~chosen] = before[name][~chosen]
        self._resets.append(
            Reset(self._time, len(self._resets), chosen, seeds, before if self._started else {}, begins)
        )
        self._rewind()
        self._started, self._like = True, self._plain

    def step(
        self,
        action: Any = None,
        reward: Any = None,
        terminated: NDArray[np.bool_] | None = None,
        truncated: NDArray[np.bool_] | None = None,
        observation: Any = None,
        info: Mapping[str, NDArray[Any]] | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """One step of each environment, as arrays with first dimension num_envs.

        Args:
            reward: of several fields of rewards a dict of them.
            observation: the observation after the action; for a trajectory that ends here its final one, not
            that of the next.
            info: all further fields, by field name ("info/speed").
            mask: shape (num_envs,); environments where it is False record nothing.

        Raises:
            SchemaError: a wrong dtype or shape, a missing or unknown field; nothing is recorded then.
            StorageError: the disk refused; nothing is lost, and the step may be repeated.
        """
        if self._time >= self._steps:
            self.flush()
        like = self._like
        if (
            type(observation)
            is type(action)
            is type(reward)
            is type(terminated)
            is type(truncated)
            is np.ndarray
            and mask is None
            and not info
            # One comparison of tuples: a step of small arrays costs little more than the checks it needs.
            and like
            == (
                observation.dtype,
                observation.shape,
                action.dtype,
                action.shape,
                reward.dtype,
                reward.shape,
                terminated.dtype,
                terminated.shape,
                truncated.dtype,
                truncated.shape,
            )
        ):
            write: Callable[[Any], int] = self._staged.write
            # Whatever interrupts this, the next step goes through _stage, which begins behind the last whole
            # one.
            self._like = None
            try:
                write(observation)
                write(action)
                write(reward)
                write(terminated)
                write(truncated)
                self._time += 1
                self._like = like
                return
            except (BufferError, ValueError):  # not contiguous: _stage copies it
                pass
        columns: dict[str, Any] = {}
        for role, value in zip(PLAIN, (observation, action, reward, terminated, truncated), strict=True):
            if type(value) is np.ndarray:
                columns[role] = value
            else:
                columns |= self._given(role, value)
        self._stage({**columns, **info} if info else columns, mask)

    def _given(self, role: str, value: Any) -> dict[str, Any]:
        """{field name: value} of what is given for a role; nothing of None or an empty dict."""
        nothing = value is None or (isinstance(value, Mapping | tuple) and not value)
        return {} if nothing else self._schema.flatten(value, role)

    def _stage(self, columns: Mapping[str, Any], mask: NDArray[np.bool_] | None) -> None:
        """Check a step and stage it."""
        self._check_open()
        if not self._started:
            raise SchemaError("step before reset: call reset with the first observations")
        if mask is not None and (
            type(mask) is not np.ndarray or mask.dtype != np.bool_ or mask.shape != (self.num_envs,)
        ):
            raise SchemaError(
                f"mask is a bool array of shape ({self.num_envs},), True where a step is "
                f"recorded, not {mask!r:.80}"
            )
        arrays = dict(columns)
        for name, value in columns.items():
            if type(value) is not np.ndarray or (value.dtype, value.shape) != self._expected.get(name):
                arrays = {}
        if len(arrays) != len(self._expected):
            arrays = self._checked(columns, self._schema.fields)
        if mask is not None:
            before = self._current()
            for name in self._observations:  # where nothing is recorded, nothing moves on
                arrays[name] = np.where(
                    mask.reshape(-1, *[1] * (before[name].ndim - 1)), arrays[name], before[name]
                )
            mask = mask.copy()
        self._like = None
        self._rewind()
        try:
            self._staged.write(b"".join(arrays[name].tobytes() for name in self._names))
            if mask is not None:
                self._masks[self._time] = mask
            self._time += 1
        finally:
            self._rewind()
        self._like = self._plain

    def _rewind(self) -> None:
        """Go on behind the last step that is staged as a whole; one that was interrupted was not."""
        self._masks.pop(self._time, None)
        self._staged.seek(self._time * self._step_bytes)

    def _checked(self, columns: Mapping[str, Any], names: Any) -> dict[str, NDArray[Any]]:
        dtypes = {name: dtype for name, (dtype, _) in self._expected.items()}
        arrays = {
            name: array_of(f"field {name!r}", value, dtypes.get(name)) for name, value in columns.items()
        }
        if not names:
            if arrays:
                raise SchemaError(
                    f"there is no field {next(iter(arrays))!r} in the schema "
                    f"({listed(self._schema.fields)}): leave it out"
                )
            return {}
        self._schema.select(names).check(arrays)
        for name, array in arrays.items():
            if array.shape[0] != self.num_envs:
                raise SchemaError(
                    f"field {name!r} has {array.shape[0]} rows for {self.num_envs} environments"
                )
        return arrays

    def _current(self) -> dict[str, NDArray[Any]]:
        """The observations that the next step starts from, not to be written to."""
        if self._resets and self._resets[-1].time == self._time:
            return dict(self._resets[-1].begins)
        if not self._time:
            return dict(self._start)
        begin = (self._time - 1) * self._step_bytes
        last = bytes(self._staged.getbuffer()[begin : begin + self._step_bytes])
        return {
            name: np.ndarray(shape, dtype, last, self._offsets[name])
            for name, (dtype, shape) in self._seen.items()
        }

    # --- from steps to rows

    @property
    def staged(self) -> int:
        """Steps that are staged."""
        return self._time * self.num_envs - sum(int((~mask).sum()) for mask in self._masks.values())

    def flush(self) -> None:
        """Hand the staged steps over as rows. They are safe after the next commit."""
        if self._time or self._resets:
            self._writable()
            self.hand_over()

    def hand_over(self) -> None:
        """As `flush`, in whatever operation this is a part of."""
        if self._time or self._resets:
            with self._operations("flush"):
                self._flush()

    def _flush(self) -> None:
        time, current = self._time, self._current()
        valid = np.ones((self.num_envs, time), np.bool_)
        for at, mask in self._masks.items():
            valid[:, at] = mask
        columns = {name: self._rows(name, valid) for name in self._names}
        counts = valid.sum(axis=1)
        begins = np.concatenate(([0], np.cumsum(counts)))
        runs = [
            staged_run(
                env,
                columns,
                slice(int(begins[env]), int(begins[env + 1])),
                valid[env],
                current,
                self._resets,
                going=env in self._recorder.assembler.open,
            )
            for env in range(self.num_envs)
        ]
        rewards = self._schema.total_reward(columns)
        for run in runs:
            run.reward = None if rewards is None else rewards[run.start : run.start + len(run.terminated)]
        self._recorder.add(columns, int(counts.sum()), runs, split=self.split)
        self._time, self._resets, self._masks, self._start = 0, [], {}, current
        self._rewind()

    def _rows(self, name: str, valid: NDArray[np.bool_]) -> NDArray[Any]:
        """The staged rows of a field, those of the first environment first; valid until the next call for
        this field."""
        (dtype, (_, *shape)), row_bytes = self._expected[name], self._schema.fields[name].row_bytes
        if not self._time:
            return np.empty((0, *shape), dtype)
        row = np.dtype((np.void, row_bytes))  # moved as a whole, twice as fast as its elements
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = np.empty(self._steps * self.num_envs, row)
        rows = room[: valid.size].reshape(valid.shape)
        strides = row_bytes, self._step_bytes
        staged = np.ndarray(valid.shape, row, self._staged.getbuffer(), self._offsets[name], strides)
        if name not in self._seen:
            rows[:] = staged
        else:
            rows[:, 0] = self._start[name].reshape(-1).view(row)
            rows[:, 1:] = staged[:, :-1]
            for reset in self._resets:
                if reset.time < self._time:
                    rows[:, reset.time] = reset.begins[name].reshape(-1).view(row)
        flat = rows[valid] if self._masks else rows.reshape(-1)
        return flat.view(dtype).reshape(-1, *shape)

    def close(self) -> None:
        """Hand over what is staged, and cut off the open trajectories. The buffer stays open; commit it to
        make all of it safe."""
        if not self._closed:
            self._writable()
            self.finish()

    def finish(self) -> None:
        """As `close`, in whatever operation this is a part of."""
        with self._operations("close the writer"):
            self.hand_over()
            for env in range(self.num_envs):
                self._recorder.cut(env)
            self._closed, self._like = True, None
            self._on_closed(self)

    def _check_open(self) -> None:
        if self._closed:
            raise ConflictError("this writer is closed: make another with buffer.writer()")


def _check_arguments(num_envs: object, split: object) -> None:
    """ArgumentError: what a writer is made of is of no use."""
    if not isinstance(num_envs, int) or isinstance(num_envs, bool) or num_envs < 1:
        raise ArgumentError(f"num_envs is a number of environments, at least 1, not {num_envs!r}")
    if not isinstance(split, str):
        raise ArgumentError(f"split is a string, not {split!r}")
