"""A buffer as a ReplayBuffer of Stable-Baselines3, or a DictReplayBuffer if its observations are of several
fields.

Trajectory comes after trajectory, in one environment; in as many as there were, where each has as many
steps. What Stable-Baselines3 has no place for goes into an attribute that it does not look at (notes.py), so
that nothing is lost on the way back: seeds, splits, both flags at once, further fields, and numbers that it
needs in another dtype.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import UnsupportedError
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Report, changed, lost, made_up
from replaystore.formats.shared.file_rows import BLOCK_BYTES
from replaystore.formats.shared.outgoing import Outgoing
from replaystore.formats.shared.pickles.writing import Call, PickleWriter, Streamed
from replaystore.formats.stable_baselines3.lanes import lanes_of
from replaystore.formats.stable_baselines3.layout import key_of
from replaystore.formats.stable_baselines3.notes import (
    ATTRIBUTE,
    MAX_TRAJECTORIES,
    STAMPED,
)
from replaystore.formats.stable_baselines3.noting import notes_for
from replaystore.formats.stable_baselines3.spaces import instance_of, space_for
from replaystore.schema.fields import Field
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["Plan"]

BLOCK_ROWS = 1 << 15
CLASSES = "stable_baselines3.common.buffers"
Rows = NDArray[np.int64]
Read = Callable[[Rows], NDArray[Any]]


@dataclass(frozen=True)
class _Array:
    """An array of the file: one value for each step, of the rows that are asked for."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Read

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


