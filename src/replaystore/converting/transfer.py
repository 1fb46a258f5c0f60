"""The rows of a conversion, from the source's arrays to the target's: whole chunks as they are stored where
that fits, else in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.copying import (
    CheckedChunks,
    append_encoded,
    append_raw,
    append_rows,
    encoded_chunks,
    raw_chunks,
    resealed,
    same_payload,
    stored_bytes,
)
from replaystore.columns.changed import ChangedColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Extent
from replaystore.converting.excerpt import Excerpt
from replaystore.converting.values import MovedValues, in_order, number_of_values, values_followed
from replaystore.schema import tree
from replaystore.trajectories.opened import Open
from replaystore.trajectories.parts import numbers
from replaystore.views.reader import BufferReader

__all__ = ["Transfer"]

BLOCK_BYTES = 4 << 20
"""Rows taken to memory at once."""
APART_BYTES = 64 << 20
"""The same of rows that do not lie side by side: chunks that hold rows of several runs are decoded once for
all that are taken together."""

Rows = NDArray[np.int64]


class Runs(NamedTuple):
    """Rows `start, start + stride, …`, run after run."""

    starts: Rows
    lengths: Rows
    strides: Rows

    @classmethod
    def joined(cls, starts: Rows, lengths: Rows, strides: Rows) -> Runs:
        """With those made one that lie side by side."""
        strides = np.where(lengths > 1, strides, 1)
        side = (strides[1:] == 1) & (strides[:-1] == 1) & (starts[1:] == (starts + lengths)[:-1])
        begins = np.flatnonzero(np.append(True, ~side)[: len(starts)])
        total = np.add.reduceat(lengths, begins) if len(begins) else lengths
        return cls(starts[begins], total, strides[begins])

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.lengths.sum())

    @property
    def lasts(self) -> Rows:
        """The last row of each."""
        return self.starts + (self.lengths - 1) * self.strides

    @property
    def apart(self) -> bool:
        """Whether some do not lie side by side."""
        return bool((self.strides > 1).any())


class Transfer:
    """Brings rows from a buffer to the arrays of a new store, behind those that are there."""

    def __init__(
        self,
        buffer: BufferReader,
        store: ArrayStore,
        excerpt: Excerpt,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.buffer, self.store, self.excerpt = buffer, store, excerpt
        self.bytes_read = 0
        self.copied: list[str] = []
        self.recoded: list[str] = []
        self.notes: list[str] = []
        self._runs = Runs.joined(excerpt.starts, excerpt.lengths, excerpt.strides)
        self._moved: dict[str, MovedValues] = {}
        """The values of fields of any length, as soon as their rows are there."""
        self._progress = progress
        self._done = self._total = 0

    def rows(self, names: Sequence[str]) -> None:
        """The rows of these fields."""
        rows = dict.fromkeys([tree.steps(name) for name in names], self.excerpt.rows)
        rows |= {
            tree.values(name): number_of_values(self.buffer, name, self.excerpt)
            for name in names
            if name in self.buffer.schema.ragged
        }
        self._total = sum(self._spec(name).row_bytes * count for name, count in rows.items())
        room = {
            name: self.store.next_row(name) + count
            for name, count in rows.items()
            if self._target(name).codec is None
        }
        with self.store.storage("make room"):
            self.store.container.reserve(room)
        changed: dict[str, list[str]] = {}
        for name in names:
            ragged = name in self.buffer.schema.ragged
            stored = tree.values(name) if ragged else tree.steps(name)
            as_it_is = self._values(name, rows[stored]) if ragged else self._array(stored, self._runs)
            (self.copied if as_it_is else self.recoded).append(name)
            before, after = (side(stored).codec or "raw" for side in (self._spec, self._target))
            if before != after:
                changed.setdefault(f"{before} became {after}", []).append(name)
        self.notes += [f"{change}: {', '.join(several)}" for change, several in changed.items()]

    def final_observations(self, names: Sequence[str]) -> None:
        """The final observations, in these fields."""
        finals = self.excerpt.finals
        runs = Runs.joined(finals, np.ones_like(finals), np.ones_like(finals))
        for name in names:
            stored = tree.final(name)
            if self._spec(stored).journaled:
                append_rows(self.store, stored, self._placed(name, self.buffer.final_rows(name, finals)))
            else:
                self._array(stored, runs)
            if self.excerpt.pending:
                pending = np.stack([row[name] for row in self.excerpt.pending])
                append_rows(self.store, stored, self._placed(name, pending))

    def opened(self, names: Sequence[str]) -> list[Open]:
        """The trajectories that go on, with what follows their last steps as the target has it, in these
        fields; to be asked for once."""
        opened = list(self.excerpt.opened)
        for name in self._moved.keys() & set(names):
            opened = values_followed(opened, name, self._moved[name], APART_BYTES)
        return opened

    def _placed(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows of a field as the target has them."""
        moved = self._moved.get(name)
        return rows if moved is None else moved.placed(rows, APART_BYTES)

    def _values(self, name: str, count: int) -> bool:
        """Append the rows of a field of any length, and so many values; whether these were copied as they
        are."""
        first = not self.store.next_row(tree.values(name))  # those of another buffer may be there
        whole, stored = first and in_order(self.buffer, self.excerpt), tree.steps(name)
        moved = self._moved[name] = MovedValues(self.buffer, self.store, name, whole=whole)
        spec, kept = self._spec(stored), moved.kept
        if whole:
            one = np.array([1])
            as_it_is = self._array(tree.values(name), Runs(one * kept.start, one * len(kept), one))
            if not kept.start:
                moved.check(self.buffer.first_row, self.buffer.first_row + self.excerpt.rows)
                self._array(stored, self._runs)
                return as_it_is
        else:
            as_it_is = False
            self.bytes_read += count * self._spec(tree.values(name)).row_bytes
        self.bytes_read += self._stored_bytes(stored, spec, self._runs)
        most = APART_BYTES if self._runs.apart or self.excerpt.window else BLOCK_BYTES
        for spans in self._read(stored, spec, self._runs):
            append_rows(self.store, stored, moved.placed(spans, most))
            self._count(spans.nbytes)
        return as_it_is

    def _spec(self, stored: str) -> ArraySpec:
        return self.buffer.store.container.specs()[stored]

    def _target(self, stored: str) -> ArraySpec:
        return self.store.container.specs()[stored]

    def _count(self, size: int) -> None:
        self._done += size
        if self._progress is not None and self._total:
            self._progress(min(self._done, self._total), self._total)

    # --- one array

    def _array(self, stored: str, runs: Runs) -> bool:
        """Append runs of rows; whether they were copied as they are stored."""
        spec, target = self._spec(stored), self._target(stored)
        self.bytes_read += self._stored_bytes(stored, spec, runs)
        start, length = (int(runs.starts[0]), int(runs.lengths[0])) if len(runs.starts) else (0, 0)
        alike = (
            spec.chunk_rows == target.chunk_rows
            and len(runs.starts) == 1
            and not runs.apart
            and start % spec.chunk_rows == 0
            and self.store.next_row(stored) % spec.chunk_rows == 0
            and not self.buffer.store.changes(stored)
        )
        as_it_is = spec.codec is None and target.codec is None
        rest = None
        if as_it_is and alike:
            rest = self._copy_raw(stored, spec, start, start + length)
        elif alike and same_payload(spec, self._kind(self.buffer), target, self._kind(self)):
            rest = self._copy_encoded(stored, spec, start, start + length)
            as_it_is = True
        if rest is not None:
            runs = Runs(np.array([rest]), np.array([start + length - rest]), runs.strides)
        for rows in self._read(stored, spec, runs):
            append_rows(self.store, stored, rows)
            self._count(rows.nbytes)
        return as_it_is

    @staticmethod
    def _kind(side: BufferReader | Transfer) -> str:
        return side.store.container.capabilities.chunk_format

    def _stored_bytes(self, stored: str, spec: ArraySpec, runs: Runs) -> int:
        if spec.codec is None:
            return runs.rows * spec.row_bytes
        near = runs.strides <= spec.chunk_rows
        first, last = (edge[near] // spec.chunk_rows for edge in (runs.starts, runs.lasts))
        far = numbers(runs.starts[~near], runs.lengths[~near], runs.strides[~near]) // spec.chunk_rows
        chunks = np.unique(np.concatenate([numbers(first, last - first + 1), far]))
        return stored_bytes(self.buffer.store, stored, chunks)

    def _copy_raw(self, stored: str, spec: ArraySpec, start: int, stop: int) -> int:
        """Append the complete chunks of rows [start, stop) with the checksums they have; the row after
        them."""
        first, last = start // spec.chunk_rows, stop // spec.chunk_rows
        # The disk takes what was written while the next block is copied. To read and to write in threads of
        # their own was no faster, and much slower where processors are busy.
        with ThreadPoolExecutor(1, "replaystore-disk") as storing:
            begun: list[Future[None]] = []
            for _, data, checksums in raw_chunks(self.buffer.store, stored, first, last):
                places = append_raw(self.store, stored, data, checksums)
                begun.append(storing.submit(self._write_back, places))
                self._count(data.size)
            for one in begun:
                one.result()
        return max(start, last * spec.chunk_rows)

    def _write_back(self, places: Sequence[Extent]) -> None:
        for place in places:
            self.store.container.files.write_back(place.object, place.offset, place.length)

    def _copy_encoded(self, stored: str, spec: ArraySpec, start: int, stop: int) -> int:
        """Append the complete chunks of rows [start, stop) as they are encoded; the row after them."""
        first, last = start // spec.chunk_rows, stop // spec.chunk_rows
        kind = self._kind(self)
        for chunks in encoded_chunks(self.buffer.store, stored, first, last):
            append_encoded(
                self.store,
                stored,
                chunks if kind == self._kind(self.buffer) else resealed(chunks, spec, kind),
            )
            self._count(len(chunks) * spec.chunk_bytes)
        return max(start, last * spec.chunk_rows)

    def _read(self, stored: str, spec: ArraySpec, runs: Runs) -> Iterator[NDArray[Any]]:
        """Runs of rows, checked, in blocks."""
        column = self.buffer.stored_column(stored)
        checks = CheckedChunks(self.buffer.store, stored) if spec.codec is None else None
        window = None if tree.is_final(stored) else self.excerpt.window
        for block in _batches(runs, spec, window):
            if checks is not None:
                for run in block:
                    checks.check(column.base if isinstance(column, ChangedColumn) else column, run)
            if len(block) == 1 and block[0].step == 1:
                yield column.rows(block[0].start, block[0].stop)
            else:
                yield column.take(np.concatenate([np.arange(r.start, r.stop, r.step) for r in block]))


def _batches(runs: Runs, spec: ArraySpec, window: int | None) -> Iterator[list[range]]:
    """Runs of rows, cut where chunks end and put together to about BLOCK_BYTES, or APART_BYTES (at least one
    chunk, less than two blocks); or whole windows."""
    most = APART_BYTES if runs.apart else BLOCK_BYTES
    unit = max(1, most // spec.chunk_bytes) * spec.chunk_rows
    if window is not None:
        unit = max(1, APART_BYTES // (window * spec.row_bytes)) * window
    block: list[range] = []
    size = 0
    for start, length, stride in zip(*(column.tolist() for column in runs), strict=True):
        left = range(start, start + length * stride, stride)
        while left:
            count = unit - left[0] % unit if stride == 1 else unit
            piece, left = left[:count], left[count:]
            block.append(piece)
            size += len(piece)
            if size >= unit:
                yield block
                block, size = [], 0
    if block:
        yield block
