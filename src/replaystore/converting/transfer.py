"""The rows of a conversion, from the source's arrays to the target's: whole chunks as they are stored where
that fits, else in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

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
from replaystore.containers.protocol import ArraySpec
from replaystore.converting.excerpt import Excerpt
from replaystore.schema import tree
from replaystore.views.reader import BufferReader

__all__ = ["Transfer"]

BLOCK_BYTES = 4 << 20
"""Rows taken to memory at once."""

Rows = NDArray[np.int64]


class Transfer:
    """Brings rows from a buffer to the arrays of a new store."""

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
        self._progress = progress
        self._done = self._total = 0

    def rows(self, names: Sequence[str]) -> None:
        """The rows of these fields."""
        specs = {name: self._spec(tree.steps(name)) for name in names}
        self._total = sum(spec.row_bytes for spec in specs.values()) * self.excerpt.rows
        room = {
            tree.steps(name): self.excerpt.rows
            for name, spec in specs.items()
            if self._target(name).codec is None
        }
        with self.store.storage("make room"):
            self.store.container.reserve(room)
        changed: dict[str, list[str]] = {}
        for name, spec in specs.items():
            stored = tree.steps(name)
            as_it_is = self._array(stored, self.excerpt.starts, self.excerpt.stops)
            (self.copied if as_it_is else self.recoded).append(name)
            before, after = spec.codec or "raw", self._target(name).codec or "raw"
            if before != after:
                changed.setdefault(f"{before} became {after}", []).append(name)
        self.notes += [f"{change}: {', '.join(several)}" for change, several in changed.items()]

    def final_observations(self, names: Sequence[str]) -> None:
        """The final observations, in these fields."""
        finals = self.excerpt.finals
        joined = np.flatnonzero(np.diff(finals) != 1) + 1
        starts = finals[np.concatenate([[0], joined])[: len(finals)]]
        stops = finals[np.concatenate([joined - 1, [len(finals) - 1]])[: len(finals)]] + 1
        for name in names:
            stored = tree.final(name)
            if self._spec(stored).journaled:
                append_rows(self.store, stored, self.buffer.final_rows(name, finals))
            else:
                self._array(stored, starts, stops)
            if self.excerpt.pending:
                append_rows(self.store, stored, np.stack([row[name] for row in self.excerpt.pending]))

    def _spec(self, stored: str) -> ArraySpec:
        return self.buffer.store.container.specs()[stored]

    def _target(self, name: str) -> ArraySpec:
        return self.store.container.specs()[tree.steps(name)]

    def _count(self, size: int) -> None:
        self._done += size
        if self._progress is not None and self._total:
            self._progress(min(self._done, self._total), self._total)

    # --- one array

    def _array(self, stored: str, starts: Rows, stops: Rows) -> bool:
        """Append runs of rows; whether they were copied as they are stored."""
        spec, target = self._spec(stored), self.store.container.specs()[stored]
        self.bytes_read += self._stored_bytes(stored, spec, starts, stops)
        alike = (
            spec.chunk_rows == target.chunk_rows
            and len(starts) == 1
            and int(starts[0]) % spec.chunk_rows == 0
        )
        as_it_is = spec.codec is None and target.codec is None
        if as_it_is and alike:
            starts = np.array([self._copy_raw(stored, spec, int(starts[0]), int(stops[0]))])
        elif alike and same_payload(spec, self._kind(self.buffer), target, self._kind(self)):
            starts = np.array([self._copy_encoded(stored, spec, int(starts[0]), int(stops[0]))])
            as_it_is = True
        self._blocks(stored, spec, starts, stops)
        return as_it_is

    @staticmethod
    def _kind(side: BufferReader | Transfer) -> str:
        return side.store.container.capabilities.chunk_format

    def _stored_bytes(self, stored: str, spec: ArraySpec, starts: Rows, stops: Rows) -> int:
        if spec.codec is None:
            return int((stops - starts).sum()) * spec.row_bytes
        first, last = starts // spec.chunk_rows, -(-stops // spec.chunk_rows)
        chunks = [np.arange(begin, end) for begin, end in zip(first.tolist(), last.tolist(), strict=True)]
        return stored_bytes(self.buffer.store, stored, np.unique(np.concatenate(chunks))) if chunks else 0

    def _copy_raw(self, stored: str, spec: ArraySpec, start: int, stop: int) -> int:
        """Append the complete chunks of rows [start, stop) with the checksums they have; the row after
        them."""
        first, last = start // spec.chunk_rows, stop // spec.chunk_rows
        # One block is written while the next one is read and checked.
        with ThreadPoolExecutor(1, "replaystore-copy") as writing:
            written: Future[None] | None = None
            for _, data, checksums in raw_chunks(self.buffer.store, stored, first, last):
                if written is not None:
                    written.result()
                written = writing.submit(append_raw, self.store, stored, data, checksums)
                self._count(data.size)
            if written is not None:
                written.result()
        return max(start, last * spec.chunk_rows)

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

    def _blocks(self, stored: str, spec: ArraySpec, starts: Rows, stops: Rows) -> None:
        """Append runs of rows through memory."""
        column = self.buffer.stored_column(stored)
        checks = CheckedChunks(self.buffer.store, stored) if spec.codec is None else None
        for block in _batches(starts, stops, spec):
            if checks is not None:
                for begin, end in block:
                    checks.check(column, begin, end)
            if len(block) == 1:
                rows = column.rows(*block[0])
            else:
                rows = column.take(np.concatenate([np.arange(begin, end) for begin, end in block]))
            append_rows(self.store, stored, rows)
            self._count(rows.nbytes)


def _batches(starts: Rows, stops: Rows, spec: ArraySpec) -> Iterator[list[tuple[int, int]]]:
    """Runs of rows, cut where chunks end and put together to about BLOCK_BYTES (at least one chunk, less than
    two blocks)."""
    unit = max(1, BLOCK_BYTES // spec.chunk_bytes) * spec.chunk_rows
    block: list[tuple[int, int]] = []
    size = 0
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        while start < stop:
            end = min(stop, (start // unit + 1) * unit)
            if block and block[-1][1] == start:
                block[-1] = block[-1][0], end
            else:
                block.append((start, end))
            size, start = size + end - start, end  # noqa: PLW2901  # the rest of the run
            if size >= unit:
                yield block
                block, size = [], 0
    if block:
        yield block
