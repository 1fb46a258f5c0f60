"""Growable arrays with atomic commits, over any container: which bytes are written, when, and what a commit promises.

* Raw rows go to their place at once; their checksums are carried along. Rows of coded arrays gather into chunks, which are encoded
  in the background and stored when full; at a commit the rows of an unfinished chunk go, raw, to a tail array.
* Journaled arrays (tables) are carried by the commit records. When a segment of the log has grown, their rows move to the arrays
  and a new segment begins.
* `commit`: everything written is made durable, then one record is appended to the log and made durable. Nothing else is ever the truth.

What fails: a write that fails (a full disk) changes nothing and may be tried again. A sync that fails leaves the disk in an unknown
state; the store then refuses to write until it is opened anew, since a second sync may report success for bytes that are lost.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from google_crc32c import extend
from numpy.typing import ArrayLike, NDArray

from replaystore.backends import ArraySpec, ChunkEntry, Codec, Container
from replaystore.backends.codecs import crc32c as value
from replaystore.backends.encoding import Encoder
from replaystore.backends.incomplete import missing
from replaystore.backends.reading import StoreReader, group_of, tail_array
from replaystore.backends.records import Piece, State, encode_record, now
from replaystore.errors import CorruptError, SchemaError, StorageError

__all__ = ["ArrayStore"]

SEGMENT_BYTES = 1 << 20
"""A segment of the log is ended beyond this: opening a store reads one segment."""
TIDY_BYTES = 1 << 16
"""A closed store's last segment is at most about this long."""
TAIL_BYTES = 4 << 20
"""A tail array is used up to this many bytes, then the other one."""
BATCH_BYTES = 16 << 20
"""Encoded chunks are stored when there are this many bytes of them, or at a commit."""
ATTACHED_BYTES = 2048
"""Attachments up to this size are kept in the record itself."""
_FULL = 1 << 62
_TAIL = ArraySpec(np.dtype(np.uint8), (), chunk_rows=1 << 20, dimension="byte")


@dataclass
class _Raw:
    spec: ArraySpec
    rows: int
    crc: int = 0


@dataclass
class _Coded:
    spec: ArraySpec
    codec: Codec
    rows: int
    chunk: NDArray[np.uint8]
    """The unfinished chunk, as (chunk_rows, row_bytes)."""
    kept: int
    """Rows up to this one are in a tail array or in a stored chunk."""


