"""The tables of where chunks lie, for all arrays of a file: made when they are first needed, then kept.

The writer changes its tables with each transaction. A reader asks whether a transaction came in between, but
not for chunks that are complete as of a commit: those never move. It looks all of them up at once, so that a
table is read once for a commit, however many transactions a busy writer makes meanwhile. Threads may ask
while one writes.

Opening the library takes as long as finding a hundred chunks, so the first one to ask makes the tables of all
arrays that have few.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.checks import MOST_NUMBER
from replaystore.containers.hdf5.arrays import array
from replaystore.containers.hdf5.directory import Directory
from replaystore.containers.hdf5.library import Hdf5File
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.places import (
    MOST_CHUNKS,
    UNKNOWN,
    Places,
    Table,
    check_places,
    chunk_count,
    chunk_places,
)
from replaystore.errors import CorruptError
from replaystore.forks import renew_in_children

__all__ = ["ChunkIndex"]

MOST_FAR = 1 << 20
"""Chunks that a directory may speak of before the size of the file is asked."""
FEW = 64
"""Chunks of an array that are looked up along with another's, in less time than opening the library takes."""


class ChunkIndex:
    """The tables of a file."""

    def __init__(
        self, file: Hdf5File, specs: Callable[[], Mapping[str, ArraySpec]], *, writable: bool
    ) -> None:
        self._file = file
        self._specs = specs
        self._writable = writable
        self._tables: dict[str, Places] = {}
        self.lock = threading.RLock()
        renew_in_children(self, "lock")
        """Held from looking at the file, or changing it, until the tables say the same."""

    def forget(self, name: str | None = None) -> None:
        """Look anew at one array, or at all."""
        if name is None:
            self._tables = {}
        else:
            self._tables.pop(name, None)

    def get(self, name: str) -> Places | None:
        """A table, if it is kept."""
        return self._tables.get(name)

    def begin(self, specs: Mapping[str, ArraySpec]) -> None:
        """The tables of arrays that were just made, which have no chunks."""
        version = self._file.version()
        for name, spec in specs.items():
            self._tables[name] = Places(spec, np.empty((0, 3), np.int64), 0, version)

    def load(self, names: Iterable[str]) -> None:
        """Make the tables that are not kept, and those of arrays with few chunks, looking at the file once.
        The lock is held. CorruptError: one of the named ones cannot be made."""
        known = self._specs()
        wanted = {name: known.get(name) for name in names if name not in self._tables}
        if not wanted:
            return
        for name, spec in wanted.items():
            if spec is None:
                raise CorruptError(
                    f"{self._file.path}: the array {name} is missing; run `replaystore verify`"
                )
        along = [name for name in known if name not in self._tables and name not in wanted]

        def look(file: Any, overlay: Overlay) -> dict[str, tuple[int, Table]]:
            found = {}
            for name in (*wanted, *along):
                dataset, spec = array(file, name), known[name]
                chunks = chunk_count(dataset, spec, overlay.end)
                if name in wanted or chunks <= FEW:
                    found[name] = chunks, chunk_places(dataset, spec, overlay.end, range(chunks))
            return found

        directory = self._file.directory()
        if directory is not None:
            for name in wanted:
                found = self._written(directory, name, known[name])
                chunks = int(found[-1, 0]) + 1 if len(found) else 0
                self._tables[name] = Places(known[name], found, chunks, self._file.version())
            return
        try:
            tables, version = self._file.look(look)
        except CorruptError:  # perhaps of another array's: who needs that one is told
            along.clear()
            tables, version = self._file.look(look)
        for name, (chunks, found) in tables.items():
            self._tables[name] = Places(known[name], found, chunks, version)

    def _written(self, directory: Directory, name: str, spec: ArraySpec) -> Table:
        """The places that a directory says, which are such as the array can have."""
        most = MOST_FAR
        if directory.count(name) > most:  # a stranger's file may say anything
            most = self._file.files.size(self._file.name) // (spec.chunk_bytes if spec.codec is None else 1)
        found = directory.places(name, min(most, MOST_CHUNKS))
        check_places(found, spec, MOST_NUMBER)
        return found

    def known(self, name: str, start: int = 0, stop: int = 0, *, complete: int = 0) -> Places:
        """The table of an array, good for the chunks [start, stop); it ends where the array ends, if that is
        before `stop`.

        `complete`: so many chunks of the array are complete as of a commit."""
        places = self._tables.get(name)
        if self._writable and places is not None:
            return places
        with self.lock:
            places = self._tables.get(name)
            if places is None:
                self.load([name])
                places = self._tables[name]
            elif self._writable:  # another thread has looked meanwhile
                return places
            elif (
                stop > places.chunks
                or not places.sure[start:stop].all()
                or places.version[0] != self._file.generation
            ):
                places = self._look_again(name, places, start, stop, complete)
            else:
                return places
            for part in (slice(start, stop), slice(0, complete)):
                places.sure[part] = places.offsets[part] >= 0
        return places

    def _look_again(self, name: str, places: Places, start: int, stop: int, complete: int) -> Places:
        """Bring a reader's table up to date."""
        version = self._file.version()
        if self._file.keeps and self._file.directory() is not None:
            if version == places.version and (stop > places.chunks or (places.offsets[start:stop] < 0).any()):
                self._file.head()  # it was looked at while a transaction came in between, perhaps
            if self._file.version() != places.version:
                self.forget(name)
                self.load([name])
            return self._tables[name]
        if version == places.version and not (places.offsets[start:stop] == UNKNOWN).any():
            return places

        def look(file: Any, overlay: Overlay) -> tuple[int, Table]:
            dataset = array(file, name)
            chunks = chunk_count(dataset, places.spec, overlay.end)
            sure = np.flatnonzero(places.sure[:complete])
            wanted = np.setdiff1d(np.r_[:complete, start:stop], sure, assume_unique=False)
            return chunks, chunk_places(dataset, places.spec, overlay.end, wanted[wanted < chunks].tolist())

        if version[0] == places.version[0]:
            (chunks, found), version = self._file.look(look)
        if version[0] != places.version[0]:  # another file
            self.forget(name)
            self.load([name])
            return self._tables[name]
        if version != places.version:
            places.offsets[~places.sure] = UNKNOWN
        places.resize(chunks)
        places.put(found)
        places.version = version
        return places
