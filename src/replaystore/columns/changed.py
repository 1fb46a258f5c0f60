"""The rows of a raw array of which some have other values by now.

Rows lie in blocks of a few; a block with a changed row has a page in memory, a table says which. A batch is
taken from the array, and then from the pages, where there are any, each in one go. Memory is O(changes): a
page is at most PAGE_BYTES, or one row.

Invariants:
1. A `ChangedColumn` shows the same rows for ever. Further changes make another one of it, in time and memory
   of what is new (and a number for each block of the span that has changed): pages are only ever added.
2. Rows that the array has got since a page was made are not in that page: the next one has the page anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.coded import CodedColumn
from replaystore.columns.plain import PlainColumn
from replaystore.columns.protocol import Place, Rows, StoredColumn, Unchecked

__all__ = ["ChangedColumn", "newest"]

PAGE_BYTES = 256
"""A page holds as many rows as fit, a power of two, at least one."""
SPARE = 2
"""Pages are brought together when there are so many times as many as are in use."""

Numbers = NDArray[np.int64]


class _Pages:
    """Rows of changed blocks, as items; they grow at the end and never change."""

    def __init__(self, item: np.dtype[Any], rows: int) -> None:
        self.items = np.empty((0, rows), item)
        self.used = 0

    def add(self, pages: NDArray[Any]) -> int:
        """The number of the first of them."""
        at, end = self.used, self.used + len(pages)
        if end > len(self.items):
            grown = np.empty((max(end, 2 * at), self.items.shape[1]), self.items.dtype)
            grown[:at] = self.items[:at]
            self.items = grown
        self.items[at:end] = pages
        self.used = end
        return at


class ChangedColumn(StoredColumn):
    """The rows of `base` with these changes: `steps`, each with its item of `values`; of several changes of a
    row the last one counts. `until` says how many changes of the log it knows."""

    def __init__(
        self,
        base: PlainColumn | CodedColumn,
        steps: Numbers,
        values: NDArray[Any],
        *,
        until: int,
        before: ChangedColumn | None = None,
    ) -> None:
        self.base = copy.copy(base)  # its state is immutable: the copy stays as it is
        self.files, self.name, self.check = base.files, base.name, base.check
        self.dtype, self.shape, self.row_bytes = base.dtype, base.shape, base.row_bytes
        self._item = np.dtype((np.void, self.row_bytes))
        self.until = until
        self._shift = max(0, (PAGE_BYTES // self.row_bytes).bit_length() - 1)
        self._mask = (1 << self._shift) - 1
        if before is None or before.dtype != self.dtype or before.shape != self.shape:
            self._begin = base.first >> self._shift
            self._table = np.full(2, -1, np.int64)  # one before the first block, and one behind the last
            self._pages = _Pages(self._item, 1 << self._shift)
        else:
            self._begin, self._table, self._pages = before._begin, before._table, before._pages
            steps, values = self._with_new_rows(before, steps, values)
        if len(steps):
            self._change(*newest(steps, values.reshape(-1).view(self._item)))

    def _with_new_rows(
        self, before: ChangedColumn, steps: Numbers, values: NDArray[Any]
    ) -> tuple[Numbers, NDArray[Any]]:
        """The changes, and before them the rows that a page of the last block lacks."""
        old, end = before.stop, min(self.base.stop, (before.stop | self._mask) + 1)
        if not old & self._mask or old >= end or self._slots(np.array([old]))[0] < 0:
            return steps, values
        rows = self.base.read(old, end)
        return np.concatenate([np.arange(old, end), steps]), np.concatenate([rows, values])

    def _change(self, rows: Numbers, items: NDArray[Any]) -> None:
        kept = np.searchsorted(rows, self.base.first)
        rows, items = rows[kept:], items[kept:]
        if not len(rows):
            return
        blocks = rows >> self._shift
        first = np.append(True, blocks[1:] != blocks[:-1])
        touched, place = blocks[first], np.cumsum(first) - 1
        self._cover(int(touched[0]), int(touched[-1]))
        slots = self._table[touched - self._begin + 1]
        pages = np.empty((len(touched), self._mask + 1), self._item)
        fresh = slots < 0
        pages[~fresh] = self._pages.items[slots[~fresh]]
        if fresh.any():
            within = (touched[fresh, None] << self._shift) + np.arange(self._mask + 1)
            wanted = np.clip(within, self.base.first, self.base.stop - 1).reshape(-1)
            pages[fresh] = self.base.take(wanted).reshape(-1).view(self._item).reshape(within.shape)
        pages[place, rows & self._mask] = items
        if self._pages.used > SPARE * (np.count_nonzero(self._table >= 0) + len(touched)) + 64:
            self._gather_pages()
        at = self._pages.add(pages)
        self._table[touched - self._begin + 1] = np.arange(at, at + len(touched))

    def _cover(self, first: int, last: int) -> None:
        """A table of one's own that has these blocks, without those that were dropped."""
        known, least = self._table[1:-1], self.base.first >> self._shift
        if self._begin < least:
            known, self._begin = known[least - self._begin :], least
        begin = min(self._begin, first)
        end = max(self._begin + len(known), last + 1)
        table = np.full(end - begin + 2, -1, np.int64)
        table[1 + self._begin - begin :][: len(known)] = known
        self._begin, self._table = begin, table

    def _gather_pages(self) -> None:
        """Pages of one's own, of blocks that are in use."""
        used = np.flatnonzero(self._table >= 0)
        pages = _Pages(self._item, self._mask + 1)
        pages.add(self._pages.items[self._table[used]])
        self._table[used] = np.arange(len(used))
        self._pages = pages

    def _slots(self, rows: Numbers) -> Numbers:
        """The page of each row, -1 for none."""
        return self._table.take((rows >> self._shift) - (self._begin - 1), mode="clip")

    # --- as StoredColumn says

    @property
    def first(self) -> int:
        return self.base.first

    @property
    def stop(self) -> int:
        return self.base.stop

    @property
    def items(self) -> None:
        """There is no one array of all rows."""
        return None

    @property
    def mapped(self) -> bool:
        return False

    def read(self, start: int, stop: int, unchecked: Unchecked = None) -> Rows:
        out = self.base.read(start, stop, unchecked)
        if start < stop:
            blocks = np.arange(start >> self._shift, ((stop - 1) >> self._shift) + 1)
            slots = self._slots(blocks << self._shift)
            hit = slots >= 0
            if hit.any():
                rows = ((blocks[hit, None] << self._shift) + np.arange(self._mask + 1)).reshape(-1)
                inside = (rows >= start) & (rows < stop)
                found = self._pages.items[slots[hit]].reshape(-1)
                self._items_of(out)[rows[inside] - start] = found[inside]
        return out

    def rows(self, start: int, stop: int) -> Rows:
        rows = self.read(start, stop)
        rows.flags.writeable = False
        return rows

    def take(self, rows: NDArray[np.int64], out: Rows | None = None, unchecked: Unchecked = None) -> Rows:
        self._places(rows, self.first, self.stop)
        slots = self._slots(rows)
        hit = slots >= 0
        count = int(np.count_nonzero(hit))
        if count and count == len(rows):
            out = np.empty((count, *self.shape), self.dtype) if out is None else out
            at = (slots << self._shift) | (rows & self._mask)
            self._pages.items.reshape(-1).take(at, None, self._items_of(out), "clip")
            return out
        out = self.base.take(rows, out, unchecked)
        if count:
            at = (slots[hit] << self._shift) | (rows[hit] & self._mask)
            self._items_of(out)[hit] = self._pages.items.reshape(-1)[at]
        return out

    def _items_of(self, out: Rows) -> NDArray[Any]:
        return out.reshape(-1).view(self._item)

    def lookups(self, wanted: slice | NDArray[np.int64]) -> Iterable[Place]:
        return self.base.lookups(wanted)

    def places(self, wanted: slice | NDArray[np.int64]) -> Iterable[Place]:
        return self.base.places(wanted)

    def coming(self, wanted: slice) -> Iterable[Place]:
        return self.base.coming(wanted)

    def close(self) -> None:
        self.base.close()


def newest(steps: Numbers, values: NDArray[Any]) -> tuple[Numbers, NDArray[Any]]:
    """Each step once, in order, with the last of its values."""
    if len(steps) < 2 or bool((steps[1:] > steps[:-1]).all()):
        return steps, values
    order = np.argsort(steps, kind="stable")
    ordered = steps[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    return ordered[last], values[order[last]]
