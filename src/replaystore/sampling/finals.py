"""The observations after the last steps of trajectories, by number, as batches need them: quickly, and as of
one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from replaystore.errors import ReplayStoreError
from replaystore.sampling.gather import Batch, Gather, Rows
from replaystore.sampling.steps import PENDING
from replaystore.schema import tree
from replaystore.trajectories.growth import Growth

if TYPE_CHECKING:
    from replaystore.views.reader import BufferReader

__all__ = ["Ends", "Finals", "GrownFinals"]

SHARE = 8
"""The share of the slabs' memory that there is for final observations, beside it."""
AT_ONCE = 1 << 17
"""Bytes of final observations that are read at once for batches to come."""


class Finals:
    """Final observations by number: those that are stored, and from PENDING on those that follow what is
    open."""

    def __init__(self, buffer: BufferReader, names: Sequence[str], slab_bytes: int) -> None:
        store = buffer.store
        places = {name: tree.final(name) for name in names}
        opened = [entry for entry in buffer.open_trajectories() if names and entry.following is not None]
        self.numbers = {entry.trajectory: PENDING + number for number, entry in enumerate(opened)}
        specs = store.container.specs()
        self._first = max((store.first(place) for place in places.values()), default=0)
        self._tables = {name: store.table(place) for name, place in places.items() if specs[place].journaled}
        others = [name for name in names if name not in self._tables]
        self._gather = Gather(buffer, others, slab_bytes // SHARE, group="final")
        self.at_once = max(1, AT_ONCE // max(1, sum(buffer.schema.fields[name].row_bytes for name in names)))
        """Final observations that are read at once."""
        self.pending: Mapping[str, Any] = {
            name: [entry.following[name] for entry in opened if entry.following is not None] for name in names
        }
        """By field, the observations that follow what is open."""

    def forget(self) -> None:
        """Hold no decoded chunks, as in a forked child."""
        self._gather.forget()

    def read(self, numbers: Rows) -> Batch:
        """The final observations of these numbers: {field: array of shape (len(numbers), *field shape)}."""
        stored = numbers < PENDING
        if stored.all():
            return self._read(numbers)
        batch: Batch = {}
        for name, found in self._read(numbers[stored]).items():
            values = batch[name] = np.empty((len(numbers), *found.shape[1:]), found.dtype)
            values[stored] = found
            for place in np.flatnonzero(~stored).tolist():
                values[place] = self.pending[name][int(numbers[place]) - PENDING]
        return batch

    def put(self: Finals | GrownFinals, found: Batch, final: Rows) -> None:
        """Put final observations to their places. `final`: of each place the number, or -1."""
        at = np.flatnonzero(final >= 0)
        if len(at):
            for name, values in self.read(final[at]).items():
                found[name][at] = values

    def _read(self, numbers: Rows) -> Batch:
        """Final observations that are stored."""
        read = self._gather.take(tuple(self._gather.columns), numbers)
        return read | {name: table[numbers - self._first] for name, table in self._tables.items()}


class GrownFinals:
    """Final observations of a buffer that grows, by number; from PENDING on those that follow what is open
    now."""

    def __init__(self, growth: Growth, names: Sequence[str]) -> None:
        self.growth, self._names = growth, names
        self._pending: Batch | None = None
        self.at_once = 1

    def go_on(self, *, live: bool) -> None:
        """What is open has become something else. `live`: and stays so until the next batch has been made;
        else it is shown as it is now, whatever commit the buffer goes on to in another thread."""
        self._pending = None if live else self._following()

    def _following(self) -> Batch:
        return {name: self.growth.following(name) for name in self._names}

    def forget(self) -> None:
        """As `Finals.forget`: it holds none."""

    def read(self, numbers: Rows) -> Batch:
        """As `Finals.read`."""
        stored = numbers < PENDING
        told = stored.tobytes()
        if 0 not in told:
            return {name: self.growth.final_rows(name, numbers) for name in self._names}
        if self._pending is None:
            self._pending = self._following()
        if 1 not in told:
            return {name: rows.take(numbers - PENDING, 0) for name, rows in self._pending.items()}
        batch: Batch = {}
        for name, pending in self._pending.items():
            values = batch[name] = np.empty((len(numbers), *pending.shape[1:]), pending.dtype)
            values[~stored] = pending[numbers[~stored] - PENDING]
            values[stored] = self.growth.final_rows(name, numbers[stored])
        return batch

    put = Finals.put


class Ends:
    """Where the observations of items that were drawn at once are final ones.

    They are read for many batches at once: few batches show any, and to look for one takes as long as for
    thirty.

    Args:
        at: those of the items, in order, that show a final observation last.
        numbers: of those.
        count: of items.
        size: items of a batch.
        shown: observations that each item shows.
    """

    def __init__(
        self,
        finals: Finals | GrownFinals,
        at: Rows,
        numbers: Rows,
        *,
        count: int,
        size: int,
        shown: int = 1,
    ) -> None:
        self._finals, self._numbers = finals, numbers
        self._bounds = [0, len(at)]
        self._places = at
        if count > size:
            self._bounds = np.searchsorted(at, np.arange(0, count + size, size)).tolist()
            self._places = at % size
        if shown > 1:
            self._places = (self._places + 1) * shown - 1
        self._known: tuple[int, int, Batch] = (0, 0, {})
        """From which one to before which one they have been read, and what they are."""

    def put(self, found: Batch, batch: int) -> None:
        """Put those of a batch to their places. `found`: {field: array of shape (items * shown, *field
        shape)}."""
        first, last = self._bounds[batch], self._bounds[batch + 1]
        if first == last:
            return
        size = len(next(iter(found.values()), ()))
        if self._places[last - 1] >= size:  # only some items of the batch are shown
            last = first + int(np.searchsorted(self._places[first:last], size))
            if first == last:
                return
        start, stop, known = self._known
        if not start <= first <= last <= stop:
            start, stop, known = self._known = self._read(first, last)
        for name, values in known.items():
            found[name][self._places[first:last]] = values[first - start : last - start]

    def _read(self, first: int, last: int) -> tuple[int, int, Batch]:
        """Read these, and some that come after them; those are not to fail a batch that does not show
        them."""
        stop = max(last, min(first + self._finals.at_once, len(self._numbers)))
        try:
            return first, stop, self._finals.read(self._numbers[first:stop])
        except ReplayStoreError:
            return first, last, self._finals.read(self._numbers[first:last])
