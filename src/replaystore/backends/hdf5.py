"""A store as one HDF5 file that any HDF5 library from 1.10 on reads: datasets for arrays, a root attribute for the document.

    <user block>                  what makes changes atomic and readers quick: see hdf5_transaction.py
    /                             attribute `replaystore`: the document
    /steps/reward                 dataset; raw ones are unfiltered chunks, coded ones pass HDF5's own filters
    /journal/log/<commit>         a segment of the commit log; <commit>.1, .2, … where it needed more room
    /journal/…                    raw rows of unfinished chunks, as in a Zarr store

Structure changes by transactions, which the HDF5 library prepares in memory. Rows and log records do not need it: they are written
to places that are known, inside space that an earlier transaction reserved. So a commit is a few writes and a sync.

1. Space is never used twice. What a chunk's successor supersedes, and what `publish` cuts off, stays as it is for old readers.
2. Rows are never where HDF5 may write: when it wants to fill the end of a chunk that `publish` cuts, that write is dropped.
3. Extents run ahead of the rows while a store grows. `publish` sets them to the rows; growing goes on from there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from replaystore.backends import ArraySpec, Capabilities, ChunkEntry, Codec, Extent
from replaystore.backends import hdf5_arrays as h5
from replaystore.backends.codecs import codec_for
from replaystore.backends.files import Files
from replaystore.backends.hdf5_overlay import Overlay
from replaystore.backends.hdf5_transaction import Head, TransactionFile, Version, front_block
from replaystore.errors import AlreadyExistsError, CorruptError, FormatError, NotFoundError, SchemaError, UnsupportedError

__all__ = ["Hdf5Container"]

TEMPORARY = ".replaystore-new"
STEP_BYTES = 1 << 30
"""An array grows by at most so much more than asked for."""
SEGMENT_BYTES = 64 << 10
SEGMENT_MOST = 4 << 20
WINDOW = 512
"""Places of chunks looked up together when a reader finds its table out of date."""
COPY_BYTES = 4 << 20
FICLONE = 0x40049409  # Linux: share the blocks of another file (btrfs, XFS)

Result = TypeVar("Result")


class Hdf5Container:
    """The HDF5 file `name` in `files`."""

    def __init__(self, files: Files, name: str, *, writable: bool) -> None:
        self.files = files
        self.name = name
        self.writable = writable
        self.capabilities = Capabilities(kind="hdf5", write=writable, drop=False, shards=False, default_codec="gzip:1")
        self.lock_name = name + ".lock"
        self._file = TransactionFile(files, name, follow=not writable)
        self._head: Head | None = None
        """The writer's own; readers ask the file."""
        self._specs: dict[str, ArraySpec] | None = None
        self._places: dict[str, h5.Places] = {}
        self._base: dict[str, int] = {}
        """Chunks that an array had when it last began to grow; steps are in proportion to what came since."""
        self._document: tuple[Version, str] | None = None
        self._segments: tuple[tuple[int, int], list[int]] | None = None

    @classmethod
    def create(cls, files: Files, name: str, document: Mapping[str, Any]) -> Hdf5Container:
        """A file with a document and nothing else; durable on return. AlreadyExistsError: the name is taken."""
        if files.exists(name):
            raise AlreadyExistsError(f"{files.path(name)} exists; choose another name or remove it")
        overlay, temporary = h5.make_file(document), name + TEMPORARY
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
            container.document()
            container._head = container._file.head()
        except FileNotFoundError:
            raise NotFoundError(f"{files.path(name)} does not exist; check the path") from None
        except IsADirectoryError:
            raise FormatError(f"{files.path(name)} is a folder, not a replaystore HDF5 file") from None
        return container

    # --- reading and changing what the HDF5 library looks after

    def _read(self, action: Callable[[Any, Overlay], Result]) -> tuple[Result, Version]:
        def look(overlay: Overlay) -> Result:
            with h5.library(self._file.path, overlay, "r") as file:
                return action(file, overlay)

        return self._file.read(look)

    def _change(self, action: Callable[[Any, Overlay], Result], *, aligned: bool = True) -> Result:
        """One transaction: all that `action` does, or nothing."""
        overlay = self._file.begin()
        with h5.library(self._file.path, overlay, "r+", aligned=aligned) as file:
            result = action(file, overlay)
        if not overlay.cancelled:
            self._file.commit(overlay)
        return result

    def _ready(self) -> None:
        """To be called before writing: finish a transaction that the system interrupted."""
        if not self.writable:
            raise UnsupportedError(f'{self._file.path} is open for reading only; open it with mode "r+"')
        self._file.check()
        if self._file.unfinished:
            self._file.recover()
            self._specs, self._places, self._document, self._segments = None, {}, None, None
            self._head = self._file.head()

    # --- arrays

    def specs(self) -> Mapping[str, ArraySpec]:
        if self._specs is None:
            self._specs, _ = self._read(lambda file, _: h5.arrays(file))
        return self._specs

    def refresh(self) -> None:
        if not self.writable:
            self._specs, self._places, self._document, self._segments = None, {}, None, None

    def create_arrays(self, specs: Mapping[str, ArraySpec]) -> None:
        self._ready()

        def make(file: Any, _: Overlay) -> None:
            for name, spec in specs.items():
                h5.make_array(file, name, spec)

        known = dict(self.specs())
        if specs:
            self._change(make)
        for name, spec in specs.items():
            known[name] = replace(spec, dtype=spec.dtype.newbyteorder("<"))
            self._places.pop(name, None)
            self._base.pop(name, None)
        self._specs = known

    def codec(self, spec: ArraySpec) -> Codec:
        return codec_for("hdf5", spec)

    def _spec(self, name: str) -> ArraySpec:
        try:
            return self.specs()[name]
        except KeyError:
            raise CorruptError(f"{self._file.path}: the array {name} is missing; run `replaystore verify`") from None

    def _known(self, name: str, start: int, stop: int) -> h5.Places:
        """Where the chunks [start, stop) of an array lie, ABSENT for those that are not stored; the table may be shorter."""
        places = self._places.get(name)
        if self.writable:
            if places is None:
                spec = self._spec(name)
                places, _ = self._read(lambda file, overlay: h5.all_places(h5.array(file, name), spec, overlay.end, ()))
                self._places[name] = places
                self._base.setdefault(name, places.chunks)
            return places
        if places is None or stop > places.chunks or not places.sure[start:stop].all() or places.version[0] != self._file.generation:
            places = self._look_again(name, places, start, stop)
        return places

    def _look_again(self, name: str, places: h5.Places | None, start: int, stop: int) -> h5.Places:
        """A reader's table. Places that were asked for before hold committed rows and cannot have moved; others may have."""
        version = self._file.version()
        if places is None or places.version[0] != version[0]:
            self._specs = self._specs if places is None else None
            spec = self._spec(name)
            places, version = self._read(lambda file, overlay: h5.all_places(h5.array(file, name), spec, overlay.end, ()))
        elif places.version != version or (places.offsets[start:stop] == h5.UNKNOWN).any():
            known = places

            def look(file: Any, overlay: Overlay) -> tuple[int, dict[int, tuple[int, int]]]:
                dataset = h5.array(file, name)
                chunks = h5.chunk_count(dataset, known.spec, overlay.end)
                numbers = [n for n in range(start, min(max(stop, start + WINDOW), chunks)) if n >= known.chunks or not known.sure[n]]
                return chunks, h5.some_places(dataset, known.spec, overlay.end, numbers)

            (chunks, found), version = self._read(look)
            if version[0] != places.version[0]:
                return self._look_again(name, None, start, stop)
            if version != places.version:
                places.offsets[~places.sure] = h5.UNKNOWN
            places.resize(chunks)
            places.put(found)
        places.version = version
        places.sure[start:stop] = places.offsets[start:stop] >= 0
        self._places[name] = places
        return places

    # --- raw arrays

    def reserve(self, rows: Mapping[str, int]) -> None:
        if all(name in self._places and wanted <= self._places[name].chunks * self._places[name].chunk_rows for name, wanted in rows.items()):
            return
        self._ready()
        targets: dict[str, int] = {}
        short = False
        for name, wanted in rows.items():
            places = self._known(name, 0, 0)
            spec, base, chunks = places.spec, self._base[name], places.chunks
            if spec.codec is not None:
                raise SchemaError(f"{self._file.path}: {name} is a coded array; room is reserved for raw ones")
            needed = -(-wanted // spec.chunk_rows)
            short = short or needed > chunks
            if needed > chunks or 4 * chunks < 5 * needed - base:  # a transaction serves those that will need one soon, too
                ahead = base + (chunks - base) * 3 // 2
                targets[name] = max(needed, min(ahead, needed + STEP_BYTES // spec.chunk_bytes))
        if short:
            self._grow({name: target for name, target in targets.items() if target > self._places[name].chunks})

    def _grow(self, targets: Mapping[str, int]) -> None:
        """Give raw arrays so many chunks."""

        def extend(file: Any, _: Overlay) -> dict[str, dict[int, tuple[int, int]]]:
            found = {}
            for name, chunks in targets.items():
                places, dataset = self._places[name], h5.array(file, name)
                dataset.set_extent((chunks * places.chunk_rows, *places.spec.shape))
                found[name] = h5.some_places(dataset, places.spec, h5.ANYWHERE, range(places.chunks, chunks))
            return found

        for name, found in self._change(extend).items():
            places = self._places[name]
            places.resize(targets[name])
            places.put(found)

    def write_rows(self, name: str, start: int, rows: memoryview) -> None:
        places = self._places.get(name) or self._known(name, 0, 0)
        chunk, within = divmod(start, places.chunk_rows)
        size, at = len(rows), within * places.row_bytes
        whole = places.spec.chunk_bytes
        if chunk * whole + at + size > places.chunks * whole or places.spec.codec is not None:
            raise SchemaError(f"{self._file.path}: rows from {start} on of {name} lie outside its reserved room")
        if at + size <= whole:
            self.files.write(self.name, int(places.offsets[chunk]) + at, rows)
            return
        done = 0
        for offset, length in _runs(places.offsets[chunk : chunk - (-(at + size) // whole)], whole):
            step = min(length - at, size - done)
            self.files.write(self.name, offset + at, rows[done : done + step])
            done, at = done + step, 0

    def extents(self, name: str, start: int, stop: int) -> Sequence[Extent]:
        if stop <= start:
            return []
        spec = self._spec(name)
        first, last = start // spec.chunk_rows, -(-stop // spec.chunk_rows)
        if start % spec.chunk_rows or spec.codec is not None:
            raise SchemaError(f"{self._file.path}: {name} has no extents from row {start} on")
        places = self._known(name, first, last)
        offsets = places.offsets[first:last]
        if len(offsets) < last - first or (offsets < 0).any():
            raise CorruptError(f"{self._file.path}: rows of {name} before {stop} have no place in the file; run `replaystore verify`")
        found = [Extent(self.name, offset, length) for offset, length in _runs(offsets, spec.chunk_bytes)]
        found[-1] = replace(found[-1], length=found[-1].length - (last * spec.chunk_rows - stop) * spec.row_bytes)
        size, end = self.files.size(self.name), max(extent.offset + extent.length for extent in found)
        if end > size:
            raise CorruptError(f"{self._file.path} is cut short: {size} bytes are left of at least {end}, which rows of {name} need")
        return found

    # --- coded arrays

    def write_chunks(self, chunks: Mapping[str, Mapping[int, bytes]]) -> dict[str, dict[int, ChunkEntry]]:
        self._ready()
        chunks = {name: numbered for name, numbered in chunks.items() if numbered}
        specs = {name: self._spec(name) for name in chunks}

        def store(file: Any, overlay: Overlay) -> dict[str, dict[int, tuple[int, int]]]:
            found = {}
            for name, numbered in chunks.items():
                dataset, spec = h5.array(file, name), specs[name]
                rows = (max(numbered) + 1) * spec.chunk_rows
                if dataset.shape[0] < rows:
                    dataset.set_extent((rows, *spec.shape))
                found[name] = {n: h5.put_chunk(dataset, spec, n, data, overlay) for n, data in numbered.items()}
            return found

        placed = self._change(store, aligned=False) if chunks else {}
        for name, found in placed.items():
            self._note(name, found)
        return {name: {n: ChunkEntry(self.name, *place) for n, place in found.items()} for name, found in placed.items()}

    def _note(self, name: str, found: Mapping[int, tuple[int, int]]) -> None:
        """Bring the table of a coded array up to date, if it is kept."""
        places = self._places.get(name)
        if places is not None and found:
            added = max(found) + 1 - places.chunks
            if added > 0:
                places.resize(places.chunks + added)
                places.offsets[-added:] = h5.ABSENT
            places.put(found)

    def write_index(self, name: str, shard: int, entries: Mapping[int, ChunkEntry]) -> None:
        """Nothing is left to do: `write_chunks` has brought the chunks into HDF5's index."""

    def entry(self, name: str, chunk: int) -> ChunkEntry | None:
        places = self._known(name, chunk, chunk + 1)
        if chunk >= places.chunks or places.offsets[chunk] < 0:
            return None
        return ChunkEntry(self.name, int(places.offsets[chunk]), int(places.lengths[chunk]))

    # --- the log

    def append_record(self, record: bytes) -> None:
        self._ready()
        head = self._head
        if head is None:
            raise CorruptError(f"{self._file.path}: there is no commit log; run `replaystore repair`")
        if head.used + len(record) > head.room:
            head = self._more_room(head, len(record))
        data, done = memoryview(record), 0
        for offset, length in _within(head, head.used, head.used + len(record)):
            self.files.write(self.name, offset, data[done : done + length])
            done += length
        self._write_head(replace(head, sequence=head.sequence + 1, used=head.used + len(record)))

    def _write_head(self, head: Head) -> None:
        self._file.write_head(head)
        self._head = head

    def _more_room(self, head: Head, size: int) -> Head:
        """Add a piece to the newest segment, as large as all before, so that there are never many."""

        def extend(file: Any, overlay: Overlay) -> Head:
            piece = h5.log_piece(file, f"{head.commit}.{len(head.pieces)}", _rounded(max(head.room, 2 * size)))
            longer = replace(head, sequence=head.sequence + 1, pieces=(*head.pieces, piece))
            overlay.front[longer.slot] = longer.pack()
            return longer

        self._head = self._change(extend)
        return self._head

    def begin_segment(self, commit: int, record: bytes) -> None:
        self._ready()
        head = self._head
        size = _rounded(max(SEGMENT_BYTES, 4 * len(record), min(SEGMENT_MOST, 2 * head.room if head else 0)))

        def begin(file: Any, overlay: Overlay) -> Head:
            if head is not None:
                h5.end_log(file, head.commit, head.used, commit)
            piece = h5.log_piece(file, str(commit), size)
            fresh = Head(head.sequence + 1 if head else 1, commit, len(record), (piece,))
            overlay.direct.append((piece[0], record))
            overlay.front[fresh.slot] = fresh.pack()
            return fresh

        self._head = self._change(begin)
        self._segments = None

    def _newest(self) -> Head | None:
        return self._head if self.writable else self._file.head()

    def segments(self) -> list[int]:
        head = self._newest()
        if head is None:
            return []
        key = (self._file.generation, head.commit)
        if self._segments is None or self._segments[0] != key:
            names, _ = self._read(lambda file, _: h5.log_names(file))
            self._segments = key, [commit for commit in names if commit < head.commit]
        return [*self._segments[1], head.commit]

    def read_segment(self, commit: int, start: int = 0) -> bytes:
        head = self._newest()
        if head is None or head.commit != commit:

            def look(file: Any, overlay: Overlay) -> Head | None:
                names = h5.log_names(file).get(commit)
                pieces, used = h5.log_room(file, names, overlay.end) if names else ((), 0)
                return Head(0, commit, used, pieces) if names else None

            head, _ = self._read(look)
        if head is None:
            raise NotFoundError(f"{self._file.path}: no segment of the commit log begins with commit {commit}")
        parts = _within(head, start, head.used)
        return b"".join(self.files.read(self.name, offset, length) for offset, length in parts)

    def cut_segment(self, commit: int, length: int) -> None:
        self._ready()
        head = self._head
        if head is None or head.commit != commit or length > head.used:
            raise CorruptError(f"{self._file.path}: the commit log has no byte {length} after commit {commit}; reopen the store")
        if length < head.used:
            self._write_head(replace(head, sequence=head.sequence + 1, used=length))
            self._file.sync()  # the other head names the bytes that the next record overwrites

    # --- the document

    def document(self) -> dict[str, Any]:
        if self._document is None or self._document[0] != self._file.version():
            text, version = self._read(lambda file, _: h5.read_document(file))
            self._document = version, text
        try:
            found = json.loads(self._document[1])
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{self._file.path}: the document is not valid JSON ({error}); run `replaystore repair`") from None
        if not isinstance(found, dict):
            raise CorruptError(f"{self._file.path}: the document is not a JSON object; run `replaystore repair`")
        return found

    def replace_document(self, document: Mapping[str, Any]) -> None:
        self._ready()
        self._change(lambda file, _: h5.write_document(file, document))

    # --- durability and other software

    def sync(self) -> None:
        self._file.sync()

    def publish(self, lengths: Mapping[str, int], entries: Mapping[str, Mapping[int, ChunkEntry]]) -> None:
        self._ready()
        specs = {name: self._spec(name) for name in lengths}
        for name, length in lengths.items():
            if specs[name].codec is None:
                self.reserve({name: length})

        def show(file: Any, overlay: Overlay) -> dict[str, int]:
            changed = {}
            for name, length in lengths.items():
                dataset, spec = h5.array(file, name), specs[name]
                if spec.codec is None:
                    moved = dataset.shape[0] != length
                    if moved:
                        self._show_raw(dataset, name, length, overlay)
                else:
                    moved = self._show_coded(dataset, spec, length, entries.get(name, {}), overlay)
                if moved:
                    changed[name] = length
            overlay.cancelled = not changed
            return changed

        for name, length in self._change(show).items():
            chunks = -(-length // specs[name].chunk_rows)
            if specs[name].codec is None:
                self._places[name].resize(chunks)
                self._base[name] = chunks
            else:
                self._places.pop(name, None)

    def _show_raw(self, dataset: Any, name: str, length: int, overlay: Overlay) -> None:
        places = self._known(name, 0, 0)
        if length % places.chunk_rows:
            overlay.drop(int(places.offsets[length // places.chunk_rows]), places.spec.chunk_bytes)
        dataset.set_extent((length, *places.spec.shape))

    def _show_coded(self, dataset: Any, spec: ArraySpec, length: int, entries: Mapping[int, ChunkEntry], overlay: Overlay) -> bool:
        """Set the extent of a coded array, and its index to these entries; whether anything changed.

        HDF5 would decode and encode a chunk anew if it cut it (and cannot, without the filter), so it is taken out and put back."""
        rows, whole = int(dataset.shape[0]), length // spec.chunk_rows
        wanted = {n: (entry.offset, entry.length) for n, entry in entries.items() if n * spec.chunk_rows < length}
        stored = h5.some_places(dataset, spec, overlay.end, [n for n in wanted if n * spec.chunk_rows < rows])
        moved = {n: place for n, place in wanted.items() if stored.get(n) != place}
        cut = rows > length
        if cut and length % spec.chunk_rows:
            moved[whole] = wanted.get(whole) or h5.some_places(dataset, spec, overlay.end, [whole])[whole]
        contents = {n: self._stored(spec, n, *place) for n, place in moved.items()}
        if cut:
            dataset.set_extent((whole * spec.chunk_rows, *spec.shape))
        if rows != length:
            dataset.set_extent((length, *spec.shape))
        for number, data in contents.items():
            h5.put_chunk(dataset, spec, number, data, overlay)
        return rows != length or bool(contents)

    def _stored(self, spec: ArraySpec, number: int, offset: int, length: int) -> bytes:
        data = self.files.read(self.name, offset, length) if offset >= 0 else b""
        if not data or len(data) != length:
            raise CorruptError(f"chunk {number} of an array of {spec.dtype} rows {spec.shape} is missing; run `replaystore verify`")
        return data

    def fork(self, rows: Mapping[str, int]) -> None:
        if not rows:
            return
        self._ready()
        temporary = self.name + TEMPORARY
        try:
            _copy(self.files, self.name, temporary)
            self.files.sync_file(temporary)
            self.files.rename(temporary, self.name)
        except OSError:
            self.files.remove(temporary)
            raise
        self.files.sync_folder(os.path.dirname(self.name))

    def trim(self, rows: Mapping[str, int]) -> None:
        """Nothing is left over: one file holds everything."""

    def drop_before(self, name: str, row: int) -> None:
        if row > 0:
            raise UnsupportedError(f"{self._file.path}: HDF5 cannot give back the space of old rows of {name}; use a Zarr store for a ring")

    def close(self) -> None:
        self.files.close()


def _rounded(size: int) -> int:
    return -(-size // h5.ALIGNMENT) * h5.ALIGNMENT


def _runs(offsets: NDArray[np.int64], length: int) -> list[tuple[int, int]]:
    """(offset, length) of the runs that chunks of equal length make."""
    breaks = np.flatnonzero(np.diff(offsets) != length) + 1
    starts = np.concatenate([[0], breaks])
    counts = np.diff(np.concatenate([starts, [len(offsets)]]))
    return [(int(offsets[start]), int(count) * length) for start, count in zip(starts, counts, strict=True)]


def _within(head: Head, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the parts of the pieces of a segment that hold its bytes [start, stop)."""
    begin = 0
    for offset, length in head.pieces:
        first, last = max(start, begin), min(stop, begin + length)
        if first < last:
            yield offset + first - begin, last - first
        begin += length


def _copy(files: Files, source: str, target: str) -> None:
    """A copy of a file, sharing its blocks where the file system can; holes stay holes."""
    size = files.size(source)
    files.create(target)
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.ioctl(files.descriptor(target), FICLONE, files.descriptor(source))
            return
    for start, stop in _data_ranges(files.descriptor(source), size):
        for place in range(start, stop, COPY_BYTES):
            files.write(target, place, files.read(source, place, min(COPY_BYTES, stop - place)))
    files.resize(target, size)


def _data_ranges(descriptor: int, size: int) -> list[tuple[int, int]]:
    """The parts of a file that are no holes."""
    if not hasattr(os, "SEEK_DATA"):
        return [(0, size)]
    ranges, stop = [], 0
    while stop < size:
        try:
            start = os.lseek(descriptor, stop, os.SEEK_DATA)
            stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError:  # nothing but a hole is left
            break
        ranges.append((start, min(stop, size)))
    return ranges
