"""What reading gives: one field over all steps, read as it is asked for, and the steps of one trajectory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, UnsupportedError
from replaystore.schema.fields import Field
from replaystore.schema.names import unknown
from replaystore.schema.ragged import Ragged

__all__ = ["Column", "Rows", "Trajectory"]

Rows = slice | NDArray[Any] | Sequence[int]


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """The steps of one trajectory, in memory, as `buffer.trajectory(i)` gives them.

    `trajectory["reward"]` is the array of a field, `trajectory["next_observation"]` that of the observations
    after each step.

    Attributes:
        info: its row of the table of trajectories: length, env, terminated, truncated, seed, return, split, …
        columns: one array of shape (steps, *field shape) for each field, a `Ragged` for each of any length.
            In a ring, without the steps that were dropped.
        final_observation: the observation after the last step, or None if it is not known: an array (a `str`
            of a text) where the observation is one field, else a dict by field name.
    """

    info: dict[str, Any]
    columns: dict[str, Any]
    final_observation: Any
    _following: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """By step, what followed it where that is not the observation of the next one: after the last, and where
    a recording was resumed."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, name: object) -> bool:
        """Whether `trajectory[name]` is an array."""
        return isinstance(name, str) and (name in self.columns or self._followed(name) in self.columns)

    def __getitem__(self, name: str) -> Any:
        """The array of a field, shape (steps, *field shape), or `next_` and the name of an observation field;
        a `Ragged` of a field of any length.

        ArgumentError: it is not known what followed the last step. UnknownFieldError: there is no such
        field."""
        if name in self.columns:
            return self.columns[name]
        observed = self._followed(name)
        if observed not in self.columns:
            raise unknown(
                name,
                [
                    *self.columns,
                    *(f"next_{other}" for other in self.columns if self._followed(f"next_{other}")),
                ],
            )
        rows, last = self.columns[observed], len(self) - 1
        if last >= 0 and observed not in self._following.get(last, {}):
            raise ArgumentError(
                f"it is not known what was observed after the last step: use trajectory[{observed!r}][1:]"
            )
        if isinstance(rows, Ragged):
            told = {step: following[observed] for step, following in self._following.items()}
            several = [rows, Ragged.of([*told.values()], rows.dtype, rows.inner, text=rows.text)]
            places = np.minimum(np.arange(1, len(rows) + 1), last)
            places[[*told]] = len(rows) + np.arange(len(told))
            return Ragged.concatenate(several).take(places)
        following = np.concatenate([rows[1:], rows[-1:]])
        for step, known in self._following.items():
            following[step] = known[observed]
        return following

    @staticmethod
    def _followed(name: object) -> str:
        """The observation field that a name is the next one of; "" if it is none."""
        top, _, _ = name.partition("/") if isinstance(name, str) else ("", "", "")
        return str(name).removeprefix("next_") if top == "next_observation" else ""

    def __repr__(self) -> str:
        ends = [flag for flag in ("terminated", "truncated", "open") if self.info.get(flag)]
        said = [
            f"{name} {self.info[name]:.6g}" for name in ("return",) if isinstance(self.info.get(name), float)
        ] + ends
        which = f" {self.info['trajectory']}" if "trajectory" in self.info else ""
        return (
            f"<Trajectory{which}: {len(self)} steps of "
            f"{', '.join(self.columns)}{''.join('; ' + text for text in said)}>"
        )


class Source(Protocol):
    """Where the steps of a column are read."""

    def __len__(self) -> int:
        """How many steps there are."""

    def rows(self, name: str, rows: Rows) -> NDArray[Any]:
        """Steps of a field."""

    def rows_of_chunk(self, name: str) -> int:
        """How many steps of a field are stored together."""

    def reopened(self, name: str) -> tuple[Any, ...]:
        """What `__reduce__` of a column returns: how another process opens it."""


