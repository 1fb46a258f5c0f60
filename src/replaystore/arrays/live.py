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
from replaystore.columns.protocol import Rows
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry, Codec
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
            column = self._columns[stored] = self._opened(stored)
            self._bring(stored, column)
        return column

    def go_on(self, first: int, stop: int) -> bool:
        """There are the rows from `first` to before `stop` now, some of which may be staged; whether columns
        have to be asked for anew."""
        self._first, self._stop = first, stop
        if stop <= self._reach and first < self._drops:
            return False
        self.have(stop)
        self._reach, self._drops = NEVER, NEVER
        for stored, column in self._columns.items():
            self._bring(stored, column)
        if not self._columns:
            self._reach = stop
        return True

    def have(self, stop: int) -> None:
        """Have the rows before this one in the store: those that are staged are not."""
        if stop > self._written:
            self._flush()
            self._written = self._stop

    def _opened(self, stored: str) -> PlainColumn | CodedColumn:
        store, spec = self.store, self.store.container.specs()[stored]
        files, unit = store.container.files, store.container.capabilities.run_rows(spec)
        if spec.codec is not None:
            codec = store.container.codec(spec)
            return _LiveCoded(store, spec, codec, stored, self._first)
        return raw_column(files, spec, name=stored, first_row=self._first // unit * unit)

    def _bring(self, stored: str, column: PlainColumn | CodedColumn) -> None:
        """Show all rows in a column."""
        store, spec, stop = self.store, self.store.container.specs()[stored], self._stop
        if isinstance(column, CodedColumn):
            begin = stop // spec.chunk_rows * spec.chunk_rows
            column.drop_before(min(self._first, begin))
            # All of the chunk, which rows gather in: whoever takes rows knows which there are.
            column.set_tail(begin, store.gathering(stored))
            self._reach = min(self._reach, begin + spec.chunk_rows - 1)
            self._drops = min(self._drops, (self._first // spec.chunk_rows + 1) * spec.chunk_rows)
            return
        unit = store.container.capabilities.run_rows(spec)
        column.drop_before(self._first)
        if column.stop < stop:
            start = max(column.stop // unit * unit, column.first)
            column.extend(store.container.extents(stored, start, stop), stop, start=start)
        reach = column.look_ahead(-(-stop // unit) * unit) if isinstance(column, MappedColumn) else stop
        self._reach = min(self._reach, reach)
        self._drops = min(self._drops, (self._first // unit + 1) * unit)


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
