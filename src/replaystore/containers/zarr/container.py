"""A store as a Zarr v3 hierarchy: a folder (or memory, or a stored zip for reading) that any Zarr v3 reader
reads.

    zarr.json                            root group; its attribute `replaystore` is the document
    steps/reward/zarr.json               array: sharded, dimension names, fill value 0
    steps/reward/c.0                     shard 0: [index][padding to a page][chunk 0][chunk 1]…
    journal/log/<commit>                 a segment of the commit log (the array itself is empty: no Zarr
                                         reader looks inside)
    journal/tail/<slot>/c.0              raw rows of unfinished chunks of coded arrays
    journal/log/lock                     held by a writer, and there as long as there is one

Raw arrays: chunk k of a shard lies at HEADER + k * chunk_bytes, always, so that a shard is one run of rows,
and the data of all shards, mapped side by side, are one array. Coded arrays: chunks lie one after another in
the order they were written; a superseded chunk (the padded last one of an earlier `publish`) stays where it
is.

The index of a shard is written when the shard is complete and, for the last one, by `publish`; shapes in
zarr.json are changed by `publish` alone. So what other software sees is always one and the same commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import crc32c
from replaystore.containers.protocol import ChunkEntry, Extent
from replaystore.containers.zarr.hierarchy import LOG_SPEC, Hierarchy
from replaystore.containers.zarr.metadata import (
    NOWHERE,
    as_json,
    coded_index,
    consolidated,
    group_metadata,
    header_bytes,
    raw_index,
    shard_name,
    shard_number,
)
from replaystore.errors import CorruptError
from replaystore.schema import tree
from replaystore.schema.tree import LOG, TAIL
from replaystore.storage.protocol import Reads, Storage

__all__ = ["ZarrContainer"]


class ZarrContainer(Hierarchy):
    """A Zarr v3 hierarchy in `files`."""

    metadata_name = "zarr.json"

    def __init__(self, files: Reads, *, writable: bool) -> None:
        super().__init__(files, writable=writable)
        self._indexes: dict[tuple[str, int], dict[int, ChunkEntry]] = {}
        self._shards: dict[str, tuple[ArraySpec, int, str, int]] = {}
        """The shard of a raw array that was written to last: its first row, its file, where its rows
        begin."""

    @classmethod
    def create(cls, files: Storage, _: str, document: Mapping[str, Any]) -> ZarrContainer:
        """An empty hierarchy, which is all that there is in the files; not durable before `sync`."""
        container = cls(files, writable=True)
        container._write("zarr.json", as_json(group_metadata(document)))
        container._specs = {}
        container.create_arrays({LOG: LOG_SPEC})
        return container

    @classmethod
    def open(cls, files: Reads, _: str = "", *, writable: bool) -> ZarrContainer:
        """An existing hierarchy. FormatError: it is none of ours."""
        container = cls(files, writable=writable)
        if not files.lists:
            container.identity()  # first, for whoever asks later whether it is still the same
        container.document()
        if files.lists:
            container.segments()  # the lock that a writer takes lies beside them: no link leads elsewhere
        return container

    @classmethod
    def for_repair(cls, files: Storage, _: str) -> ZarrContainer:
        """An existing hierarchy, for writing, whatever its document is like."""
        return cls(files, writable=True)

    def refresh(self) -> None:
        if not self.files.far:
            self._specs = None
        self._root = None
        self._indexes.clear()
        super().refresh()

    # --- raw rows

    def write_rows(self, name: str, start: int, rows: memoryview | bytes) -> None:
        spec = self.specs()[name]
        width, per_shard = spec.row_bytes, spec.shard_rows
        count = len(rows) // width
        known, begin, file, header = self._shards.get(name, (None, 0, "", 0))
        if known is spec and begin <= start and start + count < begin + per_shard:  # nearly always
            self._touch(file)
            self.files.write(file, header + (start - begin) * width, rows)
            return
        header, done = header_bytes(spec), 0
        while done < count:
            shard, at = divmod(start + done, per_shard)
            step = min(per_shard - at, count - done)
            file = shard_name(name, spec, shard)
            self._touch(file)
            self.files.write(
                file,
                header + at * width,
                rows[done * width : (done + step) * width] if step != count else rows,
            )
            done += step
            if at + step == per_shard:
                self.files.write(file, 0, raw_index(spec, spec.chunks_per_shard))
            self._shards[name] = spec, shard * per_shard, file, header

    def extents(self, name: str, start: int, stop: int) -> Sequence[Extent]:
        spec = self.specs()[name]
        header, found = header_bytes(spec), []
        for shard in range(start // spec.shard_rows, -(-stop // spec.shard_rows)):
            file = shard_name(name, spec, shard)
            length = min(spec.shard_rows, stop - shard * spec.shard_rows) * spec.row_bytes
            found.append(Extent(file, header, length))
            if self.files.far:  # whether all is there is seen when it is read
                continue
            try:
                size = self.files.size(file)
            except FileNotFoundError:
                raise CorruptError(f"{self.files.path(file)} is missing; run `replaystore verify`") from None
            if size < header + length:
                raise CorruptError(
                    f"{self.files.path(file)} has {size} bytes where committed rows need {header + length}; "
                    "run `replaystore verify`"
                )
        return found

    # --- encoded chunks

    def write_chunks(self, chunks: Mapping[str, Mapping[int, bytes]]) -> dict[str, dict[int, ChunkEntry]]:
        placed: dict[str, dict[int, ChunkEntry]] = {}
        for name, numbered in chunks.items():
            spec, mine = self.specs()[name], placed.setdefault(name, {})
            by_file: dict[str, list[int]] = {}
            for number in numbered:
                by_file.setdefault(shard_name(name, spec, number // spec.chunks_per_shard), []).append(number)
            for file, numbers in by_file.items():
                self._touch(file)
                begin = at = max(header_bytes(spec), self._ends.get(file) or self.files.size(file))
                for number in numbers:
                    mine[number] = ChunkEntry(file, at, len(numbered[number]))
                    at += len(numbered[number])
                self.files.write(file, begin, b"".join(numbered[number] for number in numbers))
                self._ends[file] = at
        return placed

    def write_index(self, name: str, shard: int, entries: Mapping[int, ChunkEntry]) -> None:
        spec = self.specs()[name]
        file = shard_name(name, spec, shard)
        self._touch(file)
        self.files.write(file, 0, coded_index(spec, entries))
        self._indexes.pop((name, shard), None)

    def entry(self, name: str, chunk: int, *, complete: int = 0) -> ChunkEntry | None:
        spec = self.specs()[name]
        shard = chunk // spec.chunks_per_shard
        known = self._indexes.get((name, shard))
        if known is None:
            known = self._indexes[name, shard] = self.read_index(name, shard)
        return known.get(chunk)

    def lookups(self, name: str, chunks: Iterable[int]) -> Sequence[tuple[str, int, int]]:
        spec = self.specs()[name]
        shards = dict.fromkeys(chunk // spec.chunks_per_shard for chunk in chunks)
        unknown = [shard for shard in shards if (name, shard) not in self._indexes]
        return [(shard_name(name, spec, shard), 0, 16 * spec.chunks_per_shard + 4) for shard in unknown]

    def read_index(self, name: str, shard: int) -> dict[int, ChunkEntry]:
        """The index of a shard. CorruptError: it is missing, damaged, or points outside the file (of one that
        is far, that is seen when the chunk is read)."""
        spec = self.specs()[name]
        file = shard_name(name, spec, shard)
        length = 16 * spec.chunks_per_shard
        try:
            data = self.files.read(file, 0, length + 4)
            size = NOWHERE if self.files.far else self.files.size(file)
        except FileNotFoundError:
            raise CorruptError(f"{self.files.path(file)} is missing; run `replaystore verify`") from None
        if len(data) != length + 4 or crc32c(data[:length]) != int.from_bytes(data[length:], "little"):
            raise CorruptError(
                f"{self.files.path(file)}: the index of the shard does not match its "
                "checksum; run `replaystore verify`"
            )
        index = np.frombuffer(data, "<u8", count=2 * spec.chunks_per_shard).reshape(-1, 2).tolist()
        entries = {}
        for number, (offset, nbytes) in enumerate(index, shard * spec.chunks_per_shard):
            if offset == nbytes == NOWHERE:
                continue
            if offset > size or nbytes > size - offset:
                raise CorruptError(
                    f"{self.files.path(file)}: chunk {number} reaches past the end of the "
                    "file; run `replaystore verify`"
                )
            entries[number] = ChunkEntry(file, offset, nbytes)
        return entries

    # --- durability, other software, dropping

    def publish(self, lengths: Mapping[str, int], entries: Mapping[str, Mapping[int, ChunkEntry]]) -> None:
        changed = {}
        for name, rows in lengths.items():
            spec = self.specs()[name]
            if self._shown.get(name) != rows:
                changed[name] = self._metadata(name)
            shard, used = divmod(rows, spec.shard_rows)
            if not used:
                continue  # the index was written when the shard was complete
            file, chunks = shard_name(name, spec, shard), -(-used // spec.chunk_rows)
            index = (
                raw_index(spec, chunks) if spec.codec is None else coded_index(spec, entries.get(name, {}))
            )
            if spec.journaled and not self.files.exists(file):
                continue  # all of its rows had left a ring before they came here
            whole = header_bytes(spec) + chunks * spec.chunk_bytes if spec.codec is None else 0
            if self.files.read(file, 0, len(index)) == index and self.files.size(file) >= whole:
                continue
            self._touch(file)
            if self.files.size(file) < whole:
                self.files.resize(file, whole)
            self.files.write(file, 0, index)
            self._indexes.pop((name, shard), None)
        self.sync()
        for name, metadata in changed.items():
            metadata["shape"][0] = lengths[name]
        self.files.replace_files(
            {f"{name}/zarr.json": as_json(metadata) for name, metadata in changed.items()}
        )
        self._shown |= {name: lengths[name] for name in changed}

    def index_problems(self, name: str, first: int, rows: int) -> Iterator[tuple[str, str]]:
        spec = self.specs()[name]
        shown = int(self._metadata(name)["shape"][0])
        last = max(shown, rows // spec.shard_rows * spec.shard_rows)
        shards = range(first // spec.shard_rows, -(-min(max(rows, 1), last) // spec.shard_rows))
        length = 16 * spec.chunks_per_shard + 4
        self.files.fetch_ahead([(shard_name(name, spec, shard), 0, length) for shard in shards])
        for shard in shards:
            begin, stop = shard * spec.shard_rows, min((shard + 1) * spec.shard_rows, last)
            needed = range(begin // spec.chunk_rows, -(-stop // spec.chunk_rows))
            try:
                entries = self.read_index(name, shard)
            except CorruptError as error:
                yield f"{name}, shard {shard}", str(error)
                continue
            where = self.files.path(shard_name(name, spec, shard))
            missing = [chunk for chunk in needed if chunk not in entries]
            if missing:
                yield where, f"the index of the shard has no chunk {missing[0]}"
            places = sorted((entry.offset, entry.length) for entry in entries.values())
            if any(a + length > b for (a, length), (b, _) in pairwise(places)):
                yield where, "chunks overlap in the index of the shard"
            if places and places[0][0] < header_bytes(spec):
                yield where, "a chunk overlaps the index of the shard"
            if spec.codec is None and any(
                entry.offset != header_bytes(spec) + (chunk % spec.chunks_per_shard) * spec.chunk_bytes
                or entry.length != spec.chunk_bytes
                for chunk, entry in entries.items()
            ):
                yield where, "the index of the shard points at other places than the rows lie at"

    def fork(self, rows: Mapping[str, int]) -> None:
        for name, row in rows.items():
            spec = self.specs()[name]
            file = shard_name(name, spec, row // spec.shard_rows)
            if not self.files.exists(file):
                continue
            copy, size = file + ".new", self.files.size(file)
            try:
                self.files.create(copy)
                for offset in range(0, size, 8 << 20):
                    self.files.write(copy, offset, self.files.read(file, offset, min(8 << 20, size - offset)))
                self.files.sync_file(copy)
                self._folders[os.path.dirname(file)] = None
                self.files.rename(copy, file)
            except OSError:
                self.files.remove(copy)
                raise
            self.files.sync_folder(os.path.dirname(file))
            self._ends.pop(file, None)
        self._indexes.clear()

    def doubt(self, rows: Mapping[str, int]) -> None:
        for name, row in rows.items():
            spec = self.specs()[name]
            for entry in self.files.list(name):  # not one by one: a ring has dropped some
                number = shard_number(spec, entry)
                if number is not None and number >= row // spec.shard_rows:
                    self._touch(f"{name}/{entry}")

    def trim(self, rows: Mapping[str, int]) -> None:
        for name, row in rows.items():
            spec = self.specs()[name]
            for entry in self.files.list(name):
                number = shard_number(spec, entry)
                if entry.startswith("c.") and (number is None or number * spec.shard_rows >= row):
                    self._remove_shard(f"{name}/{entry}")
                    self._folders[name] = None
        left = {name for name in self.specs().keys() - rows.keys() if not tree.is_journal(name)}
        self._remove(left)
        self._folders |= {os.path.dirname(name): None for name in left}
        self._specs = {name: spec for name, spec in self.specs().items() if name not in left}
        self._indexes.clear()

    def drop_before(self, name: str, row: int, *, since: int | None = None) -> None:
        spec = self.specs()[name]
        last = row // spec.shard_rows
        if since is None:
            listed = (shard_number(spec, entry) for entry in self.files.list(name))
            shards = sorted(number for number in listed if number is not None and number < last)
        else:
            shards = list(range(since // spec.shard_rows, last))
        for shard in shards:
            self._remove_shard(shard_name(name, spec, shard))
            self._indexes.pop((name, shard), None)

    def _remove_shard(self, file: str) -> None:
        self.files.remove(file)
        self._made.discard(file)
        self._ends.pop(file, None)
        self._dirty.pop(file, None)

    def seal(self) -> None:
        *older, newest = self.segments()
        self._name_segments([newest], exactly=True)
        for commit in older:
            self.files.remove(f"{LOG}/{commit}")
        self.files.clear(TAIL)
        # What the manifest does not name must not come back.
        self.files.sync_folders([LOG, os.path.dirname(TAIL)])
        self._specs = None
        self.files.replace("zarr.json", as_json(consolidated(self.files)))
