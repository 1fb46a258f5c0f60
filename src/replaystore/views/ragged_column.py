"""One field of values of any length over all steps, read as it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.values import Values, value_at
from replaystore.errors import ArgumentError, UnsupportedError
from replaystore.schema.fields import Field
from replaystore.schema.ragged import Ragged
from replaystore.views.column import Rows
from replaystore.views.settled import Turning, settled

__all__ = ["Lengths", "RaggedColumn", "not_set"]


class Source(Turning, Protocol):
    """Where the steps of a column are read."""

    @property
    def where(self) -> str:
        """Where it is, for messages."""

    def __len__(self) -> int:
        """How many steps there are."""

    def rows(self, name: str, rows: Rows) -> NDArray[np.int64]:
        """Where the values of steps lie."""

    def values_of(self, name: str) -> Values:
        """The values of a field."""

    def reopened(self, name: str) -> tuple[Any, ...]:
        """What `__reduce__` of a column returns: how another process opens it."""


class RaggedColumn:
    """A field of values of any length: `column[i]` is the value of a step (a `str` of a field of texts),
    `column[a:b]`, `column[[3, 1, 1]]` and `column[mask]` are a `Ragged` of several, and
    `column.lengths[a:b]` how long they are, for which no value is read.

    Sent to another process it is opened there as of the same commit."""

    __slots__ = ("_declared", "_source", "name")

    def __init__(self, source: Source, name: str, declared: Field) -> None:
        self._source, self.name, self._declared = source, name, declared

    def __len__(self) -> int:
        return len(self._source)

    @property
    def shape(self) -> tuple[int]:
        """How many values there are."""
        return (len(self),)

    @property
    def ndim(self) -> int:
        return 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the values."""
        return self._declared.dtype

    @property
    def inner(self) -> tuple[int, ...]:
        """What follows the length in the shape of a value."""
        return self._declared.inner

    @property
    def text(self) -> bool:
        """Whether the values are texts."""
        return self._declared.text

    @property
    def lengths(self) -> Lengths:
        """How long the values are: `column.lengths[rows]`."""
        return Lengths(self)

    def __getitem__(self, key: Any) -> Any:
        def read() -> tuple[int | None, Ragged]:
            row, spans = self.spans(key)
            return row, self._source.values_of(self.name).take(spans)

        row, found = settled(self._source, read)
        if row is None:
            return found
        return value_at(found, 0, f"{self._source.where}: {self.name} of step {row}")

    def spans(self, key: Any) -> tuple[int | None, NDArray[np.int64]]:
        """The step that is asked for, None if several are, and where their values lie."""
        key = key[0] if isinstance(key, tuple) and len(key) == 1 else key
        row = _one_row(self.name, len(self), key)
        return row, self._source.rows(self.name, key if row is None else slice(row, row + 1))

    def checked(self, key: Any) -> tuple[int | None, NDArray[np.int64]]:
        """The same, of values that there are. CorruptError: there are none."""
        row, spans = self.spans(key)
        self._source.values_of(self.name).check(spans)
        return row, spans

    def __setitem__(self, key: Any, values: Any) -> None:
        raise not_set(self._source.where, self.name)

    def __iter__(self) -> Iterator[Any]:
        """Step by step. Python's own way would take an IndexError, and so an EvictedError, for the end."""
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        raise TypeError(
            f"the values of {self.name!r} have different lengths, and are no array: read some, column[a:b], "
            "whose to_padded() gives one and a mask"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return self._source.reopened(self.name)

    def __repr__(self) -> str:
        told = "texts" if self.text else f"{self.dtype} of shape {(None, *self.inner)}"
        return f"<RaggedColumn {self.name!r} {told}, {len(self)} steps>"


class Lengths:
    """How long the values of a field are: `lengths[i]`, `lengths[a:b]` and `lengths[rows]`; other software
    takes it for an array of int64."""

    __slots__ = ("_column",)

    def __init__(self, column: RaggedColumn) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @property
    def shape(self) -> tuple[int]:
        """How many values there are."""
        return self._column.shape

    @property
    def ndim(self) -> int:
        return 1

    @property
    def dtype(self) -> np.dtype[np.int64]:
        return np.dtype(np.int64)

    def __getitem__(self, key: Any) -> Any:
        row, spans = settled(self._column._source, lambda: self._column.checked(key))
        lengths = spans[:, 1] - spans[:, 0]
        return lengths if row is None else int(lengths[0])

    def __iter__(self) -> Iterator[int]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return Lengths, (self._column,)

    def __repr__(self) -> str:
        return f"<Lengths of {self._column!r}>"


def not_set(where: str, name: str) -> UnsupportedError:
    """Why no step gets another value of a field of any length."""
    return UnsupportedError(
        f"{where}: {name!r} is of any length, and is not set again: add what is known later as a field of "
        "its own, buffer.add_field(name, field, values=...), or append it with the steps"
    )


def _one_row(name: str, count: int, key: Any) -> int | None:
    """The step that is asked for; None: several are. IndexError: there is no such step."""
    if isinstance(key, tuple) or key is None or key is Ellipsis:
        raise ArgumentError(
            f"{name!r} is indexed by steps alone, since its values have different lengths: column[steps], "
            "and then the values"
        )
    if not isinstance(key, int | np.integer) or isinstance(key, bool):
        return None
    row = int(key) + (count if key < 0 else 0)
    if not 0 <= row < count:
        raise IndexError(f"step {key} of {name!r}: there are {count} steps")
    return row
