"""Where a writer keeps steps until they become rows: the bytes of their arrays, one after the other in a list
for each field. That is the quickest copy there is, and joined they are the rows.

The observation after a step is that of the next one, and is kept once. Where an environment was reset, the
next step starts from the first observation of another trajectory; where it left a step out (`masks`), nothing
has moved on. Both are seen to when the rows are made.

Values of any length are in a pool, and staged are their numbers there (pool.py): what comes in has been put
there (`pooled`), and what goes out are the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.pool import NUMBER, Pool
from replaystore.buffers.staged import Reset
from replaystore.schema.fields import Schema
from replaystore.schema.ragged import Ragged
from replaystore.schema.values import BOOL

__all__ = ["PLAIN", "Staging"]

STAGE_BYTES = 16 << 20
"""Staged steps take at most about this much memory."""
STAGE_STEPS = 1024
"""Steps of each environment staged at most."""
PLAIN = ("observation", "action", "reward", "terminated", "truncated")
"""Fields of most buffers, whose steps are checked and copied in the fewest operations."""

Observations = dict[str, NDArray[Any]]
Values = Mapping[str, NDArray[Any] | Ragged]


class Staging:
    """Steps of `num_envs` environments, of the fields of a schema."""

    def __init__(self, schema: Schema, num_envs: int, start: Values) -> None:
        """`start`: the observations that the first step starts from, of the fields that have any."""
        self.num_envs = num_envs
        self.ragged = schema.ragged
        self.expected = {
            name: (NUMBER, (num_envs,)) if declared.ragged else (declared.dtype, (num_envs, *declared.shape))
            for name, declared in schema.fields.items()
        }
        self.observations = schema.names("observation")
        self.rewards = schema.names("reward")
        further = [name for name in self.expected if name not in PLAIN]
        plain = self.expected.keys() >= set(PLAIN) and not self.ragged
        self._plain = tuple(part for name in PLAIN for part in self.expected[name]) if plain else None
        self._like: tuple[Any, ...] | None = None
        """dtype and shape of each field of PLAIN, while they are all among the fields and steps may be
        offered."""
        self.names = (*further, *PLAIN) if plain else tuple(schema.fields)
        self._row_bytes = {
            name: dtype.itemsize * math.prod(shape[1:]) for name, (dtype, shape) in self.expected.items()
        }
        step_bytes = sum(self._row_bytes.values()) * num_envs
        self._most = int(min(max(STAGE_BYTES // step_bytes, 1), STAGE_STEPS))
        self._begin(start)
        self._flags = [name for name in ("terminated", "truncated") if name in self.expected]
        self._staged: dict[str, list[bytes]] = {name: [] for name in self.names}
        """The staged steps of each field; of an observation those of the one after the step."""
        self._first = self._staged[self.names[0]]
        """The list that a step is put into first: it has one that is not whole."""
        self._ordered_fields = [(name, self.expected[name]) for name in self.names]
        self._puts: list[Callable[[bytes], None]] = [staged.append for staged in self._staged.values()]
        """What puts the bytes of a field behind those of the steps before, in the order of `names`."""
        self._plain_puts = self._puts[-len(PLAIN) :]
        self._further = [(name, *self.expected[name], self._staged[name].append) for name in further]
        """Of each field that is not PLAIN its name, dtype and shape, and what puts its bytes."""
        self.time = self._looked = 0
        """How many steps are staged; of how many it is known that no trajectory ends in them."""
        self.masks: dict[int, NDArray[np.bool_]] = {}
        """The masks of staged steps that not all environments record."""
        self.resets: list[Reset] = []

    def _begin(self, start: Values) -> None:
        """Begin with an empty pool, but for what the first step starts from."""
        pool = Pool(self.ragged)
        given = {name: rows for name, rows in start.items() if isinstance(rows, Ragged)}
        numbers: dict[str, Any] = {**start, **pool.put(given)}
        self.start: Observations = {}
        """What the first step starts from."""
        for name in self.observations:
            dtype, shape = self.expected[name]
            self.start[name] = numbers[name] if name in numbers else np.zeros(shape, dtype)
        self.pool = pool
        self.limit = self._most
        """So many steps are staged at most."""

    def __bool__(self) -> bool:
        return bool(self.time or self.resets)

    @property
    def steps(self) -> int:
        """Recorded steps of all environments."""
        whole = (mask for time, mask in self.masks.items() if time < self.time)
        return self.time * self.num_envs - sum(int((~mask).sum()) for mask in whole)

    def rewind(self) -> None:
        """Go on behind the last step that is staged as a whole; one that was interrupted was not."""
        if len(self._first) != self.time:
            self.masks.pop(self.time, None)
            # The first list comes last: this may be interrupted as well.
            for staged in reversed(self._staged.values()):
                del staged[self.time :]

    def open(self, yes: bool = True) -> None:
        """From now on steps may be offered, or not."""
        self._like = self._plain if yes else None

    def is_mask(self, mask: object) -> bool:
        """Whether it says of each environment whether it records a step."""
        return type(mask) is np.ndarray and mask.dtype == BOOL and mask.shape == (self.num_envs,)

    def offer(
        self,
        action: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        observation: Any,
        info: Mapping[str, Any] | None,
        mask: NDArray[np.bool_] | None,
    ) -> bool:
        """Stage a step if it is just as it is stored, as nearly every one is: arrays of the fields' dtypes
        and shapes. Whether it is; else nothing has changed."""
        like = self._like
        if not (
            type(observation)
            is type(action)
            is type(reward)
            is type(terminated)
            is type(truncated)
            is np.ndarray
            and (mask is None or self.is_mask(mask))
            and len(self._further) == (len(info) if info else 0)
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
            return False
        # Whatever interrupts this, the next step goes through `stage`, which begins behind the last whole
        # one.
        self._like = None
        for name, dtype, shape, put in self._further:
            array = info.get(name) if info else None
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != shape:
                self.rewind()
                self._like = like
                return False
            put(array.tobytes())
        observations, actions, rewards, terminations, truncations = self._plain_puts
        observations(observation.tobytes())
        actions(action.tobytes())
        rewards(reward.tobytes())
        terminations(terminated.tobytes())
        truncations(truncated.tobytes())
        if mask is not None:
            self.masks[self.time] = mask.copy()
        self.time += 1
        self._like = like
        return True

    def bytes_of(self, arrays: Mapping[str, Any]) -> list[bytes] | None:
        """The bytes of a step's arrays as they are staged; None if they are not all that is expected."""
        found: list[bytes] = []  # to call list[bytes] takes twenty times as long, here and in what follows
        for name, (dtype, shape) in self._ordered_fields:
            array = arrays.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != shape:
                return None
            found.append(array.tobytes())
        return found if len(found) == len(arrays) else None

    def stage(self, fields: Sequence[bytes], mask: NDArray[np.bool_] | None) -> None:
        """One more step, of which these are the `bytes_of`."""
        self._like = None
        self.rewind()
        for put, field in zip(self._puts, fields, strict=True):
            put(field)
        if mask is not None:
            self.masks[self.time] = mask.copy()
        self.time += 1
        if self.pool.bytes >= STAGE_BYTES:
            self.limit = self.time
        self._like = self._plain

    def pooled(self, columns: Mapping[str, Any]) -> Observations:
        """The same columns as they are staged."""
        given = {name: column for name, column in columns.items() if isinstance(column, Ragged)}
        return {**columns, **self.pool.put(given)}

    def handed_over(self, start: Values) -> None:
        """All that was staged is rows; the next step starts from these observations."""
        if self.ragged:
            self._begin(start)
        else:  # at each step, where each is sampled
            self.start = cast("Observations", start)
        self.time, self._looked, self.resets, self.masks = 0, 0, [], {}
        for staged in self._staged.values():
            staged.clear()

    @property
    def starting(self) -> Values:
        """What the first step starts from, of any length too."""
        return self.pool.values(self.start)

    # --- what is staged, as rows; after `rewind`

    @property
    def quiet(self) -> bool:
        """Whether all environments go on in all steps."""
        if self.masks or self.resets:
            return False
        size = (self.time - self._looked) * self.num_envs
        for name in self._flags:
            if b"".join(self._staged[name][self._looked :]).count(0) != size:
                return False
        self._looked = self.time
        return True

    def flags(self, name: str) -> Any:
        """A field of flags by step and environment; None if there is none of the name."""
        return self.view(name) if name in self.expected else None

    def view(self, name: str) -> NDArray[Any]:
        """What is staged of a field, by step and environment; of an observation that after the step."""
        dtype, shape = self.expected[name]
        return np.ndarray((self.time, *shape), dtype, b"".join(self._staged[name]))

    def rows(self, name: str) -> NDArray[Any]:
        """The rows of a field that holds no observations, as they come."""
        dtype, (_, *shape) = self.expected[name]
        return np.ndarray((self.time * self.num_envs, *shape), dtype, b"".join(self._staged[name]))

    def plainly(self) -> tuple[dict[str, bytes], Observations]:
        """The rows of all fields as they come, their bytes, and what the next step starts from; of steps that
        are `quiet`, and of fields of one shape alone."""
        columns: dict[str, bytes] = {}
        after: Observations = {}
        starts = self.start
        for name, staged in self._staged.items():
            start = starts.get(name)
            if start is None:
                columns[name] = b"".join(staged)
            else:
                after[name] = np.ndarray(start.shape, start.dtype, staged[-1])
                columns[name] = b"".join((start.tobytes(), *staged[:-1]))
        return columns, after

    def finals(self, times: Any, envs: Any) -> dict[str, Any]:
        """The observations after these steps."""
        return self.pool.values({name: self.view(name)[times, envs] for name in self.observations})

    def take(self, source: NDArray[np.int64] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The rows of all fields in the order of `source` (None: as they come), and the observations that the
        next step starts from."""
        columns: dict[str, NDArray[Any]] = {}
        after: Observations = {}
        for name in self.names:
            if name in self.start:
                rows, after[name] = self._observed(name)
            else:
                rows = self.rows(name)
            columns[name] = rows if source is None else self._ordered(name, rows, source)
        return self.pool.values(columns), self.pool.values(after)

    def _observed(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """The rows of an observation field, as they come, and what the next step starts from."""
        dtype, shape = self.expected[name]
        row = np.dtype((np.void, self._row_bytes[name]))  # rows are moved as a whole
        known = bytearray().join((self.start[name].tobytes(), *self._staged[name]))
        begins = np.ndarray((self.time + 1, self.num_envs), row, known)
        new = np.ones(begins.shape, np.bool_)
        for time, mask in self.masks.items():
            new[time + 1] = mask
        if self.resets:  # of several before one step, the last one says
            times = np.repeat([reset.time for reset in self.resets], [len(r.envs) for r in self.resets])
            envs = np.concatenate([reset.envs for reset in self.resets])
            rows = np.concatenate([reset.begins[name] for reset in self.resets])
            begins[times, envs], new[times, envs] = rows.reshape(-1).view(row), True
        if self.masks:  # what is not new is as it was the step before
            times, envs = np.nonzero(~new)
            since = np.maximum.accumulate(np.where(new, np.arange(len(new))[:, None], 0), axis=0)
            begins[times, envs] = begins[since[times, envs], envs]
        after = begins[self.time].copy().view(dtype).reshape(shape)
        return begins[: self.time].reshape(-1).view(dtype).reshape(-1, *shape[1:]), after

    def _ordered(self, name: str, rows: NDArray[Any], source: NDArray[np.int64]) -> NDArray[Any]:
        flat = rows.reshape(-1).view(np.dtype((np.void, self._row_bytes[name])))
        return flat[source].view(rows.dtype).reshape(-1, *rows.shape[1:])
