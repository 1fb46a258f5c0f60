"""Some rows of coded columns, each decoded chunk of which is thrown away: where rows of a large store are
drawn at random, chunks that are kept are seldom asked for again, and rows that are known beforehand take far
less memory.

Invariants:
(1) Each chunk is decoded once for all rows of all columns that lie in it, by threads, into memory that a
thread uses again and again.
(2) `rows` are sorted and distinct; all columns have all of them, or `finish` says that they have not.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import wait

import numpy as np
from numpy.typing import NDArray

from replaystore.columns import decoding_pool
from replaystore.columns.coded import JOB_BYTES, CodedColumn
from replaystore.columns.far import announce_first
from replaystore.columns.protocol import Rows
from replaystore.columns.taking import taker

__all__ = ["Chosen"]

_threads = threading.local()


class Chosen:
    """Rows that are being decoded; `finish` before they are taken.

    Args:
        columns: by name; their chunks have the same number of rows.
        rows: sorted and distinct; all of them lie in complete chunks.
    """

    def __init__(self, columns: Mapping[str, CodedColumn], rows: NDArray[np.int64]) -> None:
        self.rows = rows
        self._columns = dict(columns)
        self.items: dict[str, Rows] = {
            name: np.empty(len(rows), np.dtype((np.void, column.row_bytes)))
            for name, column in columns.items()
        }
        some = next(iter(columns.values()))
        self._chunk_rows = some.chunk_rows
        chunks, bounds = np.unique(rows // self._chunk_rows, return_index=True)
        self._chunks, self._bounds = chunks, np.append(bounds, len(rows))
        for column in self._columns.values():
            column.find(chunks.tolist())
        if some.files.far:
            places = [column.chunk_places(chunks.tolist()) for column in self._columns.values()]
            announce_first(some.files, places)
        self._again: list[tuple[str, int]] = []
        """Chunks of columns, by their place among `chunks`, that could not be decoded."""
        self._process, self._abandoned = os.getpid(), False
        size = max(1, JOB_BYTES // sum(column.chunk_bytes for column in columns.values()))
        self._jobs = deque(
            range(begin, min(begin + size, len(chunks))) for begin in range(0, len(chunks), size)
        )
        threads = min(max(1, decoding_pool.shared.workers - 1), len(self._jobs))
        self._running = [decoding_pool.shared.pool().submit(self._work) for _ in range(threads)]
        for column in self._columns.values():
            column.add(self)

    def _work(self) -> None:
        """Do what nobody has begun yet."""
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            for name, column in self._columns.items():
                self._decode(name, column, job)

    def _decode(self, name: str, column: CodedColumn, job: range) -> None:
        items = self.items[name]
        decoded = _scratch(len(job) * column.chunk_bytes).view(items.dtype)
        wrong = column.decode_job(
            [(int(self._chunks[chunk]), place) for place, chunk in enumerate(job)], decoded
        )
        if wrong:
            self._again.extend((name, job.start + place) for _, place in wrong)
        begin, end = self._bounds[job.start], self._bounds[job.stop]
        rows = self.rows[begin:end]
        counts = np.diff(self._bounds[job.start : job.stop + 1])
        places = rows % self._chunk_rows + np.repeat(np.arange(len(job)) * self._chunk_rows, counts)
        taker(decoded)(places, None, items[begin:end], "clip")

    def finish(self) -> bool:
        """Decode what is left; whether all are there: a forked child must begin anew. CorruptError: a chunk
        cannot be had."""
        if self._process != os.getpid():
            return False
        try:
            self._work()
        finally:
            running, self._running = self._running, []
            wait([future for future in running if not future.cancel()])
        for future in running:
            if not future.cancelled():
                future.result()
        if self._abandoned:
            return False
        again, self._again = self._again, []
        for name, chunk in again:  # it may lie somewhere else by now, and `take` finds out
            some = slice(int(self._bounds[chunk]), int(self._bounds[chunk + 1]))
            column = self._columns[name]
            found = column.take(self.rows[some])
            self.items[name][some] = found.reshape(-1).view(self.items[name].dtype)
        return True

    def abandon(self) -> None:
        """End it, as soon as no thread is at it."""
        if self._process == os.getpid():
            self._abandoned = True
            self._jobs.clear()
            wait([future for future in self._running if not future.cancel()])

    def places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Where rows are among these, and which of them are there (None: all)."""
        places = np.searchsorted(self.rows, rows)
        places[places == len(self.rows)] = 0
        there = self.rows[places] == rows
        return places, None if there.all() else there


def _scratch(size: int) -> NDArray[np.uint8]:
    """This thread's memory, of so many bytes."""
    found: NDArray[np.uint8] | None = getattr(_threads, "memory", None)
    if found is None or found.size < size:
        found = _threads.memory = np.empty(size, np.uint8)
    return found[:size]
