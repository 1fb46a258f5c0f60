"""One commit of a buffer as a Zarr v3 hierarchy of decoded arrays: which keys there are, and their bytes.

    zarr.json                      root group: the document, as it is stored, and which commit this is
    steps/zarr.json                groups, each with copies of all metadata below it: one read opens it
    steps/reward/zarr.json         arrays: codec `bytes`, no shards, named dimensions
    steps/reward/c.0               rows of the buffer, whatever they are stored as

Names, dtypes and dimensions are those of the stored hierarchy, in which other software finds the same rows
after `publish`. What tells how rows are stored (`checksums/`, `journal/`) is left out.

Invariants:
1. A chunk that the metadata speak of has bytes, or getting it raises an error: a reader of Zarr takes a chunk
   that is missing for fill values.
2. Row 0 of `steps/` is the oldest step that is kept. In a ring, the tables of parts and of trajectories are
   those of the steps that are kept, and the column `start` of parts counts from that row 0; where values of
   any length lie counts from the first value that is kept.
3. Nothing is copied that can be shown as it lies: rows that are mapped are views of their files.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.plain import PlainColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.zarr.metadata import (
    GROUP,
    SHOWN,
    as_json,
    decoded_metadata,
    group_metadata,
    shard_key,
    shard_name,
    shard_number,
    with_copies,
)
from replaystore.schema import tree
from replaystore.views.followed import stored_parts
from replaystore.views.reader import BufferReader

__all__ = ["METADATA", "ZarrTree"]

METADATA = "zarr.json"
CHUNK_BYTES, NEAR_BYTES = 4 << 20, 16 << 20
"""At most so many in a chunk, where its rows are not stored in larger ones; the latter of rows that are
neither encoded nor far, so that a part of a chunk costs no more than itself. zarr-python spends about 0.3 ms
on each chunk, in which 2 MiB are copied."""

COPIED = 64 << 10
"""Bytes that are copied in no time."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Shown:
    """An array of the hierarchy."""

    name: str
    spec: ArraySpec
    first: int
    """The stored row that is row 0 here."""
    rows: int
    table: NDArray[Any] | None = None
    """Its rows, if they are not those of the stored array."""
    far: bool = False
    """They have to be fetched."""
    spans_of: str = ""
    """The field of which they say where values lie; those that are kept are the first here."""

    @cached_property
    def chunk_rows(self) -> int:
        """Whole stored chunks, if they are small enough or encoded, and no more than there are rows."""
        stored = self.spec.chunk_rows
        most = CHUNK_BYTES if self.far or self.spec.codec is not None else NEAR_BYTES
        if self.spec.chunk_bytes <= most:
            rows = most // self.spec.chunk_bytes * stored
        elif self.spec.codec is None:
            rows = max(1, most // self.spec.row_bytes)
        else:
            rows = stored
        return min(rows, max(1, self.rows))

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_rows * self.spec.row_bytes

    @property
    def chunks(self) -> int:
        return -(-self.rows // self.chunk_rows)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        return decoded_metadata(self.spec, self.rows, self.name, self.chunk_rows)

    def key(self, chunk: int) -> str:
        """The key of a chunk."""
        return shard_name(self.name, self.spec, chunk)

    def chunk_of(self, name: str) -> int | None:
        """The chunk that has this name in the folder of the array."""
        chunk = shard_number(self.spec, name)
        return chunk if chunk is not None and chunk < self.chunks else None


class ZarrTree:
    """The hierarchy of the commit that a buffer shows, and goes on showing."""

    def __init__(self, view: BufferReader) -> None:
        self.view = view
        self._arrays = {shown.name: shown for shown in _arrays(view)}
        self._members: dict[str, list[str]] = {"": []}
        """What lies directly below each group."""
        for name in self._arrays:
            parts = name.split("/")
            for depth in range(len(parts)):
                group, path = "/".join(parts[:depth]), "/".join(parts[: depth + 1])
                known = self._members.setdefault(group, [])
                if not known or known[-1] != path:
                    known.append(path)
        self._members = {group: list(dict.fromkeys(members)) for group, members in self._members.items()}
        self._mapped = set[str]()
        """Arrays whose rows are known to be mapped."""
        self._described: dict[str, bytes] = {}
        self._describing = threading.Lock()

    # --- what there is

    def __contains__(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """How many bytes a key has; None: there is no such key."""
        name = _described_by(key)
        if name is not None:
            return len(self._metadata(name)) if name in self._members or name in self._arrays else None
        found = self._chunk(key)
        return None if found is None else found[0].chunk_bytes

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that begin with a prefix."""
        for group in self._members:
            yield from _beginning(prefix, f"{group}/{METADATA}" if group else METADATA)
        for name, shown in self._arrays.items():
            within = f"{name}/"
            if within.startswith(prefix) or prefix.startswith(within):
                yield from _beginning(prefix, within + METADATA)
                for chunk in range(shown.chunks):
                    yield from _beginning(prefix, shown.key(chunk))

    def children(self, folder: str) -> Iterator[str]:
        """The names in a folder."""
        if folder in self._members:
            yield METADATA
            yield from (name.rpartition("/")[2] for name in self._members[folder])
        elif folder in self._arrays:
            yield METADATA
            shown = self._arrays[folder]
            yield from (shard_key(shown.spec, chunk) for chunk in range(shown.chunks))

    # --- bytes

    def at_hand(self, key: str) -> bool:
        """Whether getting a value takes no time, and no memory of its own: nothing has to be read or decoded,
        nor much to be copied, as to fill up a last chunk."""
        found = self._chunk(key)
        if found is None:
            return True
        shown, chunk = found
        whole = (chunk + 1) * shown.chunk_rows <= shown.rows or shown.chunk_bytes <= COPIED
        return whole and (shown.table is not None or shown.name in self._mapped)

    def value(self, key: str) -> memoryview | None:
        """The bytes of a key; None: there is no such key. EvictedError, ConflictError: what it is made of is
        not there any more."""
        name = _described_by(key)
        if name is not None:
            known = name in self._members or name in self._arrays
            return memoryview(self._metadata(name)) if known else None
        found = self._chunk(key)
        return None if found is None else self._rows(*found).data

    def _chunk(self, key: str) -> tuple[_Shown, int] | None:
        """The array and the number of a chunk."""
        folder, _, name = key.rpartition("/")
        shown = self._arrays.get(folder)
        chunk = None if shown is None else shown.chunk_of(name)
        return None if shown is None or chunk is None else (shown, chunk)

    def _rows(self, shown: _Shown, chunk: int) -> Bytes:
        """The bytes of a chunk, the last one of which is filled up."""
        start = chunk * shown.chunk_rows
        stop = min(start + shown.chunk_rows, shown.rows)
        if shown.table is not None:
            rows = shown.table[start:stop]
        elif shown.spec.journaled:
            rows = self.view.store.table(shown.name)[start:stop]
        else:
            column = self.view.stored_column(shown.name)
            rows = column.rows(shown.first + start, shown.first + stop)
            if isinstance(column, PlainColumn) and column.mapped:
                self._mapped.add(shown.name)
        if shown.spans_of:
            values = self.view.values_of(shown.spans_of)
            if values.first:  # what follows steps that have left may have left, too
                final = tree.is_final(shown.name)
                gone = rows[:, 0] < values.first if final else rows[:, 0] == rows[:, 1]
                rows = np.where(gone[:, None], values.first, rows)
            values.check(rows)
            rows = rows - values.first if values.first else rows
        found = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        if len(found) == shown.chunk_bytes:
            return found
        whole = np.zeros(shown.chunk_bytes, np.uint8)
        whole[: len(found)] = found
        return whole

    def _metadata(self, name: str) -> bytes:
        """zarr.json of a group or an array."""
        with self._describing:
            known = self._described.get(name)
            if known is None:
                known = self._described[name] = as_json(
                    self._arrays[name].metadata if name in self._arrays else self._group(name)
                )
            return known

    def _group(self, name: str) -> dict[str, Any]:
        below = f"{name}/" if name else ""
        nodes: dict[str, Mapping[str, Any]] = {
            other: GROUP for other in self._members if other.startswith(below) and other != name
        }
        nodes |= {other: shown.metadata for other, shown in self._arrays.items() if other.startswith(below)}
        # Sorted: zarr-python 3.1 takes those of one group for several that do not follow each other.
        nodes = {other[len(below) :]: nodes[other] for other in sorted(nodes)}
        group: dict[str, Any] = dict(GROUP)
        if not name:
            group = group_metadata(self.view.document.to_json())
            group["attributes"][SHOWN] = {"commit": self.view.commit_id, "first_row": self.view.first_row}
        return with_copies(group, nodes)


def _arrays(view: BufferReader) -> Iterator[_Shown]:
    store = view.store
    tables = _kept_tables(view) if view.first_row else {}
    spans_of = {
        stored: name for name in view.schema.ragged for stored in (tree.steps(name), tree.final(name))
    }
    for name, spec in sorted(store.specs().items()):
        if tree.is_changes(name):  # the fields are shown as they are with them
            continue
        first, table = store.first(name), tables.get(name)
        rows = store.rows(name) - first if table is None else len(table)
        far = store.container.files.far
        yield _Shown(name, spec, first, rows, table, far, spans_of.get(name, ""))


def _kept_tables(view: BufferReader) -> dict[str, NDArray[Any]]:
    """The tables of parts and of trajectories without the rows that are about dropped steps alone."""
    store, first = view.store, view.first_row
    start, length, stride, trajectory, offset, final = stored_parts(store).T
    cut = -(-np.maximum(first - start, 0) // stride)
    kept = cut < length
    kept_finals = store.state.dropped.get("final", 0)  # row 0 is the first that is kept
    final = np.where(final >= 0, final - kept_finals, -1)
    parts = np.stack(
        [start + cut * stride - first, length - cut, stride, trajectory, offset + cut, final], axis=1
    )
    told = np.isin(store.table(tree.trajectories("trajectory")), trajectory[kept])
    names = [name for name in store.specs() if tree.is_trajectories(name)]
    return {tree.PARTS: parts[kept]} | {name: store.table(name)[told] for name in names}


def _described_by(key: str) -> str | None:
    """The group or array whose metadata a key names."""
    name = "" if key == METADATA else key.removesuffix(f"/{METADATA}")
    return name if name != key and (name or key == METADATA) else None


def _beginning(prefix: str, key: str) -> Iterator[str]:
    if key.startswith(prefix):
        yield key
