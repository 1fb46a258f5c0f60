"""Flat arrays, one row a step, one trajectory behind the other, with flags where these end: read in runs,
which shared/cutting.py makes blocks of.

Where trajectories end is told by what was kept beside the arrays (kept.py), else by `stops`, else by flags,
and by observations: where the array of next observations has another one than the next row, a trajectory has
ended, and that is its final observation. Next observations that are no more than that are not a field of
their own; where most of them are something else, they are one.

Invariants:
1. Rows are read forwards, each once (those at the beginning of a file, and the first of a run, twice):
   `Column.read` is asked for slices in order.
2. No next observation is dropped that is neither the next row, bit for bit, nor a final observation.
3. A flag is a bool: numbers are taken for one if they are 0 or 1, and for damage otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.shared.cutting import Run, begins_of_ends, cut, unlike
from replaystore.formats.shared.kept import Kept
from replaystore.formats.source import Block
from replaystore.schema.fields import Field, Schema
from replaystore.schema.roles import FLAGS

__all__ = ["Column", "Flat", "Rows", "as_flags", "squeezed", "without_cuts"]

MOST_ROWS = 1 << 17
"""Of small rows no more are read at once: what is known of each takes memory too."""
LOOKED_AT = 1 << 14
"""Rows at the beginning of a file that tell whether next observations are the next rows."""
SELDOM = 4
"""If more than one in so many is not, they are a field of their own."""


class Rows(Protocol):
    """What a column is read by."""

    def __call__(self, start: int, stop: int) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Column:
    """An array of one row a step."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of a row."""
    count: int
    read: Rows
    where: str
    """For messages."""

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def squeezed(column: Column) -> Column:
    """Of rows of one number each, the numbers."""
    if column.shape != (1,):
        return column
    return replace(column, shape=(), read=lambda start, stop: column.read(start, stop).reshape(-1))


def as_flags(column: Column) -> Column:
    """A column as bools. FormatError: it has another shape, or values that are neither 0 nor 1."""
    column = squeezed(column)
    if column.shape or column.dtype.kind not in "biuf":
        raise FormatError(
            f"{column.where} has the dtype {column.dtype} and rows of shape {column.shape}, where there "
            "should "
            "be one flag a step"
        )
    if column.dtype == np.bool_:
        return column

    def read(start: int, stop: int) -> NDArray[Any]:
        values = column.read(start, stop)
        flags: NDArray[Any] = np.asarray(values != 0)
        if not np.array_equal(values, flags):
            wrong = values[values != flags][0]
            raise FormatError(f"{column.where}: a flag is {wrong}, and not 0 or 1: it is something else")
        return flags

    return replace(column, dtype=np.dtype(np.bool_), read=read)


def without_cuts(column: Column, rows: NDArray[np.int64]) -> Column:
    """A column of flags that are false in these rows, in which they were only set for other readers."""

    def read(start: int, stop: int) -> NDArray[Any]:
        found = column.read(start, stop)
        first, last = np.searchsorted(rows, [start, stop])
        found[rows[first:last] - start] = False
        return found

    return Column(column.dtype, column.shape, column.count, read, column.where)


