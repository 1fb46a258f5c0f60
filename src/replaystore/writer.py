"""Steps of several environments, staged until there are enough of them, become rows.

A step is copied once, into arrays of shape (environments, steps); when these are full, or at a commit, each environment's steps become a
run of adjacent rows. So the cost of a step is that of copying it, and an environment's steps lie together.

The observation after a step is staged in the place of the next step's observation. When a trajectory ends, `reset` puts the first
observation of the next one there; the one that was there is kept as the final observation of the trajectory that ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.assembler import Begin, End, Run
from replaystore.errors import ConflictError, SchemaError
from replaystore.names import flatten
from replaystore.schema import Schema

if TYPE_CHECKING:
    from replaystore.buffer import Buffer

__all__ = ["Writer"]

STAGE_BYTES = 16 << 20
"""Staged steps take at most about this much memory."""
STAGE_STEPS = 1024
"""Steps of each environment staged at most."""
STEP = 1 << 32
"""What happens in a step comes after the resets before it, of which there are fewer."""


@dataclass(frozen=True)
class _Reset:
    """Trajectories that begin before the step staged at `time`; `number` counts resets, which may be several at one time."""

    time: int
    number: int
    mask: NDArray[np.bool_]
    seeds: Sequence[int]
    finals: Mapping[str, NDArray[Any]]
    """The observations that were there before."""


class Writer:
    """Writes the steps of `num_envs` environments, which take turns in one call. Made by `buffer.writer`.

    Call `reset` with the first observations, then `step` after each step of the environments. After a step in which a trajectory ended,
    call `reset` for it (`mask`); otherwise the observation passed with the step is also the first of the next trajectory.
    """

    def __init__(self, buffer: Buffer, num_envs: int, *, split: str = "") -> None:
        if num_envs < 1:
            raise SchemaError(f"num_envs must be at least 1, not {num_envs}")
        self.num_envs = num_envs
        self.split = split
        self._buffer = buffer
        self._time = 0
        self._resets: list[_Reset] = []
        self._masked = False
        self._started = False
        self._closed = False
        self._allocate(buffer.schema)

    def _allocate(self, schema: Schema) -> None:
        """Arrays for the staged steps; the current observations are carried over."""
        rows = sum(declared.row_bytes for declared in schema.fields.values()) * self.num_envs
        steps = int(min(max(STAGE_BYTES // max(rows, 1), 1), STAGE_STEPS))
        current = self._current() if self._started else {}
        self._schema, self._steps = schema, steps
        self._observations = schema.names("observation")
        self._stage: dict[str, NDArray[Any]] = {}
        for name, declared in schema.fields.items():
            room = steps + 1 if declared.role == "observation" else steps
            self._stage[name] = np.zeros((self.num_envs, room, *declared.shape), declared.dtype)
        self._valid = np.ones((self.num_envs, steps), np.bool_)
        self._expected = {
            name: (self._stage[name], declared.dtype, (self.num_envs, *declared.shape)) for name, declared in schema.fields.items()
        }
        self._others = {name for name, declared in schema.fields.items() if declared.role not in ("observation", "action")}
        for name, values in current.items():
            self._stage[name][:, 0] = values

    def reset(self, observation: Any, *, seed: int | Sequence[int | None] | None = None, mask: NDArray[np.bool_] | None = None) -> None:
        """Trajectories begin with these observations, in all environments or in those where `mask` (shape (num_envs,)) is True.

        Those that are open there are cut off: they end neither terminated nor truncated. Observations are batched as Gymnasium does
        (first dimension num_envs; dict or tuple of such arrays). `seed`: what the environments were reset with."""
        self._check_open()
        chosen = np.ones(self.num_envs, np.bool_) if mask is None else np.array(mask, np.bool_)
        values = self._checked(flatten(observation, "observation"), self._observations)
        seeds = [-1 if one is None else int(one) for one in (seed if isinstance(seed, Sequence) else [seed] * self.num_envs)]
        if len(seeds) != self.num_envs or chosen.shape != (self.num_envs,):
            raise SchemaError(f"reset takes one seed and one mask entry for each of the {self.num_envs} environments")
        time = self._time
        finals = self._current() if self._started else {}
        self._resets.append(_Reset(time, len(self._resets), chosen, seeds, finals))
        for name, value in values.items():
            if mask is None:
                self._stage[name][:, time] = value
            else:
                self._stage[name][chosen, time] = value[chosen]
        self._started = True

    def step(
        self,
        action: Any,
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        observation: Any,
        info: Mapping[str, NDArray[Any]] | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """One step of each environment, as arrays with first dimension num_envs.

        Args:
            observation: the observation after the action; for a trajectory that ends here its final one, not that of the next.
            info: all further fields, by field name ("info/speed").
            mask: shape (num_envs,); environments where it is False record nothing.

        Raises:
            SchemaError: a wrong dtype or shape, a missing or unknown field; nothing is recorded then.
            StorageError: the disk refused; nothing is lost, and the step may be repeated.
        """
        if self._time == self._steps:
            self.flush()
        time = self._time
        columns = {"reward": reward, "terminated": terminated, "truncated": truncated}
        if info:
            columns.update(info)
        if type(action) is np.ndarray and type(observation) is np.ndarray:
            columns["action"] = action
            columns["observation"] = observation
        else:
            columns.update(flatten(action, "action"))
            columns.update(flatten(observation, "observation"))
        expected = self._expected
        if not self._started or self._closed or len(columns) != len(expected):
            self._refuse(columns)
        if mask is not None and (type(mask) is not np.ndarray or mask.dtype != np.bool_ or mask.shape != (self.num_envs,)):
            raise SchemaError(f"mask is a bool array of shape ({self.num_envs},), True where a step is recorded, not {mask!r:.80}")
        for name, value in columns.items():
            entry = expected.get(name)
            if entry is None or type(value) is not np.ndarray or value.dtype != entry[1] or value.shape != entry[2]:
                self._refuse(columns)
        ahead = time + 1
        for name in self._observations:
            expected[name][0][:, ahead] = columns.pop(name)
        for name, value in columns.items():
            expected[name][0][:, time] = value
        if mask is not None:
            self._valid[:, time] = mask
            self._masked = True
            for name in self._observations:  # where nothing is recorded, nothing moves on
                stage = expected[name][0]
                stage[~mask, ahead] = stage[~mask, time]
        self._time = ahead

    def _refuse(self, columns: Mapping[str, Any]) -> None:
        """Say what is wrong with a step."""
        self._check_open()
        if not self._started:
            raise SchemaError("step before reset: call reset with the first observations")
        self._checked(columns, self._schema.fields)

    def _checked(self, columns: Mapping[str, Any], names: Any) -> dict[str, NDArray[Any]]:
        arrays = {name: np.asarray(value) for name, value in columns.items()}
        self._schema.select(names).check(arrays)
        for name, array in arrays.items():
            if array.shape[0] != self.num_envs:
                raise SchemaError(f"field {name!r} has {array.shape[0]} rows for {self.num_envs} environments")
        return arrays

    def _current(self) -> dict[str, NDArray[Any]]:
        """The observations that the next step starts from."""
        return {name: self._stage[name][:, self._time].copy() for name in self._observations}

    # --- from steps to rows

    @property
    def staged(self) -> int:
        """Steps that are staged."""
        return int(self._valid[:, : self._time].sum())

    def flush(self) -> None:
        """Hand the staged steps over as rows. They are safe after the next commit."""
        if not self._time and not self._resets:
            return
        time, valid = self._time, self._valid[:, : self._time]
        current = self._current() if self._started else {}
        if self._masked and not valid.all():
            columns = {name: stage[:, :time][valid] for name, stage in self._stage.items()}
            counts = valid.sum(axis=1)
        else:
            columns = {name: stage[:, :time].reshape(self.num_envs * time, *stage.shape[2:]) for name, stage in self._stage.items()}
            counts = np.full(self.num_envs, time)
        first = self._buffer._append_rows(columns, int(counts.sum()))
        begins = np.concatenate(([0], np.cumsum(counts)))
        runs = [
            self._run(env, columns, slice(int(begins[env]), int(begins[env + 1])), valid[env], current) for env in range(self.num_envs)
        ]
        self._buffer._assembler.add_together(first, runs, split=self._buffer._split_code(self.split))
        for name, values in current.items():
            self._stage[name][:, 0] = values
        self._time, self._resets, self._masked = 0, [], False
        self._valid[:] = True

    def _run(
        self, env: int, columns: Mapping[str, NDArray[Any]], mine: slice, valid: NDArray[np.bool_], current: Mapping[str, Any]
    ) -> Run:
        """One environment's rows, with what is known of the ends and beginnings among them."""
        terminated, truncated = columns["terminated"][mine], columns["truncated"][mine]
        times = np.flatnonzero(valid)
        run = Run(env, mine.start, terminated, truncated, columns["reward"][mine] if "reward" in columns else None)
        run.following = {name: values[env] for name, values in current.items()}
        for place in np.flatnonzero(terminated | truncated).tolist():
            row = mine.start + place + 1
            final = {name: columns[name][row] for name in self._observations} if row < mine.stop else run.following
            run.ends[place] = End((int(times[place]), STEP), final)
        reset_at: dict[int, Begin] = {}
        for reset in self._resets:
            if not reset.mask[env]:
                continue
            place, when = int(np.searchsorted(times, reset.time)), (reset.time, reset.number)
            before = reset_at.get(place)  # reset again before a step: what began then begins otherwise
            reset_at[place] = Begin(when if before is None else before.time, reset.seeds[env])
            if place > 0 and before is None:
                ended = run.ends.get(place - 1)
                run.ends[place - 1] = End(when if ended is None else ended.time, {name: known[env] for name, known in reset.finals.items()})
        # Where no reset follows an end, the next step begins a trajectory nevertheless.
        follow = [0, *(place + 1 for place in run.ends)]
        run.begins = {place: Begin((int(times[place]), STEP), -1) for place in follow if place < len(times) and self._begins(env, place)}
        run.begins |= reset_at
        return run

    def _begins(self, env: int, place: int) -> bool:
        """Whether a trajectory begins with the first staged step of an environment, even without a reset; all those after an end do."""
        return place > 0 or env not in self._buffer._assembler.open

    def close(self) -> None:
        """Hand over what is staged, and cut off the open trajectories. The buffer stays open; commit it to make all of it safe."""
        if not self._closed:
            self.flush()
            for env in range(self.num_envs):
                self._buffer._assembler.cut(env)
            self._closed = True
            self._buffer._writer_closed(self)

    def _check_open(self) -> None:
        if self._closed:
            raise ConflictError("this writer is closed: make another with buffer.writer()")
