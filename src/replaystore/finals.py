"""The observations after the last steps of trajectories, by number, as batches need them: quickly, and as of one commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from replaystore.chunks.coded import CodedColumn
from replaystore.chunks.slab import Slab
from replaystore.gathering import Batch, Rows
from replaystore.names import escape_path

if TYPE_CHECKING:
    from replaystore.reader import BufferReader

__all__ = ["Finals"]

SHARE = 8
"""The share of the slabs' memory that there is for final observations, beside it."""


class Finals:
    """Final observations by number: those that are stored, and behind them those pending with the commit."""

    def __init__(self, buffer: BufferReader, names: Sequence[str], slab_bytes: int) -> None:
        self._buffer = buffer
        store = buffer._store
        places = {name: f"final/{escape_path(name)}" for name in names}
        self._stored = max((store.rows(place) for place in places.values()), default=0)
        opened = [entry for entry in buffer._open_trajectories() if names and entry.following is not None]
        self.numbers = {entry.trajectory: self._stored + number for number, entry in enumerate(opened)}
        specs = store.container.specs()
        self._tables = {name: store.table(place) for name, place in places.items() if specs[place].journaled}
        coded: dict[int, dict[str, CodedColumn]] = {}
        for name, place in places.items():
            column = None if name in self._tables else buffer._column(place)
            if isinstance(column, CodedColumn):
                coded.setdefault(column.chunk_rows, {})[name] = column
        self._slabs = [Slab(columns, slab_bytes // SHARE) for columns in coded.values()]
        self._pending = {name: [entry.following[name] for entry in opened if entry.following is not None] for name in names}

    def put(self, found: Batch, at: Rows, numbers: Rows) -> None:
        """Put the final observations of these numbers to these places."""
        if not len(at):
            return
        pending = np.flatnonzero(numbers >= self._stored)
        ended = numbers < self._stored
        stored = self._read(found, numbers[ended]) if len(pending) < len(at) else {}
        for name, values in found.items():
            if stored:
                values[at[ended]] = stored[name]
            for place in pending.tolist():
                values[at[place]] = self._pending[name][int(numbers[place]) - self._stored]

    def _read(self, found: Batch, numbers: Rows) -> Batch:
        """Final observations that are stored."""
        read: Batch = {}
        for slab in self._slabs:
            outs = {name: np.empty((len(numbers), *found[name].shape[1:]), found[name].dtype) for name in slab.names if name in found}
            slab.take(numbers, outs)
            read |= outs
        for name in found.keys() - read.keys():
            table = self._tables.get(name)
            read[name] = self._buffer.final_rows(name, numbers) if table is None else table[numbers]
        return read
