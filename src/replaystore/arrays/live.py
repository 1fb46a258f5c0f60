"""The rows of a store that is written to, those included that no commit has: as columns, for the process and
the thread that write.

Raw rows are in the files as soon as they are appended, and files are mapped a good way ahead, so that for
most steps there is nothing to do. Of coded arrays the rows of the unfinished chunk are looked at where they
gather, and full chunks that are not stored yet are kept for who looks (`Appender.watch`).

Invariants: (1) no row at or behind the newest one is ever touched: pages behind the end of a file kill the
process; (2) a column shows all rows up to `reach` without being told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from replaystore.arrays.appending import Appender
from replaystore.columns.coded import CodedColumn
from replaystore.columns.mapped import MappedColumn, raw_column
from replaystore.columns.plain import PlainColumn
from replaystore.columns.protocol import Rows, Unchecked
from replaystore.columns.values import Values
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry, Codec
from replaystore.schema import tree
from replaystore.schema.fields import Schema

__all__ = ["LiveColumns"]

NEVER = 1 << 62


class LiveColumns:
    """The columns of fields, with all rows that have been appended."""

    def __init__(self, store: Appender, schema: Callable[[], Schema], flush: Callable[[], None]) -> None:
        """`flush` hands over to the store what is staged elsewhere."""
        self.store = store
        self._schema, self._flush = schema, flush
        self._columns: dict[str, PlainColumn | CodedColumn] = {}
        self._values: dict[str, PlainColumn | CodedColumn] = {}
        """Of fields of any length; they have as many rows as values were appended."""
        self._first = self._stop = self._written = 0
        self._reach, self._drops = 0, NEVER
        """Up to which row, and until which row has left a ring, nothing is to be done."""
        store.watch()

    @property
    def schema(self) -> Schema:
        """What one step holds."""
        return self._schema()

    def stored_column(self, stored: str) -> PlainColumn | CodedColumn:
        """The column of a field; good until `go_on` says otherwise."""
        column = self._columns.get(stored)
        if column is None:
            column = self._columns[stored] = self._opened(stored, self._first)
            self._bring_steps(stored, column)
        return column

    def values_of(self, name: str) -> Values:
        """The values of a field of any length that have been appended: those of steps that are staged have
        not. To be asked for anew when there are more."""
        stored, store = tree.values(name), self.store
        first, column = store.first(stored), self._values.get(stored)
        if column is None:
            column = self._values[stored] = self._opened(stored, first)
        self._bring(stored, column, first, store.next_row(stored))
        return Values(column, self.schema.fields[name], first=first)

    def go_on(self, first: int, stop: int) -> bool:
        """There are the rows from `first` to before `stop` now, some of which may be staged; whether columns
        have to be asked for anew."""
        self._first, self._stop = first, stop
        if stop <= self._reach and first < self._drops:
            return False
        self.have(stop)
        self._reach, self._drops = NEVER, NEVER
        for stored, column in self._columns.items():
            self._bring_steps(stored, column)
        if not self._columns:
            self._reach = stop
        return True

    def have(self, stop: int) -> None:
        """Have the rows before this one in the store: those that are staged are not."""
        if stop > self._written:
            self._flush()
            self._written = self._stop

    def _opened(self, stored: str, first: int) -> PlainColumn | CodedColumn:
        store, spec = self.store, self.store.container.specs()[stored]
        files, unit = store.container.files, store.container.capabilities.run_rows(spec)
        if spec.codec is not None:
            codec = store.container.codec(spec)
            return _LiveCoded(store, spec, codec, stored, first)
        return raw_column(files, spec, name=stored, first_row=first // unit * unit)

    def _bring_steps(self, stored: str, column: PlainColumn | CodedColumn) -> None:
        """Show all rows in a column of steps."""
        reach, drops = self._bring(stored, column, self._first, self._stop)
        self._reach, self._drops = min(self._reach, reach), min(self._drops, drops)

    def _bring(
        self, stored: str, column: PlainColumn | CodedColumn, first: int, stop: int
    ) -> tuple[int, int]:
        """Show these rows in a column: up to which row it shows others that are appended without being told,
        and until which has left a ring it is good."""
        store, spec = self.store, self.store.container.specs()[stored]
        if isinstance(column, CodedColumn):
            begin = stop // spec.chunk_rows * spec.chunk_rows
            column.drop_before(min(first, begin))
            # All of the chunk, which rows gather in: whoever takes rows knows which there are.
            column.set_tail(begin, store.gathering(stored))
            return begin + spec.chunk_rows - 1, (first // spec.chunk_rows + 1) * spec.chunk_rows
        unit = store.container.capabilities.run_rows(spec)
        column.drop_before(first)
        if column.stop < stop:
            start = max(column.stop // unit * unit, column.first)
            column.extend(store.container.extents(stored, start, stop), stop, start=start)
        reach = column.look_ahead(-(-stop // unit) * unit) if isinstance(column, MappedColumn) else stop
        return reach, (first // unit + 1) * unit


class _LiveCoded(CodedColumn):
    """A coded column, of which chunks may be in memory, or stored and in no commit."""

    def __init__(self, store: Appender, spec: ArraySpec, codec: Codec, stored: str, first: int) -> None:
        self._appender, self._stored = store, stored
        super().__init__(
            store.container.files,
            spec,
            codec,
            partial(_locate, store, stored),
            partial(_checksum, store, stored),
            name=stored,
            first_row=first,
        )

    def read(self, start: int, stop: int, unchecked: Unchecked = None) -> Rows:
        """As that of other columns."""
        size, kept = self.chunk_rows, self._appender.unstored.get(self._stored)
        chunks = range(start // size, -(-stop // size))
        if not kept or kept.keys().isdisjoint(chunks):
            return super().read(start, stop, unchecked)
        out = np.empty((stop - start, *self.shape), self.dtype)
        for chunk in chunks:
            low, high = max(start, chunk * size), min(stop, (chunk + 1) * size)
            rows = kept.get(chunk)
            if rows is None:
                out[low - start : high - start] = super().read(low, high, unchecked)
            else:
                whole = rows.reshape(-1).view(self.dtype).reshape(size, *self.shape)
                out[low - start : high - start] = whole[low - chunk * size : high - chunk * size]
        return out

    def decode_job(self, job: Sequence[tuple[int, int]], out: Rows) -> list[tuple[int, int]]:
        """As that of other columns."""
        kept = self._appender.unstored.get(self._stored)
        if kept:
            chunks, others = out.view(np.uint8).reshape(-1, self.chunk_bytes), []
            for chunk, place in job:
                rows = kept.get(chunk)
                if rows is None:
                    others.append((chunk, place))
                else:
                    chunks[place] = rows.reshape(-1)
            job = others
        return super().decode_job(job, out) if job else []


def _locate(store: Appender, stored: str, chunk: int) -> ChunkEntry | None:
    """Where a chunk lies; None: nowhere, since it is in memory."""
    if chunk in store.unstored.get(stored, {}):
        return None
    fresh = store.fresh.get(stored, {}).get(chunk)
    return store.locate(stored, chunk) if fresh is None else fresh[0]


def _checksum(store: Appender, stored: str, chunk: int) -> int | None:
    fresh = store.fresh.get(stored, {}).get(chunk)
    return store.checksum(stored, chunk) if fresh is None else fresh[1]
