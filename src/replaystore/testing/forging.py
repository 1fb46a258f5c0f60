"""Forged stores: each part of one taken away, exchanged with another, or replaced by an older one, all of
them valid as such.

A forgery is a change of files that leaves no torn bytes: rows, chunks, records, tables, shards and metadata
are whole and have their checksums, but are not in their places. `Forger` makes all forgeries of a closed
store, from its files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

from replaystore.arrays.records import decode_records
from replaystore.arrays.state import Stored
from replaystore.buffers.create_open import open as open_buffer
from replaystore.containers.codecs import crc32c
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.hdf5.front import HEADS, USERBLOCK, Head
from replaystore.containers.protocol import Extent
from replaystore.errors import CorruptError
from replaystore.storage.local import Files

__all__ = ["Forger", "Forgery", "files_of"]

LOG = "journal/log/"
FEW = 4
"""Of rows and chunks, those that each is exchanged with."""

Changes = dict[str, bytes | None]


@dataclass(frozen=True)
class Forgery:
    """What is changed."""

    kind: str
    what: str
    changes: Callable[[], Changes]
    """Makes the new bytes of the files that are changed; None: taken away."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


def files_of(path: Path) -> dict[str, bytes]:
    """All files of a store by their names; of a file the only one, without a name."""
    if path.is_file():
        return {"": path.read_bytes()}
    found = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


@dataclass(frozen=True)
class Array:
    """Where an array's rows and chunks lie."""

    name: str
    row_bytes: int
    chunk_rows: int
    rows: Sequence[Extent]
    """Of a raw array or a table: the places of its rows."""
    chunks: Sequence[Extent]
    """Of a coded array: the places of its complete chunks."""


