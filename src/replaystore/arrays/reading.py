"""The reading half of an array store: its state as of a commit, its tables, and where the chunks of its
arrays lie.

A reader needs no lock and no recovery: it believes the newest valid record of the commit log and nothing
beyond it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from google_crc32c import extend, value
from numpy.typing import NDArray

from replaystore.arrays import records
from replaystore.arrays.records import decode_records
from replaystore.arrays.state import Piece, State
from replaystore.containers.protocol import ArraySpec, ChunkEntry, Container, Extent
from replaystore.errors import ConflictError, CorruptError, EvictedError, NotFoundError
from replaystore.forks import renew_in_children
from replaystore.interrupts import as_storage_errors
from replaystore.refusals import named
from replaystore.schema import tree

__all__ = ["Commit", "StoreReader"]


@dataclass(frozen=True)
class Commit:
    """A commit of the log, in short."""

    commit: int
    time: float
    lengths: dict[str, int]
    first: dict[str, int]

    def rows(self, group: str) -> int:
        """Rows of a group that it shows."""
        return self.lengths.get(group, 0) - self.first.get(group, 0)


BLOCK_BYTES = 1 << 17
ATTEMPTS = 16
"""How often a reader looks again when a writer is faster than it."""


class StoreReader:
    """The arrays of a container as of a commit."""

    def __init__(self, container: Container, state: State, *, newest: State | None = None) -> None:
        self.container = container
        self.state = state
        self._identity = container.identity()
        self._newest = newest
        """For a reader of an older commit: the commit that knows where everything lies by now."""
        self.stays = newest is not None
        """Whether `refresh` leaves it at its commit."""
        self._tables: dict[str, _Table] = {}
        self._checksums: dict[str, NDArray[Any]] = {}
        """Those of complete chunks, which do not change before the tables do."""
        self._tail_rows: dict[str, tuple[int, NDArray[Any]]] = {}
        self._attached: dict[str, bytes | None] = {}
        self.state_lock = threading.RLock()
        """Held while the state changes, and while a table is made of it: a thread may sample while another
        one commits."""
        renew_in_children(self, "state_lock")

    @classmethod
    def load(cls, container: Container, *, skip_damaged: bool = False) -> State:
        """The newest state. `skip_damaged`: of the newest segment of the log that can be read, for
        repairs."""
        for _ in range(ATTEMPTS):
            segments = container.segments()
            if not segments:
                raise CorruptError(f"{container.path}: there is no commit log; run `replaystore repair`")
            for segment in reversed(segments):
                try:
                    return cls._replay(container, segment)
                except (FileNotFoundError, CorruptError):
                    if skip_damaged and segment != segments[0]:
                        continue
                    if container.segments() == segments:
                        raise
                    break
        raise ConflictError(
            f"{container.path}: the commit log changed {ATTEMPTS} times while it was read; try again"
        )

    @staticmethod
    def _replay(container: Container, segment: int, *, until: int | None = None) -> State:
        """The state at the end of a segment, or at a commit of it."""
        state = records.replay(container.read_segment(segment), container.path, until=until)
        if state.base != segment:
            what = (
                f"the segment of the commit log that is to begin with commit {segment} begins with "
                f"commit {state.base}"
            )
            raise CorruptError(f"{container.path}: {what}; run `replaystore repair`")
        return state

    def __str__(self) -> str:
        return named(self.container.path)

    # --- what there is

    def check_arrays(self) -> None:
        """CorruptError: an array that the commit speaks of is missing, or its metadata say something else
        than the commit."""
        for name, what in self.array_problems():
            raise CorruptError(f"{self}: the array {name} {what}; run `replaystore repair`")

    def array_problems(self) -> Iterator[tuple[str, str]]:
        """In what the metadata of arrays are not what the commit log, which has a checksum, says of them."""
        specs = self.container.specs()
        for name, spec in self.state.arrays.items():
            found = specs.get(name)
            if found is None:
                yield name, "or its metadata is missing"
            elif found != spec:
                was, now = spec.to_json(), found.to_json()
                differing = [key for key in {**was, **now} if was.get(key) != now.get(key)]
                told = ", ".join(f"{key} {now.get(key)}, not {was.get(key)}" for key in differing)
                yield name, f"is described as something else than what was made: {told}"

    def spec(self, name: str) -> ArraySpec:
        """How an array is stored: of the commit, or one that is to be part of the next."""
        known = self.state.arrays.get(name) or self.container.specs().get(name)
        if known is None:
            self.check_generation()
            raise CorruptError(f"{self}: there is no array {name}; run `replaystore verify`")
        return known

    def specs(self) -> dict[str, ArraySpec]:
        """The arrays that hold rows of the user's, by name."""
        specs = self.container.specs()
        return {
            name: specs[name]
            for name in self.state.arrays
            if name in specs and not (tree.is_checksums(name) or tree.is_journal(name))
        }

    @property
    def places(self) -> State:
        """The state that says where chunks lie: the newest one known."""
        return self._newest or self.state

    def rows(self, name: str) -> int:
        """Rows of an array as of the commit, dropped ones included."""
        if tree.is_checksums(name):
            array = tree.checked_by(name)
            return self.rows(array) // self.spec(array).chunk_rows
        return self.state.lengths.get(tree.group_of(name), 0)

    def first(self, name: str) -> int:
        """The first row of an array that is kept."""
        return self.state.first.get(tree.group_of(name), 0)

    def refresh(self) -> bool:
        """Go on to the newest commit; whether there was one. A reader of an older commit stays where it
        is."""
        if self.stays:
            return False
        with self.state_lock:
            return self._refresh()

    def _refresh(self) -> bool:
        before = self.state.commit
        for _ in range(ATTEMPTS):
            segments, place = self.container.segments(), self.container.identity()
            if segments and segments[-1] == self.state.base and place == self._identity:
                data = self.container.read_segment(self.state.base, self.state.end)
                start = self.state.end
                for meta, blobs, end in decode_records(data):
                    if meta.get("arrays") or meta.get("forked"):
                        self.container.refresh()
                    records.follow(self.state, meta, blobs)
                    self.state.end = start + end
                records.check(self.state)
                break
            self.container.refresh()
            identity = self.state.identity
            place, found = self.container.identity(), self.load(self.container)
            self._check_store(found, place)
            self.state, self._identity = found, place
            self._tables.clear()
            self._checksums.clear()
            if self.state.identity == identity and self.container.segments()[-1] == self.state.base:
                break
        if self.state.commit != before:
            self._tail_rows.clear()
            self._attached.clear()
        return self.state.commit != before

    def commits(self) -> list[Commit]:
        """The commits that can be opened, oldest first."""
        newest, found = self.state, {}
        for segment in self.container.segments():
            first: dict[str, int] = {}
            for meta, _, _ in decode_records(self.container.read_segment(segment)):
                if meta.get("forked"):
                    continue
                number, first = meta["commit"], first | meta.get("first", {})
                evicted = any(row > first.get(group, 0) for group, row in newest.first.items())
                if number <= newest.commit and not newest.is_dead(number) and not evicted:
                    found[number] = Commit(number, meta["time"], dict(meta["lengths"]), first)
        return [found[number] for number in sorted(found)]

    def pin(self, commit: int) -> StoreReader:
        """A reader of the same container as of an older commit."""
        return StoreReader(self.container, self.at(commit), newest=self.state)

    def unpinned(self) -> StoreReader | None:
        """For a reader of an older commit: a reader of the same container as of the newest one known."""
        return None if self._newest is None else StoreReader(self.container, self._newest)

    def check_generation(self) -> None:
        """ConflictError if another process has rolled the store back: what was opened last may not fit what
        was opened before.

        To be called *after* opening: a rollback is in the log before any object gets a new identity, as the
        base of a new segment."""
        if self.container.writable:
            return
        place = self.container.identity()
        if place == self._identity and self.container.segments()[-1:] == [self.places.base]:
            return
        found = self.load(self.container)
        self._check_store(found, place)
        self._identity = place
        if found.generation != self.places.generation:
            raise ConflictError(f"{self}: another process went back to an older commit; refresh or reopen")

    def _check_store(self, found: State, place: object) -> None:
        """ConflictError if what is under the name now is another store; CorruptError if it is this one, with
        a log that is not its own."""
        if found.store != self.state.store and place == self._identity:
            raise CorruptError(
                f"{self}: a segment of the commit log is that of another store; run `replaystore repair`"
            )
        if found.store != self.state.store:
            raise ConflictError(f"{self}: another store has taken its place; open it again")

    def check_missing(self) -> None:
        """Why something that the commit speaks of is not there: ConflictError, or EvictedError if a ring has
        gone on; else it is damage."""
        self.check_generation()
        if not self.container.writable:
            for group, row in self.load(self.container).first.items():
                if row > self.state.first.get(group, 0):
                    raise EvictedError(f"{self}: {group} rows before {row} have left the ring; refresh")

    def moved(self, name: str, chunk: int) -> ChunkEntry | None:
        """Where a chunk lies that was not as it should be: somewhere else if the store has gone on meanwhile,
        else None."""
        self.check_missing()
        known = self.locate(name, chunk)
        self.container.refresh()
        found = self.locate(name, chunk)
        return None if found == known else found

    def at(self, commit: int) -> State:
        """The state as of an older commit. NotFoundError, EvictedError: it cannot be had any more."""
        newest = self.state
        if commit == newest.commit:
            return newest
        where = f"{self}: commit {commit}"
        if commit > newest.commit or commit < 0:
            raise NotFoundError(f"{where} does not exist; the newest is {newest.commit}")
        if newest.is_dead(commit):
            raise NotFoundError(f"{where} was rolled back; `replaystore info` lists what can be opened")
        segments = [base for base in self.container.segments() if base <= commit]
        if not segments:
            raise NotFoundError(f"{where} is older than the history that is kept")
        state = self._replay(self.container, segments[-1], until=commit)
        if state.commit != commit:
            raise NotFoundError(f"{where} is not in the commit log")
        for group, row in newest.first.items():
            if row > state.first.get(group, 0):
                raise EvictedError(f"{where} needs {group} rows before {row}, which have left the ring")
        return state

    # --- tables

    def table(self, name: str) -> NDArray[Any]:
        """All rows of a journaled array as of the commit, read-only. CorruptError: its stored rows are
        damaged."""
        with self.state_lock:
            return self._table(name)

    def _table(self, name: str) -> NDArray[Any]:
        spec = self.spec(name)
        rows = self.rows(name)
        if spec.mutable:
            data = self.state.mutable.get(name, np.empty((0, spec.row_bytes), np.uint8))
            if len(data) < rows or (rows and data.shape[1] != spec.row_bytes):
                raise CorruptError(
                    f"{self}: the commit log does not have {rows} rows of the table {name}; "
                    "run `replaystore verify`"
                )
            return np.ascontiguousarray(data[:rows]).reshape(-1).view(spec.dtype).reshape(rows, *spec.shape)
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = _Table(self._stored_rows(name, spec))
        blobs = self.state.appended.get(name, [])
        table.extend(blobs)
        if rows * spec.row_bytes > len(table):
            raise CorruptError(
                f"{self}: the table {name} has {len(table)} bytes where {rows} rows need "
                "more; run `replaystore verify`"
            )
        return table.bytes(rows * spec.row_bytes).view(spec.dtype).reshape(rows, *spec.shape)

    def _stored_rows(self, name: str, spec: ArraySpec) -> bytes:
        rows, checksum = self.state.tables.get(name, (0, 0))
        data = self.read_raw(name, 0, rows) if rows else b""
        if rows and value(data) != checksum:
            self.check_generation()
            files = {
                self.container.files.path(extent.object) for extent in self.container.extents(name, 0, rows)
            }
            raise CorruptError(
                f"{min(files)}: the table {name} does not match its checksum; run `replaystore verify`"
            )
        return data

    # --- rows and chunks

    def read_raw(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of rows [start, stop) of a raw array."""
        files = self.container.files
        with as_storage_errors(f"{self}: rows of {name} cannot be read"):
            data = b"".join([files.read(*place) for place in self._places(name, start, stop)])
        self._check_length(name, start, stop, len(data))
        return data

    def _places(self, name: str, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
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
        checksum, found, block = (
            0,
            0,
            np.empty(min(BLOCK_BYTES, (stop - start) * self.spec(name).row_bytes), np.uint8),
        )
        with as_storage_errors(f"{self}: rows of {name} cannot be read"):
            for file, offset, length in self._places(name, start, stop):
                for at in range(0, length, BLOCK_BYTES):
                    count = self.container.files.read_into(file, offset + at, block[: length - at].data)
                    checksum, found = extend(checksum, block[:count]), found + count
        self._check_length(name, start, stop, found)
        return int(checksum)

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
        known = self._checksums.get(name)
        if known is None or chunk >= len(known):
            with self.state_lock:
                known = self._checksums[name] = self.table(tree.checksums(name))
        return int(known[chunk]) if chunk < len(known) else None

    def tail(self, name: str) -> tuple[int, NDArray[Any]]:
        """The unfinished chunk of a coded array: (its first row, its rows).

        Its place may be reused by a writer that goes on: read it soon after `refresh`, and it is kept
        here."""
        known = self._tail_rows.get(name)
        if known is None:
            known = self._tail_rows[name] = self._read_tail(name)
        return known

    def keep_tails(self) -> None:
        """Read what a writer may reuse, now."""
        for _ in range(ATTEMPTS):
            try:
                for name, spec in self.specs().items():
                    if spec.codec is not None and not spec.journaled:
                        self.tail(name)
                for name in self.state.attached:
                    self.attachment(name)
                return
            except CorruptError:
                if self._newest is None:
                    moved = self.refresh()
                else:
                    known = self._newest.commit
                    self.container.refresh()
                    self._newest = self.load(self.container)
                    moved = self._newest.commit != known
                if not moved:
                    raise

    def _read_tail(self, name: str) -> tuple[int, NDArray[Any]]:
        spec = self.spec(name)
        rows = self.rows(name)
        chunk = rows // spec.chunk_rows
        start = chunk * spec.chunk_rows
        data = b""
        if rows > start and self.places is not self.state and self.state.tails.get(name):
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
            found = self.read_raw(
                tree.tail(piece.slot), piece.offset, piece.offset + piece.rows * spec.row_bytes
            )
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
                    data = self.read_raw(tree.tail(kept.slot), kept.offset, kept.offset + kept.rows)
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

    def close(self) -> None:
        self.container.close()


class _Table:
    """Bytes that grow at the end, with room ahead so that growing is cheap; what was handed out stays as it
    is."""

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._length = len(data)
        self._blobs = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, blobs: list[bytes]) -> None:
        new = blobs[self._blobs :]
        if not new:
            return
        added = np.frombuffer(b"".join(new), np.uint8)
        length = self._length + added.size
        if length > self._data.size or not self._data.flags.writeable:
            grown = np.empty(max(length, 2 * self._length, 1024), np.uint8)
            grown[: self._length] = self._data[: self._length]
            self._data = grown
        self._data[self._length : length] = added
        self._length, self._blobs = length, len(blobs)

    def bytes(self, length: int) -> NDArray[np.uint8]:
        view = self._data[:length]
        view.flags.writeable = False
        return view
