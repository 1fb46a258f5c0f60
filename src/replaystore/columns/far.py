"""Rows of storage that is far: what is going to be read is announced, so that it is fetched side by side, and
what comes later while what came first is used.

Invariants:
(1) What is announced is read just so, or dropped where reading it fails: nothing that was fetched for one
request is left for another to find once the store has gone on.
(2) At most AHEAD_BYTES of a column are on their way at a time.
(3) Raw rows have no checksums that are looked at: after each request it is asked whether the store has gone
back (`StoredColumn.check`), once for all columns that are read together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.protocol import Place, Rows, StoredColumn
from replaystore.storage.protocol import Reads

__all__ = [
    "AHEAD_BYTES",
    "Ahead",
    "FarRows",
    "Window",
    "announce_first",
    "drop",
    "following",
    "read_together",
]

AHEAD_BYTES = 64 << 20


class Ahead:
    """Places that are read in this order, announced some time before, if they are far: use it with `with`,
    and call `next` before each."""

    def __init__(self, files: Reads, places: Sequence[Place]) -> None:
        self._files, self._places = files, places
        self._read = self._announced = self._size = 0

    def next(self) -> None:
        """The next place is about to be read; what is announced behind it is told in large steps."""
        if not self._files.far:
            return
        if self._size <= AHEAD_BYTES // 2:
            begin = self._announced
            for place in self._places[begin:]:
                if self._announced > self._read and self._size + place[2] > AHEAD_BYTES:
                    break
                self._announced += 1
                self._size += place[2]
            self._files.fetch_ahead(self._places[begin : self._announced])
        self._size -= self._places[self._read][2]
        self._read += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            drop(self._files, self._places[: self._announced])


def drop(files: Reads, places: Iterable[Place]) -> None:
    """Forget what was announced."""
    for name in dict.fromkeys(name for name, _, _ in places):
        files.forget(name)


def following(length: int, times: int, row_bytes: int) -> int:
    """How many times `length` rows are announced behind those that are asked for, by one who has asked for
    as many that lie one behind the other so many times before."""
    size = max(1, length * row_bytes)
    return max(1, min(1 << min(times, 6), AHEAD_BYTES // 2 // size)) if times else 0


def read_together(
    columns: Sequence[StoredColumn],
    wanted: slice | NDArray[np.int64],
    outs: Sequence[Rows | None] | None = None,
) -> list[Rows]:
    """Rows of several columns of one store, all of which is fetched side by side; a slice has a step of 1.
    ConflictError, EvictedError: the store has gone on."""
    far = [column for column in columns if column.files.far]
    if far:
        announce(far, wanted)
    found, unchecked = list[Rows](), list[tuple[Callable[[], None], Callable[[], None]]]()
    try:
        for column, out in zip(columns, outs or [None] * len(columns), strict=True):
            if isinstance(wanted, slice):
                found.append(column.read(wanted.start, wanted.stop, unchecked))
            else:
                found.append(column.take(wanted, out, unchecked))
    except BaseException:
        for column in far:
            drop(column.files, column.places(wanted))
        raise
    if unchecked:
        unchecked[0][0]()  # they are of one store
        for _, confirm in unchecked:
            confirm()
    return found


def announce(columns: Sequence[StoredColumn], wanted: slice | NDArray[np.int64]) -> None:
    """That these rows of all columns are about to be read: first where they lie, as far as that has to be
    read, and then they themselves."""
    announce_first(columns[0].files, [column.lookups(wanted) for column in columns])
    places = [column.places(wanted) for column in columns]
    if isinstance(wanted, slice):
        places += [column.coming(wanted) for column in columns]
    announce_first(columns[0].files, places)


def announce_first(files: Reads, several: Iterable[Iterable[Place]]) -> None:
    """That these places are about to be read, the first ones of them if they are too much at a time."""
    places, left = list[Place](), AHEAD_BYTES
    for place in itertools.chain.from_iterable(several):
        left -= place[2]
        if left < 0 and places:
            break
        places.append(place)
    if places:
        files.fetch_ahead(places)


class Window:
    """What is read of one column by who reads one slice behind the other: more at a time than is asked for,
    and what comes next is on its way then. It is kept until what is behind it is asked for."""

    def __init__(self) -> None:
        self._last, self._next, self._times = -1, 0, 0
        """Where the last reading ended, where the next one does, and how many were one behind the other."""
        self._kept: tuple[int, int, Rows] | None = None

    def has(self, start: int, stop: int) -> bool:
        """These rows were read before."""
        kept = self._kept
        return kept is not None and kept[0] <= start < stop <= kept[1]

    def find(self, start: int, stop: int) -> Rows | None:
        """A copy of rows that were read before."""
        kept = self._kept
        if kept is None or not kept[0] <= start < stop <= kept[1]:
            return None
        rows: Rows = kept[2][start - kept[0] : stop - kept[0]].copy()
        return rows

    def ends(self, start: int, stop: int, last: int, row_bytes: int) -> tuple[int, int]:
        """Where reading ends that is to begin at `start`, of rows up to `last`; and where the one behind it
        is going to end, or the same if none is foreseen."""
        sequential = start == self._last
        end = min(max(stop, self._next), last) if sequential else stop
        count = following(stop - start, self._times + 1 if sequential else 0, row_bytes)
        return end, min(end + (stop - start) * count, last)

    def passed(self, start: int, stop: int, ends: tuple[int, int], rows: Rows) -> None:
        """These rows, which begin with those that were asked for, were read, to the first of `ends`."""
        self._times = self._times + 1 if start == self._last else 0
        self._last, self._next = ends
        self._kept = (start, start + len(rows), rows) if start + len(rows) > stop else None


class FarRows:
    """Raw columns of storage that is far, and rows of them that were fetched for what is asked for next.

    Args:
        columns: by name, of one store.
    """

    def __init__(self, columns: dict[str, StoredColumn]) -> None:
        self.columns = columns
        self._rows = np.empty(0, np.int64)
        self._found: dict[str, Rows] = {}

    def forget(self) -> None:
        """Hold nothing."""
        self._rows, self._found = np.empty(0, np.int64), {}

    def announce(self, rows: NDArray[np.int64]) -> None:
        """These rows are what `hold` is asked for next."""
        announce(list(self.columns.values()), np.unique(rows))

    def hold(self, rows: NDArray[np.int64]) -> None:
        """Fetch these rows of all columns, for `take`."""
        self.forget()
        distinct = np.unique(rows)
        found = read_together(list(self.columns.values()), distinct)
        self._rows, self._found = distinct, dict(zip(self.columns, found, strict=True))

    def take(
        self, names: Sequence[str], rows: NDArray[np.int64], outs: Sequence[Rows | None]
    ) -> dict[str, Rows]:
        """Rows of these columns, which are fetched if they are not there."""
        places = np.searchsorted(self._rows, rows)
        if not len(self._rows) or not np.array_equal(self._rows[places.clip(0, len(self._rows) - 1)], rows):
            found = read_together([self.columns[name] for name in names], rows, outs)
            return dict(zip(names, found, strict=True))
        return {
            name: np.take(self._found[name], places, axis=0, out=out, mode="clip")
            for name, out in zip(names, outs, strict=True)
        }
