"""Raw rows of one array as one NumPy array, mapped from the files that they lie in.

`MappedColumn` reserves a range of addresses and maps the array's runs into it, one behind the other, so that
however many files the rows lie in, a random batch is one `take`. `raw_column` chooses it where the storage
`Maps`, and else the same column read by requests (plain.py).

Invariants of the mapping:

1. A page past the end of its file kills the process that touches it (SIGBUS): the size of a file is looked at
   before its rows are shown, and rows beyond `stop` are never touched.
2. An address that shows bytes goes on showing the same bytes of the same file as long as any array refers to
   it. Pages are only ever added. Whatever would change them (dropped shards, a file replaced by a copy, too
   small a reservation) gets a new range, and the old one is unmapped by the last array that refers to it.
3. The state is one immutable object, replaced at once: reading in one thread while another extends or drops
   is safe.
4. Addresses and places in files agree up to multiples of HUGE, as far as the lengths of shards allow: where
   the system keeps a file in memory in pieces of that size, which it does with what was written in large
   blocks, one entry of its tables maps a whole piece, and random rows find their addresses at once.

Tried and refused: to have pages mapped before they are touched (MADV_POPULATE_READ) takes as long as the
faults that it saves, and by a thread it comes after most of them. A thread that touched the rows planned next
took a third off the processor time of the one that samples its first batches, and 7 % off what they took, on
two busy cores; on idle ones it was not measured. Touched in the order of rows, they took 1.4 times as long.
MADV_HUGEPAGE changes nothing for files, and MADV_COLLAPSE is refused where the kernel has no huge pages for
them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.plain import PlainColumn, State
from replaystore.columns.protocol import Rows
from replaystore.columns.runs import Run, starts_of
from replaystore.columns.taking import taker
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import CorruptError, StorageError
from replaystore.storage.protocol import Maps, MapsReads, Reads

__all__ = ["MappedColumn", "raw_column"]

RESERVE_AT_LEAST = 256 << 20
RESERVE_TIMES = 4
"""Addresses cost nothing and a new range costs page faults: one for a growing array each time it has become
four times as long."""
MOST_MAPS = 8192
"""Runs mapped for one column; Linux gives a process 65,530 for everything."""
HUGE = 2 << 20
"""What one entry of the tables of pages can map."""
MAP_AHEAD = 1 << 20
"""Bytes behind a column's last row that are mapped with it: what a buffer grows by then shows by itself."""
MAP_FIXED = 0x10
"""The same on Linux and macOS."""