class ArrayStore(StoreReader):
    """The arrays of a container, for their one writer."""

    def __init__(self, container: Container, state: State, *, durable: bool) -> None:
        super().__init__(container, state)
        self.durable = container.files.durable = durable
        self.lock = threading.RLock()
        self._poison: str | None = None
        self._encoder = Encoder()
        self._raw: dict[str, _Raw] = {}
        self._coded: dict[str, _Coded] = {}
        self._table_rows: dict[str, int] = {}
        self._pending: dict[str, list[bytes]] = {}
        self._changes: dict[str, list[tuple[NDArray[np.int64], NDArray[np.uint8]]]] = {}
        self._entries: dict[str, dict[int, ChunkEntry]] = {}
        self._new_arrays: list[str] = []
        self._new_pieces: dict[str, list[Piece]] = {}
        self._tail_reset = False
        self._tail_slot, self._tail_used = 0, 0

    # --- opening

    @classmethod
    def create(cls, container: Container, specs: Mapping[str, ArraySpec], extra: Mapping[str, Any], *, durable: bool) -> ArrayStore:
        """A store in an empty container, with these arrays: commit 0, durable on return."""
        store = cls(container, State(time=now(), extra=dict(extra)), durable=durable)
        store.create_arrays(specs)
        with store.storage("create"):
            container.sync()
            store.state.arrays = store._new_arrays
            store._forget_pending()
            store._start_log(store.state)
        return store

    @classmethod
    def open(cls, container: Container, *, durable: bool, back_to: int | None = None) -> ArrayStore:
        """Open for writing; what a killed writer left half-done is put in order.

        `back_to`: go back to this commit at once, without reading what only newer ones need, or damaged segments of the log (for repairs).
        """
        state = cls.load(container, skip_damaged=back_to is not None)
        store = cls(container, state, durable=durable)
        store.check_arrays()
        lacking = missing(store) if back_to is None and container.capabilities.shards else ""
        if lacking:  # before anything is changed
            raise CorruptError(f"{lacking}; commit {state.commit}, the newest, is not whole: run `replaystore repair`")
        with store.storage("recover"):
            container.cut_segment(state.base, state.end)
        if back_to is None or back_to == state.commit:
            store._resume()
            store.publish()
        else:
            store._resume(empty=True)
            store.rollback(back_to)
        with store.storage("recover"):
            store._trim()
            for name, row in ((name, store.first(name)) for name in store._row_counts("steps")):
                if row:
                    container.drop_before(name, row)
        return store

    def _trim(self) -> None:
        self.container.trim({name: self.rows(name) for name in self.state.arrays if not name.startswith("journal/")})

    def _resume(self, *, empty: bool = False) -> None:
        """Set up the writing state from the commit; `empty`: for a rollback, which brings the rows of unfinished chunks itself."""
        self._raw, self._coded, self._table_rows = {}, {}, {}
        self._forget_pending()
        for name in self.state.arrays:
            spec = self.container.specs()[name]
            rows = self.rows(name) if not name.startswith("journal/") else 0
            if spec.journaled:
                self._table_rows[name] = rows
            elif spec.codec is None:
                self._raw[name] = _Raw(spec, rows, self.state.partial.get(name, 0))
            else:
                self._coded[name] = self._open_coded(name, spec, rows, empty)
        width = {name: self.container.specs()[name].row_bytes for name in self.state.tails}
        used = [(p.slot, p.offset + p.rows * width[name]) for name, known in self.state.tails.items() for p in known]
        used += [(kept.slot, kept.offset + kept.rows) for kept in self.state.attached.values() if isinstance(kept, Piece)]
        self._tail_slot = used[-1][0] if used else 0  # a commit's pieces all lie in one
        self._tail_used = max((end for _, end in used), default=_FULL)  # nothing known: begin the other one, readers may need this

    def _forget_pending(self) -> None:
        """What was waiting for a commit is in it, or given up."""
        self._pending, self._changes, self._entries, self._new_arrays = {}, {}, {}, []
        self._new_pieces, self._tail_reset = {}, False
        self._tail_rows.clear()
        self._attached.clear()

    def _open_coded(self, name: str, spec: ArraySpec, rows: int, empty: bool) -> _Coded:
        chunk = np.zeros((spec.chunk_rows, spec.row_bytes), np.uint8)
        if not empty:
            start, tail = self.tail(name)
            chunk[: rows - start] = np.ascontiguousarray(tail).reshape(-1).view(np.uint8).reshape(rows - start, spec.row_bytes)
        return _Coded(spec, self.container.codec(spec), rows, chunk, kept=rows)

    def create_arrays(self, specs: Mapping[str, ArraySpec], *, fill: Mapping[str, int] | None = None) -> None:
        """Add arrays. In a group that has rows already, the new array gets as many, all bytes of them `fill` (default 0).

        They are part of the store from the next commit on."""
        with self.lock, self.storage("create arrays"):
            everything = dict(specs)
            for name, spec in specs.items():
                if not spec.journaled:
                    everything["checksums/" + name] = ArraySpec(
                        np.dtype(np.uint32), (), chunk_rows=16384, chunks_per_shard=64, journaled=True, dimension="chunk"
                    )
            self._create(everything)
        for name, spec in specs.items():
            self._fill(name, spec, (fill or {}).get(name, 0))

    def _create(self, specs: Mapping[str, ArraySpec]) -> None:
        self.container.create_arrays(specs)
        self._new_arrays += [name for name in specs if name not in self._new_arrays]
        for name, spec in specs.items():
            if spec.journaled:
                self._table_rows[name] = 0
            elif spec.codec is None:
                self._raw[name] = _Raw(spec, 0)
            else:
                chunk = np.zeros((spec.chunk_rows, spec.row_bytes), np.uint8)
                self._coded[name] = _Coded(spec, self.container.codec(spec), 0, chunk, kept=0)

    def _fill(self, name: str, spec: ArraySpec, value: int) -> None:
        peers = [other for other in self._row_counts(group_of(name)) if other != name]
        rows = self._row_counts(group_of(name))[peers[0]] if peers else 0
        step = max(1, (4 << 20) // spec.row_bytes)
        first = self.first(name) // spec.shard_rows * spec.shard_rows
        if first and name in self._raw:  # a ring: shards before its window never exist
            self._raw[name].rows = first
            self._add_checksums(name, [0] * (first // spec.chunk_rows))
        for start in range(first, rows, step):
            count = min(step, rows - start)
            block = np.full(count * spec.row_bytes, value, np.uint8).view(spec.dtype).reshape(count, *spec.shape)
            if spec.journaled:
                self.append_table({name: block})
            else:
                self.append({name: block})

    # --- writing

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows to arrays that are not tables; all of them or, if this raises, none. dtype and shape must be the arrays'."""
        with self.lock, self.storage("append"):
            if self._encoder.encoded_bytes > BATCH_BYTES:
                self._store_chunks()
            raw: list[tuple[str, _Raw, NDArray[np.uint8], int]] = []
            coded: list[tuple[str, _Coded, NDArray[np.uint8], int]] = []
            room: dict[str, int] = {}
            for name, rows in columns.items():
                data, count = np.ascontiguousarray(rows).reshape(-1).view(np.uint8), len(rows)
                array = self._raw.get(name)
                if array is None:
                    coded.append((name, self._coded[name], data, count))
                else:
                    raw.append((name, array, data, count))
                    room[name] = array.rows + count
            self.container.reserve(room)
            for name, array, data, _ in raw:
                self.container.write_rows(name, array.rows, data.data)
            for name, array, data, count in raw:
                self._advance(name, array, data, count)
            for name, unfinished, data, count in coded:
                self._gather(name, unfinished, data, count)

    def _advance(self, name: str, array: _Raw, data: NDArray[np.uint8], count: int) -> None:
        """Count rows that are written, and their checksums."""
        spec, done = array.spec, 0
        if count < spec.chunk_rows - array.rows % spec.chunk_rows:  # the usual case
            array.crc = extend(array.crc, data)
            array.rows += count
            return
        finished = []
        while done < count:
            room = spec.chunk_rows - array.rows % spec.chunk_rows
            step = min(room, count - done)
            array.crc = extend(array.crc, data[done * spec.row_bytes : (done + step) * spec.row_bytes])
            array.rows += step
            done += step
            if step == room:
                finished.append(array.crc)
                array.crc = 0
        if finished and not name.startswith("journal/"):
            self._add_checksums(name, finished)

    def _gather(self, name: str, array: _Coded, data: NDArray[np.uint8], count: int) -> None:
        """Copy rows into the unfinished chunk; full chunks go to the encoder."""
        spec, done = array.spec, 0
        rows = data.reshape(count, spec.row_bytes)
        while done < count:
            at = array.rows % spec.chunk_rows
            step = min(spec.chunk_rows - at, count - done)
            array.chunk[at : at + step] = rows[done : done + step]
            array.rows += step
            done += step
            if at + step == spec.chunk_rows:
                self._encoder.put(name, array.codec, array.rows // spec.chunk_rows - 1, array.chunk.reshape(-1))
                array.chunk = np.empty((spec.chunk_rows, spec.row_bytes), np.uint8)

    def append_table(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows to journaled arrays. They are written by the next commit."""
        for name, rows in columns.items():
            self._pending.setdefault(name, []).append(np.ascontiguousarray(rows, self.container.specs()[name].dtype).tobytes())
            self._table_rows[name] += len(rows)

    def set_rows(self, name: str, at: ArrayLike, rows: NDArray[Any]) -> None:
        """Change rows of a mutable table, by the next commit."""
        spec = self.container.specs()[name]
        values = np.ascontiguousarray(rows, spec.dtype).reshape(-1).view(np.uint8).reshape(-1, spec.row_bytes)
        if len(values):
            self._changes.setdefault(name, []).append((np.asarray(at, np.int64), values))

    def _add_checksums(self, name: str, checksums: Sequence[int]) -> None:
        self.append_table({"checksums/" + name: np.array(checksums, np.uint32)})

    def _store_chunks(self) -> None:
        """Store what is encoded; indexes of shards that are complete by it are written too."""
        ready = self._encoder.encoded
        if not ready:
            return
        placed = self.container.write_chunks({name: {n: data for n, (data, _) in chunks.items()} for name, chunks in ready.items()})
        for name, entries in placed.items():
            if self.container.capabilities.shards:  # otherwise the container knows all chunks
                known = self._entries.setdefault(name, {})
                known.update(entries)
                per_shard = self._coded[name].spec.chunks_per_shard
                everything = {**self.state.entries.get(name, {}), **known}
                for shard in sorted({n // per_shard for n in entries if n % per_shard == per_shard - 1}):
                    self.container.write_index(name, shard, _of_shard(everything, shard, per_shard))
            self._add_checksums(name, [checksum for _, checksum in ready[name].values()])
        self._encoder.stored()

    # --- committing

    def commit(
        self, extra: Mapping[str, Any], *, first: Mapping[str, int] | None = None, attachments: Mapping[str, bytes] | None = None
    ) -> int:
        """Make everything appended durable and visible, at once; return the number of the commit.

        `extra` (JSON) is kept with it, and `attachments` until the next commit. Rows of a group before `first` are dropped."""
        with self.lock, self.storage("commit"):
            self._encoder.finish()
            self._store_chunks()
            attached = self._write_tails(attachments or {})
            meta, blobs = self._describe(extra, first or {})
            meta["attached"] = {name: list(vars(kept).values()) for name, kept in attached.items() if isinstance(kept, Piece)}
            blobs |= {"keep:" + name: kept for name, kept in attached.items() if isinstance(kept, bytes)}
            record = encode_record(meta, blobs)
            self._sync()
            self.container.append_record(record)
            self._sync()
            self.state.apply(meta, blobs)
            self.state.end += len(record)
            self._forget_pending()
        with suppress(StorageError, OSError):  # the commit is made; what tidies up after it is tried again by the next one
            self._tidy(first or {})
        return self.state.commit

    def _tidy(self, first: Mapping[str, int]) -> None:
        """Give back the space of dropped rows; end a long segment of the log."""
        for group, row in first.items():
            for name in self._row_counts(group):
                if not self.container.specs()[name].journaled:
                    self.container.drop_before(name, row)
        if self.state.end > SEGMENT_BYTES + 2 * sum(rows.size for rows in self.state.mutable.values()):
            self.begin_segment()

    def _describe(self, extra: Mapping[str, Any], first: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The record of a commit: its JSON and its blobs."""
        lengths: dict[str, int] = {}
        groups = {group_of(name) for name in (*self._raw, *self._coded, *self._table_rows)}
        for group in sorted(groups - {"checksums", "journal"}):
            counts = self._row_counts(group)
            if len(set(counts.values())) > 1:
                raise SchemaError(f"{self}: the arrays of {group} have different numbers of rows: {counts}")
            lengths[group] = next(iter(counts.values()))
        meta: dict[str, Any] = {
            "commit": self.state.commit + 1,
            "parent": self.state.commit,
            "time": now(),
            "lengths": lengths,
            "extra": dict(extra),
            "partial": {name: array.crc for name, array in self._raw.items() if array.crc and not name.startswith("journal/")},
        }
        if self._coded:
            starts = {name: array.rows // array.spec.chunk_rows * array.spec.chunk_rows for name, array in self._coded.items()}
            fresh = {name: [p for p in self._new_pieces.get(name, []) if p.start >= starts[name]] for name in self._coded}
            meta["tails"] = {name: [starts[name], [list(vars(p).values()) for p in fresh[name]]] for name in self._coded}
            meta["entries"] = {name: [[n, e.object, e.offset, e.length] for n, e in known.items()] for name, known in self._entries.items()}
        if self._tail_reset:
            meta["tail_reset"] = True
        if first:
            meta["first"] = dict(first)
        if self._new_arrays:
            meta["arrays"] = self._new_arrays
        blobs: dict[str, bytes] = {}
        for name, pieces in self._pending.items():
            blobs[("grow:" if self.container.specs()[name].mutable else "rows:") + name] = b"".join(pieces)
        for name, changes in self._changes.items():
            blobs["at:" + name] = np.concatenate([at for at, _ in changes]).astype("<i8").tobytes()
            blobs["set:" + name] = np.concatenate([rows for _, rows in changes]).tobytes()
        return meta, blobs

    def _write_tails(self, attachments: Mapping[str, bytes]) -> dict[str, bytes | Piece]:
        """Keep the rows of unfinished chunks, raw, in a tail array; large attachments too (returned: where each is).

        When the array has grown, all of it goes to the other one; not twice between commits, since the last commit still needs one."""
        large = {name: data for name, data in attachments.items() if len(data) > ATTACHED_BYTES}
        starts = {name: array.rows // array.spec.chunk_rows * array.spec.chunk_rows for name, array in self._coded.items()}
        waiting = {name: max(starts[name], array.kept) for name, array in self._coded.items()}
        size = sum((array.rows - waiting[name]) * array.spec.row_bytes for name, array in self._coded.items()) + sum(
            map(len, large.values())
        )
        if size and tail_array(0) not in self._raw:  # the container may hold one of them, if an earlier writer was killed
            self._create({tail_array(0): _TAIL, tail_array(1): _TAIL})
        once = sum(array.spec.chunk_bytes for array in self._coded.values()) + sum(map(len, large.values()))
        if size and self._tail_used + size > max(TAIL_BYTES, 4 * once) and not self._tail_reset:
            self._tail_slot, self._tail_used, self._tail_reset = 1 - self._tail_slot, 0, True
            self._new_pieces = {}
            waiting = starts
        for name, begin in waiting.items():
            array = self._coded[name]
            if begin < array.rows:
                data = array.chunk[begin - starts[name] : array.rows - starts[name]].reshape(-1)
                self._new_pieces.setdefault(name, []).append(self._write_tail(begin, array.rows - begin, data.data))
                array.kept = array.rows
        placed = {name: self._write_tail(0, len(data), memoryview(data)) for name, data in large.items()}
        return {name: placed.get(name, data) for name, data in attachments.items()}

    def _write_tail(self, start: int, rows: int, data: memoryview) -> Piece:
        target = tail_array(self._tail_slot)
        self.container.reserve({target: self._tail_used + len(data)})
        self.container.write_rows(target, self._tail_used, data)
        piece = Piece(start, rows, self._tail_slot, self._tail_used, value(data))
        self._tail_used += len(data)
        return piece

    def begin_segment(self) -> None:
        """Bring the rows of the tables to their arrays and begin a new segment of the log. Changes nothing that can be seen."""
        with self.lock, self.storage("end a segment of the log"):
            state, tables = self.state, {}
            appended = {name: b"".join(blobs) for name, blobs in state.appended.items()}
            for name, data in appended.items():
                rows, checksum = state.tables.get(name, (0, 0))
                tables[name] = (rows + len(data) // self.container.specs()[name].row_bytes, extend(checksum, data))
            self.container.reserve({name: rows for name, (rows, _) in tables.items()})
            for name, data in appended.items():
                self.container.write_rows(name, state.tables.get(name, (0, 0))[0], memoryview(data))
            self._sync()
            state.tables |= tables
            state.appended = {}
            self._tables.clear()
            for name, entries in state.entries.items():
                shard = self.rows(name) // self.container.specs()[name].shard_rows
                state.entries[name] = (
                    _of_shard(entries, shard, self.container.specs()[name].chunks_per_shard) if self.container.capabilities.shards else {}
                )
            self._start_log(state)

    def _start_log(self, state: State) -> None:
        record = encode_record(*state.to_base())
        self.container.begin_segment(state.commit, record)
        state.base, state.end = state.commit, len(record)

    # --- other software, older commits

    def publish(self) -> None:
        """Let other software see all committed rows (our own readers need nothing of this)."""
        with self.lock, self.storage("publish"):
            if self.state.appended or self.state.mutable:
                self.begin_segment()  # brings the tables' rows to their arrays
                self.container.reserve({name: len(rows) for name, rows in self.state.mutable.items()})
                for name, rows in self.state.mutable.items():
                    self.container.write_rows(name, 0, rows.reshape(-1).data)
            partial, entries = {}, {}
            for name, array in self._coded.items():
                known = {**self.state.entries.get(name, {}), **self._entries.get(name, {})}
                per_shard, (start, tail) = array.spec.chunks_per_shard, self.tail(name)
                if len(tail):
                    chunk = np.zeros((array.spec.chunk_rows, array.spec.row_bytes), np.uint8)
                    chunk[: len(tail)] = np.ascontiguousarray(tail).reshape(-1).view(np.uint8).reshape(len(tail), -1)
                    partial[name] = {start // array.spec.chunk_rows: array.codec.encode(chunk.reshape(-1))}
                entries[name] = _of_shard(known, max(0, self.rows(name) - 1) // array.spec.shard_rows, per_shard)
            for name, placed in self.container.write_chunks(partial).items() if partial else ():
                entries[name] = {**entries[name], **placed}
            self._sync()
            lengths = {name: self.rows(name) for name in self.state.arrays if not name.startswith("journal/")}
            self.container.publish(lengths, entries)

    def rollback(self, commit: int, *, attachments: Mapping[str, bytes] | None = None) -> None:
        """Go back to an older commit, with these attachments; those after it are given up. What readers have open stays as it is."""
        with self.lock:
            newest, old = self.state, self.pin(commit)
            with self.storage("roll back"):
                self._encoder.discard()
                specs = self.container.specs()
                rows = {name: old.rows(name) for name in old.state.arrays if not name.startswith("journal/")}
                tables = {name: old.table(name).tobytes() for name in rows if specs[name].journaled and not specs[name].mutable}
                tails = {name: old.tail(name) for name in self._coded if name in rows}
                state = State(newest.commit + 1, commit, now(), dict(old.state.lengths), dict(newest.first), old.state.extra)
                state.arrays = [name for name in newest.arrays if name in rows or name.startswith("journal/")]
                state.dead = [*newest.dead, [commit + 1, newest.commit]]
                state.mutable = old.state.mutable
                state.tables = {name: (rows[name], value(data)) for name, data in tables.items()}
                state.partial = {name: crc for name in self._raw if name in rows and (crc := self._partial(name, rows[name]))}
                state.entries = {name: self._kept_entries(name, rows[name]) for name in tails}
                self.container.fork(rows)
                for name, data in tables.items():
                    if data:
                        self.container.reserve({name: rows[name]})
                        self.container.write_rows(name, 0, memoryview(data))
                self._forget_pending()
                self._tail_used = _FULL
                for name, (start, tail) in tails.items():
                    array = self._coded[name]
                    array.rows, array.kept = rows[name], start
                    array.chunk[: len(tail)] = (
                        np.ascontiguousarray(tail).reshape(-1).view(np.uint8).reshape(len(tail), array.spec.row_bytes)
                    )
                state.attached = self._write_tails(attachments or {})
                state.tails = self._new_pieces
                self._sync()
                self._start_log(state)
                self.state = state
                self._tables.clear()
        self._resume()
        self.publish()
        with self.storage("roll back"):
            self._trim()

    def _kept_entries(self, name: str, rows: int) -> dict[int, ChunkEntry]:
        """Entries of the complete chunks of the shard that row `rows` falls into."""
        spec = self._coded[name].spec
        numbers = range(rows // spec.shard_rows * spec.chunks_per_shard, rows // spec.chunk_rows)
        return {n: entry for n in numbers if (entry := self.locate(name, n)) is not None}

    def _partial(self, name: str, rows: int) -> int:
        spec = self.container.specs()[name]
        start = rows // spec.chunk_rows * spec.chunk_rows
        return value(self.read_raw(name, start, rows)) if rows > start else 0

    def close(self) -> None:
        """Give up what is not committed, and release everything."""
        self._encoder.close()
        super().close()

    # --- small things

    def next_row(self, group: str) -> int:
        """Rows of the arrays of a group, uncommitted ones included."""
        prefix = group + "/"
        for arrays in (self._raw, self._coded):
            for name, array in arrays.items():
                if name.startswith(prefix):
                    return array.rows
        return next((rows for name, rows in self._table_rows.items() if name.startswith(prefix)), 0)

    def table_specs(self) -> dict[str, ArraySpec]:
        """The journaled arrays, those of no commit yet included."""
        return {name: spec for name, spec in self.container.specs().items() if name in self._table_rows}

    def tidy(self) -> None:
        """Begin a new segment of the log if much would have to be read to open the store."""
        if self.state.end > TIDY_BYTES:
            self.begin_segment()

    def _row_counts(self, group: str) -> dict[str, int]:
        """Rows of the arrays of a group, uncommitted ones included."""
        counts = {name: array.rows for name, array in self._raw.items()} | {name: array.rows for name, array in self._coded.items()}
        return {name: rows for name, rows in (counts | self._table_rows).items() if group_of(name) == group}

    def _sync(self) -> None:
        if not self.durable:
            return
        try:
            self.container.sync()
        except OSError as error:
            self._poison = (
                f"{self}: the disk failed to store what was written ({error}); reopen the store, which goes on from its last commit"
            )
            raise StorageError(self._poison) from error

    @contextmanager
    def storage(self, what: str) -> Iterator[None]:
        """Errors of the operating system as ours."""
        if self._poison is not None:
            raise StorageError(self._poison)
        try:
            yield
        except StorageError:
            raise
        except FileExistsError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            advice = "what was committed is safe; make room or mend the cause, then try again"
            raise StorageError(f"{self}: cannot {what}: {reason}; {advice}", error.errno) from error


def _of_shard(entries: Mapping[int, ChunkEntry], shard: int, per_shard: int) -> dict[int, ChunkEntry]:
    return {n: entry for n, entry in sorted(entries.items()) if n // per_shard == shard}
