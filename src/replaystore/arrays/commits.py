"""Growable arrays with atomic commits, over any container: opening, committing, publishing, and going back.

* `commit`: everything appended is made durable, then one record is appended to the log and made durable.
  Nothing else is ever the truth.
* When a segment of the log has grown, the rows of the tables move to their arrays and a new segment begins,
  with a record that says everything.
* What other software sees (shapes, indexes) is changed by `publish` alone, and lags behind the commits until
  then.
* `rollback` never overwrites what a reader may have open: when it is in the log, the objects that hold rows
  to be written anew are replaced by copies, and only when that is in the log, too, is anything written to
  them. A reader looks at the log after it has opened an object: if no rollback is there, what it has opened
  stays as it is for ever.
* Without durability only plain commits are not synced. What else changes (a segment of the log begins,
  arrays, the document, publishing, dropping rows) is synced with all that was written before, so that after a
  power cut the base record of the newest segment is whole.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from replaystore.arrays.appending import Appender, CodedArray, RawArray, of_shard
from replaystore.arrays.incomplete import missing, newest_sound
from replaystore.arrays.records import now
from replaystore.arrays.state import DOCUMENT, SEALED, Piece, State
from replaystore.containers.codecs import crc32c as value
from replaystore.containers.codecs import extend
from replaystore.containers.protocol import ArraySpec, ChunkEntry, Container
from replaystore.containers.records import encode_record
from replaystore.errors import CorruptError, SchemaError, StorageError
from replaystore.schema import tree

__all__ = ["ArrayStore"]

SEGMENT_BYTES = 1 << 20
"""A segment of the log is ended beyond this: opening a store reads one segment."""
TIDY_BYTES = 1 << 16
"""A closed store's last segment is at most about this long."""
DOCUMENT_BYTES = 1 << 16
"""A document of at most this size is copied into each segment of the log."""
_FULL = 1 << 62


