"""What a pickle of Stable-Baselines3 holds, checked: arrays of shape (rows, environments, …), a position in
them, and the spaces.

Rows are counted from the oldest one on that is in use. They are read when they are asked for, while the file
is open; each read is of consecutive rows, of all environments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore import not_stores
from replaystore.errors import CorruptError, FormatError
from replaystore.formats.shared.file_rows import FileRows, opened
from replaystore.formats.shared.pickles.reading import Array, Name, Thing, scan
from replaystore.formats.stable_baselines3.spaces import space_of

__all__ = ["MAKER", "Contents", "Steps", "contents", "read_array", "steps_of"]

MAKER = "Stable-Baselines3"
MAX_ROWS = 1 << 48
MAX_ENVS = 1 << 16
MAX_BOUNDS = 1 << 25
"""Bytes of an array that is read whole."""
OURS = "replaystore"
"""The package whose buffers are in a store, which their pickles only name."""
KINDS = "biufc"
"""Of dtypes whose arrays are fields."""
REPLAY = ("observations", "actions", "rewards", "dones")
ROLLOUT = ("observations", "actions", "rewards", "episode_starts")
_ROOTS = ("stable_baselines3", "sb3_contrib", "gymnasium", "gym", OURS)


@dataclass(frozen=True)
class Steps:
    """Numbers of each step of each environment, oldest row first."""

    pieces: tuple[FileRows, ...]
    """One of all environments, or one of each."""
    first: int
    """The oldest row."""
    envs: int
    shape: tuple[int, ...]
    """Of one step of one environment."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.pieces[0].dtype.newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Of one step of one environment."""
        return self.dtype.itemsize * math.prod(self.shape)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), shape (rows, environments, *shape)."""
        found = [piece.read_around(self.first, start, stop) for piece in self.pieces]
        rows = found[0] if len(found) == 1 else np.stack(found, axis=1)
        return rows.reshape(stop - start, self.envs, *self.shape).astype(self.dtype, copy=False)

    def as_shape(self, shape: tuple[int, ...]) -> Steps:
        """The same numbers, each step of another shape of as many."""
        assert math.prod(shape) == math.prod(self.shape)
        return Steps(self.pieces, self.first, self.envs, shape)


@dataclass
class Contents:
    """A buffer of Stable-Baselines3."""

    where: str
    descriptor: int
    size: int
    """Bytes of the file."""
    name: Name
    """Its class."""
    known: Mapping[str, Any]
    """Its attributes."""
    rollout: bool
    capacity: int
    """Rows."""
    envs: int
    position: int
    full: bool
    rows: int
    """In use."""
    dense: bool
    """With optimize_memory_usage: the observation after a step is that of the next row."""
    timeouts: bool
    """Whether ends by a time limit are told apart."""
    first: int
    """Where the oldest row lies."""
    steps: dict[str, Steps] = field(default_factory=dict)
    """By the names of the file; observations of a Dict as "observations/key"."""
    spaces: dict[str, Any] = field(default_factory=dict)
    """`observation` and `action`, where the file describes them."""


def allowed(name: Name) -> bool:
    """What such a file may speak of."""
    root = name.module.partition(".")[0]
    if root in _ROOTS or name.module.startswith("numpy.random."):
        return True
    return (name.module, name.name) in (("torch", "device"), ("collections", "deque"))


def read_array(descriptor: int, array: Array, where: str, most: int = MAX_BOUNDS) -> NDArray[Any]:
    """All numbers of an array. FormatError: they are more than `most` bytes, or no numbers."""
    dtype = array.dtype
    if dtype.kind not in KINDS or array.size * dtype.itemsize > most:
        raise FormatError(f"{where}: an array of {dtype} and shape {array.shape} is too large, or no numbers")
    found = FileRows(descriptor, where, dtype, (), array.size, array.offset).read(0, array.size)
    return found.astype(dtype.newbyteorder("<"), copy=False).reshape(
        array.shape, order="F" if array.fortran else "C"
    )


@contextmanager
def contents(path: str) -> Iterator[Contents]:
    """Open a pickle, without running anything in it, and without its rows in memory.

    NotFoundError, StorageError; FormatError: it is something else, or damaged, or hostile."""
    with opened(path) as (descriptor, size):
        if not size:
            raise FormatError(f"{path} is empty: the program that saved it was stopped; save it again")
        try:
            found = scan(descriptor, size, path, MAKER, allowed)
        except FormatError as error:
            damaged = isinstance(error, CorruptError)
            if not damaged and (strange := not_stores.addition(path)):
                raise FormatError(f"{error}{strange}") from error
            raise
        if type(found) is not Thing or not found.attributes:
            raise FormatError(f"{path} holds no buffer of {MAKER}: check which file it is")
        if found.name.module.partition(".")[0] == OURS:
            settings = found.attributes.get("_settings")
            place = settings.attributes.get("location") if type(settings) is Thing else None
            raise FormatError(
                f"{path} holds no steps, and names the store that has them: convert {place!r:.300}"
            )
        yield _contents(found, path, descriptor, size)


def _contents(thing: Thing, path: str, descriptor: int, size: int) -> Contents:
    known = thing.attributes
    rollout = "episode_starts" in known and "dones" not in known
    for name in ROLLOUT if rollout else REPLAY:
        if name not in known:
            raise FormatError(
                f"{path}: the {thing.name.name} in it has no {name!r}: it is none of {MAKER}, or of a "
                "version that is not known (hindsight buffers were others before 1.8): save it anew"
            )
    capacity = _number(known, "buffer_size", path, 1, MAX_ROWS)
    envs = _number(known, "n_envs", path, 1, MAX_ENVS) if "n_envs" in known else 1
    position = _number(known, "pos", path, 0, capacity + 1)
    full, dense = (bool(_flag(known, name, path)) for name in ("full", "optimize_memory_usage"))
    timeouts = "timeouts" in known and bool(_flag(known, "handle_timeout_termination", path))
    if rollout:
        rows, first, dense = (capacity if full else position), 0, False
    else:
        rows, first = (capacity, position % capacity) if full else (position, 0)
        if dense and full:  # the oldest row's observation has become the one after the newest step
            rows, first = rows - 1, (first + 1) % capacity
    found = Contents(
        path, descriptor, size, thing.name, known, rollout, capacity, envs, position, full, rows, dense,
        timeouts, first,
    )  # fmt: skip
    for name, value in known.items():
        if type(name) is str:
            _take(found, name, value)
    for name in ROLLOUT if rollout else REPLAY:
        if not any(key.partition("/")[0] == name for key in found.steps):
            raise FormatError(f"{path}: {name!r} is no array of {capacity} rows: the file is damaged")
    for name, key in (("observation", "observation_space"), ("action", "action_space")):
        space = space_of(known.get(key), lambda array: read_array(descriptor, array, path))
        if space is not None:
            found.spaces[name] = space
    return found


def _take(found: Contents, name: str, value: Any) -> None:
    """An attribute that is an array of steps, or a dict of such."""
    if type(value) is dict and name in ("observations", "next_observations"):
        for key, array in value.items():
            steps = steps_of(found, f"{name}/{key}", array)
            if steps is None:
                raise FormatError(f"{found.where}: {name!r} of {key!r:.60} is no array of steps")
            found.steps[f"{name}/{key}"] = steps
    elif type(value) is Array and (steps := steps_of(found, name, value)) is not None:
        found.steps[name] = steps


def steps_of(found: Contents, name: str, array: Any) -> Steps | None:
    """None: it is not of one number, or several, for each step."""
    if type(array) is not Array or array.dtype.kind not in KINDS or array.items is not None:
        return None
    shape, capacity, envs = array.shape, found.capacity, found.envs
    if array.fortran and sum(length > 1 for length in shape) > 1:
        raise FormatError(
            f"{found.where}: {name!r} lies column by column, which {MAKER} never does: save it anew, with "
            "numpy.ascontiguousarray"
        )
    where = f"{found.where}, {name!r:.60}"

    def piece(inner: tuple[int, ...], place: int) -> FileRows:
        row = array.dtype.itemsize * math.prod(inner)
        offset = array.offset + place * capacity * row
        return FileRows(found.descriptor, where, array.dtype, inner, capacity, offset)

    if len(shape) >= 2 and shape[:2] == (capacity, envs):
        return Steps((piece(shape[1:], 0),), found.first, envs, shape[2:])
    if found.rollout and shape[:1] == (
        capacity * envs,
    ):  # it was learned from: flat, environment by environment
        inner = shape[2:] if shape[1:] == (1,) else shape[1:]
        return Steps(tuple(piece(inner, env) for env in range(envs)), found.first, envs, inner)
    return None


def _number(known: Mapping[str, Any], key: str, path: str, low: int, stop: int) -> int:
    value = known.get(key)
    if isinstance(value, np.integer):
        value = int(value)
    if type(value) is not int or not low <= value < stop:
        raise FormatError(
            f"{path}: {key!r} is {value!r:.60}, not an integer from {low} to {stop - 1}: the file is damaged"
        )
    return value


def _flag(known: Mapping[str, Any], key: str, path: str) -> bool:
    value = known.get(key, False)
    if type(value) not in (bool, np.bool_):
        raise FormatError(f"{path}: {key!r} is {value!r:.60}, not True or False: the file is damaged")
    return bool(value)
