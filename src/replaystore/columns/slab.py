"""Random rows of coded arrays at the speed of memory: decoded chunks side by side in one block for each
array, under one table.

Rows are gathered by one `take` for each array, however many chunks they lie in; a dictionary of chunks,
looked up one by one, takes fifty times as long. What is not there is decoded straight into its place. Room is
made by what was not used for the longest time.

That is for chunks that all fit, or are asked for in an order that reads each once. Of a larger store a random
row is worth a chunk each time; if rows are known for many batches beforehand, `choose` has those alone
(`chosen.py`): in the memory of a quarter of a store there is room for the rows of a thousand batches, and
each chunk is decoded once for all of them.

Invariants:
(1) A chunk is in the table only if all arrays have it decoded.
(2) A slab shows the rows that its arrays had when it was made; memory is touched as it is filled, and that
of chunks is never more than `limit` bytes, and where rows are chosen a `BESIDE`th of that; but one chunk of
each array is kept in any case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.chosen import ChosenRows, rows_in
from replaystore.columns.coded import CodedColumn, Decoding
from replaystore.columns.far import announce_first
from replaystore.columns.protocol import Rows
from replaystore.columns.taking import Taker, taker
from replaystore.errors import ConflictError, EvictedError, ReplayStoreError

__all__ = ["Slab"]

MOST_SLOTS = 1 << 16
"""Finding those used longest ago takes a millisecond then."""
BESIDE = 16
"""Where rows are chosen, the share of the slots that others may take."""
COMING = np.iinfo(np.int64).max
"""When slots were used that are being filled."""


class _Coming(NamedTuple):
    """Chunks that are being decoded."""

    chunks: NDArray[np.int64]
    slots: NDArray[np.intp]
    decodings: list[Decoding]

    def abandon(self) -> None:
        """End it, as soon as no thread is at it."""
        for decoding in self.decodings:
            decoding.abandon()


class Slab:
    """Decoded chunks of columns whose chunks have the same number of rows.

    Args:
        columns: by name; all have the same rows. They may go on growing.
        limit: bytes of decoded chunks that may be kept, of all columns together; one chunk of each is kept in
        any case.
        most: rows that may be chosen at once; None: as many as `limit` is memory for.
    """

    def __init__(self, columns: Mapping[str, CodedColumn], limit: int, most: int | None = None) -> None:
        self._columns = dict(columns)
        some = next(iter(columns.values()))
        self.chunk_rows = some.chunk_rows
        self._tails = {name: column.tail for name, column in columns.items()}
        self.tail_start = next(iter(self._tails.values()))[0]
        self._first_chunk = some.first // self.chunk_rows
        chunks = max(0, self.tail_start // self.chunk_rows - self._first_chunk)
        self.chunk_bytes = sum(column.chunk_bytes for column in columns.values())
        """Of all columns together."""
        self.slots = max(1, min(MOST_SLOTS, limit // max(1, self.chunk_bytes)))
        self._slot = np.full(chunks, -1, np.int64)
        """Where each chunk is, or -1."""
        self._chunk = np.full(self.slots, -1, np.int64)
        self._used = np.zeros(self.slots, np.int64)
        """When each slot was asked for last."""
        self._now = 1
        self.whole = not chunks
        """All chunks are there, and remain there."""
        self._items: dict[str, Rows] = {}
        self._takers: dict[str, Taker] = {}
        self._coming: _Coming | None = None
        most = (
            rows_in(limit, [sum(column.row_bytes for column in columns.values())]) if most is None else most
        )
        self.chosen = ChosenRows(self._columns, most)
        """Where not all chunks fit, the rows of many batches."""

    def forget(self) -> None:
        """Hold nothing, whatever was under way: in a forked child, where nobody goes on with it."""
        self._slot.fill(-1)
        self._chunk.fill(-1)
        self._used.fill(0)
        self._coming, self.whole = None, not len(self._slot)
        self.chosen.forget()

    def adopt(self, old: Slab) -> None:
        """Go on with what another slab of the same columns has decoded; it is not to be used any more."""
        old.chosen.abandon()  # of batches that nobody is going to ask for
        if old._columns != self._columns or old.slots != self.slots:
            return
        old._finish()
        self._items, self._takers = old._items, old._takers
        self._used, self._now = old._used, old._now
        chunk = np.where(old._chunk < 0, -1, old._chunk + old._first_chunk - self._first_chunk)
        kept = (chunk >= 0) & (chunk < len(self._slot))
        self._chunk = np.where(kept, chunk, -1)
        self._used[~kept] = 0
        self._slot[chunk[kept]] = np.flatnonzero(kept)
        self._look()

    @property
    def names(self) -> Iterable[str]:
        """Of the columns."""
        return self._columns.keys()

    @property
    def nbytes(self) -> int:
        """The most memory that it takes."""
        return self.slots * self.chunk_bytes

    @property
    def decoded_bytes(self) -> int:
        """Of all complete chunks."""
        return len(self._slot) * self.chunk_bytes

    def hold(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> bool:
        """Decode the chunks that the rows from each of `first` to each of `last` lie in, side by side in
        threads; whether they fit.

        What cannot be had is an error where it is taken."""
        chunks = self._chunks_between(first, last)
        if len(chunks) > self._most:
            return False
        with contextlib.suppress(ReplayStoreError):
            self._hold(chunks)
        return True

    def expect(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> None:
        """Begin to decode what `hold` is going to be asked for, if there is room beside what was asked for
        last."""
        if self._coming is not None or self.chosen.active:
            return
        chunks = self._chunks_between(first, last)
        missing = chunks[self._slot[chunks] < 0]
        if not len(missing):
            return
        there = self._slot[chunks[self._slot[chunks] >= 0]]
        before, self._used[there] = self._used[there], self._now
        if np.count_nonzero(self._used < self._now) >= len(missing) and self._gone(missing) is None:
            self._coming = self._begin(missing)
            self._used[self._coming.slots] = COMING
        else:
            self._used[there] = before

    @property
    def _most(self) -> int:
        """Chunks that there may be at once."""
        return max(1, self.slots // BESIDE) if self.chosen.active else self.slots

    @property
    def crowded(self) -> bool:
        """Not all chunks fit."""
        return len(self._slot) > self.slots

    def choose(self, rows: NDArray[np.int64]) -> None:
        """Have these rows decoded, as far as they lie in complete chunks, instead of what was there, for
        entries that show several each: of shape (entries, rows). `choose_next` may be given the same before.

        What cannot be had is an error where it is taken."""
        self._release()
        self.chosen.choose(*_distinct(rows, self._first_chunk * self.chunk_rows, self.tail_start))

    def choose_next(self, rows: NDArray[np.int64]) -> None:
        """Begin to decode what `choose` is going to be asked for next, as entries leave room for it."""
        self.chosen.choose_next(*_distinct(rows, self._first_chunk * self.chunk_rows, self.tail_start))

    def _release(self) -> None:
        """Give back the memory of chunks: that of rows takes its place."""
        if self._items:
            self._finish()
            self._items, self._takers, self.whole = {}, {}, False
            self._slot.fill(-1)
            self._chunk.fill(-1)
            self._used.fill(0)

    def _chunks_between(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
        chunks = np.unique(np.concatenate(self._steps(first, last)))
        return chunks[(chunks >= 0) & (chunks < len(self._slot))]

    def _steps(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The first chunk of each of these runs of rows, the second, and so on; the last again of runs that
        are shorter than others."""
        low, high = self._chunks_of(first), self._chunks_of(np.minimum(last, self.tail_start - 1))
        return [np.minimum(low + step, high) for step in range(max(0, int((high - low).max(initial=0))) + 1)]

    def _chunks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows // self.chunk_rows - self._first_chunk

    def _hold(self, chunks: NDArray[np.int64]) -> None:
        """Have all of these chunks; they are distinct and no more than there are slots."""
        slots, coming = self._slot[chunks], self._coming
        if coming is not None and (slots < 0).any():
            crowded = len(chunks) + len(coming.chunks) > self._most
            if crowded or np.isin(chunks[slots < 0], coming.chunks, assume_unique=True).any():
                self._finish()
                slots = self._slot[chunks]
        there = slots >= 0
        self._now += 1
        self._used[slots[there]] = self._now
        missing = chunks[~there]
        if not len(missing):
            return
        gone = self._gone(missing)
        if gone is not None:
            raise EvictedError(gone)
        if not self._have(self._begin(missing)):
            raise ConflictError(
                f"{next(iter(self._columns.values())).files}: was closed, or went back to "
                "an older commit, meanwhile"
            )

    def _gone(self, missing: NDArray[np.int64]) -> str | None:
        """Of which chunk all rows have been dropped."""
        end = (int(missing[0]) + self._first_chunk + 1) * self.chunk_rows
        for column in self._columns.values():
            if end <= column.first:
                return (
                    f"{column.files}: row {end - 1} of {column.name} has left the ring; call the "
                    "sampler's refresh()"
                )
        return None

    def _begin(self, missing: NDArray[np.int64]) -> _Coming:
        """Begin to decode chunks into the slots that can best be done without."""
        used = self._used[: self._most]
        some = len(missing) < len(used)
        free = np.argpartition(used, len(missing) - 1)[: len(missing)] if some else np.arange(len(used))
        free.sort()  # what goes side by side is decoded by one call
        old = self._chunk[free]
        self._slot[old[old >= 0]] = -1
        self._chunk[free], self._used[free] = -1, self._now
        coming = _Coming(missing, free, [])
        columns, chunks = self._columns.values(), (missing + self._first_chunk).tolist()
        files = next(iter(columns)).files
        if files.far:
            announce_first(files, [column.chunk_lookups(chunks) for column in columns])
            announce_first(files, [column.chunk_places(chunks) for column in columns])
        for name, column in self._columns.items():
            if name not in self._items:
                items = np.empty(self.slots * self.chunk_rows, np.dtype((np.void, column.row_bytes)))
                self._takers[name] = taker(items, items.view(column.dtype).reshape(-1, *column.shape))
                self._items[name] = items
            try:
                coming.decodings.append(column.decode(missing + self._first_chunk, self._items[name], free))
            except BaseException:  # others are going to have these slots
                coming.abandon()
                self._used[free] = 0
                raise
        return coming

    def _look(self) -> None:
        self.whole = not self.crowded and int(self._slot.min(initial=0)) >= 0

    def _finish(self) -> None:
        """Have what was expected. A chunk that cannot be had is decoded again, and is an error, where it is
        taken."""
        coming, self._coming = self._coming, None
        if coming is not None:
            with contextlib.suppress(ReplayStoreError):
                self._have(coming)

    def _have(self, coming: _Coming) -> bool:
        """Wait for what is being decoded; whether it is there."""
        try:
            # each: no thread may write to its slots any more.
            finished = [decoding.finish() for decoding in coming.decodings]
        except BaseException:
            coming.abandon()
            self._used[coming.slots] = 0
            raise
        if all(finished):
            self._chunk[coming.slots], self._used[coming.slots] = coming.chunks, self._now
            self._slot[coming.chunks] = coming.slots
            self._look()
        else:
            self._used[coming.slots] = 0
        return all(finished)

    def take(self, rows: NDArray[np.int64], outs: Mapping[str, Rows]) -> None:
        """Fill the arrays of `outs`, by name of column, with rows of any order; EvictedError, CorruptError: a
        chunk cannot be had."""
        if int(rows.max(initial=-1)) < self.tail_start:
            self._take(rows, None, outs)
            return
        tail = rows >= self.tail_start
        for name, out in outs.items():
            out[tail] = self._tails[name][1][rows[tail] - self.tail_start]
        coded = np.flatnonzero(~tail)
        self._take(rows[coded], coded, outs)

    def _take(self, rows: NDArray[np.int64], to: NDArray[np.intp] | None, outs: Mapping[str, Rows]) -> None:
        """Rows of complete chunks to these places of the arrays; None: to all, in order."""
        if not len(rows):
            return
        if self.chosen.active:
            chosen, there = self.chosen.places(rows)
            if there is None:
                _fill(self.chosen.takers, chosen, to, outs)
                return
            to = np.arange(len(rows)) if to is None else to
            _fill(self.chosen.takers, chosen[there], to[there], outs)
            rows, to = rows[~there], to[~there]
        chunk, within = np.divmod(rows, self.chunk_rows)
        chunk -= self._first_chunk
        places = self._slot.take(chunk)
        if self.whole or int(places.min()) >= 0:
            places *= self.chunk_rows
            places += within
            _fill(self._takers, places, to, outs)
            return
        for some in self._rounds(chunk):
            places = self._slot[chunk[some]] * self.chunk_rows + within[some]
            _fill(self._takers, places, some if to is None else to[some], outs)

    def _rounds(self, chunk: NDArray[np.int64]) -> Iterable[NDArray[np.intp]]:
        """Hold the chunks of all these rows, as many at a time as there is room for; which rows can be taken
        then."""
        distinct, most = np.unique(chunk), self._most
        for begin in range(0, len(distinct), most):
            some = distinct[begin : begin + most]
            self._hold(some)
            yield np.flatnonzero((chunk >= some[0]) & (chunk <= some[-1]))


def _distinct(rows: NDArray[np.int64], first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of rows that entries show, of shape (entries, rows), those from `first` to before `stop`, each once;
    and the last entry that shows it."""
    entries = len(rows)
    bits = max(1, entries - 1).bit_length()
    keys = np.sort(((rows << bits) + np.arange(entries)[:, None]).reshape(-1))  # quicker than np.unique
    found = keys >> bits
    ends = np.flatnonzero(np.diff(found, append=-1))
    ends = ends[(found[ends] >= first) & (found[ends] < stop)]
    return found[ends], keys[ends] & ((1 << bits) - 1)


def _fill(
    takers: Mapping[str, Taker],
    places: NDArray[np.integer[Any]],
    to: NDArray[np.intp] | None,
    outs: Mapping[str, Rows],
) -> None:
    """Rows of these places to those places of arrays; None: to all, in order."""
    for name, out in outs.items():
        if to is None:
            takers[name](places, 0, out, "clip")
        else:
            out[to] = takers[name](places, 0)
