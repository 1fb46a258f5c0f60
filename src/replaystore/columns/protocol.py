"""From the bytes of an array to its rows: `plain.py` for raw rows, `mapped.py` for raw rows that can be
mapped, `coded.py` for encoded chunks, each of which is compared with its checksum: by `checked_chunks.py`, or
where a sampler has several decoded at once, by `decode_all` in containers/codecs.py.

A column gives rows [first, stop) of one array as NumPy arrays. Row numbers are those of the array, not of a
window of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import ArgumentError, EvictedError
from replaystore.storage.protocol import Reads

__all__ = ["Place", "Rows", "StoredColumn", "Unchecked"]

Rows = NDArray[Any]
Place = tuple[str, int, int]
"""Bytes of a file: its name, where they begin, and how many they are."""
Unchecked = list[tuple[Callable[[], None], Callable[[], None]]] | None
"""What finds out whether rows may be those of another history, and what is to be called once they are not."""
INT64, UINT64 = np.dtype(np.int64), np.dtype(np.uint64)


class StoredColumn:
    """What is common to columns: what a row is, and which requests make sense."""

    check: Callable[[], None]
    """Called after rows were read: an error if they may be those of another history."""
    until = 0
    """How many changes of its rows it knows of."""

    def __init__(self, files: Reads, spec: ArraySpec, name: str) -> None:
        self.files = files
        self.name = name
        self.dtype = spec.dtype.newbyteorder("<")
        self.shape = spec.shape
        self.row_bytes = spec.row_bytes
        self._item = np.dtype((np.void, self.row_bytes))
        """A row as one item: gathering items is two to four times as fast as gathering rows of an array."""

    @property
    def first(self) -> int:
        """The first row that there is."""
        raise NotImplementedError

    @property
    def stop(self) -> int:
        """The row after the last."""
        raise NotImplementedError

    def rows(self, start: int, stop: int) -> Rows:
        """Rows [start, stop), read-only, of shape (stop - start, *shape); copied only if need be."""
        raise NotImplementedError

    def read(self, start: int, stop: int, unchecked: Unchecked = None) -> Rows:
        """A copy of rows [start, stop), of shape (stop - start, *shape). `unchecked`: instead of a `check`,
        what is to be done by who reads several columns, once for all of them, is added to it."""
        raise NotImplementedError

    def lookups(self, wanted: slice | NDArray[np.int64]) -> Iterable[Place]:
        """What has to be read, once, to find these rows."""
        return ()

    def places(self, wanted: slice | NDArray[np.int64]) -> Iterable[Place]:
        """What `read` of such a slice, or `take` of such numbers, is going to ask of files that are far."""
        return ()

    def coming(self, wanted: slice) -> Iterable[Place]:
        """What `read` announces behind such a slice, for who reads one after the other."""
        return ()

    def take(self, rows: NDArray[np.int64], out: Rows | None = None, unchecked: Unchecked = None) -> Rows:
        """A copy of the rows with these numbers, in any order and repeated, of shape (len(rows), *shape).
        `unchecked` as for `read`.

        `out` is filled and returned if given: C-contiguous, of that shape and of the column's dtype. A batch
        of more than 100 KB takes several times as long without it, because the system has to clear new
        memory.
        """
        raise NotImplementedError

    def take_within(self, rows: NDArray[np.int64], first: int, stop: int) -> Rows:
        """As `take`, of rows that are known to be among [first, stop): looking at the numbers once more, for
        each of several columns, would take longer than bringing the rows."""
        return self.take(rows)

    def close(self) -> None:
        """Let go of what is kept of the rows; nothing reads the column's files any more."""

    @property
    def _where(self) -> str:
        return f"{self.files}: {self.name or 'array'}"

    def _check_range(self, first: int, last: int, start: int, stop: int) -> None:
        """EvictedError or ArgumentError unless rows [start, stop) are among rows [first, last)."""
        if 0 <= start < first and start <= stop:
            raise EvictedError(
                f"{self._where}: row {start} has been dropped, the first row is now {first}; refresh"
            )
        if not first <= start <= stop <= last:
            raise ArgumentError(
                f"{self._where}: rows {start} to {stop} are not among rows {first} to {last}; ask for those"
            )

    def _places(self, rows: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
        """Rows counted from `first` on, all of them below `last`."""
        if rows.dtype != INT64 or rows.ndim != 1:
            raise ArgumentError(
                f"{self._where}: row numbers are a flat int64 array, not {rows.dtype} of shape {rows.shape}"
            )
        places = rows - first if first else rows
        # As unsigned numbers the negative ones are the largest: one comparison for both ends.
        if len(rows) and np.maximum.reduce(places.view(UINT64)) >= last - first:
            self._check_range(first, last, int(rows.min()), int(rows.max()) + 1)
        return places

    def _output(self, count: int, out: Rows | None) -> Rows:
        """An array for so many rows: `out`, if it is one."""
        if out is None:
            return np.empty((count, *self.shape), self.dtype)
        if (
            out.shape != (count, *self.shape)
            or out.dtype != self.dtype
            or not (out.flags.c_contiguous and out.flags.writeable)
        ):
            raise ArgumentError(
                f"{self._where}: out is {out.dtype} of shape {out.shape}; it has to be a writable "
                f"C-contiguous array of {self.dtype} "
                f"and shape {(count, *self.shape)}"
            )
        return out

    def _items(self, rows: Rows) -> Rows:
        """Contiguous rows as a flat array of items; the column's rows have bytes."""
        return rows.reshape(-1).view(self._item)
