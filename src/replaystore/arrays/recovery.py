"""Taking up writing where the last commit is: after a clean end, a kill or a power cut, and for a rollback.

A torn record is cut off the log first, so that the next one follows a valid one; then the state of every
array is set up from the commit; then whole objects that no commit knows of go.
"""

from __future__ import annotations

import numpy as np

from replaystore.arrays.appending import CodedArray, RawArray
from replaystore.arrays.committing import Committer
from replaystore.arrays.records import replay
from replaystore.arrays.state import SEALED, Piece
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry
from replaystore.schema import tree

__all__ = ["TAIL_FULL", "Resumer"]

TAIL_FULL = 1 << 62
"""Of a tail array: the other one is begun."""


class Resumer(Committer):
    """A store whose writing is taken up."""

    def cut_off_torn_record(self) -> None:
        """Forget what follows the last valid record of the log."""
        self.container.cut_segment(self.state.base, self.state.end)

    def doubt_what_was_left(self) -> None:
        """Without durability: of the rows since the base record, those that a ring still has may be in the
        system's memory only, where they look as if they were on the disk; what is synced from now on says
        that they are, too."""
        base = replay(self.container.read_segment(self.state.base), str(self), until=self.state.base)
        self.container.doubt(
            {
                name: 0 if tree.is_journal(name) else base.lengths.get(tree.group_of(name), 0)
                for name, spec in self.state.arrays.items()
                if not spec.journaled
            }
        )

    def _kept_entries(self, name: str, rows: int) -> dict[int, ChunkEntry]:
        """Entries of the complete chunks of the shard that row `rows` falls into."""
        spec = self.container.specs()[name]
        numbers = range(rows // spec.shard_rows * spec.chunks_per_shard, rows // spec.chunk_rows)
        return {n: entry for n in numbers if (entry := self.locate(name, n)) is not None}

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
                unsummed = not tree.is_journal(name) and tree.checksums(name) not in self.state.arrays
                self._raw[name] = RawArray(spec, rows, self.state.partial.get(name, 0), unsummed)
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
        self._tail_used = max((end for _, end in used), default=TAIL_FULL)

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

    def _trim(self) -> None:
        self.container.trim(
            {name: self.rows(name) for name in self.state.arrays if not tree.is_journal(name)}
        )