class Forger:
    """The forgeries of a closed store. `other`: another store of the same schema."""

    def __init__(self, path: Path, other: Path) -> None:
        self.files, self.path, self.other = files_of(path), path, other
        self.single = path.is_file()
        self.arrays, self.segments = _look(path)

    def all(self) -> Iterator[Forgery]:
        """All of them."""
        parts = [self.records, self.rows, self.chunks]
        if self.single:
            parts += [self.heads, self.datasets]
        else:
            parts += [self.tables, self.shards, self.metadata, self.indexes, self.documents]
        for part in parts:
            yield from part()

    def changes(self, forgery: Forgery) -> Changes:
        """What a forgery changes; nothing if it exchanges things that are equal."""
        return {name: data for name, data in forgery.changes().items() if self.files.get(name) != data}

    # --- the log

    def records(self) -> Iterator[Forgery]:
        """Each record removed, repeated, or replaced by an older one; segments cut, replaced, removed."""
        for base, data in self.segments.items():
            ends = [0, *(end for *_, end in decode_records(data))]
            pieces = [data[begin:end] for begin, end in pairwise(ends)]
            for number, piece in enumerate(pieces):
                before, after = pieces[:number], pieces[number + 1 :]
                place = f"record {number} of segment {base}"
                yield from self._log(base, "record removed", place, [*before, *after])
                yield from self._log(base, "record repeated", place, [*before, piece, piece, *after])
                if number > 1:
                    forged = [*before, pieces[number - 1], *after]
                    yield from self._log(base, "record replaced by an older one", place, forged)
            if len(pieces) > 1:
                yield from self._log(base, "records cut off", f"segment {base}", pieces[:1])
            for earlier in self.segments:
                if earlier < base:
                    what, forged = f"segment {base} by {earlier}", [self.segments[earlier]]
                    yield from self._log(base, "segment replaced by an older one", what, forged)
            if not self.single:
                yield Forgery("segment removed", f"segment {base}", partial(dict, {f"{LOG}{base}": None}))

    def _log(self, base: int, kind: str, what: str, pieces: Sequence[bytes]) -> Iterator[Forgery]:
        """Other records in a segment."""
        data = b"".join(pieces)
        if not self.single:
            yield Forgery(kind, what, partial(dict, {f"{LOG}{base}": data}))
            return
        file, before = self.files[""], self.segments[base]
        at = file.find(before)
        if at < 0 or len(data) > len(before):  # in several pieces, or without room
            return
        changes = {("", at): data + bytes(len(before) - len(data))}
        if base == max(self.segments):
            for slot, head in _heads(file)[-1:]:
                changes["", slot] = replace(head, used=len(data)).pack()
        yield Forgery(kind, what, partial(self._changed, changes))

    def heads(self) -> Iterator[Forgery]:
        """An HDF5 file's newer head removed, or replaced by the older one."""
        file = self.files[""]
        heads = _heads(file)
        if len(heads) < 2:
            return
        (_, older), (slot, newer) = heads
        size = len(newer.pack())
        for kind, data in (("head removed", b""), ("head replaced by the older one", older.pack())):
            changes = {("", slot): data.ljust(size, b"\0")[:size]}
            yield Forgery(kind, f"at {slot}", partial(self._changed, changes))

    def datasets(self) -> Iterator[Forgery]:
        """Datasets of an HDF5 file exchanged; the document by that of another file."""
        names = [array.name for array in self.arrays]
        for one, two in combinations(names, 2):
            exchange = partial(_exchange, one=one, two=two)
            yield Forgery("datasets exchanged", f"{one} and {two}", partial(self._by_library, exchange))
        document = _container(self.other, writable=False).document()
        forged = partial(self._by_library, lambda container: container.replace_document(document))
        yield Forgery("document of another store", "attribute", forged)

    def _by_library(self, action: Callable[[Hdf5Container], None]) -> Changes:
        """What a file is after a change by HDF5's own library."""
        place = self.path.with_name("forged.h5")
        place.write_bytes(self.files[""])
        container = _container(place, writable=True)
        try:
            action(container)
        finally:
            container.close()
        return {"": place.read_bytes()}

    # --- rows and chunks

    def rows(self) -> Iterator[Forgery]:
        """Each row of each array that is raw replaced by another one of it."""
        for array in self.arrays:
            places = [place for place, _ in _places(array.rows, array.row_bytes)]
            values = [self._bytes(place, array.row_bytes) for place in places]
            for row, place in enumerate(places):
                others = values[row + 1 :] + values[:row]
                for other in [value for value in others if value != values[row]][:1]:
                    changed = partial(self._changed, {place: other})
                    yield Forgery("row replaced", f"row {row} of {array.name}", changed)

    def chunks(self) -> Iterator[Forgery]:
        """Complete chunks exchanged, with and without their entries in the table of checksums."""
        tables = {array.name: array for array in self.arrays}
        for array in self.arrays:
            size = array.row_bytes * array.chunk_rows
            raw = [(place, size) for place, _ in _places(array.rows, size)]
            chunks = [((chunk.object, chunk.offset), chunk.length) for chunk in array.chunks] or raw
            table = tables.get("checksums/" + array.name)
            sums = [] if table is None else [place for place, _ in _places(table.rows, table.row_bytes)]
            for (one, place), (two, other) in combinations(enumerate(chunks), 2):
                if two - one > FEW or place[1] != other[1]:
                    continue
                exchange = {place[0]: self._bytes(*other), other[0]: self._bytes(*place)}
                what = f"chunks {one} and {two} of {array.name}"
                yield Forgery("chunks exchanged", what, partial(self._changed, exchange))
                if table is not None and two < len(sums):
                    entries = {sums[one]: self._bytes(sums[two], 4), sums[two]: self._bytes(sums[one], 4)}
                    both = partial(self._changed, exchange | entries)
                    yield Forgery("chunks exchanged with their checksums", what, both)
                    yield Forgery("checksums exchanged", what, partial(self._changed, entries))

    def _bytes(self, place: tuple[str, int], size: int) -> bytes:
        name, at = place
        return self.files["" if self.single else name][at : at + size]

    def _changed(self, changes: Mapping[tuple[str, int], bytes]) -> Changes:
        found: dict[str, bytearray] = {}
        for (name, at), data in changes.items():
            key = "" if self.single else name
            found.setdefault(key, bytearray(self.files[key]))[at : at + len(data)] = data
        return {name: bytes(data) for name, data in found.items()}

    # --- files of a folder

    def tables(self) -> Iterator[Forgery]:
        """Files of tables removed, and each in the place of each other."""
        names = [name for name in self._data() if not name.startswith(("steps/", "journal/"))]
        yield from self._exchanges("table", names)

    def shards(self) -> Iterator[Forgery]:
        """Files of steps and of the journal removed, and each in the place of each other."""
        names = [name for name in self._data() if name.startswith(("steps/", "journal/"))]
        yield from self._exchanges("shard", names)

    def metadata(self) -> Iterator[Forgery]:
        """What each array says of itself removed, and each in the place of each other."""
        yield from self._exchanges("metadata", [name for name in self.files if name.endswith("/zarr.json")])

    def _data(self) -> list[str]:
        return [name for name in self.files if not name.endswith("zarr.json") and not name.startswith(LOG)]

    def _exchanges(self, kind: str, names: Sequence[str]) -> Iterator[Forgery]:
        for name in names:
            yield Forgery(f"{kind} removed", name, partial(dict, {name: None}))
        for name, other in permutations(names, 2):
            changes = {name: self.files[other]}
            yield Forgery(f"{kind} in another's place", f"{other} as {name}", partial(dict, changes))
        for name, other in combinations(names, 2):
            changes = {name: self.files[other], other: self.files[name]}
            yield Forgery(f"{kind}: two exchanged", f"{name} and {other}", partial(dict, changes))

    def indexes(self) -> Iterator[Forgery]:
        """Two entries of a shard's index exchanged, or one removed, with the right checksum."""
        for name in self._data():
            data, at = self.files[name], 0
            count = next((n for n in range(1, 65) if _is_index(data, n)), 0)
            for one, two in combinations(range(count), 2):
                if data[16 * one : 16 * one + 16] != data[16 * two : 16 * two + 16]:
                    index = bytearray(data[: 16 * count])
                    index[16 * one : 16 * one + 16] = data[16 * two : 16 * two + 16]
                    index[16 * two : 16 * two + 16] = data[16 * one : 16 * one + 16]
                    yield self._index(name, "entries of an index exchanged", f"{one} and {two}", index)
            for at in range(count):
                index = bytearray(data[: 16 * count])
                index[16 * at : 16 * at + 16] = b"\xff" * 16
                yield self._index(name, "entry of an index removed", f"{at}", index)

    def _index(self, name: str, kind: str, what: str, index: bytearray) -> Forgery:
        rest = self.files[name][len(index) + 4 :]
        data = bytes(index) + crc32c(bytes(index)).to_bytes(4, "little") + rest
        return Forgery(kind, f"{what} of {name}", partial(dict, {name: data}))

    def documents(self) -> Iterator[Forgery]:
        """The document by that of another store."""
        theirs = (self.other / "zarr.json").read_bytes()
        yield Forgery("document of another store", "zarr.json", partial(dict, {"zarr.json": theirs}))
        forged = json.loads(self.files["zarr.json"]) | {"attributes": json.loads(theirs)["attributes"]}
        changes = {"zarr.json": json.dumps(forged).encode()}
        yield Forgery("attributes of another store", "zarr.json", partial(dict, changes))


