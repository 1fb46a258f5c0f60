"""The values of fields of any length on their way to another store.

Where all rows come in their order, the array of values comes as it is from the first that is kept on, with
what nothing names any more, and where values lie counts from there. Else each value that is named is laid
down anew, behind the one before.

Invariants:
1. Nothing is believed on the way: raw chunks that values are taken from are compared with their checksums.
2. What follows a row, in `final/` or after an open trajectory, comes behind the rows, as FORMAT.md promises.
3. A few blocks of values are in memory at a time, or a single value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.copying import CheckedChunks, append_rows
from replaystore.converting.excerpt import Excerpt
from replaystore.schema import tree
from replaystore.trajectories.opened import Open
from replaystore.trajectories.parts import numbers
from replaystore.views.reader import BufferReader

__all__ = ["MovedValues", "in_order", "mean_bytes", "number_of_values", "values_followed"]

Spans = NDArray[np.int64]
SPANS = 1 << 20
"""Rows whose lengths are looked at together."""


def in_order(buffer: BufferReader, excerpt: Excerpt) -> bool:
    """Whether all rows of a buffer are taken, one behind the other."""
    starts, lengths = excerpt.starts, excerpt.lengths
    return bool(
        excerpt.rows == len(buffer)
        and (excerpt.strides[lengths > 1] == 1).all()
        and (not len(starts) or starts[0] == buffer.first_row)
        and (starts[1:] == (starts + lengths)[:-1]).all()
    )


def mean_bytes(buffer: BufferReader, name: str) -> int:
    """Bytes of a step of a field, those of its values among them."""
    declared, stored = buffer.schema.fields[name], tree.values(name)
    if not declared.ragged:
        return declared.row_bytes
    count = buffer.store.rows(stored) - buffer.store.first(stored)
    width = declared.dtype.itemsize * math.prod(declared.inner)
    return declared.row_bytes + count * width // max(1, len(buffer))


def number_of_values(buffer: BufferReader, name: str, excerpt: Excerpt) -> int:
    """How many rows the array of a field's values is going to have."""
    stored = tree.values(name)
    if in_order(buffer, excerpt):
        return buffer.store.rows(stored) - buffer.store.first(stored)
    column, found = buffer.stored_column(tree.steps(name)), 0
    starts, lengths, strides = excerpt.starts, excerpt.lengths, excerpt.strides
    for runs in np.split(np.arange(len(starts)), _cuts(lengths)):
        found += _lengths(column.take(numbers(starts[runs], lengths[runs], strides[runs])))
    if buffer.schema.fields[name].role == "observation":
        found += _lengths(buffer.final_rows(name, excerpt.finals)) if len(excerpt.finals) else 0
        found += sum(_lengths(row[name][None]) for row in excerpt.pending)
        found += sum(_lengths(e.following[name][None]) for e in excerpt.opened if e.following is not None)
    return found


def _cuts(lengths: NDArray[np.int64]) -> NDArray[np.intp]:
    """Before which runs to cut, so that those between have about SPANS rows."""
    return np.flatnonzero(np.diff(np.cumsum(lengths) // SPANS)) + 1


def _lengths(spans: Spans) -> int:
    return int((spans[:, 1] - spans[:, 0]).sum())


class MovedValues:
    """The values of one field of any length."""

    def __init__(self, buffer: BufferReader, store: ArrayStore, name: str, *, whole: bool) -> None:
        """`whole`: the array of values comes as it is."""
        self._store, self._stored, self.whole = store, tree.values(name), whole
        self._values, self._spans = buffer.values_of(name), buffer.stored_column(tree.steps(name))
        spec = buffer.store.container.specs()[self._stored]
        self._chunk_rows = spec.chunk_rows
        self._checks = CheckedChunks(buffer.store, self._stored) if spec.codec is None else None

    @property
    def kept(self) -> range:
        """The rows of values that the source has."""
        return range(self._values.first, self._values.column.stop)

    def check(self, first: int, stop: int) -> None:
        """CorruptError: of rows that are copied as they are, one has values where there are none."""
        for start in range(first, stop, SPANS):
            self._values.check(self._spans.read(start, min(stop, start + SPANS)))

    def placed(self, spans: Spans, most: int) -> Spans:
        """Where the values of these spans lie in the target: all of them are there then, `most` bytes being
        in memory. CorruptError: there is no such value."""
        if self.whole:
            self._values.check(spans)
            return np.maximum(spans - self._values.first, 0)  # those without values may lie anywhere
        found = [self._laid(block) for block in self._blocks(spans, most)]
        return np.concatenate(found) if found else spans

    def _blocks(self, spans: Spans, most: int) -> Iterator[Spans]:
        sizes = np.cumsum(spans[:, 1] - spans[:, 0]) * self._values.column.row_bytes
        start = 0
        while start < len(spans):
            before = int(sizes[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(sizes, before + most, side="right")))
            yield spans[start:stop]
            start = stop

    def _laid(self, spans: Spans) -> Spans:
        self._values.check(spans)
        if self._checks is not None:
            self._checks.check_chunks(self._values.column, self._chunks(spans))
        found, at = self._values.take(spans), self._store.next_row(self._stored)
        append_rows(self._store, self._stored, found.named)
        offsets = found.offsets - found.offsets[0] + at
        return np.stack([offsets[:-1], offsets[1:]], axis=1)

    def _chunks(self, spans: Spans) -> list[int]:
        """The chunks that values lie in."""
        begins, ends = spans[spans[:, 0] < spans[:, 1]].T
        first, last = begins // self._chunk_rows, (ends - 1) // self._chunk_rows
        found: list[int] = np.unique(numbers(first, last - first + 1)).tolist()
        return found


def values_followed(opened: list[Open], name: str, moved: MovedValues, most: int) -> list[Open]:
    """Open trajectories, with where the values that follow their last steps lie in the target."""

    def placed(entry: Open) -> Open:
        if entry.following is None:
            return entry
        span = moved.placed(entry.following[name][None], most)[0]
        return replace(entry, following={**entry.following, name: span})

    return [placed(entry) for entry in opened]