@dataclass
class Plan:
    """Everything that goes into the file; `out` says what becomes of the buffer."""

    buffer: BufferReader
    options: Options
    where: str
    out: Outgoing = field(init=False)

    def __post_init__(self) -> None:
        self.out = out = Outgoing(self.buffer, self.options)
        self.observations = [name for name, f in out.fields.items() if f.role == "observation"]
        self.actions = [name for name, f in out.fields.items() if f.role == "action"]
        if not self.observations or not self.actions:
            raise UnsupportedError(
                f"{self.where}: a buffer of Stable-Baselines3 has observations and actions, and these are "
                "not both here"
            )
        self.lanes, self.order = lanes_of(out)
        if len(self.order) > MAX_TRAJECTORIES:
            raise UnsupportedError(
                f"{self.where}: a pickle of Stable-Baselines3 takes at most {MAX_TRAJECTORIES} trajectories"
            )
        self.rows = len(self.lanes[0])
        self.steps = self.rows * len(self.lanes)
        self._place()
        rewards = [name for name, f in out.fields.items() if f.role == "reward"]
        self.reward = rewards[0] if len(rewards) == 1 and not out.fields[rewards[0]].shape else None
        self._say()

    def _place(self) -> None:
        """How many rows there are, and which comes next: as in the buffer that it was made of, if it was one
        of Stable-Baselines3."""
        known, envs = self.buffer.provenance.get("source") or {}, len(self.lanes)
        ring = (self.buffer.capacity or 0) // envs if self.options.trajectories is None else 0
        self.capacity = max(self.rows, ring, 1)
        self.turned = 0
        """How far the oldest row lies from the first place."""
        numbers: list[Any] = [known.get(key) for key in ("buffer_size", "position", "num_envs")]
        if known.get("format") == "sb3" and all(type(number) is int for number in numbers):
            capacity, position, before = map(int, numbers)
            if before == envs and self.rows <= capacity < 1 << 48 and self.options.trajectories is None:
                self.capacity = capacity
                self.turned = position % capacity if self.rows == capacity else 0
        self.full = self.rows == self.capacity
        self.position = self.turned if self.full else self.rows

    def _say(self) -> None:
        """What becomes of the buffer."""
        out, parts = self.out, self.out.parts
        out.became |= dict.fromkeys(out.fields, KEPT)
        if self.reward is None:
            out.became["rewards"] = made_up("0")
        unknown = sum(lane.unknown for lane in self.lanes)
        if unknown:
            out.became["next_observations"] = made_up(
                f"after {unknown} trajectories of which nobody knows what was observed then: the last "
                "observation again"
            )
        holds = {"env", "seed", "split", "final_observation", "metadata", "environment"}
        user = [name for name in out.table.columns if name not in TRAJECTORIES and name != "open"]
        out.note_losses(holds={*holds, "terminated", "truncated", *user}, flags=KEPT)
        if (self.order != np.sort(self.order)).any():
            out.rest["order"] = changed("by when trajectories end")
        inside = parts.final[np.concatenate([lane.inside for lane in self.lanes])]
        if (inside >= 0).any():
            out.rest["final_observation"] = lost("those inside of trajectories that go on elsewhere")

    def report(self) -> Report:
        """What becomes of it."""
        report = self.out.report(self.steps, len(self.order))
        cast = sorted(set(self.beside) - {"truncated"} - self._others)
        if cast:
            report.remarks.append(
                f"{', '.join(cast)}: Stable-Baselines3 sees them in the dtype and shape that it needs; as "
                "they are they lie beside"
            )
        if self._scaled:
            report.remarks.append(
                "actions are written as they are: SAC, TD3 and DDPG of Stable-Baselines3 have them scaled "
                "from the bounds of the action space to [-1, 1] in a buffer"
            )
        return report

    @property
    def _scaled(self) -> bool:
        space = self.out.fields[self.actions[0]].space
        known = self.buffer.provenance.get("source") or {}
        if space is None or space["type"] != "Box" or known.get("format") in ("sb3", "replaystore.sb3"):
            return False
        return (space["low"], space["high"]) != (-1.0, 1.0)

    @property
    def _others(self) -> set[str]:
        known = {*self.observations, *self.actions, "terminated", "truncated"}
        return {name for name in self.out.fields if name not in known and name != self.reward}

    @property
    def beside(self) -> list[str]:
        """The fields that are written as they are, too."""
        found = [name for name in self.out.fields if name in self._others or name == "truncated"]
        single = self.out.fields[self.actions[0]]
        if len(self.actions) > 1 or _action_dtype(single) != single.dtype:
            found += self.actions
        if self.reward is not None and self.out.fields[self.reward].dtype != np.float32:
            found.append(self.reward)
        return found

    # --- arrays

    def arrays(self) -> dict[str, Any]:
        """Of the file, by its names; those of a Dict in a dict."""
        seen = {name: self._observation(name, after=False) for name in self.observations}
        after = {name: self._observation(name, after=True) for name in self.observations}
        flags = {"dones": self._dones, "timeouts": self._timeouts}
        return {
            "observations": self._of_keys(seen),
            "next_observations": self._of_keys(after),
            "actions": self._action(),
            "rewards": _Array(np.dtype("<f4"), (), self._rewards),
            **{name: _Array(np.dtype("<f4"), (), read) for name, read in flags.items()},
        }

    def _of_keys(self, arrays: Mapping[str, _Array]) -> Any:
        if list(arrays) == ["observation"]:
            return arrays["observation"]
        return {key_of(name): array for name, array in arrays.items()}

    def _observation(self, name: str, *, after: bool) -> _Array:
        declared = self.out.fields[name]

        def read(rows: Rows) -> NDArray[Any]:
            if after:
                following = self.out.following(rows)
                rows = np.where(following < 0, rows, following)
            return self.out.field(name, rows).reshape(len(rows), *(declared.shape or (1,)))

        return _Array(declared.dtype, declared.shape or (1,), read)

    def _action(self) -> _Array:
        fields = [self.out.fields[name] for name in self.actions]
        width = sum(declared.row_bytes // declared.dtype.itemsize for declared in fields)
        dtype = _action_dtype(fields[0]) if len(fields) == 1 else np.dtype("<f4")

        def read(rows: Rows) -> NDArray[Any]:
            flat = [self.out.field(name, rows).reshape(len(rows), -1) for name in self.actions]
            with np.errstate(all="ignore"):
                return np.concatenate([values.astype(dtype, copy=False) for values in flat], axis=1)

        return _Array(dtype, (width,), read)

    def _rewards(self, rows: Rows) -> NDArray[Any]:
        if self.reward is None:
            return np.zeros(len(rows), np.float32)
        with np.errstate(all="ignore"):
            return self.out.field(self.reward, rows).astype(np.float32, copy=False)

    def _flag(self, name: str, rows: Rows) -> NDArray[np.bool_]:
        """Whether steps have it; where there are no rows of it, the last ones of trajectories that do."""
        if name in self.out.fields:
            set_: NDArray[np.bool_] = self.out.field(name, rows) != 0
            return set_
        parts, table = self.out.parts, self.out.table
        part = parts.part_of(rows + self.out.first)
        ids = table["trajectory"]
        order = np.argsort(ids)
        at = order[np.searchsorted(ids, parts.trajectory[part], sorter=order)]
        last = np.isin(part, np.concatenate([lane.last for lane in self.lanes]))
        last &= rows + self.out.first == parts.last[part]
        flags: NDArray[np.bool_] = last & table[name][at]
        return flags

    def _dones(self, rows: Rows) -> NDArray[Any]:
        return (self._flag("terminated", rows) | self._flag("truncated", rows)).astype(np.float32)

    def _timeouts(self, rows: Rows) -> NDArray[Any]:
        late = self._flag("truncated", rows) & ~self._flag("terminated", rows)
        return late.astype(np.float32)

    # --- the file

    def write(self, file: IO[bytes]) -> None:
        """The whole pickle."""
        arrays, beside = self.arrays(), self.beside
        fields = {name: self._plain(name) for name in beside}
        every = [array for some in arrays.values() for array in _named(some).values()]
        steps = self.capacity * len(self.lanes)
        writing = _Writing(self, steps * sum(array.row_bytes for array in [*every, *fields.values()]))
        out = PickleWriter(file, 5)
        spaces = self._spaces()
        envs = len(self.lanes)
        obs_shape = {key: array.shape for key, array in _named(arrays["observations"]).items()}
        single = isinstance(arrays["observations"], _Array)
        streams = {
            name: {key: writing.stream(array) for key, array in some.items()}
            if isinstance(some, dict)
            else writing.stream(some, name)
            for name, some in arrays.items()
        }
        timeouts = streams.pop("timeouts")
        state = {
            "buffer_size": self.capacity,
            "observation_space": instance_of(spaces[0]),
            "action_space": instance_of(spaces[1]),
            "obs_shape": obs_shape[""] if single else obs_shape,
            "action_dim": arrays["actions"].shape[0],
            "pos": self.position % self.capacity,
            "full": self.full,
            "device": Call("torch", "device", ("cpu",)),
            "n_envs": envs,
            "optimize_memory_usage": False,
            **streams,
            "handle_timeout_termination": True,
            "timeouts": timeouts,
        }
        out.name(CLASSES, "ReplayBuffer" if single else "DictReplayBuffer")
        out.code(b")\x81}")
        for key, value in state.items():
            out.value(key)
            out.value(value)
            out.code(b"s")
        out.value(ATTRIBUTE)  # last, for the stamp is known then
        position = [self.position % self.capacity, int(self.full), self.capacity, envs]
        kept = {name: writing.stream(array) for name, array in fields.items()}
        out.value(notes_for(self.out, self.lanes, self.order, position, writing.stamp, kept))
        out.code(b"sb")
        out.end()

    def _plain(self, name: str) -> _Array:
        declared = self.out.fields[name]
        return _Array(declared.dtype, declared.shape, lambda rows: self.out.field(name, rows))

    def _spaces(self) -> tuple[Any, Any]:
        """Of observations and actions; those that are not known are made up of dtypes and shapes."""
        from gymnasium import spaces

        fields = self.out.fields
        seen = {key_of(name): space_for(fields[name]) for name in self.observations}
        observation = seen[""] if list(seen) == [""] else spaces.Dict(seen)
        if len(self.actions) == 1:
            action = fields[self.actions[0]]
            return observation, space_for(action, self._largest() if _counts(action) else None)
        width = self._action().shape
        return observation, spaces.Box(-np.inf, np.inf, width, np.float32)

    def _largest(self) -> int:
        """The largest action."""
        found = 0
        for start in range(0, self.out.count, BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, self.out.count))
            found = max(found, int(self.out.field(self.actions[0], rows).max(initial=0)))
        return found


