"""Which rows belong to which trajectory (`Parts`), and what is known of each trajectory (`Trajectories`).

Both are immutable tables of NumPy columns; nothing here reads or writes a file.

Invariants of parts:
(1) Parts are sorted by `start` and do not overlap; rows between them belong to no trajectory.
(2) The parts of a trajectory, by `offset`, follow each other without a gap: offset + length of one is the
offset of the next. (3) Parts are minimal: two of them that follow each other in a trajectory are not adjacent
    rows. Hence `start[part] + length[part]` never continues a trajectory, and the observation after a part's
    last step is in `final/`, or first in the trajectory's next part, or nowhere.

Invariants of the table:
(1) `index` holds, for each row, its position in the table that the buffer gave out, through any number of
selections. (2) A selection keeps the order of rows unless positions are given in another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.errors import CorruptError, SchemaError, UnknownFieldError
from replaystore.trajectories.where import equal, parse

__all__ = ["Parts", "Trajectories"]

Rows = NDArray[np.int64]

_SHOWN_ROWS = 10
_SHOWN_WIDTH = 24


class Parts:
    """Runs of adjacent rows of one trajectory each: five int64 columns of shape (P,). Rows count from the
    buffer's first row ever.

    Args:
        start: the part's first row.
        length: its number of rows, at least 1.
        trajectory: the id of its trajectory.
        offset: the place of its first row in the trajectory.
        final: the row in `final/` of the observation after its last step, or -1.

    Raises:
        SchemaError: the columns are not integers of one length.
    """

    def __init__(
        self, start: ArrayLike, length: ArrayLike, trajectory: ArrayLike, offset: ArrayLike, final: ArrayLike
    ) -> None:
        self.start = _frozen_rows("start", start)
        self.length = _frozen_rows("length", length)
        self.trajectory = _frozen_rows("trajectory", trajectory)
        self.offset = _frozen_rows("offset", offset)
        self.final = _frozen_rows("final", final)
        lengths = {
            len(column) for column in (self.start, self.length, self.trajectory, self.offset, self.final)
        }
        if len(lengths) != 1:
            raise SchemaError(f"the columns of parts have different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        return f"Parts({len(self)} parts, {int(self.length.sum())} rows)"

    def check(self) -> None:
        """Verify the invariants; to be called once on parts that were read from a file.

        Raises:
            CorruptError: names the first part that breaks one.
        """
        stop = self.start + self.length
        _refuse_part(self.length < 1, "holds no rows")
        _refuse_part(
            (self.start < 0) | (self.offset < 0) | (self.final < -1),
            "has a negative start, offset or final row",
        )
        _refuse_part(self.start[1:] < stop[:-1], "overlaps the next one, or comes after it")
        current, following = self.order[:-1], self.order[1:]
        same = self.trajectory[current] == self.trajectory[following]
        gap = same & (self.offset[current] + self.length[current] != self.offset[following])
        _refuse_part(gap, "is not continued by the next part of its trajectory", current)
        _refuse_part(
            same & (stop[current] > self.start[following]),
            "lies behind the next part of its trajectory",
            current,
        )

    @cached_property
    def order(self) -> Rows:
        """The parts sorted by trajectory, then offset."""
        ordered = self.trajectory[1:] > self.trajectory[:-1]
        ordered |= (self.trajectory[1:] == self.trajectory[:-1]) & (self.offset[1:] >= self.offset[:-1])
        if ordered.all():  # steps of one environment only: much faster than finding it out by sorting
            return np.arange(len(self))
        return np.lexsort((self.offset, self.trajectory))

    @cached_property
    def _ordered_trajectory(self) -> Rows:
        return self.trajectory[self.order]

    @cached_property
    def _next_start(self) -> Rows:
        """For each part, the first row of its trajectory's next part, or -1."""
        current, following = self.order[:-1], self.order[1:]
        answer = np.full(len(self), -1, np.int64)
        answer[current] = np.where(
            self.trajectory[current] == self.trajectory[following], self.start[following], -1
        )
        return answer

    def part_of(self, rows: Rows) -> Rows:
        """The part that each row lies in, or -1 for rows of no trajectory; the shape of `rows`."""
        part = np.searchsorted(self.start, rows, side="right") - 1
        if len(self):
            part[rows >= self.start[part] + self.length[part]] = -1
        return part

    def parts_of(self, trajectories: ArrayLike) -> Rows:
        """The parts of these trajectories: one trajectory after another as given, in the order of steps.
        Unknown ids have none."""
        ids = np.asarray(trajectories, np.int64).reshape(-1)
        first = np.searchsorted(self._ordered_trajectory, ids, side="left")
        last = np.searchsorted(self._ordered_trajectory, ids, side="right")
        return self.order[_runs(first, last - first)]

    def rows_of(self, trajectory: int) -> list[tuple[int, int]]:
        """The runs of rows [start, stop) of one trajectory, in the order of its steps; none if the id is
        unknown."""
        parts = self.parts_of(trajectory)
        start = self.start[parts]
        return list(zip(start.tolist(), (start + self.length[parts]).tolist(), strict=True))

    def rows(self, trajectories: ArrayLike) -> Rows:
        """All rows of these trajectories: one trajectory after another as given, in the order of steps.
        int64, one-dimensional."""
        parts = self.parts_of(trajectories)
        return _runs(self.start[parts], self.length[parts])

    def next_observation(self, rows: Rows) -> tuple[Rows, Rows]:
        """Where the observation after each step is stored.

        Args:
            rows: int64, any shape; all must belong to a trajectory.

        Returns:
            Two arrays of the shape of `rows`: the row whose observation it is, or -1; and the row in
            `final/`, or -1. At most one of them is set. If neither is, it is the observation pending with the
            commit (the trajectory is still open), or was never recorded.

        Raises:
            SchemaError: a row belongs to no trajectory.
        """
        part = self.part_of(rows)
        outside = part < 0
        if outside.any():
            raise SchemaError(
                f"row {int(np.asarray(rows)[outside].flat[0])} belongs to no trajectory, so "
                "no observation follows it"
            )
        last = rows == self.start[part] + self.length[part] - 1
        final = np.where(last, self.final[part], -1)
        following = np.where(last, self._next_start[part], rows + 1)
        return np.where(final >= 0, -1, following), final

    def since(self, row: int) -> Parts:
        """The parts without the rows before this one; a part that holds it is cut, and its offset moves
        accordingly."""
        if not len(self) or row <= self.start[0]:
            return self
        cut = np.maximum(row - self.start, 0)
        kept = cut < self.length
        start, length, offset = (self.start + cut)[kept], (self.length - cut)[kept], (self.offset + cut)[kept]
        return Parts(start, length, self.trajectory[kept], offset, self.final[kept])