def _container(path: Path, *, writable: bool) -> Hdf5Container:
    return Hdf5Container.open(Files(path.parent, writable=writable), path.name, writable=writable)


def _exchange(container: Hdf5Container, one: str, two: str) -> None:
    """Exchange the names of two datasets."""

    def move(file: Any, _: Any) -> None:
        for name, to in ((one, "forged"), (two, one), ("forged", two)):
            file.move(name, to)

    container._file.change(move)


def _look(path: Path) -> tuple[list[Array], dict[int, bytes]]:
    """Where everything lies in a store."""
    with open_buffer(path) as reader:
        store: Any = reader._store
        container, found = store.container, []
        for name in (known for known in store.state.arrays if not known.startswith("journal/")):
            spec = container.specs()[name]
            unit = container.capabilities.run_rows(spec)
            first, rows = store.first(name) // unit * unit, store.rows(name)
            extents: Sequence[Extent] = ()
            chunks: list[Extent] = []
            if spec.codec is None and rows:
                try:
                    stored = store.state.tables.get(name, Stored()).rows if spec.journaled else rows
                    extents = container.extents(name, first, stored) if stored else ()
                except CorruptError:  # it has not reached its array yet
                    pass
            elif rows:
                numbers = range(store.first(name) // spec.chunk_rows, rows // spec.chunk_rows)
                places = filter(None, (store.locate(name, number) for number in numbers))
                chunks = [Extent(known.object, known.offset, known.length) for known in places]
            found.append(Array(name, spec.row_bytes, spec.chunk_rows, extents, chunks))
        return found, {base: container.read_segment(base) for base in container.segments()}


def _places(extents: Sequence[Extent], size: int) -> Iterator[tuple[tuple[str, int], int]]:
    """The places of pieces of this size, and their numbers."""
    number = 0
    for extent in extents:
        for at in range(extent.offset, extent.offset + extent.length - size + 1, size):
            yield (extent.object, at), number
            number += 1


def _is_index(data: bytes, count: int) -> bool:
    """Whether a shard begins with an index of so many chunks."""
    end = 16 * count
    return len(data) >= end + 4 and crc32c(data[:end]) == int.from_bytes(data[end : end + 4], "little")


def _heads(file: bytes) -> list[tuple[int, Head]]:
    """The heads of an HDF5 file and their places, the newest last."""
    found = [(slot, head) for slot in HEADS if (head := Head.unpack(file[:USERBLOCK], slot)) is not None]
    return sorted(found, key=lambda known: known[1].sequence)
