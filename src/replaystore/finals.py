"""The observations after the last steps of trajectories, by number, as batches need them: quickly, and as of one commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from replaystore.gathering import Batch, Gather, Rows
from replaystore.names import escape_path

if TYPE_CHECKING:
    from replaystore.reader import BufferReader

__all__ = ["Finals"]

SHARE = 8
"""The share of the slabs' memory that there is for final observations, beside it."""


class Finals:
    """Final observations by number: those that are stored, and behind them those pending with the commit."""

    def __init__(self, buffer: BufferReader, names: Sequence[str], slab_bytes: int) -> None:
        store = buffer._store
        places = {name: f"final/{escape_path(name)}" for name in names}
        self._stored = max((store.rows(place) for place in places.values()), default=0)
        opened = [entry for entry in buffer._open_trajectories() if names and entry.following is not None]
        self.numbers = {entry.trajectory: self._stored + number for number, entry in enumerate(opened)}
        specs = store.container.specs()
        self._tables = {name: store.table(place) for name, place in places.items() if specs[place].journaled}
        others = [name for name in names if name not in self._tables]
        self._gather = Gather(buffer, others, slab_bytes // SHARE, group="final")
        self._pending = {name: [entry.following[name] for entry in opened if entry.following is not None] for name in names}

    def forget(self) -> None:
        """Hold no decoded chunks, as in a forked child."""
        self._gather.forget()

    def put(self, found: Batch, at: Rows, numbers: Rows) -> None:
        """Put the final observations of these numbers to these places."""
        if not len(at):
            return
        pending = np.flatnonzero(numbers >= self._stored)
        if not len(pending):
            for name, values in self._read(found.keys(), numbers).items():
                found[name][at] = values
            return
        ended = numbers < self._stored
        if ended.any():
            self.put(found, at[ended], numbers[ended])
        for name, values in found.items():
            for place in pending.tolist():
                values[at[place]] = self._pending[name][int(numbers[place]) - self._stored]

    def _read(self, names: Iterable[str], numbers: Rows) -> Batch:
        """Final observations that are stored."""
        stored = [name for name in names if name not in self._tables]
        read = self._gather.take(stored, numbers) if stored else {}
        return read | {name: self._tables[name][numbers] for name in names if name in self._tables}
