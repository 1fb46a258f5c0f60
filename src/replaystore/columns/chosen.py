"""Some rows of coded columns, each decoded chunk of which is thrown away: where rows of a large store are
drawn at random, chunks that are kept are seldom asked for again, and rows that are known beforehand take far
less memory.

All memory is for the rows of one group of batches, and yet the next group is decoded meanwhile: as batches
are made, rows that no later one shows make room for it. With two halves that take turns each chunk would be
decoded twice as often.

Invariants:
(1) Each chunk is decoded once for all rows of all columns of a group that lie in it, by threads, into memory
that a thread uses again and again.
(2) `_shown` says of each place in memory which row lies there: what is on its way, or was overwritten, is
not there, whoever asks.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from replaystore.columns import decoding_pool
from replaystore.columns.coded import JOB_BYTES, CodedColumn
from replaystore.columns.far import announce_first
from replaystore.columns.jobs import Jobs
from replaystore.columns.protocol import Rows
from replaystore.columns.taking import Taker, taker
from replaystore.errors import ReplayStoreError

__all__ = ["ChosenRows", "rows_in"]

Numbers = NDArray[np.int64]
BESIDE = 48
"""Bytes of tables for each row in memory: which row lies there, and of both groups its number, its place,
when it is shown last and the order in which places become free."""

_threads = threading.local()


def rows_in(limit: int, row_bytes: Iterable[int]) -> int:
    """Of how many rows so many bytes are memory, where each lies in several places: of so many bytes each."""
    return limit // max(1, sum(size + BESIDE for size in row_bytes))


class ChosenRows:
    """Rows that were decoded for the batches of a group, and the place of those of the next one.

    Args:
        columns: by name; their chunks have the same number of rows.
        most: rows that may be chosen at once; memory is taken for no more than there are.
    """

    def __init__(self, columns: Mapping[str, CodedColumn], most: int) -> None:
        self._columns = dict(columns)
        some = next(iter(columns.values()))
        self.room = max(1, min(most, some.tail[0] - some.first))
        """Rows that may be chosen at once."""
        self._reset()

    def _reset(self) -> None:
        self.items: dict[str, Rows] = {}
        self.takers: dict[str, Taker] = {}
        self._shown = np.empty(0, np.int64)
        self._now: _Group | None = None
        self._next: _Group | None = None
        self._used = 0
        """Entries of the group that were used."""

    @property
    def active(self) -> bool:
        """There are rows."""
        return self._now is not None

    def forget(self) -> None:
        """Hold nothing, whatever was under way: in a forked child."""
        self._reset()

    def abandon(self) -> None:
        """End what is under way."""
        if self._next is not None:
            self._next.abandon()
            self._next = None

    def choose(self, rows: Numbers, last: Numbers) -> None:
        """Have these rows; what was there before makes room.

        Args:
            rows: sorted and distinct; all of them lie in complete chunks.
            last: which entry shows each of them last.
        """
        if self._next is not None and not np.array_equal(self._next.rows, rows[: self.room]):
            self.abandon()
        if self._next is None:
            self._now = None
            self._shown.fill(-1)
            self._next = self._group(rows, last)
        coming, self._now, self._used = self._next, None, 0
        try:
            there = coming is not None and coming.finish(self._shown)
        except ReplayStoreError:
            there = False
        except BaseException:  # others are going to have these places
            self.abandon()
            raise
        self._next = None
        if there and coming is not None:
            self._now = coming
            self._shown[coming.slots] = coming.rows

    def choose_next(self, rows: Numbers, last: Numbers) -> None:
        """Begin to decode what `choose` is going to be asked for next."""
        if self._next is None:
            with contextlib.suppress(ReplayStoreError):
                self._next = self._group(rows, last)
                self._make_room()

    def used(self, count: int) -> None:
        """So many more entries are not needed any more."""
        self._used += count
        self._make_room()

    def places(self, rows: Numbers) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
        """What rows are to be taken by `takers`, and which of them are there (None: all)."""
        assert self._now is not None
        places = np.searchsorted(self._now.rows, rows)
        places[places == len(self._now.rows)] = 0
        slots = self._now.slots[places]
        there = self._shown[slots] == rows
        return slots, None if there.all() else there

    def _group(self, rows: Numbers, last: Numbers) -> _Group | None:
        if not len(rows):
            return None
        if not self.items:
            self._shown = np.full(self.room, -1, np.int64)
            for name, column in self._columns.items():
                items = np.empty(self.room, np.dtype((np.void, column.row_bytes)))
                self.takers[name] = taker(items, items.view(column.dtype).reshape(-1, *column.shape))
                self.items[name] = items
        rows, last = rows[: self.room], last[: self.room]
        free = np.arange(self.room, dtype=np.int32) if self._now is None else self._now.following
        return _Group(self._columns, self.items, rows, last, free)

    def _make_room(self) -> None:
        """Have as many rows of the next group decoded as there is room for."""
        if self._next is not None:
            spare = self.room if self._now is None else self._now.spare(self._used)
            self._next.go_on(spare, self._shown)


class _Group(Jobs[range]):
    """Rows of a group of batches that are being decoded to places that become free one after the other.

    Args:
        free: all places, in the order in which they become free.
    """

    def __init__(
        self,
        columns: Mapping[str, CodedColumn],
        items: Mapping[str, Rows],
        rows: Numbers,
        last: Numbers,
        free: NDArray[np.int32],
    ) -> None:
        super().__init__()
        self._columns, self._items = columns, items
        some = next(iter(columns.values()))
        self._chunk_rows, self._files = some.chunk_rows, some.files
        self.rows, self.slots = rows, free[: len(rows)]
        keys = np.sort((last << 32) + np.arange(len(last)))  # quicker than argsort
        self._lasts = (keys >> 32).astype(np.int32)
        self.following = np.concatenate([free[len(rows) :], self.slots[keys & 0xFFFFFFFF]])
        """All places, in the order in which they become free once these rows are there."""
        chunks = rows // self._chunk_rows
        begins = np.flatnonzero(np.diff(chunks, prepend=-1))
        self._chunks, self._bounds = chunks[begins], np.append(begins, len(rows))
        for column in columns.values():
            column.find(self._chunks.tolist())
            column.add(self)
        self._again: list[tuple[str, int]] = []
        """Chunks of columns, by their place among `_chunks`, that could not be decoded."""
        size = max(1, JOB_BYTES // sum(column.chunk_bytes for column in columns.values()))
        self._edges = np.append(np.arange(0, len(self._chunks), size), len(self._chunks))
        """Chunks at which jobs begin, and where the last one ends."""
        self._begun = 0

    def spare(self, used: int) -> int:
        """How many of `following` are free once so many entries were used."""
        return len(self.following) - len(self.rows) + int(np.searchsorted(self._lasts, used))

    def go_on(self, free: int, shown: Numbers) -> None:
        """Decode those rows for which so many free places are enough; `shown` says of the places that are
        taken that nothing is there, before anything is."""
        job = int(np.searchsorted(self._bounds[self._edges], free, side="right")) - 1
        if job <= self._begun:
            return
        edges = self._edges[self._begun : job + 1].tolist()
        shown[self.slots[self._bounds[edges[0]] : self._bounds[edges[-1]]]] = -1
        if self._files.far:
            chunks = self._chunks[edges[0] : edges[-1]].tolist()
            announce_first(self._files, [column.chunk_places(chunks) for column in self._columns.values()])
        self.begin(
            [range(first, stop) for first, stop in itertools.pairwise(edges)],
            max(1, decoding_pool.shared.workers - 1),
        )
        self._begun = job  # last: what an error kept from being begun is begun again

    def do(self, job: range) -> None:
        """As `Jobs.do`."""
        bounds = (self._bounds[job.start : job.stop + 1] - self._bounds[job.start]).tolist()
        begin, end = int(self._bounds[job.start]), int(self._bounds[job.stop])
        within, slots = self.rows[begin:end] % self._chunk_rows, self.slots[begin:end]
        chunks = self._chunks[job.start : job.stop].tolist()
        for name, column in self._columns.items():
            items = self._items[name]
            if column.apart:
                found = _scratch(items.itemsize * len(slots)).view(items.dtype)
                for place, content in enumerate(column.contents(chunks)):
                    some = slice(bounds[place], bounds[place + 1])
                    if content is None:
                        self._again.append((name, job.start + place))
                    else:
                        content.take(within[some], None, found[some], "clip")
            else:
                size = len(job) * column.chunk_bytes
                memory = _scratch(size + items.itemsize * len(slots))
                decoded, found = memory[:size].view(items.dtype), memory[size:].view(items.dtype)
                wrong = column.decode_job([(chunk, place) for place, chunk in enumerate(chunks)], decoded)
                self._again.extend((name, job.start + place) for _, place in wrong)
                before = np.repeat(np.arange(len(job)) * self._chunk_rows, np.diff(bounds))
                decoded.take(within + before, None, found, "clip")
            items.put(slots, found, "clip")

    def finish(self, shown: Numbers) -> bool:
        """Decode what is left, as `go_on`; whether all are there. CorruptError: a chunk cannot be had."""
        self.go_on(len(self.rows), shown)
        if not self.end():
            return False
        again, self._again = self._again, []
        for name, chunk in again:  # it may lie somewhere else by now, and `take` finds out
            some = slice(int(self._bounds[chunk]), int(self._bounds[chunk + 1]))
            found = self._columns[name].take(self.rows[some])
            items = self._items[name]
            items[self.slots[some]] = found.reshape(-1).view(items.dtype)
        return True


def _scratch(size: int) -> NDArray[np.uint8]:
    """This thread's memory, of so many bytes."""
    found: NDArray[np.uint8] | None = getattr(_threads, "memory", None)
    if found is None or found.size < size:
        found = _threads.memory = np.empty(size, np.uint8)
    return found[:size]
