"""A store as one HDF5 file that any HDF5 library from 1.10 on reads: datasets for arrays, a root attribute
for the document.

    <user block>                  what makes changes atomic and readers quick: see transaction.py
    /                             attribute `replaystore`: the document
    /steps/reward                 dataset; raw ones are unfiltered chunks, coded ones pass HDF5's own filters
    /journal/log/<commit>         a segment of the commit log; <commit>.1, .2, … where it needed more room
    /journal/…                    raw rows of unfinished chunks, as in a Zarr store

Structure changes by transactions, which the HDF5 library prepares in memory. Rows and log records do not need
it: they are written to places that are known, inside space that an earlier transaction reserved. So a commit
is a few writes and a sync.

1. The space of rows is never used twice: what a chunk's successor supersedes, and what `publish` cuts off,
   stays as it is for old readers. That of removed pieces of the log is, by later ones (freed.py).
2. Rows are never where HDF5 may write: when it wants to fill the end of a chunk that `publish` cuts, that
   write is dropped.
3. Extents run ahead of the rows while a store grows. `publish` sets them to the rows; growing goes on from
   there.

More than 25 methods because so much is asked of a container (containers/protocol.py says all of it).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.checks import load_json
from replaystore.containers.hdf5.arrays import (
    array,
    array_problems,
    make_file,
    read_document,
    remove_array,
    write_document,
)
from replaystore.containers.hdf5.copy import copy_file
from replaystore.containers.hdf5.far import FarFile
from replaystore.containers.hdf5.front import front_block
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.places import (
    ABSENT,
    ANYWHERE,
    Place,
    Places,
    chunk_places,
    put_chunk,
)
from replaystore.containers.hdf5.rows import ArrayFile
from replaystore.containers.hdf5.survey import directory_problems
from replaystore.containers.protocol import Capabilities, ChunkEntry
from replaystore.errors import (
    AlreadyExistsError,
    CorruptError,
    FormatError,
    NotFoundError,
    UnsupportedError,
)
from replaystore.schema import tree
from replaystore.storage.local import Files

__all__ = ["Hdf5Container"]

TEMPORARY = ".replaystore-new"


class Hdf5Container(ArrayFile):
    """The HDF5 file `name` in `files`."""

    lock_name = metadata_name = ""
    carry: Callable[[str], contextlib.AbstractContextManager[Any]]
    capabilities = Capabilities(
        one_file=True,
        gives_back_space=False,
        knows_its_chunks=True,
        runs_of_shards=False,
        shows_at_once=True,
        names_dimensions=False,
        may_crash=True,
        chunk_format="hdf5",
        default_codec="gzip:1",
        archive_codec="gzip:3",  # of frames: 0.73 of the bytes, decoded in 0.78 of the time, encoded in 2.4
    )

    def __init__(self, files: Files, name: str, *, writable: bool) -> None:
        super().__init__(files, name, writable=writable)
        self.lock_name = name
        self.carry = contextlib.nullcontext

    @classmethod
    def create(cls, files: Files, name: str, document: Mapping[str, Any]) -> Hdf5Container:
        """A file with a document and nothing else; durable on return. AlreadyExistsError: the name is
        taken."""
        if files.exists(name):
            raise AlreadyExistsError(f"{files.path(name)} exists; choose another name or remove it")
        overlay, temporary = make_file(files.path(name), document), name + TEMPORARY
        files.create(temporary)
        try:
            files.write(temporary, 0, front_block())
            for offset, data in overlay.pieces:
                files.write(temporary, offset, data)
            files.resize(temporary, overlay.end)
            files.sync_file(temporary)
            files.rename(temporary, name)
        except OSError:
            files.remove(temporary)
            raise
        files.sync_folder(os.path.dirname(name))
        return cls.open(files, name, writable=True)

    @classmethod
    def open(cls, files: Files, name: str, *, writable: bool) -> Hdf5Container:
        """An existing file. NotFoundError; FormatError: it is none of ours; CorruptError: it is damaged.

        A writable one is brought in order: what an interrupted writer left is finished or forgotten."""
        container = cls(files, name, writable=writable)
        try:
            if writable:
                container._file.recover()
                files.remove(name + TEMPORARY)
            container._log.reload()
            if isinstance(container._file, FarFile):
                container._announce(container._file)
            else:
                container._document = container._log.look(read_document)
            container.document()
        except FileNotFoundError:
            raise NotFoundError(f"{files.path(name)} does not exist; check the path") from None
        except IsADirectoryError:
            raise FormatError(f"{files.path(name)} is a folder, not a replaystore HDF5 file") from None
        return container

    @classmethod
    def for_repair(cls, files: Files, name: str) -> Hdf5Container:
        """An existing file, for writing, whatever its document is like."""
        container = cls(files, name, writable=True)
        container._file.recover()
        container._file.forget_directory()
        container._log.reload()
        return container

    # --- the log

    def append_record(self, record: bytes) -> None:
        self._ready()
        self._log.append(record)

    def begin_segment(self, commit: int, record: bytes) -> None:
        self._ready()
        self._log.begin(commit, record)

    def replace_segments(self, kept: Mapping[int, bytes], removed: Sequence[int]) -> None:
        self._ready()
        self._log.replace(kept, removed)

    def segments(self) -> list[int]:
        return self._log.segments()

    def read_segment(self, commit: int, start: int = 0) -> bytes:
        return self._log.read(commit, start)

    def cut_segment(self, commit: int, length: int) -> None:
        self._ready()
        self._log.cut(commit, length)

    # --- the document

    def document(self) -> dict[str, Any]:
        version = self._file.version()
        if self._document is None or self._document[1] != version:
            known = self._file.directory()
            if known is not None and known.document is not None:
                self._document = known.document, version
            else:
                self._document = self._file.look(lambda file, _: read_document(file))
        found = load_json(self._document[0], f"{self._file.path}: the document")
        if not isinstance(found, dict):
            raise CorruptError(
                f"{self._file.path}: the document is not a JSON object; run `replaystore repair`"
            )
        return found

    def replace_document(self, document: Mapping[str, Any]) -> None:
        self._ready()

        def write(file: Any, overlay: Overlay) -> None:
            overlay.notes.document = write_document(file, document)

        self._file.change(write)

    # --- durability and other software

    def sync(self) -> None:
        self._file.sync()

    def publish(self, lengths: Mapping[str, int], entries: Mapping[str, Mapping[int, ChunkEntry]]) -> None:
        self._ready()
        specs = {name: self._spec(name) for name in lengths}
        self.reserve({name: length for name, length in lengths.items() if specs[name].codec is None})

        def show(file: Any, overlay: Overlay) -> set[str]:
            changed = set()
            for name, length in lengths.items():
                dataset = array(file, name)
                if specs[name].codec is not None:
                    known = entries.get(name, {})
                    moved = self._show_coded(name, dataset, specs[name], length, known, overlay)
                else:
                    moved = self._show_raw(dataset, self._index.known(name), length, overlay)
                if moved:
                    changed.add(name)
            overlay.cancelled = not changed
            return changed

        with self._index.lock:
            for name in self._file.change(show, aligned=False):
                if specs[name].codec is not None:
                    self._index.forget(name)
                else:
                    places = self._index.known(name)
                    places.resize(-(-lengths[name] // places.chunk_rows))
                    places.base = places.chunks

    def _show_raw(self, dataset: Any, places: Places, length: int, overlay: Overlay) -> bool:
        if dataset.shape[0] == length:
            return False
        if length % places.chunk_rows:
            overlay.drop(int(places.offsets[length // places.chunk_rows]), places.chunk_bytes)
        dataset.set_extent((length, *places.spec.shape))
        return True

    def _show_coded(
        self,
        name: str,
        dataset: Any,
        spec: ArraySpec,
        length: int,
        entries: Mapping[int, ChunkEntry],
        overlay: Overlay,
    ) -> bool:
        """Set the extent of a coded array, and its index to these entries; whether anything changed.

        HDF5 would decode and encode a chunk that it cuts (and cannot, without the filter), so it is taken out
        and put back."""
        rows, whole = int(dataset.shape[0]), length // spec.chunk_rows
        stored = -(-rows // spec.chunk_rows)
        wanted = {
            n: (entry.offset, entry.length) for n, entry in entries.items() if n * spec.chunk_rows < length
        }
        cut = {whole} if rows > length and length % spec.chunk_rows else set()
        found = chunk_places(dataset, spec, ANYWHERE, [n for n in {*wanted, *cut} if n < stored])
        there: dict[int, Place] = {n: (offset, length) for n, offset, length in found.tolist()}
        moved = {
            n: wanted.get(n, there.get(n)) for n in {*wanted, *cut} if n in cut or wanted[n] != there.get(n)
        }
        contents = {n: self._stored(*(place or (ABSENT, 0))) for n, place in moved.items()}
        if rows > length:
            dataset.set_extent((whole * spec.chunk_rows, *spec.shape))
            stored = whole
        if rows != length:
            dataset.set_extent((length, *spec.shape))
        for number, data in sorted(contents.items()):
            place = put_chunk(dataset, spec, number, data, overlay, replaces=number < stored)
            overlay.notes.place(name, np.array([(number, *place)], np.int64))
        return rows != length or bool(contents)

    def published(self) -> Mapping[str, int]:
        """Extents run ahead of the commits, by whole chunks, while a store is written: those that end within
        a chunk.

        Asked of arrays whose last chunk other software has a copy of."""
        copied = {
            name: spec.chunk_rows
            for name, spec in self.specs().items()
            if spec.mutable or spec.codec is not None
        }
        rows, _ = self._file.look(lambda file, _: {name: int(array(file, name).shape[0]) for name in copied})
        return {name: count for name, count in rows.items() if count % copied[name]}

    def metadata_problems(self) -> Iterator[tuple[str, str]]:
        self._file.head()
        for name in self._file.damaged:
            what = (
                f"{name} is damaged; the log is read without it, and opening the store for writing mends it"
            )
            yield self._file.path, what

        newest = max(self._log.segments(), default=0)

        def look(file: Any, overlay: Overlay) -> list[tuple[str, str]]:
            read_document(file)
            return array_problems(file) + directory_problems(file, overlay, newest)

        try:
            problems, _ = self._file.look(look)
        except CorruptError as error:
            problems = [(self._file.path, str(error))]
        yield from problems

    def restore(self, specs: Mapping[str, ArraySpec], rows: Mapping[str, int]) -> list[str]:
        """Nothing: where HDF5's own metadata of a dataset are damaged, so is the way to its rows."""
        return []

    def index_problems(self, name: str, first: int, rows: int) -> Iterator[tuple[str, str]]:
        try:
            chunk_rows = self._spec(name).chunk_rows
            needed = range(first // chunk_rows, rows // chunk_rows)
            places = self._index.known(name, needed.start, needed.stop)
            missing = [n for n in needed if n >= places.chunks or places.offsets[n] < 0]
        except CorruptError as error:
            yield name, str(error)
        else:
            if missing:
                yield name, f"HDF5's index has no chunk {missing[0]}"

    def doubt(self, rows: Mapping[str, int]) -> None:
        """A sync is one of the whole file."""

    def fork(self, rows: Mapping[str, int]) -> None:
        if not rows:
            return
        self._ready()
        temporary = self.name + TEMPORARY
        try:
            copy_file(self.files, self.name, temporary)
            self.files.sync_file(temporary)
            with self.carry(self.files.real_path(temporary)):
                self.files.rename(temporary, self.name)
        except OSError:
            self.files.remove(temporary)
            raise
        self.files.sync_folder(os.path.dirname(self.name))

    def trim(self, rows: Mapping[str, int]) -> None:
        self._ready()
        self._remove([name for name in self.specs() if name not in rows and not tree.is_journal(name)])

    def seal(self) -> None:
        self._ready()
        self._remove([name for name in self.specs() if tree.is_journal(name)], older_segments=True)

    def _remove(self, names: Sequence[str], *, older_segments: bool = False) -> None:
        """Remove arrays from HDF5's sight; their bytes stay, as old readers know them."""

        def drop(file: Any, overlay: Overlay) -> None:
            for name in names:
                remove_array(file, name)
            overlay.notes.forgotten.extend(names)
            if older_segments:
                self._log.keep_newest(file, overlay)

        with self._index.lock:
            if names or older_segments:
                self._file.change(drop)
            known = dict(self.specs())
            for name in names:
                del known[name]
                self._index.forget(name)
            self._specs = self._file.generation, known
            self._log.changed()

    def drop_before(self, name: str, row: int, *, since: int | None = None) -> None:
        if row > 0:
            raise UnsupportedError(
                f"{self._file.path}: HDF5 cannot give back the space of old rows of "
                f"{name}; use a Zarr store for a ring"
            )

    def close(self) -> None:
        self.files.close()
