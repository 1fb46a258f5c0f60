"""Where a writer keeps steps until they become rows: the bytes of their arrays, one step behind the other,
which is the quickest copy there is.

The observation after a step is that of the next one, and is kept once. Where an environment was reset, the
next step starts from the first observation of another trajectory; where it left a step out (`masks`), nothing
has moved on. Both are seen to when the rows are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.staged import Reset
from replaystore.schema.fields import Schema

__all__ = ["PLAIN", "Staging"]

STAGE_BYTES = 16 << 20
"""Staged steps take at most about this much memory."""
STAGE_STEPS = 1024
"""Steps of each environment staged at most."""
PLAIN = ("observation", "action", "reward", "terminated", "truncated")
"""The fields of most buffers, whose steps are checked and copied in the fewest operations."""


class Staging:
    """Steps of `num_envs` environments, of the fields of a schema."""

    def __init__(self, schema: Schema, num_envs: int, start: Mapping[str, NDArray[Any]]) -> None:
        """`start`: the observations that the first step starts from, of the fields that have any."""
        self.num_envs = num_envs
        self.expected = {
            name: (declared.dtype, (num_envs, *declared.shape)) for name, declared in schema.fields.items()
        }
        self.observations = schema.names("observation")
        zeros = {name: np.zeros(shape, dtype) for name, (dtype, shape) in self.expected.items()}
        self.start = {name: start.get(name, zeros[name]) for name in self.observations}
        self.plain = self.expected.keys() == set(PLAIN)
        self.names = PLAIN if self.plain else tuple(schema.fields)
        self._row_bytes = {name: schema.fields[name].row_bytes for name in self.names}
        sizes = [self._row_bytes[name] * num_envs for name in self.names]
        self._offsets = dict(zip(self.names, accumulate(sizes, initial=0), strict=False))
        self.step_bytes = sum(sizes)
        self.limit = int(min(max(STAGE_BYTES // self.step_bytes, 1), STAGE_STEPS))
        """So many steps are staged at most."""
        self._flags = [name for name in ("terminated", "truncated") if name in self.expected]
        self._no_flags = bytes(num_envs)
        self._rooms: dict[str, NDArray[Any]] = {}
        """Where the rows of a field are put in order; to take new memory each time would cost more than the
        work."""
        self.file = BytesIO()
        """The staged steps: the arrays of all fields in the order of `names`; of an observation those of the
        one after the step. It cannot be written to while a view of it is left."""
        self.time = 0
        """How many steps are staged."""
        self.masks: dict[int, NDArray[np.bool_]] = {}
        """The masks of staged steps that not all environments record."""
        self.resets: list[Reset] = []

    def __bool__(self) -> bool:
        return bool(self.time or self.resets)

    @property
    def steps(self) -> int:
        """Recorded steps of all environments."""
        return self.time * self.num_envs - sum(int((~mask).sum()) for mask in self.masks.values())

    def rewind(self) -> None:
        """Go on behind the last step that is staged as a whole; one that was interrupted was not."""
        self.masks.pop(self.time, None)
        self.file.seek(self.time * self.step_bytes)

    def stage(self, arrays: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_] | None) -> None:
        """One more step; its arrays are checked."""
        self.rewind()
        try:
            self.file.write(b"".join([arrays[name].tobytes() for name in self.names]))
            if mask is not None:
                self.masks[self.time] = mask.copy()
            self.time += 1
        finally:
            self.rewind()

    def handed_over(self, start: Mapping[str, NDArray[Any]]) -> None:
        """All that was staged is rows; the next step starts from these observations."""
        self.start = dict(start)
        self.time, self.resets, self.masks = 0, [], {}
        self.rewind()

    # --- what is staged

    @property
    def quiet(self) -> bool:
        """Whether all environments go on in all steps."""
        if self.masks or self.resets:
            return False
        if self.time == 1:
            staged, size = self.file.getbuffer(), self.num_envs
            begins = [self._offsets[name] for name in self._flags]
            return all(staged[begin : begin + size] == self._no_flags for begin in begins)
        return not any(self.flags(name).any() for name in self._flags)

    def flags(self, name: str) -> Any:
        """A field of flags by step and environment; None if there is none of the name."""
        return self.view(name) if name in self.expected else None

    def view(self, name: str) -> NDArray[Any]:
        """What is staged of a field, by step and environment; it is not to be kept."""
        dtype, (_, *shape) = self.expected[name]
        if not self.time:
            return np.empty((0, self.num_envs, *shape), dtype)
        return np.ndarray(
            (self.time, self.num_envs, *shape),
            dtype,
            self.file.getbuffer(),
            self._offsets[name],
            (self.step_bytes, self._row_bytes[name], *_strides(shape, dtype.itemsize)),
        )

    def take(self, source: NDArray[np.int64] | None) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The rows of all fields in the order of `source` (None: as they come), valid until the next call,
        and the observations that the next step starts from."""
        columns, after = dict[str, Any](), dict[str, Any]()
        for name in self.names:
            if name in self.start:
                columns[name], after[name] = self.observed(name, source)
            else:
                columns[name] = self.rows(name, source)
        return columns, after

    def rows(self, name: str, source: NDArray[np.int64] | None) -> NDArray[Any]:
        """The staged rows of a field that holds no observations, in the order of `source` (None: as they
        come), valid until the next call for this field."""
        dtype, shape = self.expected[name]
        if self.time == 1:
            rows = np.ndarray(shape, dtype, self.file.getbuffer(), self._offsets[name])
            return rows.copy() if source is None else rows[source]  # no view of the bytes is left
        return self._ordered(name, self._copied(name, 0), source)

    def observed(self, name: str, source: NDArray[np.int64] | None) -> tuple[NDArray[Any], NDArray[Any]]:
        """The rows of an observation field, as `rows` gives them, and what the next step starts from."""
        dtype, shape = self.expected[name]
        if self.time == 1 and not self.resets and not self.masks:
            start, after = self.start[name], self.rows(name, None)
            return start if source is None else start[source], after
        begins = self._copied(name, 1)
        row = begins.dtype
        begins[0] = self.start[name].reshape(-1).view(row)
        resets: dict[int, list[Reset]] = {}
        for reset in self.resets:
            resets.setdefault(reset.time, []).append(reset)
        for time in sorted({*resets, *(time + 1 for time in self.masks)}):
            if (mask := self.masks.get(time - 1)) is not None:
                begins[time][~mask] = begins[time - 1][~mask]
            for reset in resets.get(time, ()):
                begins[time][reset.envs] = reset.begins[name].reshape(-1).view(row)
        after = begins[self.time].copy().view(dtype).reshape(shape)
        return self._ordered(name, begins[: self.time], source), after

    def _copied(self, name: str, before: int) -> NDArray[Any]:
        """The staged rows of a field by step and environment, side by side, with room for so many steps
        before them."""
        row_bytes, row = self._row_bytes[name], np.dtype((np.void, self._row_bytes[name]))
        room = self._rooms.get(name)
        if room is None or len(room) < self.time + before:
            count = min(self.limit, max(2 * self.time, 16)) + 1
            room = self._rooms[name] = np.empty((count, self.num_envs), row)  # rows are moved as a whole
        copied = room[: self.time + before]
        if self.time:
            copied[before:] = np.ndarray(
                (self.time, self.num_envs),
                row,
                self.file.getbuffer(),
                self._offsets[name],
                (self.step_bytes, row_bytes),
            )
        return copied

    def _ordered(self, name: str, rows: NDArray[Any], source: NDArray[np.int64] | None) -> NDArray[Any]:
        dtype, (_, *shape) = self.expected[name]
        flat = rows.reshape(-1)
        return (flat if source is None else flat[source]).view(dtype).reshape(-1, *shape)


def _strides(shape: list[int], itemsize: int) -> list[int]:
    strides = list(accumulate(reversed(shape), lambda size, length: size * length, initial=itemsize))
    return strides[-2::-1] if shape else []
