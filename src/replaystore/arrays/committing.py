"""Commits: what was appended becomes a part of the store, at once, by one record of the log.

* `commit`: everything appended is made durable, then one record is appended to the log and made durable.
  Nothing else is ever the truth.
* When a segment of the log has grown, the rows of the tables move to their arrays and a new segment begins,
  with a record that says everything.
* What other software sees (shapes, indexes) is changed by `publish` alone, and lags behind the commits until
  then.
* Without durability only plain commits are not synced. What else changes (a segment of the log begins,
  arrays, the document, publishing, dropping rows) is synced with all that was written before; the next record
  says so. So after a power cut the newest segment has its base record, and the newest commit that was synced
  is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from replaystore.arrays.appending import of_shard
from replaystore.arrays.changing import Changer
from replaystore.arrays.differences import shorten
from replaystore.arrays.dropping import values_first
from replaystore.arrays.records import now
from replaystore.arrays.state import DOCUMENT, Piece, State, Stored
from replaystore.arrays.tables import without_first
from replaystore.containers.codecs import crc32c as value
from replaystore.containers.codecs import extend
from replaystore.containers.protocol import ChunkEntry
from replaystore.containers.records import encode_record
from replaystore.errors import CorruptError, SchemaError, StorageError
from replaystore.schema import tree

__all__ = ["MARKED", "Committer"]

SEGMENT_BYTES = 1 << 18
"""A segment of the log is ended beyond this: opening a store reads one segment."""
TIDY_BYTES = 1 << 16
"""A closed store's last segment is at most about this long."""
MARKED = ("parts", "trajectories", "final")
"""The groups of tables whose rows are dropped with the steps that they are about."""
MARKS = 16
"""Into about so many pieces of a ring's window its tables are divided: they are dropped piece by piece."""
DOCUMENT_BYTES = 1 << 16
"""A document of at most this size is copied into each segment of the log."""