class MappedColumn(PlainColumn):
    """Rows [first, stop) of a raw array, mapped; read by system calls while their runs cannot be mapped side
    by side."""

    def __init__(self, files: MapsReads, spec: ArraySpec, *, name: str = "", first_row: int = 0) -> None:
        self._maps: Maps = files
        self._reach = first_row
        super().__init__(files, spec, name=name, first_row=first_row)

    @property
    def items(self) -> Rows | None:
        """As that of other columns, with rows that are going to be there if `look_ahead` was asked for."""
        state = self._state
        if state.window is None or state.items is None or self._reach <= state.stop:
            return state.items
        stop = min(self._reach, state.first + state.ready // self.row_bytes)
        return state.window[: (max(stop, state.stop) - state.first) * self.row_bytes].view(self._item)

    def look_ahead(self, limit: int) -> int:
        """Have `items` show rows that are going to be there, those before `limit` at most, up to which the
        file goes on; up to which. None of them is to be touched before it is in the file."""
        state = self._state
        shown = 0 if state.items is None else state.ready // self.row_bytes
        self._reach = max(state.stop, min(limit, state.first + shown))
        return self._reach

    def holds(self, stop: int) -> bool:
        """Whether the file that is mapped last has got the rows to before `stop`, which `items` shows."""
        state = self._state
        if stop <= state.stop or stop > self._reach:
            return stop <= state.stop
        last = state.runs[-1]
        try:
            size, identity, _ = self._status(last.object)
        except OSError:
            return False
        end = last.offset + (stop - state.first) * self.row_bytes - int(state.starts[-2])
        return end <= size and identity == last.identity

    def _status(self, name: str) -> tuple[int, Hashable, int]:
        with self._maps.place(name) as (fd, base, size):
            return size, _identity(fd), base

    def _assemble(self, first: int, stop: int, runs: tuple[Run, ...], old: State | None = None) -> State:
        if not runs or not self.row_bytes or first == stop or not _mappable(runs):
            return super()._assemble(first, stop, runs)
        starts = starts_of(runs)
        total = int(starts[-1])
        window = old.window if old is not None else None
        done = ready = 0
        if window is not None and old is not None and _extends(runs, old.runs) and total <= len(window):
            done, ready = int(old.starts[-1]), old.ready
        else:
            window = _reserve(total, runs[0].base + runs[0].offset)
        for number in range(max(0, int(np.searchsorted(starts, done)) - 1), len(runs)):
            start = int(starts[number])
            ready = self._map(window, runs[number], start, ready if start < done else start)
        items = window[: (stop - first) * self.row_bytes].view(self._item)
        take = taker(items, items.view(self.dtype).reshape(stop - first, *self.shape))
        return State(first, stop, runs, starts, items, window, ready, take)

    def _map(self, window: NDArray[np.uint8], run: Run, start: int, ready: int) -> int:
        """Map what is not yet mapped of a run that begins at byte `start` of the window, where it shows its
        file up to byte `ready`; up to which it does then."""
        inside = ready - start
        if inside >= run.length:
            return ready
        # What follows in the file is mapped, too; a next run, which lies elsewhere, takes its place.
        length = _pages(min(run.length - inside + MAP_AHEAD, len(window) - ready))
        at, place = window.ctypes.data + ready, run.base + run.offset + inside
        with ExitStack() as stack:
            with self._looking_at(run.object):  # the file may have been dropped since
                fd, base, size = stack.enter_context(self._maps.place(run.object))
            if (run.identity, run.base) != (_identity(fd), base) or run.offset + run.length > size:
                raise CorruptError(
                    f"{self.files.path(run.object)}: replaced or cut while it was being mapped; "
                    "open the store again"
                )
            if _mmap()(at, length, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, fd, place) != at:
                reason = os.strerror(ctypes.get_errno())
                raise StorageError(
                    f"{self.files.path(run.object)}: cannot be mapped ({reason}); close stores, "
                    "or raise vm.max_map_count"
                )
        return ready + length


def raw_column(
    files: Reads,
    spec: ArraySpec,
    *,
    name: str = "",
    first_row: int = 0,
    mapped: type[MappedColumn] = MappedColumn,
    **checks: Callable[[], None],
) -> PlainColumn:
    """An empty column of a raw array, `mapped` where the storage and the system can do that. `checks`: those
    of a `PlainColumn`."""
    if isinstance(files, Maps) and _mapping_works():
        return mapped(files, spec, name=name, first_row=first_row)
    return PlainColumn(files, spec, name=name, first_row=first_row, **checks)


def _identity(fd: int) -> Hashable:
    """Of an open file: another one of its name may replace it."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _extends(runs: Sequence[Run], old: Sequence[Run]) -> bool:
    """`runs` begin with all bytes of `old`, in the same places of the same files."""
    if len(runs) < len(old) or tuple(runs[: len(old) - 1]) != tuple(old[:-1]):
        return False
    return (
        runs[len(old) - 1].length >= old[-1].length
        and runs[len(old) - 1].lengthened(old[-1].length) == old[-1]
    )


def _mappable(runs: Sequence[Run]) -> bool:
    """Each run begins on a page, in its file and behind the run before it."""
    page = mmap.ALLOCATIONGRANULARITY
    return (
        len(runs) <= MOST_MAPS
        and all((run.base + run.offset) % page == 0 for run in runs)
        and all(run.length % page == 0 for run in runs[:-1])
    )


# --- addresses


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _reserve(size: int, place: int) -> NDArray[np.uint8]:
    """A range of addresses that shows nothing yet, and agrees with a place in a file up to multiples of HUGE.
    Python unmaps it, with all that was mapped into it, when no array refers to it."""
    for length in (max(RESERVE_AT_LEAST, RESERVE_TIMES * size), size):
        try:
            # PROT_NONE: neither memory nor swap is set aside, and what is not mapped cannot be read as zeros.
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            window = np.frombuffer(mmap.mmap(-1, _pages(length) + HUGE, flags=flags, prot=0), np.uint8)
        except OSError as error:
            refused = error
            continue
        shift = (place - window.ctypes.data) % HUGE
        return window[shift : shift + _pages(length)]
    raise StorageError(
        f"{size} bytes of addresses are not to be had ({refused}); raise the limit of address space "
        "(ulimit -v)"
    ) from refused


def _mapping_works() -> bool:
    return sys.platform in ("linux", "darwin") and ctypes.sizeof(ctypes.c_void_p) == 8


@functools.cache
def _mmap() -> Callable[..., int | None]:
    """mmap of the C library: Python's own cannot map at a given address."""
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    return function
