"""The reading half of an array store: its columns and tables as of a commit, and where the chunks of its
arrays lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from google_crc32c import extend, value
from numpy.typing import NDArray

from replaystore.arrays.changes import changed_column, unchanged
from replaystore.arrays.columns_of import ArrayColumn, open_column, unfinished_rows
from replaystore.arrays.history import ATTEMPTS
from replaystore.arrays.past import Past
from replaystore.arrays.state import SEALED, Piece, State, Stored
from replaystore.arrays.tables import Table, announce_tables, checksums_of
from replaystore.arrays.tail_runs import TailRuns
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.columns.coded import CodedColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry, Container, Extent
from replaystore.errors import CorruptError, EvictedError
from replaystore.interrupts import as_storage_errors
from replaystore.schema import tree

__all__ = ["ArrayColumn", "StoreReader"]

BLOCK_BYTES, FAR_BLOCK_BYTES = 1 << 17, 4 << 20


class StoreReader(Past):
    """The arrays of a container as of a commit."""

    def __init__(
        self,
        container: Container,
        state: State,
        *,
        newest: State | None = None,
        cache: ChunkCache | None = None,
    ) -> None:
        super().__init__(container, state, newest=newest)
        self.cache = cache
        """Where decoded chunks are kept on the local disk."""
        self._tables: dict[str, Table] = {}
        self._checksums: dict[str, tuple[int, NDArray[Any]]] = {}
        """The first chunk that has one, and those of complete chunks from it on, which do not change before
        the tables do."""
        self._tail_rows: dict[str, tuple[int, NDArray[Any]]] = {}
        self._attached: dict[str, bytes | None] = {}
        self._tail_runs = TailRuns()

    def _forget_tables(self) -> None:
        self._tables.clear()
        self._checksums.clear()

    def _forget_tails(self) -> None:
        self._tail_rows.clear()
        self._attached.clear()

    def pin(self, commit: int | str, *, whole: bool = True) -> StoreReader:
        """A reader of the same container as of an older commit (its number or name), all of whose rows are
        kept unless `whole` is False. The errors of `find`."""
        state = self.find(commit, whole=whole)
        return StoreReader(self.container, state, newest=self.state, cache=self.cache)

    def unpinned(self) -> StoreReader | None:
        """For a reader of an older commit: a reader of the same container as of the newest one known."""
        return None if self._newest is None else StoreReader(self.container, self._newest)

    # --- columns

    def column(self, name: str, known: ArrayColumn | None = None) -> ArrayColumn:
        """The column of an array that is no table, with all its rows as of the commit. `known`: one that was
        opened before, which is brought to it.

        ConflictError, EvictedError: another process has gone on; `known` is not to be used any more."""
        spec, rows, first = self.spec(name), self.rows(name), self.first(name)
        unit = self.container.capabilities.run_rows(spec)
        try:
            column = unchanged(known) or open_column(self, name, spec, first, unit)
            if column.first < first:
                column.drop_before(first)
            if isinstance(column, CodedColumn):
                column.set_tail(*self.tail(name))
            elif column.stop < rows:
                start = max(column.stop // unit * unit, column.first)
                column.extend(self.extents(name, start, rows), rows, start=start)
            shown = changed_column(self, name, column, known)
        except CorruptError:
            self.check_missing()
            raise
        if not self.container.files.far:  # there nothing is held open, so that who has read rows asks
            self.check_generation()
        return shown

    # --- tables

    def table(self, name: str) -> NDArray[Any]:
        """All rows of a journaled array as of the commit, read-only. CorruptError: its stored rows are
        damaged."""
        with self.state_lock:
            return self._table(name)

    def _table(self, name: str) -> NDArray[Any]:
        spec = self.spec(name)
        rows, first = self.rows(name), self.first(name)
        if spec.mutable:
            data, count = self.state.mutable.get(name, np.empty((0, spec.row_bytes), np.uint8)), rows - first
            if len(data) < count or (count and data.shape[1] != spec.row_bytes):
                raise CorruptError(
                    f"{self}: the commit log does not have {rows} rows of the table {name}; "
                    "run `replaystore verify`"
                )
            found = np.ascontiguousarray(data[:count]).reshape(-1).view(spec.dtype)
            return found.reshape(count, *spec.shape)
        table = self.whole_table(name)
        if rows > table.end:
            raise CorruptError(
                f"{self}: the table {name} has {table.end} rows, not {rows}; run `replaystore verify`"
            )
        if first < table.begin:  # of an older commit of a ring
            raise EvictedError(
                f"{self}: rows of the table {name} before {table.begin} have left the ring; refresh"
            )
        return table.rows(first, rows).view(spec.dtype).reshape(rows - first, *spec.shape)

    def whole_table(self, name: str) -> Table:
        """The rows of a table that is not mutable: those of the commit at least."""
        spec, table, stored = self.spec(name), self._tables.get(name), self.places.tables.get(name, Stored())
        if table is None or table.end < min(stored.rows, self.rows(name)):  # it has missed some
            announce_tables(self, name, self._tables)
            table = Table(_stored_rows(self, name, stored), stored.first, spec.row_bytes)
            self._tables[name] = table
        start = self.state.tables.get(name, Stored()).rows
        table.extend(self.state.base, start, self.state.appended.get(name, []))
        return table

    # --- rows and chunks

    def read_raw(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of rows [start, stop) of a raw array."""
        files = self.container.files
        with _reading(self, name):
            places = list(self.places_of(name, start, stop))
            files.fetch_ahead(places)
            data = b"".join([files.read(*place) for place in places])
        self._check_length(name, start, stop, len(data))
        return data

    def places_of(self, name: str, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
        """Where the bytes of rows [start, stop) of a raw array lie: (object, offset, length) of each run."""
        spec = self.spec(name)
        unit = self.container.capabilities.run_rows(spec)
        aligned = start // unit * unit
        skip = (start - aligned) * spec.row_bytes
        for extent in self.extents(name, aligned, stop):
            if skip < extent.length:
                yield extent.object, extent.offset + skip, extent.length - skip
            skip = max(0, skip - extent.length)

    def _check_length(self, name: str, start: int, stop: int, found: int) -> None:
        if found != (stop - start) * self.spec(name).row_bytes:
            needed = (stop - start) * self.spec(name).row_bytes
            raise CorruptError(f"{self}: {name} has {found} bytes where rows {start} to {stop} need {needed}")

    def extents(self, name: str, start: int, stop: int) -> Sequence[Extent]:
        """As `Container.extents`; ConflictError, EvictedError: another process has gone on, and they are not
        there any more."""
        try:
            return self.container.extents(name, start, stop)
        except CorruptError:
            self.check_missing()
            raise

    def raw_checksum(self, name: str, start: int, stop: int) -> int:
        """The crc32c of rows [start, stop) of a raw array, of which only a block, in memory that is used
        again, is there at a time."""
        checksum, found = 0, 0
        most = FAR_BLOCK_BYTES if self.container.files.far else BLOCK_BYTES
        block = np.empty(min(most, (stop - start) * self.spec(name).row_bytes), np.uint8)
        with _reading(self, name):
            for file, offset, length in self.places_of(name, start, stop):
                for at in range(0, length, most):
                    count = self.container.files.read_into(file, offset + at, block[: length - at].data)
                    checksum, found = extend(checksum, block[:count]), found + count
        self._check_length(name, start, stop, found)
        return int(checksum)

    def moved(self, name: str, chunk: int) -> ChunkEntry | None:
        """Where a chunk lies that was not as it should be: somewhere else if the store has gone on meanwhile,
        else None."""
        self.check_missing()
        known = self.locate(name, chunk)
        self.container.refresh()
        found = self.locate(name, chunk)
        return None if found == known else found

    def locate(self, name: str, chunk: int) -> ChunkEntry | None:
        """Where a complete chunk of a coded array lies; None: nowhere."""
        spec, found = self.spec(name), self.places.entries.get(name, {}).get(chunk)
        if found is None:
            complete = self.places.lengths.get(tree.group_of(name), 0) // spec.chunk_rows
            try:
                found = self.container.entry(name, chunk, complete=complete)
            except CorruptError:
                self.check_missing()
                raise
        if found is not None and not 0 < found.length <= 2 * spec.chunk_bytes + 4096:
            raise CorruptError(
                f"{self}: chunk {chunk} of {name} cannot have {found.length} bytes; run `replaystore verify`"
            )
        return found

    def checksum(self, name: str, chunk: int) -> int | None:
        """The crc32c of a complete chunk's stored bytes; None: the chunk is not complete."""
        first, known = self._checksums.get(name) or (0, None)
        if known is None or not first <= chunk < first + len(known):
            with self.state_lock:
                first, known = self._checksums[name] = checksums_of(self, name)
        return int(known[chunk - first]) if first <= chunk < first + len(known) else None

    def tail(self, name: str) -> tuple[int, NDArray[Any]]:
        """The unfinished chunk of an array that is read by chunks: (its first row, its rows).

        Its place may be reused by a writer that goes on: read it soon after `refresh`, and it is kept
        here."""
        known = self._tail_rows.get(name)
        if known is None:
            known = self._tail_rows[name] = self._read_tail(name)
        return known

    def keep_tails(self, *, look: bool = False) -> None:
        """Read what a writer may reuse, now. `look`: `check_generation` is called next."""
        if self.container.files.far and self.state.extra.get(SEALED) is True:  # nobody does
            return
        for _ in range(ATTEMPTS):
            try:
                if self.container.files.far:
                    more = self.container.watched if look else ()
                    self._tail_runs.bring(self, self.read_raw, self.places_of, more)
                for name, spec in self.specs().items():
                    if spec.codec is not None and not spec.journaled:
                        self.tail(name)
                for name in self.state.attached:
                    self.attachment(name)
                return
            except CorruptError:
                for name, _, _ in self.container.watched:
                    self.container.files.forget(name)  # what was seen just now is too old
                if self._newest is None:
                    moved = self.refresh()
                else:
                    known = self._newest.commit
                    self.container.refresh()
                    self._newest = self.load(self.container)
                    moved = self._newest.commit != known
                if not moved:
                    raise
            finally:
                self._tail_runs = TailRuns()

    def _read_tail(self, name: str) -> tuple[int, NDArray[Any]]:
        spec = self.spec(name)
        rows = self.rows(name)
        chunk = rows // spec.chunk_rows
        start = chunk * spec.chunk_rows
        data = b""
        if spec.codec is None:
            data = unfinished_rows(self, name, start, rows)
        elif rows > start and self.places is not self.state and self.state.tails.get(name):
            # Its own pieces may be overwritten since; then the newest commit has the rows.
            with suppress(CorruptError):
                data = self._pieces(name, start, rows, self.state.tails[name])
        if data:
            pass
        elif rows > start and chunk < self.places.lengths.get(tree.group_of(name), 0) // spec.chunk_rows:
            # It is complete by now.
            data = self._decode_complete(name, chunk).tobytes()[: (rows - start) * spec.row_bytes]
        elif rows > start and not self.places.tails.get(name):  # a sealed store
            data = self._padded(name, chunk).tobytes()[: (rows - start) * spec.row_bytes]
        elif rows > start:
            data = self._pieces(name, start, rows, self.places.tails[name])
        return start, np.frombuffer(data, spec.dtype).reshape(rows - start, *spec.shape)

    def _pieces(self, name: str, start: int, rows: int, known: Sequence[Piece]) -> bytes:
        """The bytes of rows [start, rows) of an unfinished chunk, from tail arrays."""
        spec, at, pieces = self.spec(name), start, []
        for piece in known:
            if piece.start < start:
                continue
            end = piece.offset + piece.rows * spec.row_bytes
            found = self._tail_runs.read(self.read_raw, piece.slot, piece.offset, end)
            if value(found) != piece.checksum or piece.start != at:
                raise CorruptError(
                    f"{self}: rows {piece.start} to {piece.start + piece.rows} of {name} do "
                    "not match their checksum"
                )
            at += piece.rows
            pieces.append(found)
        if at < rows:
            raise CorruptError(f"{self}: rows {at} to {rows} of {name} are missing; run `replaystore verify`")
        return b"".join(pieces)[: (rows - start) * spec.row_bytes]

    def _decode_complete(self, name: str, chunk: int) -> NDArray[np.uint8]:
        """The bytes of a chunk that was not complete as of this commit, and is as of the newest one known."""
        newest, spec = self.unpinned() or self, self.spec(name)
        entry, checksum = self.locate(name, chunk), newest.checksum(name, chunk)
        data = self.container.files.read(*entry) if entry is not None else b""
        if (
            entry is None
            or len(data) != entry.length
            or self.container.codec(spec).checksum(data) != checksum
        ):
            self.check_missing()
            raise CorruptError(
                f"{self}: chunk {chunk} of {name} is not the one that was committed; run `replaystore verify`"
            )
        out = np.empty(spec.chunk_bytes, np.uint8)
        self._decode(spec, chunk, entry, data, out)
        return out

    def attachment(self, name: str) -> bytes | None:
        """What was attached to the commit under this name; None: nothing, or (an older commit) its place was
        used for something else."""
        if name not in self._attached:
            kept = self.state.attached.get(name)
            if isinstance(kept, Piece):
                try:
                    data = self._tail_runs.read(
                        self.read_raw, kept.slot, kept.offset, kept.offset + kept.rows
                    )
                except CorruptError:
                    data = b""
                self._attached[name] = data if value(data) == kept.checksum else None
            else:
                self._attached[name] = kept
        return self._attached[name]

    def _decode(
        self, spec: ArraySpec, chunk: int, entry: ChunkEntry, data: bytes, out: NDArray[np.uint8]
    ) -> None:
        try:
            self.container.codec(spec).decode(data, out)
        except CorruptError as error:
            where = f"{self.container.files.path(entry.object)}, byte {entry.offset}"
            raise CorruptError(f"{where}: chunk {chunk}: {error}; run `replaystore verify`") from None

    def _padded(self, name: str, chunk: int) -> NDArray[np.uint8]:
        """The bytes of the last chunk of a coded array of a sealed store, where it is stored like the
        others."""
        spec, entry = self.spec(name), self.container.entry(name, chunk)
        if entry is None:
            raise CorruptError(f"{self}: chunk {chunk} of {name} is missing; run `replaystore verify`")
        codec, data = (
            self.container.codec(spec),
            self.container.files.read(entry.object, entry.offset, entry.length),
        )
        if len(data) != entry.length or codec.checksum(data) != self.places.partial.get(name):
            where = f"{self.container.files.path(entry.object)}, byte {entry.offset}"
            raise CorruptError(
                f"{where}: chunk {chunk} of {name} is not the one that was committed; run "
                "`replaystore verify`"
            )
        out = np.empty(spec.chunk_bytes, np.uint8)
        self._decode(spec, chunk, entry, data, out)
        return out


def _stored_rows(store: StoreReader, name: str, stored: Stored) -> bytes:
    """The bytes of a table that have reached its array, and that are kept."""
    rows, checksum, first = stored
    data = store.read_raw(name, first, rows) if rows > first else b""
    if rows > first and value(data) != checksum:
        store.check_generation()
        files = {
            store.container.files.path(extent.object) for extent in store.container.extents(name, first, rows)
        }
        raise CorruptError(
            f"{min(files)}: the table {name} does not match its checksum; run `replaystore verify`"
        )
    return data


@contextmanager
def _reading(store: StoreReader, name: str) -> Iterator[None]:
    """Errors of the system while rows of an array are read. ConflictError, EvictedError: their file was there
    just now, and another process has gone on; CorruptError: it has not."""
    with as_storage_errors(f"{store}: rows of {name} cannot be read"):
        try:
            yield
        except FileNotFoundError as error:
            store.check_missing()
            raise CorruptError(f"{store}: a file of {name} is missing; run `replaystore verify`") from error