class Committer(Changer):
    """A store whose rows are appended and committed."""

    whole_tables = False
    """Of a ring too: somebody needs what the tables say of rows that have left."""

    def commit(
        self,
        extra: Mapping[str, Any],
        *,
        first: Mapping[str, int] | None = None,
        attachments: Mapping[str, bytes] | None = None,
        name: str | None = None,
        forget: str | None = None,
        shows: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> int:
        """Make everything appended durable and visible, at once; return the number of the commit.

        `extra` (JSON) is kept with it, and `attachments` until the next commit (of one with a name: as long
        as that). Rows of a group before `first` are dropped. `forget`: a name that no commit has any more.
        `shows`: the commit that shows the same, if there is one. `more`: what changes of what other software
        keeps, by keys with a dot or a colon (JSON; None: what is no more)."""
        with self.lock, self.storage("commit"):
            extra = self.ready_changes(extra)
            first = self.without_old_changes(first or {}, extra)
            if first:
                first = values_first(self, [*self._raw, *self._coded], self.state.first, first)
            self._encoder.finish()
            self._store_chunks()
            attached = self._write_tails(attachments or {}, inside=name is not None)
            meta, blobs = self._describe(extra, first or {})
            meta |= {} if name is None else {"name": name}
            meta |= {} if forget is None else {"forget": forget}
            meta |= {"more": dict(more)} if more else {}
            meta |= {"synced": True} if self._synced == self.state.commit else {}
            meta |= self._settings if shows is None else {"shows": shows, **self._settings}
            meta["attached"] = {
                name: list(vars(kept).values()) for name, kept in attached.items() if isinstance(kept, Piece)
            }
            blobs |= {"keep:" + name: kept for name, kept in attached.items() if isinstance(kept, bytes)}
            record = encode_record(*shorten(meta, blobs, self.state))
            # a store whose log speaks of an array that is not there does not open.
            self._sync(always=bool(self._new_arrays))
            self.container.append_record(record)
            self._sync()
            with self.state_lock:
                self.state.apply(meta, blobs)
                self.state.end += len(record)
            fresh = any(map(_counted, self._new_arrays))
            self._forget_pending()
            self._settings = {}
        # The commit is made; what tidies up after it is tried again by the next one.
        with suppress(StorageError, OSError):
            self._tidy({group: self.state.needed(group) for group in first or {}})
            if fresh:
                self.publish()  # other software sees the new array, which has as many rows as the others
        return self.state.commit

    def _tidy(self, first: Mapping[str, int]) -> None:
        """Give back the space of dropped rows; end a long segment of the log."""
        leaving = {group: row for group, row in first.items() if row >= self._stays.get(group, 0)}
        if leaving:
            self._sync_commit()  # which does without these rows
        for group, row in leaving.items():
            shards = []
            for name in self._row_counts(group):
                spec = self.container.specs()[name]
                if not spec.journaled:
                    self._give_back(name, row)
                    shards.append(spec.shard_rows)
            self._stays[group] = min((row // rows * rows + rows for rows in shards), default=0)
        if self.state.end > max(SEGMENT_BYTES, 2 * self.state.base_end):  # which says all names
            self.begin_segment()

    def _give_back(self, name: str, row: int) -> None:
        """Give back the space of the rows of an array before this one: of what has left since the last time,
        so that it costs what leaves; the first time, whatever a killed writer has left there."""
        since, rows = self._gone.get(name), self.container.specs()[name].shard_rows
        if since is None or since // rows < row // rows:
            self.container.drop_before(name, row, since=since)
            self._gone[name] = row

    def _describe(
        self, extra: Mapping[str, Any], first: Mapping[str, int]
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The record of a commit: its JSON and its blobs."""
        lengths: dict[str, int] = {}
        for name, rows in self._all_rows():
            group = _counted(name)
            if group and lengths.setdefault(group, rows) != rows:
                raise SchemaError(
                    f"{self}: the arrays of {group} have different numbers of rows: {self._row_counts(group)}"
                )
        meta: dict[str, Any] = {
            "commit": self.state.commit + 1,
            "parent": self.state.commit,
            "time": now(),
            "lengths": dict(sorted(lengths.items())),
            "extra": dict(extra),
            "partial": {name: array.crc for name, array in self._raw.items() if array.crc and _counted(name)},
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
                rows, checksum, first = state.tables.get(name, Stored())
                count = len(data) // self.container.specs()[name].row_bytes
                tables[name] = Stored(rows + count, extend(checksum, data), first)
            self.container.reserve({name: rows for name, (rows, _, _) in tables.items()})
            for name, data in appended.items():
                self.container.write_rows(name, state.tables.get(name, Stored()).rows, memoryview(data))
            self._sync(always=True)
            with self.state_lock:
                state.tables |= tables
                state.appended = {}
                self._drop_rows_of_tables(state)
            for name, entries in state.entries.items():
                shard = self.rows(name) // self.container.specs()[name].shard_rows
                state.entries[name] = (
                    {}
                    if self.container.capabilities.knows_its_chunks
                    else of_shard(entries, shard, self.container.specs()[name].chunks_per_shard)
                )
            state.pruned = self._horizon()
            self._start_log(state)
        with suppress(StorageError, OSError):  # tried again when the next one begins
            self._give_back_tables()
            self._forget_old()

    def _give_back_tables(self) -> None:
        """Give back the space of rows of tables, and of final observations, that the base record does
        without."""
        for name in self.state.arrays if self.state.dropped else ():
            if not (tree.has_first(tree.group_of(name)) or tree.is_journal(name)):
                stored = self.state.tables.get(name)
                self._give_back(name, self.first(name) if stored is None else stored.first)

    def _drop_rows_of_tables(self, state: State) -> None:
        """Of a ring: rows of tables that are about steps alone which have left it need not be kept."""
        if "steps" not in state.first:
            return
        needed, steps = state.needed("steps"), state.lengths["steps"]
        checked = {group: state.needed(group) for group in state.first if tree.has_first(group)}
        if self.whole_tables:
            state.drop(checked)
            return
        passed = [mark for mark in state.marks if mark[0] <= needed]
        state.marks = [mark for mark in state.marks if mark[0] > needed]
        last = state.marks[-1][0] if state.marks else needed
        if (steps - last) * MARKS >= steps - needed:
            state.marks.append([state.lengths.get(group, 0) for group in ("steps", *MARKED)])
        state.drop(checked | (dict(zip(MARKED, passed[-1][1:], strict=True)) if passed else {}))
        for name, (rows, checksum, first) in state.tables.items():
            spec = self.container.specs()[name]
            since = min(self.first(name), rows) // spec.shard_rows * spec.shard_rows
            if since > first:
                with suppress(CorruptError):  # damaged ones stay, for `verify` to say so
                    gone, rest = self.read_raw(name, first, since), (rows - since) * spec.row_bytes
                    state.tables[name] = Stored(rows, without_first(checksum, value(gone), rest), since)

    def _start_log(self, state: State) -> None:
        meta, blobs = state.to_base()
        document = json.dumps(self.container.document(), separators=(",", ":")).encode()
        if len(document) <= DOCUMENT_BYTES:
            blobs[DOCUMENT] = document
        record = encode_record(meta, blobs)
        self.container.begin_segment(state.commit, record)
        state.base, state.base_end, state.end = state.commit, len(record), len(record)

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
                self.container.reserve({name: self.rows(name) for name in self.state.mutable})
                for name, rows in self.state.mutable.items():
                    self.container.write_rows(name, self.first(name), rows.reshape(-1).data)
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


@lru_cache(maxsize=4096)
def _counted(name: str) -> str:
    """The group whose rows an array has; empty for one of the store's own, which has others."""
    return "" if tree.is_checksums(name) or tree.is_journal(name) else tree.group_of(name)
