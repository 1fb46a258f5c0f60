"""Raw rows of one array, read: adjacent bytes of files (runs), laid side by side.

`PlainColumn` needs a storage that `Reads`, and no more: for storages that cannot be mapped, runs that are not
aligned to pages (members of a zip file, HDF5 chunks of odd sizes), and systems where ranges cannot be mapped.
mapped.py has the same column where the runs are mapped.

The state is one immutable object, replaced at once: reading in one thread while another extends or drops is
safe.
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.protocol import Rows, StoredColumn
from replaystore.columns.taking import taker
from replaystore.containers.protocol import ArraySpec, Extent
from replaystore.errors import ConflictError, CorruptError, SchemaError, StorageError
from replaystore.storage.protocol import Reads

__all__ = ["PlainColumn", "Run", "State", "starts_of"]

READ_THROUGH = 16 << 10
"""Bytes between two wanted rows that are read along rather than skipped by another system call."""
READ_BLOCK = 4 << 20
"""The most that is read at once when wanted rows are picked out of it."""


@dataclass(frozen=True)
class Run:
    """Adjacent bytes of one file."""

    object: str
    offset: int
    length: int
    identity: Hashable
    """Of the file (`Reads.status`): another file of the same name may have replaced this one."""
    base: int = 0
    """Where the object begins in the file that is mapped; of no meaning where nothing is."""

    def continued_by(self, other: Run) -> bool:
        return (
            self.object == other.object
            and self.identity == other.identity
            and self.offset + self.length == other.offset
        )

    def lengthened(self, length: int) -> Run:
        return Run(self.object, self.offset, length, self.identity, self.base)


@dataclass(frozen=True)
class State:
    """What a column is made of between two changes."""

    first: int
    stop: int
    runs: tuple[Run, ...]
    starts: NDArray[np.int64]
    """The byte of the column at which each run begins, and where the last one ends."""
    items: Rows | None
    """The rows as items of one flat array, if they are mapped."""
    window: mmap.mmap | None
    """The range of addresses that `items` lies in."""


class PlainColumn(StoredColumn):
    """Rows [first, stop) of a raw array, read by system calls."""

    def __init__(self, files: Reads, spec: ArraySpec, *, name: str = "", first_row: int = 0) -> None:
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

    def _checked(self, extent: Extent) -> Run:
        """The run of an extent that lies inside its object."""
        size, identity, base = self._look(extent.object)
        if extent.offset < 0 or extent.length < 0 or extent.offset + extent.length > size:
            raise CorruptError(
                f"{self.files.path(extent.object)}: {size} bytes, but rows of {self.name} lie in bytes "
                f"{extent.offset} to "
                f"{extent.offset + extent.length}: it was cut; restore it from a copy"
            )
        return Run(extent.object, extent.offset, extent.length, identity, base)

    def _look(self, name: str) -> tuple[int, Hashable, int]:
        """Size and identity of an object, and where it begins."""
        with self._looking_at(name):
            return self._status(name)

    @contextmanager
    def _looking_at(self, name: str) -> Iterator[None]:
        """What is wrong with an object, as an error of ours. CorruptError: it is missing, for whoever knows
        whether it was dropped meanwhile."""
        try:
            yield
        except FileNotFoundError as error:
            raise CorruptError(
                f"{self.files.path(name)}: missing, and rows of {self.name} lie in it; restore it from a copy"
            ) from error
        except OSError as error:
            raise StorageError(
                f"{self.files.path(name)}: cannot be opened ({error}); check the disk and its permissions"
            ) from error

    def _status(self, name: str) -> tuple[int, Hashable, int]:
        return *self.files.status(name), 0

    def _assemble(self, first: int, stop: int, runs: tuple[Run, ...], old: State | None = None) -> State:
        """The state of these rows; `old` is what a mapping may be continued from."""
        return State(first, stop, runs, starts_of(runs), None, None)

    # --- rows

    def _view(self, items: Rows, start: int, stop: int) -> Rows:
        return items[start:stop].view(self.dtype).reshape(stop - start, *self.shape)

    def _read(self, state: State, start: int, stop: int) -> Rows:
        rows = np.empty((stop - start, *self.shape), self.dtype)
        if rows.size:
            self._read_bytes(state, (start - state.first) * self.row_bytes, rows.reshape(-1).view(np.uint8))
        return rows

    def _read_bytes(self, state: State, position: int, out: NDArray[np.uint8]) -> None:
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

    def _read_run(self, run: Run, inside: int, length: int) -> NDArray[np.uint8]:
        path = self.files.path(run.object)
        if self._look(run.object)[1] != run.identity:
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

    def _take(self, state: State, places: NDArray[np.int64], out: Rows) -> None:
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


# --- runs


def starts_of(runs: Sequence[Run]) -> NDArray[np.int64]:
    return np.cumsum([0, *(run.length for run in runs)], dtype=np.int64)


def _merged(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Adjacent runs of one file made one: each costs a map."""
    merged: list[Run] = []
    for run in runs:
        if merged and merged[-1].continued_by(run):
            merged[-1] = merged[-1].lengthened(merged[-1].length + run.length)
        else:
            merged.append(run)
    return tuple(merged)


def _cut(runs: Sequence[Run], length: int) -> list[Run]:
    """The first `length` bytes."""
    kept = []
    for run in runs:
        if length <= 0:
            break
        kept.append(run.lengthened(min(run.length, length)))
        length -= run.length
    return kept