@dataclass
class Flat:
    """The arrays of a file, by the names of the fields that they are."""

    columns: dict[str, Column]
    following: dict[str, Column] = field(default_factory=dict)
    """Next observations, by field of the observation."""
    ends: list[Column] = field(default_factory=list)
    """Further flags that a trajectory ends with."""
    stops: NDArray[np.int64] | None = None
    """After which rows trajectories end, if that is told as such."""
    kept: Kept | None = None
    whole: bool = False
    """It is one trajectory, whatever flags say."""
    remarks: list[str] = field(default_factory=list)
    """Told to whoever reads the file: some only when all rows were read."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return next(iter(self.columns.values())).count

    def schema(self) -> Schema:
        """The fields."""
        return Schema(
            {name: Field(column.dtype, column.shape, _role(name)) for name, column in self.columns.items()}
        )

    # --- next observations

    def settle_following(self, own_name: Callable[[str], str]) -> None:
        """Make next observations that are something else than the next rows fields of their own, called as
        `own_name` says."""
        if not self.following or self.kept is not None:
            return
        fitting = all(
            name in self.columns
            and (column.dtype, column.shape) == (self.columns[name].dtype, self.columns[name].shape)
            for name, column in self.following.items()
        )
        observed = {name for name in self.columns if _role(name) == "observation"}
        if fitting and observed == self.following.keys() and self._seldom_other():
            return
        for name, column in self.following.items():
            self.columns[own_name(name)] = column
        self.following.clear()
        self.remarks.append("next observations are not those of the next rows: they are a field of their own")

    def _seldom_other(self) -> bool:
        width = sum(column.row_bytes for column in self.following.values())
        count = min(self.count, LOOKED_AT, max(64, (4 << 20) // max(1, width)))
        if count < 2:
            return True
        flags = self._flags(0, count, {})
        rows = {name: self.columns[name].read(0, count) for name in self.following}
        after = {name: column.read(0, count) for name, column in self.following.items()}
        other = self._other(0, count, rows, after)
        return int((other & ~flags)[:-1].sum()) * SELDOM <= count

    def _other(
        self, start: int, stop: int, rows: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.bool_]:
        """After which rows another observation follows than the next row has; of the last one of all that is
        True."""
        found = np.zeros(stop - start, np.bool_)
        for name, values in after.items():
            found[:-1] |= unlike(values[:-1], rows[name][1:])
            if stop < self.count:
                found[-1:] |= unlike(values[-1:], self.columns[name].read(stop, stop + 1))
        found[-1:] |= stop == self.count
        return found

    # --- blocks

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """All rows."""
        blocks = cut(self._runs(max_bytes))
        return blocks if self.kept is None else self.kept.told_of(blocks)

    def _runs(self, max_bytes: int) -> Iterator[Run]:
        width = sum(column.row_bytes for column in (*self.columns.values(), *self.following.values()))
        step = min(MOST_ROWS, max(1, max_bytes // max(1, width)))
        ended, strange = True, 0
        for start in range(0, self.count, step):
            stop = min(start + step, self.count)
            rows = {name: column.read(start, stop) for name, column in self.columns.items()}
            after = {name: column.read(start, stop) for name, column in self.following.items()}
            ends = self._ends(start, stop, rows)
            if after and self.kept is None and self.stops is None:
                other = self._other(start, stop, rows, after)
                strange += int((other & ~ends).sum())
                ends |= other
            last = np.flatnonzero(ends) if after else np.zeros(0, np.int64)
            finals = {name: values[last] for name, values in after.items()}
            yield Run(rows, begins_of_ends(ends, before=ended), last, finals)
            ended = bool(ends[-1])
        if strange:
            self.remarks.append(
                f"no flag says so where {strange} trajectories end: there the next observation is not "
                "that of the next row"
            )

    def _ends(self, start: int, stop: int, rows: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """After which of these rows a trajectory ends."""
        if self.stops is None:
            return self._flags(start, stop, rows)
        found = np.zeros(stop - start, np.bool_)
        first, last = np.searchsorted(self.stops, [start + 1, stop + 1]).tolist()
        found[self.stops[first:last] - 1 - start] = True
        if stop == self.count:
            found[-1:] = True
        return found

    def _flags(self, start: int, stop: int, rows: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        found = np.zeros(stop - start, np.bool_)
        for name in FLAGS if not self.whole else ():
            if name in self.columns:
                found |= rows[name] if name in rows else self.columns[name].read(start, stop)
        for column in self.ends if not self.whole else ():
            found |= column.read(start, stop)
        if stop == self.count:
            found[-1:] = True
        return found


def _role(name: str) -> Any:
    top = name.partition("/")[0]
    return top if top in ("observation", "action", "reward", *FLAGS, "info") else "extra"
