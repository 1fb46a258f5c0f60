"""The rows of a table in memory, which grow with each commit; and which tables are asked for together where
each would be a request over a network."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.state import State
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.columns.far import announce_first
from replaystore.containers.protocol import ArraySpec, Container
from replaystore.schema import tree

__all__ = ["Table", "announce_tables"]


class Table:
    """Bytes that grow at the end, with room ahead so that growing is cheap; what was handed out stays as it
    is."""

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._length = len(data)
        self._blobs = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, blobs: list[bytes]) -> None:
        new = blobs[self._blobs :]
        if not new:
            return
        added = np.frombuffer(b"".join(new), np.uint8)
        length = self._length + added.size
        if length > self._data.size or not self._data.flags.writeable:
            grown = np.empty(max(length, 2 * self._length, 1024), np.uint8)
            grown[: self._length] = self._data[: self._length]
            self._data = grown
        self._data[self._length : length] = added
        self._length, self._blobs = length, len(blobs)

    def bytes(self, length: int) -> NDArray[np.uint8]:
        view = self._data[:length]
        view.flags.writeable = False
        return view


class TablesOf(Protocol):
    """What is asked of a store to announce its tables."""

    container: Container
    state: State
    cache: ChunkCache | None

    def spec(self, name: str) -> ArraySpec: ...

    def places_of(self, name: str, start: int, stop: int) -> Iterable[tuple[str, int, int]]: ...


def announce_tables(store: TablesOf, name: str, known: Collection[str]) -> None:
    """A table is about to be read, and others with it: of storage that is far, all of those that are not
    known yet and that are needed sooner or later are asked for at once."""
    if not store.container.files.far:
        return
    several = [name]
    for other, (rows, _) in store.state.tables.items():
        if rows and other != name and other not in known and _is_needed(store, other, name):
            several.append(other)
    announce_first(
        store.container.files,
        [store.places_of(table, 0, store.state.tables.get(table, (0, 0))[0]) for table in several],
    )


def _is_needed(store: TablesOf, name: str, asked: str) -> bool:
    """Final observations are many bytes, and only some want them; so are checksums of what is not compared
    with them."""
    if tree.is_checksums(name):
        return store.cache is not None or store.spec(tree.checked_by(name)).codec is not None
    return not tree.is_final(name) or tree.is_final(asked)