class Column:
    """One field over all steps, read as it is asked for: `column[i]`, `column[a:b]`, `column[[3, 1, 1]]` give
    arrays in memory, and `column[steps, components]` what they hold there.

    It has what other software asks an array for (`shape`, `dtype`, `chunks`, …):
    `dask.array.from_array(column, chunks=column.chunks)`. Sent to another process it is opened there as of
    the same commit."""

    __slots__ = ("_read", "_row_shape", "_source", "dtype", "name")

    def __init__(self, source: Source, name: str, declared: Field) -> None:
        self._source, self.name = source, name
        self._read: Any = None
        """What was read last: `column[rows] += 1` reads, and then sets, the same rows of one column."""
        self.dtype: np.dtype[Any] = declared.dtype
        self._row_shape = declared.shape

    def __len__(self) -> int:
        return len(self._source)

    @property
    def shape(self) -> tuple[int, ...]:
        """Steps first."""
        return (len(self), *self._row_shape)

    @property
    def ndim(self) -> int:
        return 1 + len(self._row_shape)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """The shape of what is stored, and best read, together: so many steps, of which everything."""
        return (self._source.rows_of_chunk(self.name), *self._row_shape)

    def __getitem__(self, key: Any) -> Any:
        self._read = key
        if type(key) is slice or (type(key) is np.ndarray and key.ndim == 1):
            return self._source.rows(self.name, key)
        steps, within = self._split(key)
        if isinstance(steps, (int, np.integer)) and not isinstance(steps, (bool, np.bool_)):
            row = int(steps) + (len(self) if steps < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"step {steps} of {self.name!r}: there are {len(self)} steps")
            return self._part(self._source.rows(self.name, slice(row, row + 1))[0], within)
        rows = self._source.rows(self.name, steps)
        return self._part(rows, (slice(None), *within)) if within else rows

    def __setitem__(self, key: Any, values: Any) -> None:
        """Give steps other values, of a field that is declared `mutable`: `column[rows] = values`, with a
        slice, integers, a mask or one step, and one value for each, or one for all of them.

        These are the steps that `column[rows]` reads: those that the buffer shows. `buffer.set_values` sets
        steps that no commit has. What is set is safe, and visible, with the next commit; `column[rows] += 1`
        of what was set since the last one is a ConflictError."""
        if isinstance(key, tuple):
            raise ArgumentError(
                f"{self.name!r} is set by steps, whole values of them: column[steps] = values, not "
                f"column[{', '.join(f'{one!r:.20}' for one in key)}]"
            )
        set_rows = getattr(self._source, "set_rows", None)
        if set_rows is None:
            raise UnsupportedError(f"steps of {self.name!r} are only read here: open the buffer to set them")
        read, self._read = self._read, None
        # Slices and numbers may be made twice for `column[0:2] += 1`; anything else is the same object.
        set_rows(
            self.name, key, values, key is read or (type(key) is type(read) in (slice, int) and key == read)
        )

    def _split(self, key: Any) -> tuple[Any, tuple[Any, ...]]:
        """The index of steps, and that of what they hold."""
        keys = key if isinstance(key, tuple) else (key,)
        places = [place for place, one in enumerate(keys) if one is Ellipsis]
        if len(places) > 1 or any(one is None for one in keys):
            raise ArgumentError(
                f"{self.name!r} is indexed by steps, and then by what they hold: "
                "column[steps, ...], without None"
            )
        if places:
            missing = max(0, self.ndim - len(keys) + 1)
            keys = (*keys[: places[0]], *[slice(None)] * missing, *keys[places[0] + 1 :])
        steps, *within = keys or (slice(None),)
        if len(within) >= self.ndim:
            raise IndexError(
                f"{len(within) + 1} indices for {self.name!r}, which has {self.ndim} "
                f"dimension{'s' * (self.ndim > 1)}"
            )
        if (
            within
            and not isinstance(steps, (int, np.integer, slice))
            and not all(isinstance(one, (int, np.integer, slice)) for one in within)
        ):
            raise ArgumentError(
                f"two lists of places in {self.name!r} could mean pairs or a grid: write "
                "column[steps][:, components]"
            )
        return steps, tuple(within)

    def _part(self, rows: Any, within: tuple[Any, ...]) -> Any:
        try:
            return rows[within] if within else rows
        except IndexError as error:
            raise IndexError(f"steps of {self.name!r} have the shape {self._row_shape}: {error}") from None

    def __iter__(self) -> Iterator[Any]:
        """Step by step. Python's own way would take an IndexError, and so an EvictedError, for the end."""
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(
                f"the column {self.name!r} is read into new memory: there is no array of it without a copy"
            )
        return np.asarray(self[:], dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._source.reopened(self.name)

    def __repr__(self) -> str:
        return f"<Column {self.name!r} {self.dtype} {self.shape}>"
