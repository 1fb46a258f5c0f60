"""The values of a field of any length: where a step says that they lie, `[begin, end)`, becomes the values.

Invariants:
1. Nothing else reads the array of values. No byte of it is touched before it is known that a span lies inside
   of what the commit has: rows of spans that are read have no checksum, and a page past the end of a mapped
   file kills the process.
2. Where much is read, values that lie in each other are refused: nobody's store makes a gigabyte stand for
   hundreds.
3. A value lies where its span says, across the borders of chunks and files.
4. What `Values` show stays what it is, while the column that they were made of goes on in another thread.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.far import announce_first
from replaystore.columns.plain import PlainColumn
from replaystore.columns.protocol import StoredColumn, Unchecked
from replaystore.errors import CorruptError
from replaystore.schema.field import Field
from replaystore.schema.ragged import MOST_BYTES, Ragged
from replaystore.schema.ragged_forms import offsets_of

__all__ = ["Values", "value_at"]

Spans = NDArray[np.int64]
LONG = 256
"""Bytes of a value, on average, from which on each is copied by itself; of shorter ones rows by number."""
WIDE = 64 << 20
"""Bytes of values beyond which it is looked whether some of them are the same ones."""
APART = 16 << 10
"""Bytes between two values that are read along, where they are read and not mapped."""
MOST_ROWS = 1 << 22
"""Rows of values that are asked for by their numbers."""
BLOCK = 4 << 20
"""The most that is read at once for several values."""


class Values:
    """The values of one field, as of a commit."""

    def __init__(self, column: StoredColumn, declared: Field, *, first: int = 0) -> None:
        """`first`: the first row of the array that the commit has; the column ends where it does."""
        self.column, self.declared, self.first = copy.copy(column), declared, first

    def take(
        self, spans: Spans, *, lead: tuple[int, ...] | None = None, unchecked: Unchecked = None
    ) -> Ragged:
        """The values of these spans, (…, 2), in new memory, arranged as `lead` says, or else as they are.
        `unchecked` as for `StoredColumn.read`. CorruptError: a span leads to where no value of the commit can
        be."""
        lead = spans.shape[:-1] if lead is None else lead
        begins, ends = self._checked(spans.reshape(-1, 2))
        lengths = ends - begins
        offsets = offsets_of(lengths)
        values = self._gathered(begins, ends, lengths, offsets, unchecked)
        return Ragged(values, offsets, lead, text=self.declared.text)

    def check(self, spans: Spans) -> None:
        """CorruptError: one of these spans, (n, 2), leads to where no value of the commit can be."""
        self._inside(spans)

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """Rows of the array of values, of which no span is looked at."""
        return self.column.read(begin, end)

    def wanted(self, spans: Spans) -> list[slice]:
        """The rows that `take` is going to read of files that are far."""
        begins, ends = self._checked(spans.reshape(-1, 2))
        begins, ends = begins[begins < ends], ends[begins < ends]
        if len(begins) and (begins[1:] == ends[:-1]).all():
            return [slice(int(begins[0]), int(ends[-1]))]
        return [slice(low, high) for low, high, _ in self._blocks(begins, ends)]

    # --- what is believed

    def _checked(self, spans: Spans) -> tuple[Spans, Spans]:
        """Begins and ends, of values that may be read together."""
        begins, ends = self._inside(spans)
        width, longest = self.column.row_bytes, int((ends - begins).max(initial=0))
        if longest * width * len(spans) > WIDE and int((ends - begins).sum()) * width > WIDE:
            several = np.unique(np.stack([begins, ends], axis=1)[begins < ends], axis=0)
            if (several[1:, 0] < several[:-1, 1]).any():
                self._refuse("values that lie in each other")
        return begins, ends

    def _inside(self, spans: Spans) -> tuple[Spans, Spans]:
        """Begins and ends, of values that the commit has."""
        begins, ends = spans[:, 0], spans[:, 1]
        first, stop = self.first, self.column.stop
        if not len(spans):
            return begins, ends
        if begins.min() < first or ends.max() > stop or (ends < begins).any():
            empty = begins == ends  # wherever that is
            begins, ends = np.where(empty, first, begins), np.where(empty, first, ends)
            wrong = (begins < first) | (ends > stop) | (ends < begins)
            if wrong.any():
                begin, end = spans[int(wrong.argmax())].tolist()
                self._refuse(f"values {begin} to {end}, where there are {first} to {stop}")
        longest, width = int((ends - begins).max()), self.column.row_bytes
        if longest * width > MOST_BYTES:
            self._refuse(f"a value of {longest * width} bytes, which has at most {MOST_BYTES}")
        return begins, ends

    def _refuse(self, what: str) -> None:
        name = self.column.name.removeprefix("values/")
        raise CorruptError(f"{self.column.files}: {name} has steps with {what}; run `replaystore verify`")

    # --- bringing them

    def _gathered(
        self, begins: Spans, ends: Spans, lengths: Spans, offsets: Spans, unchecked: Unchecked
    ) -> NDArray[Any]:
        column, total = self.column, int(offsets[-1])
        if not total:
            return np.empty((0, *column.shape), column.dtype)
        filled = lengths > 0
        if not filled.all():
            begins, ends, lengths, offsets = (
                begins[filled],
                ends[filled],
                lengths[filled],
                offsets[:-1][filled],
            )
        else:
            offsets = offsets[:-1]
        shift = begins - offsets
        if shift.min() == shift.max():  # one behind the other
            return column.read(int(begins[0]), int(ends[-1]), unchecked)
        if not (isinstance(column, PlainColumn) and column.mapped):
            return self._read(begins, ends, offsets, total, unchecked)
        first = column.first
        rows = column.rows(first, column.stop)  # a view
        if total * column.row_bytes < LONG * len(begins):
            return rows.take(np.repeat(shift - first, lengths) + np.arange(total), 0)
        out = np.empty((total, *column.shape), column.dtype)
        pairs = zip((begins - first).tolist(), (ends - first).tolist(), strict=True)
        return np.concatenate([rows[begin:end] for begin, end in pairs], out=out)

    def _blocks(self, begins: Spans, ends: Spans) -> Iterator[tuple[int, int, NDArray[np.intp]]]:
        """What is read at once, and which of these values lie in it; neighbours together."""
        width = self.column.row_bytes
        order = np.argsort(begins, kind="stable")
        low = high = -1
        inside: list[int] = []
        for place in order.tolist():
            begin, end = int(begins[place]), int(ends[place])
            if begin == end:
                continue
            near = (begin - high) * width <= APART and (max(end, high) - low) * width <= BLOCK
            if inside and not near:
                yield low, high, np.array(inside)
                inside = []
            if not inside:
                low, high = begin, end
            inside.append(place)
            high = max(high, end)
        if inside:
            yield low, high, np.array(inside)

    def _read(self, begins: Spans, ends: Spans, offsets: Spans, total: int, later: Unchecked) -> NDArray[Any]:
        column = self.column
        out = np.empty((total, *column.shape), column.dtype)
        blocks = list(self._blocks(begins, ends))
        if column.files.far:
            wanted = [slice(low, high) for low, high, _ in blocks]
            announce_first(column.files, [column.lookups(one) for one in wanted])
            announce_first(column.files, [column.places(one) for one in wanted])
        wide = sum(high - low for low, high, _ in blocks) > MOST_ROWS
        if column.files.far and len(blocks) > 1 and not wide:  # nothing is read ahead, as behind slices
            numbers = np.concatenate([np.arange(low, high) for low, high, _ in blocks])
            rows = column.take(numbers, None, later)
            at = 0
            for low, high, inside in blocks:
                _cut(out, offsets, rows[at : at + high - low], low, begins, ends, inside)
                at += high - low
            return out
        unchecked = list[tuple[Callable[[], None], Callable[[], None]]]() if later is None else later
        for low, high, inside in blocks:
            _cut(out, offsets, column.read(low, high, unchecked), low, begins, ends, inside)
        if unchecked and later is None:
            unchecked[0][0]()
            for _, confirm in unchecked:
                confirm()
        return out


def value_at(found: Any, place: int, whose: str) -> Any:
    """One of the values that were read, a `str` of a text. CorruptError: it is none, and `whose` it is."""
    try:
        return found[place]
    except CorruptError as error:
        raise CorruptError(f"{whose}: {error}") from None


def _cut(
    out: NDArray[Any],
    offsets: Spans,
    block: NDArray[Any],
    low: int,
    begins: Spans,
    ends: Spans,
    inside: NDArray[np.intp],
) -> None:
    """Give values that lie in a block, which begins with row `low`, their places."""
    for place in inside.tolist():
        begin, length, at = int(begins[place]) - low, int(ends[place] - begins[place]), int(offsets[place])
        out[at : at + length] = block[begin : begin + length]