class ArrayStore(Appender):
    """The arrays of a container, for their one writer."""

    @classmethod
    def create(
        cls, container: Container, specs: Mapping[str, ArraySpec], extra: Mapping[str, Any], *, durable: bool
    ) -> ArrayStore:
        """A store in an empty container, with these arrays: commit 0, durable on return."""
        store = cls(container, State(store=uuid.uuid4().hex, time=now(), extra=dict(extra)), durable=durable)
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

        `back_to`: go back to this commit at once, without reading what only newer ones need, or damaged
        segments of the log (for repairs).
        """
        state = cls.load(container, skip_damaged=back_to is not None)
        store = cls(container, state, durable=durable)
        store.check_arrays()
        lacking = ""
        if back_to is None and not durable and state.commit > state.base:
            back_to = newest_sound(store)
        elif back_to is None and not container.capabilities.one_file:
            lacking = missing(store)
        if lacking:  # before anything is changed
            raise CorruptError(
                f"{lacking}; commit {state.commit}, the newest, is not whole: run `replaystore repair`"
            )
        with store.storage("recover"):
            container.cut_segment(state.base, state.end)
        if back_to is None or back_to == state.commit:
            with store.storage("recover"):
                store._resume()
                if state.unforked:
                    store._fork()
            # Then everything is published, and readers rely on its being as it is.
            if state.extra.get(SEALED) is not True:
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
        self.container.trim(
            {name: self.rows(name) for name in self.state.arrays if not tree.is_journal(name)}
        )

    def _resume(self, *, empty: bool = False) -> None:
        """Set up the writing state from the commit; `empty`: for a rollback, which brings the rows of
        unfinished chunks itself."""
        self._raw, self._coded, self._table_rows = {}, {}, {}
        self._forget_pending()
        self._unseal()
        for name in self.state.arrays:
            spec = self.container.specs()[name]
            rows = self.rows(name) if not tree.is_journal(name) else 0
            if spec.journaled:
                self._table_rows[name] = rows
            elif spec.codec is None:
                self._raw[name] = RawArray(spec, rows, self.state.partial.get(name, 0))
            else:
                self._coded[name] = self._open_coded(name, spec, rows, empty)
        self._resume_tails()

    def _unseal(self) -> None:
        """Take up a store again whose sealing did not end: its unfinished chunks are padded, and their places
        in the indexes alone."""
        state, specs = self.state, self.container.specs()
        if state.extra.get(SEALED) is not True:
            return
        for name in state.arrays:
            if specs[name].codec is not None and not specs[name].journaled:
                self.tail(name)
                state.partial.pop(name, None)
                if not self.container.capabilities.knows_its_chunks:
                    state.entries[name] = self._kept_entries(name, self.rows(name))
        # Without what helps to open a store that does not change.
        self.container.replace_document(self.container.document())

    def _resume_tails(self) -> None:
        """Go on in the tail array that the commit's pieces lie in, after them."""
        width = {name: self.container.specs()[name].row_bytes for name in self.state.tails}
        used = [
            (p.slot, p.offset + p.rows * width[name])
            for name, known in self.state.tails.items()
            for p in known
        ]
        used += [
            (kept.slot, kept.offset + kept.rows)
            for kept in self.state.attached.values()
            if isinstance(kept, Piece)
        ]
        self._tail_slot = used[-1][0] if used else 0  # a commit's pieces all lie in one
        # Nothing known: begin the other one, readers may need this.
        self._tail_used = max((end for _, end in used), default=_FULL)

    def _open_coded(self, name: str, spec: ArraySpec, rows: int, empty: bool) -> CodedArray:
        chunk = np.zeros((spec.chunk_rows, spec.row_bytes), np.uint8)
        if not empty:
            start, tail = self.tail(name)
            chunk[: rows - start] = (
                np.ascontiguousarray(tail).reshape(-1).view(np.uint8).reshape(rows - start, spec.row_bytes)
            )
        # Then no tail array has the rows of the unfinished chunk.
        sealed = self.state.extra.get(SEALED) is True
        kept = rows // spec.chunk_rows * spec.chunk_rows if sealed else rows
        return CodedArray(spec, self.container.codec(spec), rows, chunk, kept=kept)

    def commit(
        self,
        extra: Mapping[str, Any],
        *,
        first: Mapping[str, int] | None = None,
        attachments: Mapping[str, bytes] | None = None,
    ) -> int:
        """Make everything appended durable and visible, at once; return the number of the commit.

        `extra` (JSON) is kept with it, and `attachments` until the next commit. Rows of a group before
        `first` are dropped."""
        with self.lock, self.storage("commit"):
            self._encoder.finish()
            self._store_chunks()
            attached = self._write_tails(attachments or {})
            meta, blobs = self._describe(extra, first or {})
            meta["attached"] = {
                name: list(vars(kept).values()) for name, kept in attached.items() if isinstance(kept, Piece)
            }
            blobs |= {"keep:" + name: kept for name, kept in attached.items() if isinstance(kept, bytes)}
            record = encode_record(meta, blobs)
            # a store whose log speaks of an array that is not there does not open.
            self._sync(always=bool(self._new_arrays))
            self.container.append_record(record)
            self._sync()
            with self.state_lock:
                self.state.apply(meta, blobs)
                self.state.end += len(record)
            fresh = any(not tree.is_journal(name) for name in self._new_arrays)
            self._forget_pending()
        # The commit is made; what tidies up after it is tried again by the next one.
        with suppress(StorageError, OSError):
            self._tidy(first or {})
            if fresh:
                self.publish()  # other software sees the new array, which has as many rows as the others
        return self.state.commit

    def _tidy(self, first: Mapping[str, int]) -> None:
        """Give back the space of dropped rows; end a long segment of the log."""
        if not self.durable and any(self._drops(group, row) for group, row in first.items()):
            self.begin_segment()  # a commit that does without these rows is on the disk before they go
            self._dropped |= first
        for group, row in first.items():
            for name in self._row_counts(group):
                if not self.container.specs()[name].journaled:
                    self.container.drop_before(name, row)
        if self.state.end > SEGMENT_BYTES + 2 * sum(rows.size for rows in self.state.mutable.values()):
            self.begin_segment()

    def _drops(self, group: str, row: int) -> bool:
        """Whether dropping the rows before this one gives back the space of any that were there the last
        time."""
        shards = {
            spec.shard_rows
            for name, spec in self.container.specs().items()
            if tree.group_of(name) == group and not spec.journaled
        }
        return any(row // rows != self._dropped.get(group, 0) // rows for rows in shards)

    def _describe(
        self, extra: Mapping[str, Any], first: Mapping[str, int]
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The record of a commit: its JSON and its blobs."""
        lengths: dict[str, int] = {}
        for name, rows in self._all_rows():
            if tree.is_checksums(name) or tree.is_journal(name):
                continue
            group = tree.group_of(name)
            if lengths.setdefault(group, rows) != rows:
                raise SchemaError(
                    f"{self}: the arrays of {group} have different numbers of rows: {self._row_counts(group)}"
                )
        meta: dict[str, Any] = {
            "commit": self.state.commit + 1,
            "parent": self.state.commit,
            "time": now(),
            "lengths": dict(sorted(lengths.items())),
            "extra": dict(extra),
            "partial": {
                name: array.crc
                for name, array in self._raw.items()
                if array.crc and not tree.is_journal(name)
            },
        }
        if self._coded:
            starts = {
                name: array.rows // array.spec.chunk_rows * array.spec.chunk_rows
                for name, array in self._coded.items()
            }
            fresh = {
                name: [p for p in self._new_pieces.get(name, []) if p.start >= starts[name]]
                for name in self._coded
            }
            meta["tails"] = {
                name: [starts[name], [list(vars(p).values()) for p in fresh[name]]] for name in self._coded
            }
            meta["entries"] = {
                name: [[n, e.object, e.offset, e.length] for n, e in known.items()]
                for name, known in self._entries.items()
            }
        if self._tail_reset:
            meta["tail_reset"] = True
        if first:
            meta["first"] = dict(first)
        if self._new_arrays:
            meta["arrays"] = {name: spec.to_json() for name, spec in self._new_arrays.items()}
        blobs: dict[str, bytes] = {}
        for name, pieces in self._pending.items():
            blobs[("grow:" if self.container.specs()[name].mutable else "rows:") + name] = b"".join(pieces)
        for name, changes in self._changes.items():
            blobs["at:" + name] = np.concatenate([at for at, _ in changes]).astype("<i8").tobytes()
            blobs["set:" + name] = np.concatenate([rows for _, rows in changes]).tobytes()
        return meta, blobs

    def begin_segment(self) -> None:
        """Bring the rows of the tables to their arrays and begin a new segment of the log. Changes nothing
        that can be seen.

        A segment that begins with this commit has nothing to bring, and is not written anew: readers may be
        in the midst of it."""
        if self.state.commit == self.state.base:
            return
        with self.lock, self.storage("end a segment of the log"):
            state, tables = self.state, {}
            appended = {name: b"".join(blobs) for name, blobs in state.appended.items()}
            for name, data in appended.items():
                rows, checksum = state.tables.get(name, (0, 0))
                tables[name] = (
                    rows + len(data) // self.container.specs()[name].row_bytes,
                    extend(checksum, data),
                )
            self.container.reserve({name: rows for name, (rows, _) in tables.items()})
            for name, data in appended.items():
                self.container.write_rows(name, state.tables.get(name, (0, 0))[0], memoryview(data))
            self._sync(always=True)
            with self.state_lock:
                state.tables |= tables
                state.appended = {}
                self._forget_tables()
            for name, entries in state.entries.items():
                shard = self.rows(name) // self.container.specs()[name].shard_rows
                state.entries[name] = (
                    {}
                    if self.container.capabilities.knows_its_chunks
                    else of_shard(entries, shard, self.container.specs()[name].chunks_per_shard)
                )
            self._start_log(state)

    def _start_log(self, state: State) -> None:
        meta, blobs = state.to_base()
        document = json.dumps(self.container.document(), separators=(",", ":")).encode()
        if len(document) <= DOCUMENT_BYTES:
            blobs[DOCUMENT] = document
        record = encode_record(meta, blobs)
        self.container.begin_segment(state.commit, record)
        state.base, state.end = state.commit, len(record)

    def tidy(self) -> None:
        """Begin a new segment of the log if much would have to be read to open the store, or compared with
        what is on the disk."""
        if self.state.end > TIDY_BYTES or (not self.durable and self.state.commit > self.state.base):
            self.begin_segment()

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
                    chunk[: len(tail)] = (
                        np.ascontiguousarray(tail).reshape(-1).view(np.uint8).reshape(len(tail), -1)
                    )
                    number, data = start // array.spec.chunk_rows, array.codec.encode(chunk.reshape(-1))
                    shown = self._shown(name, number, data)
                    if shown is None:
                        partial[name] = {number: data}
                    else:
                        known[number] = shown
                entries[name] = of_shard(
                    known, max(0, self.rows(name) - 1) // array.spec.shard_rows, per_shard
                )
            for name, placed in self.container.write_chunks(partial).items() if partial else ():
                entries[name] = {**entries[name], **placed}
            self._sync(always=True)
            lengths = {name: self.rows(name) for name in self.state.arrays if not tree.is_journal(name)}
            self.container.publish(lengths, entries)

    def _shown(self, name: str, chunk: int, data: bytes) -> ChunkEntry | None:
        """Where other software finds an unfinished chunk already, if it is these bytes.

        Asked where an index is of one shard; HDF5's is of all chunks, and is looked up in a transaction."""
        if self.container.capabilities.knows_its_chunks:
            return None
        try:
            entry = self.container.entry(name, chunk)
            return entry if entry is not None and self.container.files.read(*entry) == data else None
        except (CorruptError, FileNotFoundError):
            return None

    def rollback(self, commit: int, *, attachments: Mapping[str, bytes] | None = None) -> None:
        """Go back to an older commit, with these attachments; those after it are given up. What readers have
        open stays as it is.

        `attachments`: None for those of the commit, as far as they are still there."""
        with self.lock:
            newest, old = self.state, self.pin(commit)
            with self.storage("roll back"):
                specs = self.container.specs()
                rows = {name: old.rows(name) for name in old.state.arrays if not tree.is_journal(name)}
                tables = {
                    name: old.table(name).tobytes()
                    for name in rows
                    if specs[name].journaled and not specs[name].mutable
                }
                tails = {name: old.tail(name) for name in self._coded if name in rows}
                state = State(
                    newest.store,
                    newest.commit + 1,
                    commit,
                    now(),
                    dict(old.state.lengths),
                    dict(newest.first),
                    old.state.extra,
                )
                state.arrays = {
                    name: spec
                    for name, spec in newest.arrays.items()
                    if name in rows or tree.is_journal(name)
                }
                state.dead = [*newest.dead, [commit + 1, newest.commit]]
                state.mutable = old.state.mutable
                self._complete_tables(tables)
                state.tables = {name: (rows[name], value(data)) for name, data in tables.items()}
                state.partial = {
                    name: crc
                    for name in self._raw
                    if name in rows and (crc := self._partial(name, rows[name]))
                }
                if not self.container.capabilities.knows_its_chunks:
                    state.entries = {name: self._kept_entries(name, rows[name]) for name in tails}
                state.unforked = True
                self._rolling_back = True  # so far nothing that was committed has changed
                self._encoder.discard()
                self._forget_pending()
                self._resume_tails()
                # The other one: until the rollback is known, the newest commit needs its own.
                self._tail_used = _FULL
                for name, (start, tail) in tails.items():
                    array = self._coded[name]
                    array.rows, array.kept = rows[name], start
                    array.chunk[: len(tail)] = (
                        np.ascontiguousarray(tail)
                        .reshape(-1)
                        .view(np.uint8)
                        .reshape(len(tail), array.spec.row_bytes)
                    )
                if attachments is None:
                    kept = {name: old.attachment(name) for name in old.state.attached}
                    attachments = {name: data for name, data in kept.items() if data is not None}
                state.attached = self._write_tails(attachments)
                state.tails = self._new_pieces
                self._sync(always=True)
                self._start_log(state)
                with self.state_lock:
                    self.state = state
                    self._forget_tables()
                self._rolling_back = False
            with self.storage("roll back"):
                self._fork()
                self._resume()
        self.publish()
        with self.storage("roll back"):
            self._trim()

    def _complete_tables(self, tables: Mapping[str, bytes]) -> None:
        """Bring rows of the tables that are only in the log so far to their arrays: those that the newest
        commit has there, too."""
        for name, data in tables.items():
            width, written = self.container.specs()[name].row_bytes, self.state.tables.get(name, (0, 0))[0]
            if len(data) > written * width:
                self.container.reserve({name: len(data) // width})
                self.container.write_rows(name, written, memoryview(data)[written * width :])

    def _fork(self) -> None:
        """End a rollback: no object that is written to from now on is one that readers of what was given up
        have open."""
        names = [name for name in self.state.arrays if not tree.is_journal(name)]
        self.container.fork(
            {
                name: self.state.tables[name][0] if name in self.state.tables else self.rows(name)
                for name in names
            }
        )
        record = encode_record({"commit": self.state.commit, "forked": True}, {})
        self.container.append_record(record)
        with self.state_lock:
            self.state.unforked = False
            self.state.end += len(record)

    def _kept_entries(self, name: str, rows: int) -> dict[int, ChunkEntry]:
        """Entries of the complete chunks of the shard that row `rows` falls into."""
        spec = self.container.specs()[name]
        numbers = range(rows // spec.shard_rows * spec.chunks_per_shard, rows // spec.chunk_rows)
        return {n: entry for n in numbers if (entry := self.locate(name, n)) is not None}

    def _partial(self, name: str, rows: int) -> int:
        spec = self.container.specs()[name]
        start = rows // spec.chunk_rows * spec.chunk_rows
        return value(self.read_raw(name, start, rows)) if rows > start else 0
