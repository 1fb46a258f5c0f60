"""The arrays of an HDF5 file: made and grown, their rows and encoded chunks written and found.

Structure changes by transactions; rows are written inside space that an earlier one reserved, so that they
need none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import codec_for
from replaystore.containers.hdf5.arrays import (
    array,
    arrays,
    make_array,
)
from replaystore.containers.hdf5.far import FarFile
from replaystore.containers.hdf5.index import ChunkIndex
from replaystore.containers.hdf5.library import Hdf5File
from replaystore.containers.hdf5.log import Log
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.places import (
    ABSENT,
    ANYWHERE,
    Place,
    Table,
    chunk_places,
    put_chunk,
    runs,
)
from replaystore.containers.hdf5.states import Version
from replaystore.containers.hdf5.survey import survey
from replaystore.containers.protocol import ChunkEntry, Codec, Extent
from replaystore.errors import (
    CorruptError,
    SchemaError,
    UnsupportedError,
)
from replaystore.storage.local import Files
from replaystore.storage.protocol import Maps

__all__ = ["ArrayFile"]

STEP_BYTES = 1 << 30
"""An array grows by at most so much more than asked for."""
LEAST_STEP = 4
"""Chunks that an array grows by at least once its first is full: each time is a transaction with two syncs,
and room that nothing was written to takes no space on the disk."""


class ArrayFile:
    """The arrays of the file `name` in `files`."""

    def __init__(self, files: Files, name: str, *, writable: bool) -> None:
        self.files = files
        files.entrance = self.name = name
        self.path = files.path(name)
        self.writable = writable
        near = writable or isinstance(files, Maps)
        self._file = Hdf5File(files, name, follow=not writable) if near else FarFile(files, name)
        self._log = Log(self._file, writable=writable)
        self._file.survey = survey
        self._index = ChunkIndex(self._file, self.specs, writable=writable)
        self._specs: tuple[int, dict[str, ArraySpec]] | None = None
        """The generation of the file, and its arrays."""
        self._document: tuple[str, Version] | None = None

    def _ready(self) -> None:
        """To be called before writing: finish a transaction that the system interrupted."""
        if not self.writable:
            raise UnsupportedError(f'{self._file.path} is open for reading only; open it with mode "r+"')
        self._file.check()
        if self._file.unfinished:
            self._file.recover()
            self._forget()
            self._log.reload()

    def _forget(self) -> None:
        self._specs, self._document = None, None
        self._index.forget()

    def refresh(self) -> None:
        if not self.writable:
            self._forget()

    @property
    def watched(self) -> Sequence[tuple[str, int, int]]:
        return self._file.watched if isinstance(self._file, FarFile) else ()

    def announce_segments(self, starts: Mapping[int, int], *, look: bool = False) -> None:
        """Nothing to do: they are read with what says where they lie."""

    def _announce(self, file: FarFile) -> None:
        """What opening is going to read."""
        slot = file.slot()
        if slot is not None:
            self.files.fetch_ahead([*self._log.announced(), (self.name, slot.offset, slot.used)])

    def identity(self) -> object:
        return self._file.version()[0]

    def learn(self, specs: Mapping[str, ArraySpec]) -> None:
        known = self._specs
        if known is None or known[0] != self._file.generation or not specs.keys() <= known[1].keys():
            self._specs = self._file.generation, dict(specs)

    def specs(self) -> Mapping[str, ArraySpec]:
        known = self._specs
        if known is None or known[0] != self._file.generation:
            found, version = self._file.look(lambda file, _: arrays(file))
            known = self._specs = version[0], found
        return known[1]

    def _spec(self, name: str) -> ArraySpec:
        try:
            return self.specs()[name]
        except KeyError:
            raise CorruptError(
                f"{self._file.path}: the array {name} is missing; run `replaystore verify`"
            ) from None

    def create_arrays(self, specs: Mapping[str, ArraySpec]) -> None:
        self._ready()

        def make(file: Any, overlay: Overlay) -> None:
            for name, spec in specs.items():
                make_array(file, name, spec)
            overlay.notes.forgotten.extend(specs)

        with self._index.lock:
            known = dict(self.specs())
            if specs:
                self._file.change(make)
            made = {name: replace(spec, dtype=spec.dtype.newbyteorder("<")) for name, spec in specs.items()}
            self._specs = self._file.generation, known | made
            self._index.begin(made)

    def codec(self, spec: ArraySpec) -> Codec:
        return codec_for("hdf5", spec)

    def reserve(self, rows: Mapping[str, int]) -> None:
        if not self._file.unfinished:
            table = self._index.get
            for name, wanted in rows.items():
                known = table(name)
                if known is None or wanted > known.rows:
                    break
            else:  # nearly always
                return
        self._ready()
        with self._index.lock:
            self._index.load(rows)
        short, targets = False, {}
        for name, wanted in rows.items():
            places = self._index.known(name)
            base = places.base
            if places.spec.codec is not None:
                raise SchemaError(
                    f"{self._file.path}: {name} is a coded array; room is reserved for raw ones"
                )
            chunks, needed = places.chunks, -(-wanted // places.chunk_rows)
            short = short or needed > chunks
            # a transaction also serves those that would need one soon.
            if 4 * (chunks - base) * places.chunk_rows < 5 * (wanted - base * places.chunk_rows):
                ahead = chunks + max(LEAST_STEP, (chunks - base) // 2) if chunks > base else needed
                targets[name] = max(needed, min(ahead, needed + STEP_BYTES // places.chunk_bytes))
        if short:
            self._grow(
                {name: chunks for name, chunks in targets.items() if chunks > self._index.known(name).chunks}
            )

    def _grow(self, targets: Mapping[str, int]) -> None:
        """Give raw arrays so many chunks."""

        def extend(file: Any, overlay: Overlay) -> dict[str, Table]:
            found = {}
            for name, chunks in targets.items():
                places, dataset = self._index.known(name), array(file, name)
                dataset.set_extent((chunks * places.chunk_rows, *places.spec.shape))
                found[name] = chunk_places(dataset, places.spec, ANYWHERE, range(places.chunks, chunks))
                overlay.notes.place(name, found[name])
            return found

        with self._index.lock:
            for name, found in self._file.change(extend).items():
                places = self._index.known(name)
                places.resize(targets[name])
                places.put(found)

    def write_rows(self, name: str, start: int, rows: memoryview | bytes) -> None:
        places = self._index.get(name) or self._index.known(name)
        whole, size, width = places.chunk_bytes, len(rows), places.row_bytes
        chunk, within = divmod(start, places.chunk_rows)
        within *= width
        if start * width + size > places.rows * width or places.spec.codec is not None:
            raise SchemaError(
                f"{self._file.path}: rows from {start} on of {name} lie outside its reserved room"
            )
        if within + size <= whole:
            self.files.write(self.name, int(places.offsets[chunk]) + within, rows)
            return
        done = 0
        for offset, length in runs(places.offsets[chunk : chunk - (-(within + size) // whole)], whole):
            step = min(length - within, size - done)
            self.files.write(self.name, offset + within, rows[done : done + step])
            done, within = done + step, 0

    def extents(self, name: str, start: int, stop: int) -> Sequence[Extent]:
        if stop <= start:
            return []
        spec = self._spec(name)
        first, last = start // spec.chunk_rows, -(-stop // spec.chunk_rows)
        if start % spec.chunk_rows or spec.codec is not None:
            raise SchemaError(f"{self._file.path}: {name} has no extents from row {start} on")
        offsets = self._index.known(name, first, last).offsets[first:last]
        if len(offsets) < last - first or (offsets < 0).any():
            raise CorruptError(
                f"{self._file.path}: rows of {name} before {stop} have no place in the file; "
                "run `replaystore verify`"
            )
        found = [Extent(self.name, offset, length) for offset, length in runs(offsets, spec.chunk_bytes)]
        found[-1] = replace(
            found[-1], length=found[-1].length - (last * spec.chunk_rows - stop) * spec.row_bytes
        )
        size, end = self._file.known_size(), max(extent.offset + extent.length for extent in found)
        if end > size:
            raise CorruptError(
                f"{self._file.path} is cut short: {size} bytes are left of at least {end}, "
                f"which rows of {name} need"
            )
        return found

    def write_chunks(self, chunks: Mapping[str, Mapping[int, bytes]]) -> dict[str, dict[int, ChunkEntry]]:
        self._ready()
        specs = {name: self._spec(name) for name, numbered in chunks.items() if numbered}

        def store(file: Any, overlay: Overlay) -> dict[str, dict[int, Place]]:
            found = {}
            for name, spec in specs.items():
                dataset, rows = array(file, name), (max(chunks[name]) + 1) * spec.chunk_rows
                stored = -(-int(dataset.shape[0]) // spec.chunk_rows)
                if dataset.shape[0] < rows:
                    dataset.set_extent((rows, *spec.shape))
                found[name] = {
                    n: put_chunk(dataset, spec, n, data, overlay, replaces=n < stored)
                    for n, data in chunks[name].items()
                }
                overlay.notes.place(name, _table(found[name]))
            return found

        with self._index.lock:
            placed = self._file.change(store, aligned=False) if specs else {}
            for name, found in placed.items():
                places = self._index.get(name)
                if places is not None:
                    known = places.chunks
                    places.resize(max(known, max(found) + 1))
                    places.offsets[known:] = ABSENT
                    places.put(_table(found))
        return {
            name: {n: ChunkEntry(self.name, *place) for n, place in found.items()}
            for name, found in placed.items()
        }

    def write_index(self, name: str, shard: int, entries: Mapping[int, ChunkEntry]) -> None:
        """Nothing is left to do: `write_chunks` has brought the chunks into HDF5's index."""

    def entry(self, name: str, chunk: int, *, complete: int = 0) -> ChunkEntry | None:
        places = self._index.known(name, chunk, chunk + 1, complete=complete)
        if chunk >= places.chunks or places.offsets[chunk] < 0:
            return None
        return ChunkEntry(self.name, int(places.offsets[chunk]), int(places.lengths[chunk]))

    def lookups(self, name: str, chunks: Iterable[int]) -> Sequence[tuple[str, int, int]]:
        """Nothing: the places of all chunks are found at once."""
        return ()

    def _stored(self, offset: int, length: int) -> bytes:
        data = self.files.read(self.name, offset, length) if offset >= 0 else b""
        if not data or len(data) != length:
            raise CorruptError(
                f"an encoded chunk of {length} bytes at byte {offset} is missing; run `replaystore verify`"
            )
        return data


def _table(found: Mapping[int, Place]) -> Table:
    return np.array([(number, *place) for number, place in found.items()], np.int64).reshape(-1, 3)
