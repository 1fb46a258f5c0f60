"""What is known of each trajectory: an immutable table of NumPy columns. Nothing here reads or writes a file.

Invariants:
(1) `index` holds, for each row, its position in the table that the buffer gave out, through any number of
selections. (2) A selection keeps the order of rows unless positions are given in another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.errors import SchemaError, UnknownFieldError
from replaystore.trajectories.parts import frozen_rows
from replaystore.trajectories.where import equal, parse

__all__ = ["Trajectories"]

Rows = NDArray[np.int64]

_SHOWN_ROWS = 10
_SHOWN_WIDTH = 24


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
        self.index = frozen_rows("index", np.arange(rows) if index is None else index)

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