class Trajectories:
    """A table with one row per trajectory, as `buffer.trajectories` gives it; a selection of rows is again
    such a table.

    `table["length"]` is a column (`table.length` too, where the name is free), `table[3]` a row as a dict,
    `table[mask]`, `table[10:20]` or `table[positions]` a selection. Columns cannot be written to. The columns
    of every buffer: trajectory, env, length, terminated, truncated, seed, return, split ("" for none), and
    open.

    Args:
        columns: arrays of one length by name; the first dimension is the trajectory. Strings may be NumPy
            strings or objects. Without a column `open` (bool: the trajectory has not ended yet) all have
            ended.
        index: for each row its position in the full table; without it, this is the full table.

    Raises:
        SchemaError: the columns have different lengths.
    """

    __slots__ = ("_columns", "index")

    index: Rows
    """The position of each row in the full table; int64, shape (len(self),)."""

    def __init__(self, columns: Mapping[str, ArrayLike], index: ArrayLike | None = None) -> None:
        arrays = {name: _frozen(np.asarray(values)) for name, values in columns.items()}
        lengths = {name: len(array) if array.ndim else -1 for name, array in arrays.items()}
        if index is not None:
            lengths["index"] = np.size(index)
        if len(set(lengths.values())) > 1:
            raise SchemaError(
                f"the columns of a trajectory table have different lengths: {lengths} (-1: not an array)"
            )
        rows = next(iter(lengths.values()), 0)
        arrays.setdefault("open", _frozen(np.zeros(rows, np.bool_)))
        self._columns = arrays
        self.index = _frozen_rows("index", np.arange(rows) if index is None else index)

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, NDArray[Any]], Rows]]:
        return type(self), (self._columns, self.index)

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """All columns by name; read-only."""
        return MappingProxyType(self._columns)

    @property
    def open(self) -> NDArray[np.bool_]:
        """Which trajectories have not ended yet; shape (len(self),)."""
        return self._columns["open"]

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, name: object) -> bool:
        """Whether there is a column of this name, so that `table[name]` is one."""
        return isinstance(name, str) and name in self._columns

    def __getattr__(self, name: str) -> NDArray[Any]:
        # "_columns" itself is missing while an instance is being made.
        if name.startswith("_") or name not in self._columns:
            known = "" if name.startswith("_") else f"; the columns are {', '.join(self._columns)}"
            raise AttributeError(
                f"{type(self).__name__} has no attribute or column {name!r}{known}", name=name, obj=self
            )
        return self._columns[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in self._columns if name.isidentifier())})

    @overload
    def __getitem__(self, key: str) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice | Sequence[int] | NDArray[Any]) -> Trajectories: ...
    def __getitem__(self, key: str | int | np.integer[Any] | slice | Sequence[int] | NDArray[Any]) -> Any:
        """A column (by its name), a row as a dict (by its position), or a selection (by a slice, positions,
        or a boolean mask).

        Raises:
            SchemaError: there is no such column, or the mask or positions are not one-dimensional, or of
            another length or type. IndexError: there is no such row.
        """
        if isinstance(key, str):
            return self._column(key)
        if isinstance(key, slice):
            return self._selection(np.arange(len(self))[key])
        chosen = np.asarray(key)
        if chosen.ndim == 0 and chosen.dtype.kind in "iu":
            return {name: _plain(column[int(chosen)]) for name, column in self._columns.items()}
        if (
            chosen.ndim != 1
            or (len(chosen) and chosen.dtype.kind not in "biu")
            or (chosen.dtype.kind == "b" and len(chosen) != len(self))
        ):
            found = f"{chosen.dtype} of shape {chosen.shape}"
            raise SchemaError(
                f"choose rows of a table of {len(self)} by positions or a mask of that length, not by {found}"
            )
        return self._selection(chosen if len(chosen) else np.zeros(0, np.int64))

    def _selection(self, chosen: NDArray[Any]) -> Trajectories:
        return Trajectories(
            {name: column[chosen] for name, column in self._columns.items()}, self.index[chosen]
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows as dicts, of plain Python values (arrays for columns of vectors)."""
        for position in range(len(self)):
            yield self[position]

    def where(self, expression: str | None = None, /, **equals: object) -> Trajectories:
        """The rows for which all of this is true; the rest of the table stays as it was.

        Args:
            expression: such as `return > 100 and (length >= 50 or not terminated)`;
                `replaystore.trajectories.where` has the grammar. Names of columns that are not identifiers go
                in backticks.
            equals: the value that a column has, or a list of values of which it has one:
            `where(split="train")`, `where(env=[0, 3])`.

        Returns:
            A selection, in the same order; it may be empty.

        Raises:
            SchemaError: the expression cannot be read, a column is unknown or holds vectors, or values of
            different kinds are compared.
        """
        mask = (
            np.ones(len(self), np.bool_)
            if expression is None
            else parse(expression).mask(self._columns, len(self))
        )
        for name, value in equals.items():
            mask &= equal(name, self._column(name), value)
        return self._selection(mask)

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            raise UnknownFieldError(
                f'there is no column "{name}" in the table of trajectories; the columns '
                f"are {', '.join(self._columns)}"
            )
        return self._columns[name]

    def __repr__(self) -> str:
        count = len(self)
        half = _SHOWN_ROWS // 2
        shown = list(range(count)) if count <= _SHOWN_ROWS else [*range(half), *range(count - half, count)]
        grid = [["", *(_short(name) for name in self._columns)]]
        grid += [
            [str(self.index[row]), *(_short(column[row]) for column in self._columns.values())]
            for row in shown
        ]
        if count > _SHOWN_ROWS:
            grid.insert(half + 1, ["..."] * len(grid[0]))
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in grid
        ]
        return "\n".join([f"{count} trajectories, {int(self.open.sum())} of them open", *lines])


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float | np.floating) else " ".join(str(value).split())
    return text if len(text) <= _SHOWN_WIDTH else text[: _SHOWN_WIDTH - 3] + "..."


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _frozen_rows(name: str, values: ArrayLike) -> Rows:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise SchemaError(
            f'column "{name}" must be one-dimensional and of integers, not {array.dtype}{list(array.shape)}'
        )
    return _frozen(array.astype(np.int64, copy=False))


def _runs(start: Rows, length: Rows) -> Rows:
    """The numbers of all runs start, start + 1, … of these lengths, one run after another."""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(int(length.sum()))


def _refuse_part(wrong: NDArray[np.bool_], problem: str, order: Rows | None = None) -> None:
    if wrong.any():
        place = int(np.argmax(wrong))
        raise CorruptError(
            f"parts: part {place if order is None else int(order[place])} {problem}; see `replaystore verify`"
        )