@dataclass
class _Writing:
    """Arrays on their way into the file."""

    plan: Plan
    total: int
    done: int = 0
    stamp: int = 0

    def stream(self, array: _Array, name: str = "") -> Streamed:
        plan = self.plan
        shape = (plan.capacity, len(plan.lanes), *array.shape)
        return Streamed(array.dtype, shape, lambda file: self._write(file, array, name in STAMPED))

    def _write(self, file: IO[bytes], array: _Array, stamped: bool) -> None:
        for rows in _places(self.plan, array.row_bytes):
            there = rows >= 0
            block = np.zeros((len(rows), *array.shape), array.dtype)
            if there.any():
                block[there] = array.read(rows[there])
            file.write(block.data)
            if stamped:
                self.stamp = zlib.crc32(block.data, self.stamp)
            self.done += block.nbytes
            if self.plan.options.progress is not None:
                self.plan.options.progress(self.done, self.total)


def _places(plan: Plan, row_bytes: int) -> Iterator[Rows]:
    """The rows of the buffer that lie at the places of the file, environment by environment in each of its
    rows; -1 where none is."""
    envs = len(plan.lanes)
    step = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, row_bytes)) // envs)
    for start in range(0, plan.capacity, step):
        places = np.arange(start, min(start + step, plan.capacity))
        times = (places - plan.turned) % plan.capacity if plan.turned else places
        there = times < plan.rows
        rows = np.full((len(places), envs), -1, np.int64)
        for env, lane in enumerate(plan.lanes):
            rows[there, env] = lane.rows(times[there])
        yield rows.reshape(-1)


def _named(arrays: Any) -> dict[str, _Array]:
    return arrays if isinstance(arrays, dict) else {"": arrays}


def _action_dtype(declared: Field) -> np.dtype[Any]:
    """What Stable-Baselines3 makes of it."""
    return np.dtype("<f4") if declared.dtype == np.float64 else declared.dtype


def _counts(declared: Field) -> bool:
    """Whether it is one integer of which no space is known."""
    return declared.space is None and not declared.shape and declared.dtype.kind in "iu"
