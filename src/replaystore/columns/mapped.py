"""Raw rows of one array, wherever they lie: as one NumPy array mapped from the files, or read by system
calls.

`MappedColumn` reserves a range of addresses and maps the array's runs into it, one behind the other, so that
however many files the rows lie in, a random batch is one `take`. `PlainColumn` is the same column read by
system calls: for runs that are not aligned to pages (members of a zip file, HDF5 chunks of odd sizes) and for
systems where ranges cannot be mapped. `raw_column` chooses.

Invariants of the mapping:

1. A page past the end of its file kills the process that touches it (SIGBUS): the size of a file is looked at
   before its rows are shown, and rows beyond `stop` are never touched.
2. An address that shows bytes goes on showing the same bytes of the same file as long as any array refers to
   it. Pages are only ever added. Whatever would change them (dropped shards, a file replaced by a copy, too
   small a reservation) gets a new range, and the old one is unmapped by the last array that refers to it.
3. The state is one immutable object, replaced at once: reading in one thread while another extends or drops
   is safe.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.protocol import Rows, StoredColumn
from replaystore.columns.taking import taker
from replaystore.containers.protocol import ArraySpec, Extent
from replaystore.errors import ConflictError, CorruptError, SchemaError, StorageError
from replaystore.storage.local import Files

__all__ = ["MappedColumn", "PlainColumn", "raw_column"]

RESERVE_AT_LEAST = 256 << 20
RESERVE_TIMES = 4
"""Addresses cost nothing and a new range costs page faults: one for a growing array each time it has become
four times as long."""
MOST_MAPS = 8192
"""Runs mapped for one column; Linux gives a process 65,530 for everything."""
READ_THROUGH = 16 << 10
"""Bytes between two wanted rows that are read along rather than skipped by another system call."""
READ_BLOCK = 4 << 20
"""The most that is read at once when wanted rows are picked out of it."""
MAP_FIXED = 0x10
"""The same on Linux and macOS."""


@dataclass(frozen=True)
class _Run:
    """Adjacent bytes of one file."""

    object: str
    offset: int
    length: int
    identity: tuple[int, int, int]
    """Device, inode, and where the object begins in that file: another file of the same name may have
    replaced this one."""

    @property
    def place(self) -> int:
        """Its first byte, counted from the beginning of the file."""
        return self.identity[2] + self.offset

    def continued_by(self, other: _Run) -> bool:
        return (
            self.object == other.object
            and self.identity == other.identity
            and self.offset + self.length == other.offset
        )

    def lengthened(self, length: int) -> _Run:
        return _Run(self.object, self.offset, length, self.identity)


@dataclass(frozen=True)
class _State:
    """What a column is made of between two changes."""

    first: int
    stop: int
    runs: tuple[_Run, ...]
    starts: NDArray[np.int64]
    """The byte of the column at which each run begins, and where the last one ends."""
    items: Rows | None
    """The rows as items of one flat array, if they are mapped."""
    window: mmap.mmap | None
    """The range of addresses that `items` lies in."""


class PlainColumn(StoredColumn):
    """Rows [first, stop) of a raw array, read by system calls."""

    def __init__(self, files: Files, spec: ArraySpec, *, name: str = "", first_row: int = 0) -> None:
        super().__init__(files, spec, name)
        self._shard_rows = spec.shard_rows
        self._state = self._assemble(first_row, first_row, ())

    @property
    def first(self) -> int:
        """The first row that there is."""
        return self._state.first

    @property
    def stop(self) -> int:
        """The row after the last."""
        return self._state.stop

    @property
    def mapped(self) -> bool:
        """The rows are mapped, so that `rows` copies nothing."""
        return self._state.items is not None

    @property
    def items(self) -> Rows | None:
        """All rows as items of one flat read-only array that goes on showing them, if they are mapped; the
        first is row `first`."""
        return self._state.items

    @property
    def window(self) -> mmap.mmap | None:
        """The range of addresses that `items` begins, to give the system advice on."""
        return self._state.window

    def extend(self, extents: Sequence[Extent], rows: int, *, start: int | None = None) -> None:
        """The array now ends with row `rows` - 1, and `extents` hold its rows from `start` on (by default:
        from `stop` on).

        Rows from `start` on that were there before lie in `extents` too, in the same place or in another.
        CorruptError names a file that is missing or too short; SchemaError: the extents do not hold so many
        rows.
        """
        old = self._state
        start = old.stop if start is None else start
        if not old.first <= start <= old.stop or rows < start:
            raise SchemaError(
                f"{self._where}: rows {start} to {rows} do not follow rows {old.first} to "
                f"{old.stop}; pass the rows in order"
            )
        if sum(extent.length for extent in extents) != (rows - start) * self.row_bytes:
            raise SchemaError(
                f"{self._where}: the extents do not hold the {rows - start} rows from {start} "
                "on; pass those of whole rows"
            )
        kept = _cut(old.runs, (start - old.first) * self.row_bytes)
        added = [self._checked(extent) for extent in extents if extent.length]
        self._state = self._assemble(old.first, rows, _merged((*kept, *added)), old)

    def drop_before(self, row: int) -> None:
        """Let go of the runs whose rows all lie before `row`; `first` becomes the first row of the first run
        kept.

        Where none is kept, the column goes on with the shard that `row` lies in.
        """
        old = self._state
        if row <= old.first:
            return
        if row >= old.stop:
            first = max(old.first, row // self._shard_rows * self._shard_rows)
            self._state = self._assemble(first, first, ())
        elif not self.row_bytes:
            self._state = self._assemble(row, old.stop, ())
        else:
            run = int(np.searchsorted(old.starts, (row - old.first) * self.row_bytes, side="right")) - 1
            while old.starts[run] % self.row_bytes:  # a row that lies in two runs keeps both
                run -= 1
            if run:
                self._state = self._assemble(
                    old.first + int(old.starts[run]) // self.row_bytes, old.stop, old.runs[run:]
                )

    def rows(self, start: int, stop: int) -> Rows:
        """Rows [start, stop), read-only, of shape (stop - start, *shape): a view if `mapped`, else a copy.

        A view stays valid, and keeps its files' space on the disk taken, until it is deleted.
        """
        state = self._state
        self._check_range(state.first, state.stop, start, stop)
        rows = (
            self._read(state, start, stop)
            if state.items is None
            else self._view(state.items, start - state.first, stop - state.first)
        )
        rows.flags.writeable = False
        return rows

    def read(self, start: int, stop: int) -> Rows:
        """A copy of rows [start, stop), of shape (stop - start, *shape)."""
        state = self._state
        self._check_range(state.first, state.stop, start, stop)
        if state.items is None:
            return self._read(state, start, stop)
        return self._view(state.items, start - state.first, stop - state.first).copy()

    def take(self, rows: NDArray[np.int64], out: Rows | None = None) -> Rows:
        """As `StoredColumn.take` says; without copying in between if `mapped`."""
        state = self._state
        places = self._places(rows, state.first, state.stop)
        if state.items is None:
            out = self._output(len(rows), out)
            if out.size:
                self._take(state, places, self._items(out))
            return out
        if out is None:
            return self._view(taker(state.items)(places), 0, len(rows))
        # mode: NumPy would otherwise gather into a buffer first, so as to leave `out` alone should a row be
        # out of bounds.
        taker(state.items)(places, None, self._items(self._output(len(rows), out)), "clip")
        return out

    # --- state

    def _checked(self, extent: Extent) -> _Run:
        """The run of an extent that lies inside its object."""
        _, size, identity = self._place(extent.object)
        if extent.offset < 0 or extent.length < 0 or extent.offset + extent.length > size:
            raise CorruptError(
                f"{self.files.path(extent.object)}: {size} bytes, but rows of {self.name} lie in bytes "
                f"{extent.offset} to "
                f"{extent.offset + extent.length}: it was cut; restore it from a copy"
            )
        return _Run(extent.object, extent.offset, extent.length, identity)

    def _place(self, name: str) -> tuple[int, int, tuple[int, int, int]]:
        """Descriptor, size and identity of an object."""
        try:
            fd, base, size = self.files.place(name)
            status = os.fstat(fd)
        except FileNotFoundError as error:
            raise CorruptError(
                f"{self.files.path(name)}: missing, and rows of {self.name} lie in it; restore it from a copy"
            ) from error
        except OSError as error:
            raise StorageError(
                f"{self.files.path(name)}: cannot be opened ({error}); check the disk and its permissions"
            ) from error
        return fd, size, (status.st_dev, status.st_ino, base)

    def _assemble(self, first: int, stop: int, runs: tuple[_Run, ...], old: _State | None = None) -> _State:
        """The state of these rows; `old` is what a mapping may be continued from."""
        return _State(first, stop, runs, _starts(runs), None, None)

    # --- rows

    def _view(self, items: Rows, start: int, stop: int) -> Rows:
        return items[start:stop].view(self.dtype).reshape(stop - start, *self.shape)

    def _read(self, state: _State, start: int, stop: int) -> Rows:
        rows = np.empty((stop - start, *self.shape), self.dtype)
        if rows.size:
            self._read_bytes(state, (start - state.first) * self.row_bytes, rows.reshape(-1).view(np.uint8))
        return rows

    def _read_bytes(self, state: _State, position: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with the bytes of the column from `position` on."""
        number = int(np.searchsorted(state.starts, position, side="right")) - 1
        filled = 0
        while filled < out.size:
            run = state.runs[number]
            inside = position + filled - int(state.starts[number])
            length = min(out.size - filled, run.length - inside)
            for done in range(0, length, READ_BLOCK):  # the bytes are copied: never all of them at once
                part = min(READ_BLOCK, length - done)
                out[filled : filled + part] = self._read_run(run, inside + done, part)
                filled += part
            number += 1

    def _read_run(self, run: _Run, inside: int, length: int) -> NDArray[np.uint8]:
        path = self.files.path(run.object)
        if self._place(run.object)[2] != run.identity:
            raise ConflictError(
                f"{path}: another file has taken its place, rows of {self.name} with it; refresh or reopen"
            )
        try:
            data = self.files.read(run.object, run.offset + inside, length)
        except OSError as error:
            raise StorageError(
                f"{path}: rows of {self.name} cannot be read ({error}); check the disk"
            ) from error
        if len(data) != length:
            raise CorruptError(
                f"{path}: ends before byte {run.offset + inside + length}, where rows of "
                f"{self.name} lie; restore it"
            )
        return np.frombuffer(data, np.uint8)

    def _take(self, state: _State, places: NDArray[np.int64], out: Rows) -> None:
        """Read the rows at these places, neighbours together."""
        order = np.argsort(places, kind="stable")
        ordered = places[order]
        apart = np.flatnonzero(np.diff(ordered) > 1 + READ_THROUGH // self.row_bytes) + 1
        most = max(1, READ_BLOCK // self.row_bytes)
        begin = 0
        for end in (*apart.tolist(), len(ordered)):
            while begin < end:
                low = int(ordered[begin])
                here = begin + int(np.searchsorted(ordered[begin:end], low + most))
                block = np.empty((int(ordered[here - 1]) + 1 - low) * self.row_bytes, np.uint8)
                self._read_bytes(state, low * self.row_bytes, block)
                out[order[begin:here]] = block.view(self._item)[ordered[begin:here] - low]
                begin = here


class MappedColumn(PlainColumn):
    """Rows [first, stop) of a raw array, mapped; read by system calls while their runs cannot be mapped side
    by side."""

    def _assemble(self, first: int, stop: int, runs: tuple[_Run, ...], old: _State | None = None) -> _State:
        if not runs or not self.row_bytes or first == stop or not _mappable(runs):
            return super()._assemble(first, stop, runs)
        starts = _starts(runs)
        total = int(starts[-1])
        window = old.window if old is not None else None
        done = 0
        if window is not None and old is not None and _extends(runs, old.runs) and total <= len(window):
            done = int(old.starts[-1])
        else:
            window = _reserve(total)
        base = np.frombuffer(window, np.uint8)
        for number in range(max(0, int(np.searchsorted(starts, done)) - 1), len(runs)):
            self._map(base, runs[number], int(starts[number]), done)
        items = base[: (stop - first) * self.row_bytes].view(self._item)
        return _State(first, stop, runs, starts, items, window)

    def _map(self, base: NDArray[np.uint8], run: _Run, start: int, done: int) -> None:
        """Map the pages of a run that lie behind byte `done` of the window. The page that `done` lies in
        shows new bytes by itself."""
        inside = max(0, _pages(done) - start)
        if inside >= run.length:
            return
        fd, size, identity = self._place(run.object)
        if run.identity != identity or run.offset + run.length > size:
            raise CorruptError(
                f"{self.files.path(run.object)}: replaced or cut while it was being mapped; "
                "open the store again"
            )
        at = base.ctypes.data + start + inside
        if (
            _mmap()(
                at, run.length - inside, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, fd, run.place + inside
            )
            != at
        ):
            reason = os.strerror(ctypes.get_errno())
            raise StorageError(
                f"{self.files.path(run.object)}: cannot be mapped ({reason}); close stores, "
                "or raise vm.max_map_count"
            )


def raw_column(files: Files, spec: ArraySpec, *, name: str = "", first_row: int = 0) -> PlainColumn:
    """An empty column of a raw array, mapped where the system can do that."""
    kind = MappedColumn if _mapping_works() else PlainColumn
    return kind(files, spec, name=name, first_row=first_row)


# --- runs


def _starts(runs: Sequence[_Run]) -> NDArray[np.int64]:
    return np.cumsum([0, *(run.length for run in runs)], dtype=np.int64)


def _merged(runs: Sequence[_Run]) -> tuple[_Run, ...]:
    """Adjacent runs of one file made one: each costs a map."""
    merged: list[_Run] = []
    for run in runs:
        if merged and merged[-1].continued_by(run):
            merged[-1] = merged[-1].lengthened(merged[-1].length + run.length)
        else:
            merged.append(run)
    return tuple(merged)


def _cut(runs: Sequence[_Run], length: int) -> list[_Run]:
    """The first `length` bytes."""
    kept = []
    for run in runs:
        if length <= 0:
            break
        kept.append(run.lengthened(min(run.length, length)))
        length -= run.length
    return kept


def _extends(runs: Sequence[_Run], old: Sequence[_Run]) -> bool:
    """`runs` begin with all bytes of `old`, in the same places of the same files."""
    if len(runs) < len(old) or tuple(runs[: len(old) - 1]) != tuple(old[:-1]):
        return False
    return (
        runs[len(old) - 1].length >= old[-1].length
        and runs[len(old) - 1].lengthened(old[-1].length) == old[-1]
    )


def _mappable(runs: Sequence[_Run]) -> bool:
    """Each run begins on a page, in its file and behind the run before it."""
    page = mmap.ALLOCATIONGRANULARITY
    return (
        len(runs) <= MOST_MAPS
        and all(run.place % page == 0 for run in runs)
        and all(run.length % page == 0 for run in runs[:-1])
    )


# --- addresses


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _reserve(size: int) -> mmap.mmap:
    """A range of addresses that shows nothing yet. Python unmaps it, with all that was mapped into it, when
    no array refers to it."""
    for length in (max(RESERVE_AT_LEAST, RESERVE_TIMES * size), size):
        try:
            # PROT_NONE: neither memory nor swap is set aside, and what is not mapped cannot be read as zeros.
            return mmap.mmap(-1, _pages(length), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)
        except OSError as error:
            refused = error
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
