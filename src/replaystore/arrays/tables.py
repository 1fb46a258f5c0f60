"""The rows of a table in memory, which grow with each commit; and which tables are asked for together where
each would be a request over a network."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.state import State, Stored
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.columns.far import announce_first
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Container
from replaystore.schema import tree

__all__ = ["Table", "announce_tables", "checksums_of", "without_first"]

_LET_GO = 1 << 16
"""Bytes at the beginning of a table that nobody asks for any more are let go when they are more than this,
and than half."""
_POLYNOMIAL = 0x82F63B78
"""Of crc32c, its bits reversed."""


class Table:
    """Rows of a table, from one on, that grow at the end, with room ahead so that growing is cheap; what was
    handed out stays as it is. Rows are counted from the first ever.

    It goes on from segment to segment of the log: what has reached the array meanwhile is here already."""

    def __init__(self, data: bytes, first: int, row_bytes: int) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._begin, self._end = first * row_bytes, first * row_bytes + len(data)
        self._row_bytes = row_bytes
        self._seen = (-1, 0, 0)
        """The segment of the log, how many of its blobs are here, and where the last of those ends."""

    @property
    def begin(self) -> int:
        """The first row."""
        return self._begin // self._row_bytes

    @property
    def end(self) -> int:
        """The row after the last."""
        return self._end // self._row_bytes

    def append(self, data: bytes) -> None:
        """More rows."""
        count, length = len(data), self._end - self._begin
        if length + count > self._data.size or not self._data.flags.writeable:
            grown = np.empty(max(length + count, 2 * length, 1024), np.uint8)
            grown[:length] = self._data[:length]
            self._data = grown
        self._data[length : length + count] = np.frombuffer(data, np.uint8)
        self._end += count

    def extend(self, segment: int, start: int, blobs: list[bytes]) -> None:
        """Take the rows of a segment of the log that are not here yet; the first of them is row `start`."""
        known, seen, at = self._seen
        if known != segment:
            seen, at = 0, start * self._row_bytes
        for blob in blobs[seen:] if seen else blobs:
            at += len(blob)
            if at > self._end:
                self.append(blob[max(0, len(blob) - (at - self._end)) :])
        self._seen = segment, len(blobs), at

    def rows(self, first: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of rows [first, stop); those before are not asked for any more."""
        begin = first * self._row_bytes - self._begin
        if 2 * begin > self._end - self._begin and begin > _LET_GO:
            self._data, self._begin, begin = self._data[begin:].copy(), self._begin + begin, 0
        view = self._data[begin : stop * self._row_bytes - self._begin]
        view.flags.writeable = False
        return view


class TablesOf(Protocol):
    """What is asked of a store to announce its tables."""

    container: Container
    state: State
    cache: ChunkCache | None

    @property
    def places(self) -> State: ...

    def spec(self, name: str) -> ArraySpec: ...

    def rows(self, name: str) -> int: ...

    def first(self, name: str) -> int: ...

    def table(self, name: str) -> NDArray[Any]: ...

    def places_of(self, name: str, start: int, stop: int) -> Iterable[tuple[str, int, int]]: ...


def announce_tables(store: TablesOf, name: str, known: Collection[str]) -> None:
    """A table is about to be read, and others with it: of storage that is far, all of those that are not
    known yet and that are needed sooner or later are asked for at once."""
    if not store.container.files.far:
        return
    several = [name]
    for other, (rows, _, _) in store.places.tables.items():
        if rows and other != name and other not in known and _is_needed(store, other, name):
            several.append(other)
    announce_first(
        store.container.files,
        [
            store.places_of(table, stored.first, stored.rows)
            for table in several
            for stored in [store.places.tables.get(table, Stored())]
        ],
    )


def checksums_of(store: TablesOf, name: str) -> tuple[int, NDArray[Any]]:
    """The first chunk of an array whose checksum is kept, and those of the complete ones from it on."""
    stored = tree.checksums(name)
    if stored not in store.state.arrays and not store.rows(stored):
        return 0, np.empty(0, np.uint32)
    return store.first(stored), store.table(stored)


def _is_needed(store: TablesOf, name: str, asked: str) -> bool:
    """Final observations are many bytes, and only some want them; so are checksums of what is not compared
    with them."""
    if tree.is_checksums(name):
        return store.cache is not None or store.spec(tree.checked_by(name)).codec is not None
    return not tree.is_final(name) or tree.is_final(asked)


def without_first(whole: int, first: int, rest: int) -> int:
    """The crc32c of the last `rest` bytes of some, whose crc32c is `whole`, and that of those before them
    `first`: without reading them."""
    return whole ^ _product(_zeros(rest), first)


@lru_cache(maxsize=64)
def _zeros(count: int) -> int:
    """x to the power of 8 * count, modulo the polynomial: what so many bytes more make of a checksum."""
    power, square, left = 1 << 31, 1 << 30, 8 * count
    while left:
        if left & 1:
            power = _product(square, power)
        square, left = _product(square, square), left >> 1
    return power


def _product(one: int, other: int) -> int:
    """Two polynomials multiplied, modulo the polynomial."""
    found = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            found ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return found
