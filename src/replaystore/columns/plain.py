"""Raw rows of one array, read: adjacent bytes of files (runs), laid side by side.

`PlainColumn` needs a storage that `Reads`, and no more: for storages that cannot be mapped, runs that are not
aligned to pages (members of a zip file, HDF5 chunks of odd sizes), and systems where ranges cannot be mapped.
mapped.py has the same column where the runs are mapped.

The state is one immutable object, replaced at once: reading in one thread while another extends or drops is
safe.

Of storage that is far, nothing is asked when a column is opened: that a file is missing or too short is seen
when its rows are read. All that a request needs is announced first (far.py), neighbours together as they are
read on a disk; what else is better read along than asked for apart, the storage knows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.far import Ahead, Window
from replaystore.columns.protocol import Place, Rows, StoredColumn, Unchecked
from replaystore.columns.runs import Part, Run, blocks_of, cut, merged, parts_of, starts_of
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Extent
from replaystore.errors import ConflictError, CorruptError, SchemaError, StorageError
from replaystore.storage.protocol import Reads

__all__ = ["PlainColumn", "State"]

READ_THROUGH = 16 << 10
"""Bytes between two wanted rows that are read along rather than skipped by another request."""
READ_BLOCK = 4 << 20
"""The most that is read at once when wanted rows are picked out of it."""

_LATE = (
    "read again, since a server may keep the sizes of files for a moment (turn that off for stores that are "
    "written to); if it goes on, restore it"
)


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
    window: NDArray[np.uint8] | None = None
    """The range of addresses that `items` begins."""
    ready: int = 0
    """The byte of it up to which it shows files."""
    take: Callable[..., Rows] | None = None
    """Takes rows by their places in `items`, if they are mapped: (places, axis 0[, out, mode])."""

    def parts(self, start: int, stop: int, row_bytes: int) -> Sequence[Part]:
        """What is read at once of rows [start, stop), if they are not mapped."""
        low, high = (start - self.first) * row_bytes, (stop - self.first) * row_bytes
        return parts_of(self.runs, self.starts, low, high, READ_BLOCK)


def _nothing() -> None:
    pass


class PlainColumn(StoredColumn):
    """Rows [first, stop) of a raw array, read by system calls.

    Of files that are far, `check()` is called after rows were read, and `check_missing()` when some are not
    there: both raise if the store has gone on meanwhile.
    """

    def __init__(
        self,
        files: Reads,
        spec: ArraySpec,
        *,
        name: str = "",
        first_row: int = 0,
        check: Callable[[], None] = _nothing,
        check_missing: Callable[[], None] = _nothing,
    ) -> None:
        super().__init__(files, spec, name)
        self._shard_rows = spec.shard_rows
        width = max(1, self.row_bytes)
        self._gap, self._most = READ_THROUGH // width, max(1, READ_BLOCK // width)
        """Rows between two wanted ones that are read along, and how many are read at once."""
        self.check, self._check_missing = check, check_missing
        self._window = Window()
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
        kept = cut(old.runs, (start - old.first) * self.row_bytes)
        added = [self._checked(extent) for extent in extents if extent.length]
        self._state = self._assemble(old.first, rows, merged((*kept, *added)), old)

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

    def read(self, start: int, stop: int, unchecked: Unchecked = None) -> Rows:
        """As `StoredColumn.read` says."""
        state = self._state
        self._check_range(state.first, state.stop, start, stop)
        if state.items is None:
            return self._read(state, start, stop, unchecked)
        return self._view(state.items, start - state.first, stop - state.first).copy()

    def take(self, rows: NDArray[np.int64], out: Rows | None = None, unchecked: Unchecked = None) -> Rows:
        """As `StoredColumn.take` says; without copying in between if `mapped`."""
        state = self._state
        places = self._places(rows, state.first, state.stop)
        if state.take is None:
            out = self._output(len(rows), out)
            if out.size:
                self._take(state, places, self._items(out))
                if self.files.far and unchecked is not None:
                    unchecked.append((self.check, _nothing))
                elif self.files.far:
                    self.check()
            return out
        if out is None:
            return state.take(places, 0)
        # mode: NumPy would otherwise gather into a buffer first, so as to leave `out` alone should a row be
        # out of bounds.
        return state.take(places, 0, self._output(len(rows), out), "clip")

    def take_within(self, rows: NDArray[np.int64], first: int, stop: int) -> Rows:
        state = self._state
        if state.take is None or not state.first <= first <= stop <= state.stop:
            return self.take(rows)
        return state.take(rows - state.first if state.first else rows, 0)

    def places(self, wanted: slice | NDArray[np.int64]) -> Iterator[Place]:
        """As `StoredColumn.places` says; none of rows that are not there."""
        state = self._state
        if isinstance(wanted, slice):
            start, end, _ = self._ends(state, wanted)
            yield from (part.place for part in state.parts(start, end, self.row_bytes))
        elif self.row_bytes and len(wanted) and state.first <= wanted.min() <= wanted.max() < state.stop:
            for _, _, low, high in blocks_of(np.sort(wanted) - state.first, self._gap, self._most):
                yield from (
                    part.place for part in state.parts(state.first + low, state.first + high, self.row_bytes)
                )

    def coming(self, wanted: slice) -> Iterator[Place]:
        state = self._state
        _, end, after = self._ends(state, wanted)
        return (part.place for part in state.parts(end, after, self.row_bytes))

    def _ends(self, state: State, wanted: slice) -> tuple[int, int, int]:
        """From where to where is read for a slice, and where what is announced behind it ends."""
        start, stop = wanted.start, wanted.stop
        known = self._window.has(start, stop) or not state.first <= start < stop <= state.stop
        if known or not self.row_bytes:
            return state.first, state.first, state.first
        return start, *self._window.ends(start, stop, state.stop, self.row_bytes)

    # --- state

    def _checked(self, extent: Extent) -> Run:
        """The run of an extent that lies inside its object."""
        if self.files.far:
            return Run(extent.object, extent.offset, extent.length, None)
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
        return State(first, stop, runs, starts_of(runs), None)

    # --- rows

    def _view(self, items: Rows, start: int, stop: int) -> Rows:
        return items[start:stop].view(self.dtype).reshape(stop - start, *self.shape)

    def _read(self, state: State, start: int, stop: int, unchecked: Unchecked = None) -> Rows:
        far = self.files.far and start < stop and self.row_bytes > 0
        known = self._window.find(start, stop) if far else None
        if known is not None:
            return known
        ends = self._window.ends(start, stop, state.stop, self.row_bytes) if far else (stop, stop)
        rows = np.empty((ends[0] - start, *self.shape), self.dtype)
        if not rows.size:
            return rows
        parts = state.parts(start, ends[0], self.row_bytes)
        coming = state.parts(*ends, self.row_bytes)
        with Ahead(self.files, [part.place for part in (*parts, *coming)]) as ahead:
            self._fill(rows.reshape(-1).view(np.uint8), parts, ahead)
        if not far:
            return rows
        if unchecked is None:
            self.check()
            self._window.passed(start, stop, ends, rows)
        else:
            unchecked.append((self.check, partial(self._window.passed, start, stop, ends, rows)))
        return rows if ends[0] == stop else rows[: stop - start].copy()

    def _fill(self, out: NDArray[np.uint8], parts: Sequence[Part], ahead: Ahead | None = None) -> None:
        """Read parts, one behind the other."""
        filled = 0
        for part in parts:
            if ahead is not None:
                ahead.next()
            out[filled : filled + part.length] = self._read_run(part.run, part.inside, part.length)
            filled += part.length

    def _read_run(self, run: Run, inside: int, length: int) -> NDArray[np.uint8]:
        path, far = self.files.path(run.object), self.files.far
        if not far and self._look(run.object)[1] != run.identity:
            raise ConflictError(
                f"{path}: another file has taken its place, rows of {self.name} with it; refresh or reopen"
            )
        try:
            data = self.files.read(run.object, run.offset + inside, length)
        except FileNotFoundError as error:
            if not far:
                raise StorageError(
                    f"{path}: rows of {self.name} cannot be read ({error}); check the disk"
                ) from error
            data = b""
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"{path}: rows of {self.name} cannot be read ({error}); check the disk"
            ) from error
        if len(data) != length:
            self._check_missing()
            remedy = _LATE if far else "restore it"
            raise CorruptError(
                f"{path}: ends before byte {run.offset + inside + length}, where rows of "
                f"{self.name} lie; {remedy}"
            )
        return np.frombuffer(data, np.uint8)

    def _take(self, state: State, places: NDArray[np.int64], out: Rows) -> None:
        """Read the rows at these places, neighbours together."""
        order = np.argsort(places, kind="stable")
        ordered = places[order]
        blocks = list(blocks_of(ordered, self._gap, self._most))
        if not self.files.far:
            for begin, end, low, high in blocks:
                parts = state.parts(state.first + low, state.first + high, self.row_bytes)
                self._pick(parts, ordered[begin:end] - low, out, order[begin:end])
            return
        first = state.first
        several = [state.parts(first + low, first + high, self.row_bytes) for _, _, low, high in blocks]
        with Ahead(self.files, [part.place for parts in several for part in parts]) as ahead:
            for parts, (begin, end, low, _) in zip(several, blocks, strict=True):
                self._pick(parts, ordered[begin:end] - low, out, order[begin:end], ahead)

    def _pick(
        self,
        parts: Sequence[Part],
        places: NDArray[np.int64],
        out: Rows,
        to: NDArray[np.intp],
        ahead: Ahead | None = None,
    ) -> None:
        """Read a block, and give its rows at these places the places `to` of the result."""
        if len(parts) == 1:
            if ahead is not None:
                ahead.next()
            block = self._read_run(*parts[0])
        else:
            block = np.empty(sum(part.length for part in parts), np.uint8)
            self._fill(block, parts, ahead)
        out[to] = block.view(self._item)[places]
