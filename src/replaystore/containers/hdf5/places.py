"""Where the chunks of an array lie: a table made from HDF5's chunk index once, and extended.

Asking the library for one chunk takes 40 µs, going through all of them 2.5 µs each. Offsets count from the
first byte of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.hdf5.front import USERBLOCK
from replaystore.containers.hdf5.library import origins
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.states import Version
from replaystore.errors import CorruptError

__all__ = [
    "ABSENT",
    "ANYWHERE",
    "MOST_CHUNKS",
    "UNKNOWN",
    "Place",
    "Places",
    "Table",
    "check_places",
    "chunk_count",
    "chunk_places",
    "put_chunk",
    "runs",
]

UNKNOWN, ABSENT = -1, -2
MOST_CHUNKS = 1 << 25
"""Of an array: so long a table is made before HDF5's index is asked."""
ANYWHERE = 1 << 62
"""The end of the HDF5 bytes during a transaction, when only the library knows it."""

Place = tuple[int, int]
"""(offset, length) of a stored chunk; (ABSENT, 0) of one that is not stored."""
Table = NDArray[np.int64]
"""A row (number, offset, length) for each of some chunks."""


class Places:
    """The places of the chunks of one array, as far as they are known."""

    def __init__(self, spec: ArraySpec, found: Table, chunks: int, version: Version) -> None:
        self.spec = spec
        self.row_bytes = spec.row_bytes
        self.chunk_rows = spec.chunk_rows
        self.chunk_bytes = spec.chunk_bytes
        self.version = version
        self.base = chunks
        """Chunks that there were when the array last began to grow; steps are in proportion to what came
        since."""
        self.offsets = np.full(0, UNKNOWN, np.int64)
        self.lengths = np.zeros(0, np.int64)
        self.chunks = self.rows = 0
        """As many as the table has, and rows for which there is room."""
        self.sure = np.zeros(0, np.bool_)
        """Chunks that a reader was asked for: they hold committed rows, which never move."""
        self.resize(chunks)
        self.put(found)

    def resize(self, chunks: int) -> None:
        """Cut the table, or extend it by unknown places."""
        more = max(0, chunks - self.chunks)
        self.offsets = np.concatenate([self.offsets[:chunks], np.full(more, UNKNOWN, np.int64)])
        self.lengths = np.concatenate([self.lengths[:chunks], np.zeros(more, np.int64)])
        self.sure = np.concatenate([self.sure[:chunks], np.zeros(more, np.bool_)])
        self.chunks, self.rows = chunks, chunks * self.chunk_rows

    def put(self, found: Table) -> None:
        self.offsets[found[:, 0]], self.lengths[found[:, 0]] = found[:, 1], found[:, 2]


def chunk_count(dataset: Any, spec: ArraySpec, end: int) -> int:
    """Chunks that the dataset's rows need; `end`: that of the HDF5 bytes. CorruptError: more than the file
    can hold."""
    chunks = -(-int(dataset.shape[0]) // spec.chunk_rows)
    if chunks * (spec.chunk_bytes if spec.codec is None else 1) > end or chunks > MOST_CHUNKS:
        raise CorruptError(f"a dataset says that it has {dataset.shape[0]} rows, more than the file can hold")
    return chunks


def chunk_places(dataset: Any, spec: ArraySpec, end: int, numbers: Sequence[int]) -> Table:
    """Where these chunks lie, which are among those that the dataset's rows need. CorruptError: where none of
    ours can be."""
    found: list[Any] = []
    if 16 * len(numbers) < chunk_count(dataset, spec, end):
        shift = origins().asked
        for number in numbers:
            info = dataset.get_chunk_info_by_coord((number * spec.chunk_rows, *(0 for _ in spec.shape)))
            if info.size and info.byte_offset is not None:
                found.append(info)
    elif numbers:
        shift = origins().iterated
        dataset.chunk_iter(found.append)
    table = np.empty((len(numbers), 3), np.int64)
    table[:] = (0, ABSENT, 0)
    table[:, 0] = numbers
    if found:
        stored = np.array([(info.chunk_offset[0], info.byte_offset, info.size) for info in found], np.int64)
        stored[:, 0] //= spec.chunk_rows
        stored[:, 1] += shift
        _, rows, places = np.intersect1d(table[:, 0], stored[:, 0], assume_unique=True, return_indices=True)
        table[rows] = stored[places]
        check_places(stored[places], spec, end)
        if any(info.filter_mask for info in found):
            raise CorruptError(
                "chunks of a dataset were stored without its filters; run `replaystore verify`"
            )
    return table


def check_places(stored: Table, spec: ArraySpec, end: int) -> None:
    """CorruptError: there are none of ours that lie so."""
    stored = stored[np.argsort(stored[:, 1])]
    offsets, lengths = stored[:, 1], stored[:, 2]
    smallest, largest = (
        (spec.chunk_bytes, spec.chunk_bytes) if spec.codec is None else (1, 2 * spec.chunk_bytes + 4096)
    )
    wrong = (offsets < USERBLOCK) | (offsets > end - lengths) | (lengths < smallest) | (lengths > largest)
    if wrong.any() or (offsets[:-1] + lengths[:-1] > offsets[1:]).any():
        raise CorruptError(
            "the chunk index of a dataset names places that its chunks cannot have; run `replaystore verify`"
        )


def put_chunk(
    dataset: Any, spec: ArraySpec, number: int, data: bytes, overlay: Overlay, *, replaces: bool
) -> Place:
    """Store an encoded chunk in new space, and return its place; what it `replaces` stays where it is."""
    at = (number * spec.chunk_rows, *(0 for _ in spec.shape))
    if replaces:  # HDF5 would overwrite a chunk of the same size in place
        dataset.write_direct_chunk(at, b"\0")
    overlay.recent.clear()
    dataset.write_direct_chunk(at, data)
    places = [
        (offset, length)
        for offset, length in overlay.recent
        if length == len(data) and overlay.pieces.holds(offset, data)
    ]
    if len(places) != 1 or places[0][0] < overlay.start:
        raise CorruptError("HDF5 did not put a chunk into new space; run `replaystore verify`")
    overlay.chunks.add(places[0][0])
    return places[0]


def runs(offsets: NDArray[np.int64], length: int) -> list[Place]:
    """(offset, length) of the runs that chunks of equal length make."""
    breaks = np.flatnonzero(np.diff(offsets) != length) + 1
    starts = np.concatenate([[0], breaks])
    counts = np.diff(np.concatenate([starts, [len(offsets)]]))
    return [(int(offsets[start]), int(count) * length) for start, count in zip(starts, counts, strict=True)]
