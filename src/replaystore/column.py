"""What reading gives: one field over all steps, read as it is asked for, and the steps of one trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SchemaError

if TYPE_CHECKING:
    from replaystore.reader import BufferReader

__all__ = ["Column", "Rows", "Trajectory"]

Rows = slice | NDArray[Any] | Sequence[int]


@dataclass(frozen=True)
class Trajectory:
    """The steps of one trajectory, in memory."""

    info: dict[str, Any]
    """Its row of the table: length, env, terminated, truncated, seed, return, split, …"""
    columns: dict[str, NDArray[Any]]
    """One array of shape (steps, *field shape) for each field. In a ring, without the steps that were dropped."""
    final_observation: dict[str, NDArray[Any]] | None
    """The observation after the last step by field name, or None if it is not known."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]


class Column:
    """One field over all steps, read as it is asked for: `column[i]`, `column[a:b]`, `column[[3, 1, 1]]` give arrays in memory."""

    def __init__(self, reader: BufferReader, name: str) -> None:
        self._reader = reader
        self.name = name
        declared = reader.schema.fields[name]
        self.dtype: np.dtype[Any] = declared.dtype
        self._row_shape = declared.shape

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def shape(self) -> tuple[int, ...]:
        """Steps first."""
        return (len(self), *self._row_shape)

    @property
    def ndim(self) -> int:
        return 1 + len(self._row_shape)

    def __getitem__(self, key: int | Rows) -> Any:
        given: object = key
        if isinstance(given, tuple) or given is Ellipsis or given is None:
            raise SchemaError(f"{self.name!r} is indexed by steps alone: write column[steps][:, ...] for parts of what they hold")
        if isinstance(key, (int, np.integer)):
            row = int(key) + (len(self) if key < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"step {key} of {self.name!r}: there are {len(self)} steps")
            return self._reader.read(slice(row, row + 1), [self.name])[self.name][0]
        return self._reader.read(key, [self.name])[self.name]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        return f"<Column {self.name!r} {self.dtype} {self.shape}>"
