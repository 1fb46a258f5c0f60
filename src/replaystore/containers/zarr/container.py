"""A store as a Zarr v3 hierarchy: a folder (or memory, or a stored zip for reading) that any Zarr v3 reader
reads.

    zarr.json                            root group; its attribute `replaystore` is the document
    steps/reward/zarr.json               array: sharded, dimension names, fill value 0
    steps/reward/c/0                     shard 0: [index][padding to a page][chunk 0][chunk 1]…
    journal/log/c/<commit>               a segment of the commit log (the array itself is empty: no Zarr
                                         reader looks inside)
    journal/tail/<slot>/c/0              raw rows of unfinished chunks of coded arrays
    journal/log/c/lock                   held by a writer, and there as long as there is one

Raw arrays: chunk k of a shard lies at HEADER + k * chunk_bytes, always, so that a shard is one run of rows,
and the data of all shards, mapped side by side, are one array. Coded arrays: chunks lie one after another in
the order they were written; a superseded chunk (the padded last one of an earlier `publish`) stays where it
is.

The index of a shard is written when the shard is complete and, for the last one, by `publish`; shapes in
zarr.json are changed by `publish` alone. So what other software sees is always one and the same commit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import pairwise
from typing import Any, cast

import numpy as np

from replaystore.containers.checks import MOST_JSON, as_number, is_count, load_json
from replaystore.containers.codecs import codec_for, crc32c
from replaystore.containers.protocol import ArraySpec, Capabilities, ChunkEntry, Codec, Extent
from replaystore.containers.records import segment_end
from replaystore.containers.zarr.metadata import (
    CHECKSUM,
    CONVENTION,
    GROUP,
    MANIFEST,
    NOWHERE,
    array_metadata,
    as_json,
    coded_index,
    consolidated,
    document_checksum,
    group_metadata,
    header_bytes,
    raw_index,
    shard_name,
    spec_of,
)
from replaystore.errors import CorruptError, FormatError, UnsupportedError
from replaystore.schema import tree
from replaystore.schema.tree import LOG, TAIL
from replaystore.storage.protocol import Reads, Storage, Writes

__all__ = ["ZarrContainer"]

_LOG_SPEC = ArraySpec(np.dtype(np.uint8), (), chunk_rows=1 << 20, dimension="byte")


class ZarrContainer:
    """A Zarr v3 hierarchy in `files`."""

    carry: Callable[[str], AbstractContextManager[Any]] = nullcontext
    capabilities = Capabilities()
    metadata_name = "zarr.json"
    lock_name = f"{LOG}/c/lock"

    def __init__(self, files: Reads, *, writable: bool) -> None:
        if writable and not isinstance(files, Writes):
            raise UnsupportedError(f"{files.path('')} can only be read: open it with mode='r'")
        self.files = cast("Storage", files)
        self.path = files.path("")
        self.writable = writable
        self._specs: dict[str, ArraySpec] | None = None
        self._shown: dict[str, int] = {}
        """The rows that the metadata of arrays are known to say."""
        self._indexes: dict[tuple[str, int], dict[int, ChunkEntry]] = {}
        self._dirty: dict[str, None] = {}
        self._folders: dict[str, None] = {}
        self._segment: tuple[str, int] | None = None
        self._made: set[str] = set()
        self._ends: dict[str, int] = {}

    @classmethod
    def create(cls, files: Storage, _: str, document: Mapping[str, Any]) -> ZarrContainer:
        """An empty hierarchy, which is all that there is in the files; not durable before `sync`."""
        container = cls(files, writable=True)
        container._write("zarr.json", as_json(group_metadata(document)))
        container._specs = {}
        container.create_arrays({LOG: _LOG_SPEC})
        return container

    @classmethod
    def open(cls, files: Reads, _: str, *, writable: bool) -> ZarrContainer:
        """An existing hierarchy. FormatError: it is none of ours."""
        container = cls(files, writable=writable)
        container.document()
        container.segments()  # the lock that a writer takes lies beside them: no link leads elsewhere
        return container

    @classmethod
    def for_repair(cls, files: Storage, _: str) -> ZarrContainer:
        """An existing hierarchy, for writing, whatever its document is like."""
        return cls(files, writable=True)

    # --- metadata

    def identity(self) -> object:
        return self.files.identity()

    def specs(self) -> Mapping[str, ArraySpec]:
        if self._specs is None:
            sealed = not self.writable and self.files.exists(MANIFEST)
            self._specs = dict((sealed and self._consolidated()) or self._walk(""))
        return self._specs

    def _consolidated(self) -> list[tuple[str, ArraySpec]]:
        """All arrays of a sealed store, by the copies that the root's metadata have of theirs; nothing if it
        has none. One request instead of one for each array and group."""
        copies = self._metadata("").get("consolidated_metadata")
        nodes = copies.get("metadata") if isinstance(copies, dict) else None
        found = nodes.items() if isinstance(nodes, dict) else ()
        return [
            self._described(name, metadata)
            for name, metadata in found
            if isinstance(metadata, dict) and metadata.get("node_type") == "array"
        ]

    def _described(self, name: str, metadata: Mapping[str, Any]) -> tuple[str, ArraySpec]:
        spec = spec_of(metadata, self.files.path(f"{name}/zarr.json"))
        self._shown[name] = metadata["shape"][0]
        return name, spec

    def refresh(self) -> None:
        self._specs = None
        self._indexes.clear()
        if not self.writable:
            self.files.close()  # a rollback gives files a new identity

    def _walk(self, folder: str) -> Iterator[tuple[str, ArraySpec]]:
        for entry in self.files.list(folder):
            name = f"{folder}/{entry}" if folder else entry
            if entry == "zarr.json" or entry.endswith(".new"):
                continue
            try:
                metadata = self._read_metadata(name)
            except FileNotFoundError:
                continue
            if metadata.get("node_type") == "array":
                yield self._described(name, metadata)
            else:
                yield from self._walk(name)

    def _metadata(self, name: str) -> dict[str, Any]:
        """zarr.json of a folder, which has to have one."""
        try:
            return self._read_metadata(name)
        except FileNotFoundError:
            file = f"{name}/zarr.json" if name else "zarr.json"
            raise self._not_ours(
                name, (f"{self.files.path('')} is not a replaystore store: it has no {file}")
            ) from None

    def _read_metadata(self, name: str) -> dict[str, Any]:
        file = f"{name}/zarr.json" if name else "zarr.json"
        found = load_json(self.files.read_whole(file, MOST_JSON), self.files.path(file))
        if not isinstance(found, dict) or found.get("zarr_format") != 3:
            raise self._not_ours(name, f"{self.files.path(file)}: not Zarr v3 metadata")
        return found

    def _not_ours(self, name: str, what: str) -> FormatError:
        """Where there is a commit log there was a store."""
        if name or self.files.exists(LOG):
            return CorruptError(f"{what}; restore it from a copy")
        return FormatError(f"{what}; check the path, or choose another name")

    def create_arrays(self, specs: Mapping[str, ArraySpec]) -> None:
        known = dict(self.specs())
        self._remove(specs)
        groups = dict.fromkeys(group for name in specs for group in _above(name))
        made = {group: as_json(GROUP) for group in groups if not self.files.exists(f"{group}/zarr.json")} | {
            name: as_json(array_metadata(spec, 0, name)) for name, spec in specs.items()
        }
        files = {f"{name}/zarr.json": data for name, data in made.items()}
        if self._segment is None:
            for file, data in files.items():
                self._write(file, data)
        else:  # a store that others may open: whole or not at all
            self.files.replace_files(files)
        for name in made:
            self._note_folders(name)
        self._shown |= dict.fromkeys(specs, 0)
        self._specs = {**known, **specs}

    def codec(self, spec: ArraySpec) -> Codec:
        return codec_for("zarr", spec)

    def document(self) -> dict[str, Any]:
        attributes = self._metadata("").get("attributes")
        if not isinstance(attributes, dict) or not isinstance(attributes.get("replaystore"), dict):
            raise self._not_ours(
                "",
                (
                    f"{self.files.path('')} is a Zarr hierarchy, but not a replaystore "
                    "store: no attribute `replaystore`"
                ),
            )
        return dict(attributes["replaystore"])

    def replace_document(self, document: Mapping[str, Any]) -> None:
        self.files.replace("zarr.json", as_json(group_metadata(document)))

    # --- raw rows

    def reserve(self, rows: Mapping[str, int]) -> None:
        """Nothing to do: files grow as they are written."""

    def write_rows(self, name: str, start: int, rows: memoryview) -> None:
        spec = self.specs()[name]
        header, width, per_shard = header_bytes(spec), spec.row_bytes, spec.shard_rows
        done, count = 0, len(rows) // width
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

    def extents(self, name: str, start: int, stop: int) -> Sequence[Extent]:
        spec = self.specs()[name]
        header, found = header_bytes(spec), []
        for shard in range(start // spec.shard_rows, -(-stop // spec.shard_rows)):
            file = shard_name(name, spec, shard)
            length = min(spec.shard_rows, stop - shard * spec.shard_rows) * spec.row_bytes
            try:
                size = self.files.size(file)
            except FileNotFoundError:
                raise CorruptError(f"{self.files.path(file)} is missing; run `replaystore verify`") from None
            if size < header + length:
                raise CorruptError(
                    f"{self.files.path(file)} has {size} bytes where committed rows need {header + length}; "
                    "run `replaystore verify`"
                )
            found.append(Extent(file, header, length))
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

    def read_index(self, name: str, shard: int) -> dict[int, ChunkEntry]:
        """The index of a shard. CorruptError: it is missing, damaged, or points outside the file."""
        spec = self.specs()[name]
        file = shard_name(name, spec, shard)
        length = 16 * spec.chunks_per_shard
        try:
            data, size = self.files.read(file, 0, length + 4), self.files.size(file)
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

    # --- the log

    def segments(self) -> list[int]:
        return sorted(
            number for name in self.files.list(f"{LOG}/c") if (number := as_number(name)) is not None
        )

    def begin_segment(self, commit: int, record: bytes) -> None:
        name, first = f"{LOG}/c/{commit}", self._segment is None
        self.files.create(name + ".new")
        self.files.write(name + ".new", 0, record)
        self.files.sync_file(name + ".new")
        self.files.rename(name + ".new", name)
        # Whatever happens now: it is there, so nothing that goes to an older one would be seen.
        self._segment = name, len(record)
        for folder in (f"{LOG}/c", LOG) if first else (f"{LOG}/c",):  # the first one has made a folder
            self._folders[folder] = None
            self.files.sync_folder(folder)
            del self._folders[folder]

    def append_record(self, record: bytes) -> None:
        assert self._segment is not None, "a writer has begun or cut a segment"
        name, end = self._segment
        try:
            self.files.write(name, end, record)
        except OSError:
            # What is left of it is no record, and the next one goes over it, if there is one.
            with suppress(OSError):
                self.files.resize(name, end)
            raise
        self._dirty[name] = None
        self._segment = name, end + len(record)

    def read_segment(self, commit: int, start: int = 0) -> bytes:
        name = f"{LOG}/c/{commit}"
        if not self.writable:
            self.files.forget(name)  # an older one of this name may have been replaced
        stop = segment_end(
            lambda offset, length: self.files.read(name, offset, length),
            start,
            self.files.size(name),
            self.path,
        )
        return self.files.read(name, start, max(0, stop - start))

    def cut_segment(self, commit: int, length: int) -> None:
        name = f"{LOG}/c/{commit}"
        for later in self.segments():
            if later > commit:
                self.files.remove(f"{LOG}/c/{later}")
        if self.files.size(name) > length:
            self.files.resize(name, length)
        self._dirty[name] = None  # whole or cut: a killed writer may not have synced what it says
        self._folders[f"{LOG}/c"] = None
        self._segment = name, length

    # --- durability, other software, dropping

    def sync(self) -> None:
        if self._dirty:
            self.files.sync_files(self._dirty)
            self._dirty.clear()
        if self._folders:
            self.files.sync_folders(self._folders)
            self._folders.clear()

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

    def published(self) -> Mapping[str, int]:
        return {name: int(self._metadata(name)["shape"][0]) for name in self.specs()}

    def metadata_problems(self) -> Iterator[tuple[str, str]]:
        root = self._metadata("")["attributes"]
        if root.get(CHECKSUM) != document_checksum(root["replaystore"]):
            yield self.files.path("zarr.json"), "the document does not match its checksum"
        if root.get("zarr_conventions") != [CONVENTION]:
            yield self.files.path("zarr.json"), "zarr_conventions is not what was written"
        if LOG not in self.specs():
            yield self.files.path(f"{LOG}/zarr.json"), "the metadata of the commit log are missing"
        groups = {group for name in self.specs() for group in _above(name)}
        for group in sorted(groups):
            if self._metadata(group) != GROUP:
                yield (
                    self.files.path(f"{group}/zarr.json"),
                    "the metadata of this group is not what was written",
                )
        for name, spec in self.specs().items():
            found = self._metadata(name)
            if found != array_metadata(spec, found["shape"][0], name):
                yield (
                    self.files.path(f"{name}/zarr.json"),
                    "the metadata of this array is not what was written",
                )

    def restore(self, specs: Mapping[str, ArraySpec], rows: Mapping[str, int]) -> list[str]:
        groups = {group for name in (LOG, *specs) for group in _above(name)}
        wanted: dict[str, dict[str, Any]] = {group: dict(GROUP) for group in groups}
        specs = {LOG: _LOG_SPEC, **specs}
        wanted |= {name: array_metadata(spec, rows.get(name, 0), name) for name, spec in specs.items()}
        restored = []
        for name, metadata in sorted(wanted.items()):
            try:
                found = self._metadata(name)
                if name in specs and name not in rows and is_count(found["shape"][0]):
                    metadata["shape"][0] = found["shape"][0]
                right = found == metadata
            except (FormatError, LookupError, TypeError):
                right = False
            if not right:
                self._write(f"{name}/zarr.json", as_json(metadata))
                restored.append(name)
        self._specs = None
        return restored

    def index_problems(self, name: str, first: int, rows: int) -> Iterator[tuple[str, str]]:
        spec = self.specs()[name]
        shown = int(self._metadata(name)["shape"][0])
        for shard in range(first // spec.shard_rows, -(-max(rows, 1) // spec.shard_rows)):
            begin, stop = (
                shard * spec.shard_rows,
                min((shard + 1) * spec.shard_rows, max(shown, rows // spec.shard_rows * spec.shard_rows)),
            )
            needed = range(begin // spec.chunk_rows, -(-stop // spec.chunk_rows))
            if stop <= begin:
                continue
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

    def trim(self, rows: Mapping[str, int]) -> None:
        for name, row in rows.items():
            spec = self.specs()[name]
            for entry in self.files.list(f"{name}/c"):
                number = as_number(entry)
                if number is None or number * spec.shard_rows >= row:
                    folder = self._remove_shard(name, entry, len(spec.shape))
                    if self.files.exists(folder):  # a power cut may have lost it
                        self._folders[folder] = None
        left = {name for name in self.specs().keys() - rows.keys() if not tree.is_journal(name)}
        self._remove(left)
        self._folders |= {os.path.dirname(name): None for name in left}
        self._specs = {name: spec for name, spec in self.specs().items() if name not in left}
        self._indexes.clear()

    def drop_before(self, name: str, row: int) -> None:
        spec = self.specs()[name]
        for entry in self.files.list(f"{name}/c"):
            number = as_number(entry)
            if number is not None and (number + 1) * spec.shard_rows <= row:
                self._remove_shard(name, entry, len(spec.shape))

    def _remove(self, names: Collection[str]) -> None:
        """Remove arrays; the metadata of one, which make it one, last."""
        for name in names:
            self.files.clear(name)
        gone = set(names)
        for known in (self._made, self._ends, self._dirty):
            for file in [file for file in known if not gone.isdisjoint(_above(file))]:
                known.discard(file) if isinstance(known, set) else known.pop(file)
        self._folders = {
            folder: None for folder in self._folders if folder not in gone and gone.isdisjoint(_above(folder))
        }

    def _remove_shard(self, name: str, entry: str, dimensions: int) -> str:
        """Remove a file of rows; the folder that it was in."""
        file = f"{name}/c/{entry}" + "/0" * dimensions
        self.files.remove(file)
        self._made.discard(file)
        self._ends.pop(file, None)
        self._dirty.pop(file, None)
        return os.path.dirname(file)

    def seal(self) -> None:
        for commit in self.segments()[:-1]:
            self.files.remove(f"{LOG}/c/{commit}")
        self.files.clear(TAIL)
        # What the manifest does not name must not come back.
        self.files.sync_folders([f"{LOG}/c", os.path.dirname(TAIL)])
        self._specs = None
        self.files.replace("zarr.json", as_json(consolidated(self.files)))

    def close(self) -> None:
        self.files.close()

    # --- small things

    def _touch(self, file: str) -> None:
        """Make a shard's file if it is not there, and note that it changes."""
        if file not in self._made:
            if not self.files.exists(file):
                self.files.create(file)
            # Of one that is there too: a killed writer made it, perhaps, and did not sync.
            self._note_folders(os.path.dirname(file))
            self._made.add(file)
        self._dirty[file] = None

    def _write(self, name: str, data: bytes) -> None:
        self.files.create(name)
        self.files.write(name, 0, data)
        self._dirty[name] = None

    def _note_folders(self, folder: str) -> None:
        """The entries of a folder, and those of the folders above it, are new."""
        while True:
            self._folders[folder] = None
            if not folder:
                return
            folder = os.path.dirname(folder)


def _above(name: str) -> list[str]:
    """The folders that a file, an array or a folder lies in, the outermost first."""
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
