"""Going back to an older commit.

`rollback` never overwrites what a reader may have open: when it is in the log, the objects that hold rows to
be written anew are replaced by copies, and only when that is in the log, too, is anything written to them. A
reader looks at the log after it has opened an object: if no rollback is there, what it has opened stays as it
is for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from replaystore.arrays.committing import MARKED
from replaystore.arrays.naming import Named
from replaystore.arrays.records import now
from replaystore.arrays.recovery import TAIL_FULL, Resumer
from replaystore.arrays.state import State, Stored
from replaystore.containers.codecs import crc32c as value
from replaystore.containers.records import encode_record
from replaystore.errors import NotFoundError
from replaystore.schema import tree

__all__ = ["Reverter"]


class Reverter(Resumer):
    """A store that can be taken back to an older commit."""

    def rollback(
        self,
        commit: int,
        *,
        attachments: Mapping[str, bytes] | None = None,
        extra: Mapping[str, Any] | None = None,
        whole: bool = True,
        lost: bool = False,
    ) -> None:
        """Go back to an older commit, with these attachments; those after it are given up. What readers have
        open stays as it is.

        `attachments`: None for those of the commit, as far as they are still there. `extra`: what is kept in
        place of what the commit keeps under these keys. `whole`: refuse if rows of it may be gone, as newer
        commits say. `lost`: newer commits are not given up on purpose, so that what other software keeps is
        as of the older one, too."""
        with self.lock:
            newest, old = self.state, self.pin(commit, whole=whole)
            with self.storage("roll back"):
                specs = self.container.specs()
                rows = {name: old.rows(name) for name in old.state.arrays if not tree.is_journal(name)}
                begin = {name: newest.tables.get(name, Stored()).first for name in rows}
                tables = {
                    name: old.whole_table(name).rows(begin[name], rows[name]).tobytes()
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
                    dict(old.state.first),
                    extra={**old.state.extra, **(extra or {})},
                    shows=old.state.shows,
                    names=self._names_until(old.state),
                    keep_named=newest.keep_named,
                    keep_commits=newest.keep_commits,
                    pruned=newest.pruned,
                    gone={
                        g: min(row, old.state.first.get(g, 0))
                        for g, row in newest.gone.items()
                        if self._knows(old.state, g)
                    },
                )
                state.arrays = {
                    name: spec
                    for name, spec in newest.arrays.items()
                    if name in rows or tree.is_journal(name)
                }
                state.dead = [*newest.dead, [commit + 1, newest.commit]]
                state.mutable, state.more = old.state.mutable, (old.state if lost else newest).more
                state.dropped = {g: row for g, row in newest.dropped.items() if self._knows(old.state, g)}
                state.marks = [mark for mark in newest.marks if self._has(old.state, mark)]
                self._complete_tables(tables)
                state.tables = {
                    name: Stored(rows[name], value(data), begin[name]) for name, data in tables.items()
                }
                state.partial = {
                    name: crc
                    for name in self._raw
                    if name in rows and (crc := self._partial(name, rows[name]))
                }
                if not self.container.capabilities.knows_its_chunks:
                    state.entries = {name: self._kept_entries(name, rows[name]) for name in tails}
                state.unforked = True
                self._settle(state)
                self._rolling_back = True  # so far nothing that was committed has changed
                self._encoder.discard()
                self._forget_pending()
                self._resume_tails()
                # The other one: until the rollback is known, the newest commit needs its own.
                self._tail_used = TAIL_FULL
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
                # Of a field that came later rows may wait that no commit has, and it goes with them.
                state.tails = {name: some for name, some in self._new_pieces.items() if name in tails}
                self._sync(always=True)
                self._start_log(state)
                with self.state_lock:
                    self.state = state
                    self._forget_tables()
                self._settings, self._rolling_back = {}, False
            with self.storage("roll back"):
                self._fork()
                self._resume()
        self.publish()
        with self.storage("roll back"):
            self._trim()

    def _names_until(self, old: State) -> dict[str, Named]:
        """The names of commits up to an older one: also such as have been given to newer ones since, if those
        that had them then can still be opened. A name that was taken back stays so: whoever goes on from a
        checkpoint has not got all those again that were cleared away since."""
        found = {name: named for name, named in self.state.names.items() if named.commit <= old.commit}
        for name, named in old.names.items():
            if name in self.state.names and name not in found:
                with suppress(NotFoundError):
                    self.at(named.commit, whole=False)
                    found[name] = named
        return dict(sorted(found.items(), key=lambda item: item[1].commit))

    def _complete_tables(self, tables: Mapping[str, bytes]) -> None:
        """Bring rows of the tables that are only in the log so far to their arrays: those that the newest
        commit has there, too."""
        for name, data in tables.items():
            width = self.container.specs()[name].row_bytes
            written, _, first = self.state.tables.get(name, Stored())
            if len(data) > (written - first) * width:
                self.container.reserve({name: first + len(data) // width})
                self.container.write_rows(name, written, memoryview(data)[(written - first) * width :])

    @staticmethod
    def _knows(state: State, group: str) -> bool:
        """Whether a group was there in a commit: values of a field that came later were not."""
        return group in state.lengths or not tree.is_values(group)

    @staticmethod
    def _has(state: State, mark: Sequence[int]) -> bool:
        """Whether a mark was made before a commit, rather than in what follows it."""
        groups = ("steps", *MARKED)
        return all(rows <= state.lengths.get(group, 0) for group, rows in zip(groups, mark, strict=True))

    def _fork(self) -> None:
        """End a rollback: no object that is written to from now on is one that readers of what was given up
        have open."""
        names = [name for name in self.state.arrays if not tree.is_journal(name)]
        self.container.fork(
            {
                name: self.state.tables[name].rows if name in self.state.tables else self.rows(name)
                for name in names
            }
        )
        record = encode_record({"commit": self.state.commit, "forked": True}, {})
        self.container.append_record(record)
        with self.state_lock:
            self.state.unforked = False
            self.state.end += len(record)

    def _partial(self, name: str, rows: int) -> int:
        spec = self.container.specs()[name]
        start = rows // spec.chunk_rows * spec.chunk_rows
        return value(self.read_raw(name, start, rows)) if rows > start else 0
