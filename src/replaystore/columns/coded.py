"""Rows of an array whose chunks are encoded: fetched, checked, decoded in threads, each chunk once where that
can be foreseen.

1. No chunk is made up. One that is missing, of another checksum, or that does not decode to its size is a
   CorruptError; readers of the container's own format would take a missing one for fill values.
2. A chunk that a request needs as a whole is decoded straight into its place. The others go through a cache
   of decoded chunks, so that small reads one after another do not decode a chunk again. It is shared by all
   columns of the process and bounded in bytes.
3. `locate`, `checksum` and `on_mismatch` are called in the caller's thread only, and nothing else reads the
   column's files then.
4. Each thread reads the bytes that it decodes, one job at a time: of JOB_BYTES of decoded bytes or of a few
   chunks. They lie in its own memory and in its core's cache then; fetched by the caller, they made two
   threads no faster than one.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.columns import decoding_pool
from replaystore.columns.checked_chunks import Failure, Piece, Wanted
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.columns.far import Ahead, announce_first, following
from replaystore.columns.jobs import Jobs
from replaystore.columns.located_chunks import Located
from replaystore.columns.protocol import Place, Rows, Unchecked
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry, Codec
from replaystore.errors import CorruptError, SchemaError
from replaystore.storage.protocol import Reads

__all__ = ["JOB_BYTES", "CodedColumn", "Decoding"]

MOST_KNOWN = 1 << 16
"""Chunks whose places are remembered: finding them anew takes as long as decoding a small one."""
JOB_BYTES = 1 << 20
"""Decoded bytes of a job: handing over less than half of this costs more than it gains."""
JOB_CHUNKS = 4
"""Chunks of a job, be they large, if there are many: if they go side by side, one call decodes them all."""


_To = tuple[int, int]
"""The number of a chunk, and where it goes to, counted in chunks."""


class Decoding(Jobs[Sequence[_To]]):
    """Chunks that are being decoded. Where they go to is undefined until `finish` has returned."""

    def __init__(self, column: CodedColumn, out: Rows, jobs: Iterable[Sequence[_To]], threads: int) -> None:
        super().__init__()
        self._column, self._out, self._again = column, out, list[_To]()
        try:
            self.begin(jobs, threads)
        except BaseException:  # nobody is going to end it
            self.abandon()
            raise

    def do(self, job: Sequence[_To]) -> None:
        """As `Jobs.do`."""
        self._again.extend(self._column.decode_job(job, self._out))

    def finish(self) -> bool:
        """Decode what is left; whether all are there. CorruptError as `CodedColumn.take`."""
        if not self.end():
            return False
        again, self._again, rows = self._again, [], self._column.chunk_rows
        for chunk, _ in again:  # it may lie somewhere else by now
            self._column._known.pop(chunk, None)
        pieces = [
            Piece(chunk, slice(place * rows, (place + 1) * rows), slice(0, rows), whole=True)
            for chunk, place in again
        ]
        self._column._gather(pieces, self._out)
        return True


class CodedColumn(Located):
    """Rows [first, stop) of a coded array.

    `locate(chunk)` says where a chunk lies (None: there is none) and `checksum(chunk)` what `codec.checksum`
    of it must be (None: not known). `on_mismatch(chunk)` is called once when a chunk is not as it should be,
    because the store may have moved on under a live reader: it may refresh, and says where the chunk lies
    now, or None if nothing has changed. `check()` is called after chunks were read, and raises if what the
    others say has become something else meanwhile, because another thread went on to another history.
    `lookups(chunks)` are the places that `locate` reads to find chunks. `kept`: where decoded chunks are kept
    on the local disk.
    """

    def __init__(
        self,
        files: Reads,
        spec: ArraySpec,
        codec: Codec,
        locate: Callable[[int], ChunkEntry | None],
        checksum: Callable[[int], int | None],
        *,
        name: str = "",
        first_row: int = 0,
        on_mismatch: Callable[[int], ChunkEntry | None] | None = None,
        check: Callable[[], None] = lambda: None,
        lookups: Callable[[Sequence[int]], Sequence[Place]] = lambda _: (),
        kept: ChunkCache | None = None,
    ) -> None:
        super().__init__(files, spec, codec, name, locate, checksum, check, lookups, kept)
        self._last, self._times = -1, 0
        """Where the last request for a slice ended, and how many were one behind the other."""
        self._on_mismatch = on_mismatch
        self._first = first_row
        self._decoding: weakref.WeakSet[Jobs[Any]] = weakref.WeakSet()
        self._tail: tuple[int, Rows] = (first_row, np.empty((0, *self.shape), self.dtype))

    @property
    def first(self) -> int:
        """The first row that there is."""
        return self._first

    @property
    def stop(self) -> int:
        """The row after the last."""
        start, rows = self._tail
        return start + len(rows)

    @property
    def tail(self) -> tuple[int, Rows]:
        """The first row that no chunk holds yet, and those rows."""
        return self._tail

    def set_tail(self, first_row: int, rows: Rows) -> None:
        """Rows before `first_row` lie in chunks, and `rows` follow them: those that no chunk holds yet. They
        are not copied."""
        if first_row < self._first <= first_row + len(rows):  # those before it have left a ring
            rows, first_row = rows[self._first - first_row :], self._first
        if rows.shape[1:] != self.shape or rows.dtype != self.dtype or first_row < self._first:
            raise SchemaError(
                f"{self._where}: {rows.dtype} rows of shape {rows.shape[1:]} from row {first_row} on do not "
                f"continue rows of {self.dtype} "
                f"and shape {self.shape} from row {self._first} on"
            )
        self._tail = (first_row, np.ascontiguousarray(rows))

    def drop_before(self, row: int) -> None:
        """Rows before `row` are no longer there."""
        if row > self.stop:
            self._tail = (row, self._tail[1][:0])
        self._first = max(self._first, row)

    def close(self) -> None:
        """Let go of the decoded chunks; nothing reads the column's files any more."""
        for decoding in list(self._decoding):
            decoding.abandon()
        decoding_pool.shared.cache.forget(self._number)

    def rows(self, start: int, stop: int) -> Rows:
        """A read-only copy of rows [start, stop), of shape (stop - start, *shape)."""
        rows = self.read(start, stop)
        rows.flags.writeable = False
        return rows

    def read(self, start: int, stop: int, unchecked: Unchecked = None) -> Rows:
        """A copy of rows [start, stop), of shape (stop - start, *shape). CorruptError names the chunk that
        cannot be had."""
        tail_start, tail = self._tail
        self._check_range(self._first, tail_start + len(tail), start, stop)
        out = self._output(stop - start, None)
        if out.size:
            coded = min(stop, tail_start)
            self._gather(
                (self._piece(chunk, start, coded) for chunk in self._chunks(start, coded)),
                self._items(out),
                coming=list(self.coming(slice(start, stop))) if self.files.far else (),
            )
            self._times = self._times + 1 if start == self._last else 0
            self._last = stop
            if stop > tail_start:
                begin = max(start, tail_start)
                out[begin - start :] = tail[begin - tail_start : stop - tail_start]
        return out

    def take(self, rows: NDArray[np.int64], out: Rows | None = None, unchecked: Unchecked = None) -> Rows:
        """As `StoredColumn.take` says. CorruptError names the chunk that cannot be had."""
        tail_start, tail = self._tail
        self._places(rows, self._first, tail_start + len(tail))
        out = self._output(len(rows), out)
        if not out.size:
            return out
        items = self._items(out)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        coded = int(np.searchsorted(ordered, tail_start))
        if coded < len(rows):
            items[order[coded:]] = self._items(tail)[ordered[coded:] - tail_start]
        self._gather(self._scattered(order[:coded], ordered[:coded]), items)
        return out

    def decode(self, chunks: NDArray[np.int64], out: Rows, places: NDArray[np.int64]) -> Decoding:
        """Begin to decode complete chunks to places in `out`, which are counted in chunks; its items are
        rows. `finish` it.

        As little as can be is done for each chunk: it is the way that sampling goes. What goes wrong is done
        again, as `take` does it."""
        wanted = list(zip(chunks.tolist(), places.tolist(), strict=True))
        self.find(chunks.tolist())
        threads = max(1, decoding_pool.shared.workers - 1)
        count = max(1, JOB_BYTES // self.chunk_bytes, min(JOB_CHUNKS, len(wanted) // (4 * threads)))
        jobs = (wanted[begin : begin + count] for begin in range(0, len(wanted), count))
        if self.files.far:
            announce_first(self.files, [self.chunk_places(chunks.tolist())])
        decoding = Decoding(self, out, jobs, threads)
        self.add(decoding)
        return decoding

    def add(self, decoding: Jobs[Any]) -> None:
        """What is to be abandoned before the column is closed."""
        self._decoding.add(decoding)

    def find(self, chunks: Sequence[int]) -> None:
        """Find out where complete chunks lie, for `decode_job`."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        if self.files.far:
            announce_first(self.files, [self.chunk_lookups(chunks)])
        for chunk in [chunk for chunk in chunks if chunk not in self._known]:
            entry, checksum = self._look_up(chunk)
            if entry is not None and checksum is not None and self._possible(entry):
                self._known[chunk] = (*entry, checksum)

    def decode_job(self, job: Sequence[_To], out: Rows) -> list[_To]:
        """Decode chunks that were found; those that could not be. In any thread.

        What is done for each chunk is done here, beside others, and not in `decode`: there it kept a learner
        waiting for milliseconds."""
        chunks = out.view(np.uint8).reshape(-1, self.chunk_bytes)
        if self._kept is not None:
            job = [to for to in job if not self._is_kept(to[0], chunks[to[1]])]
        entries = [self._known.get(chunk) for chunk, _ in job]
        known = [entry for entry in entries if entry is not None]
        read = self._read_chunks(known)
        there = [to for to, entry in zip(job, entries, strict=True) if entry is not None]
        checksums = [checksum for *_, checksum in known]
        wrong = self.codec.decode_all(read, checksums, chunks, [place for _, place in there])
        if self._kept is not None:
            for number, ((chunk, place), checksum) in enumerate(zip(there, checksums, strict=True)):
                if number not in wrong:
                    self._kept.put((self.name, chunk, checksum), chunks[place])
        return [there[number] for number in wrong] + [
            to for to, entry in zip(job, entries, strict=True) if entry is None
        ]

    # --- plan

    def _chunks(self, start: int, stop: int) -> range:
        """The chunks that rows [start, stop) lie in."""
        return range(start // self.chunk_rows, -(-stop // self.chunk_rows)) if start < stop else range(0)

    def _piece(self, chunk: int, start: int, stop: int) -> Piece:
        """What of a chunk lies in rows [start, stop), which are the result's first."""
        base = chunk * self.chunk_rows
        low, high = max(base, start), min(base + self.chunk_rows, stop)
        return Piece(
            chunk,
            slice(low - start, high - start),
            slice(low - base, high - base),
            high - low == self.chunk_rows,
        )

    def _scattered(self, order: NDArray[np.intp], ordered: NDArray[np.int64]) -> Iterator[Piece]:
        """What of which chunk rows `ordered` are, which go to the places `order` of the result."""
        chunks, begins = np.unique(ordered // self.chunk_rows, return_index=True)
        ends = [*begins[1:].tolist(), len(ordered)]
        for chunk, begin, end in zip(chunks.tolist(), begins.tolist(), ends, strict=False):
            yield Piece(chunk, order[begin:end], ordered[begin:end] - chunk * self.chunk_rows)

    # --- what is announced of storage that is far

    def lookups(self, wanted: slice | NDArray[np.int64]) -> Sequence[Place]:
        return self.chunk_lookups(self._wanted(wanted))

    def places(self, wanted: slice | NDArray[np.int64]) -> Iterator[Place]:
        return self.chunk_places(self._wanted(wanted), decoded=True)

    def _wanted(self, wanted: slice | NDArray[np.int64]) -> Sequence[int]:
        """The chunks that some rows lie in."""
        if isinstance(wanted, slice):
            return self._chunks(max(wanted.start, self._first), min(wanted.stop, self._tail[0]))
        coded = wanted[(wanted >= self._first) & (wanted < self._tail[0])]
        chunks: list[int] = np.unique(coded // self.chunk_rows).tolist()
        return chunks

    def coming(self, wanted: slice) -> Iterator[Place]:
        stop, length = wanted.stop, wanted.stop - wanted.start
        times = self._times + 1 if wanted.start == self._last else 0
        first = -(-stop // self.chunk_rows)
        end = min(stop + length * following(length, times, self.row_bytes), self._tail[0]) // self.chunk_rows
        return self.chunk_places(range(first, max(first, end)), decoded=True)

    # --- fetch and decode

    def _gather(self, pieces: Iterable[Piece], items: Rows, coming: Iterable[Place] = ()) -> None:
        """Bring the pieces to their places in the result, whose rows are `items`. `coming`: what may be asked
        for next."""
        if self.files.far:
            pieces = list(pieces)
            announce_first(self.files, [self.chunk_lookups([piece.chunk for piece in pieces])])
        wanted: list[Wanted] = []
        for piece in pieces:
            entry, checksum = self._look_up(piece.chunk)
            chunk = (
                None
                if entry is None or (piece.whole and not self.files.far)
                else decoding_pool.shared.cache.get((self._number, piece.chunk, entry, checksum))
            )
            if chunk is None:
                wanted.append((piece, entry, checksum))
            else:
                items[piece.to] = chunk.view(self._item)[piece.of]
        size = max(1, JOB_BYTES // self.chunk_bytes)
        jobs = [wanted[begin : begin + size] for begin in range(0, len(wanted), size)]
        for piece, error in (
            self._do_far(jobs, items, coming) if self.files.far else self._do_all(jobs, items)
        ):
            self._look_again(piece, error, items)
        self.check()

    def _do_all(self, jobs: Sequence[Sequence[Wanted]], items: Rows) -> list[Failure]:
        """Do jobs, side by side if there are several."""
        if len(jobs) == 1:  # handing over takes longer than many a chunk
            return self._do(jobs[0], items)
        failures: list[Failure] = []
        running = deque(decoding_pool.shared.pool().submit(self._do, job, items) for job in jobs)
        try:
            while running:
                failures += running.popleft().result()
        finally:
            for future in running:  # after an error: nobody writes into the result any more
                future.cancel()
            wait(running)
        return failures

    def _do_far(
        self, jobs: Sequence[Sequence[Wanted]], items: Rows, coming: Iterable[Place]
    ) -> list[Failure]:
        """The same, a few at a time, while what the next ones need is on its way."""
        failures: list[Failure] = []
        asked = [
            [self._asked(piece.chunk, entry, checksum) for piece, entry, checksum in job] for job in jobs
        ]
        places = [place for job in asked for place in job if place is not None]
        side_by_side = 2 * decoding_pool.shared.workers
        with Ahead(self.files, [*places, *coming]) as ahead:
            for begin in range(0, len(jobs), side_by_side):
                for job in asked[begin : begin + side_by_side]:
                    for place in job:
                        if place is not None:
                            ahead.next()
                failures += self._do_all(jobs[begin : begin + side_by_side], items)
        return failures

    def _look_again(self, piece: Piece, error: CorruptError, items: Rows) -> None:
        """Once more for a chunk that was not as it should be."""
        self.check()
        entry = self._on_mismatch(piece.chunk) if self._on_mismatch is not None else None
        if entry is None:
            raise error
        for _, again in self._do([(piece, entry, self._checksum(piece.chunk))], items):
            raise again from error
