"""Rows of unfinished chunks, and what is attached to a commit, of a store that is far away: their pieces, one
for each commit, lie side by side in one file and are brought by few requests, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from replaystore.arrays.history import History
from replaystore.arrays.state import Piece
from replaystore.errors import CorruptError
from replaystore.schema import tree

__all__ = ["TailRuns"]

GAP = 1 << 16
"""Bytes between two pieces that are read along rather than asked for by themselves."""

Place = tuple[str, int, int]
ReadRaw = Callable[[str, int, int], bytes]
"""The bytes of rows [start, stop) of an array."""


class TailRuns:
    """Runs of bytes of the tail arrays."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int, bytes]] = []
        """(slot, first byte, bytes)"""

    def bring(
        self,
        store: History,
        read_raw: ReadRaw,
        places_of: Callable[[str, int, int], Iterable[Place]],
        more: Iterable[Place],
    ) -> None:
        """Read what the unfinished chunks and attachments of a commit need; `more` is announced with it."""
        runs: list[list[int]] = []
        for slot, begin, end in sorted(_wanted(store)):
            if runs and runs[-1][0] == slot and begin <= runs[-1][2] + GAP:
                runs[-1][2] = max(runs[-1][2], end)
            else:
                runs.append([slot, begin, end])
        places = [place for slot, begin, end in runs for place in places_of(tree.tail(slot), begin, end)]
        store.container.files.fetch_ahead([*places, *more])
        for slot, begin, end in runs:
            with suppress(CorruptError):  # as reading the pieces will tell
                self._runs.append((slot, begin, read_raw(tree.tail(slot), begin, end)))

    def read(self, read_raw: ReadRaw, slot: int, begin: int, end: int) -> bytes:
        """Bytes of a tail array, which have been brought, perhaps."""
        for of, start, data in self._runs:
            if of == slot and start <= begin and end <= start + len(data):
                return data[begin - start : end - start]
        return read_raw(tree.tail(slot), begin, end)


def _wanted(store: History) -> Iterable[tuple[int, int, int]]:
    """The (slot, begin, end) of each piece."""
    for name, spec in store.specs().items():
        rows = store.rows(name)
        start = rows // spec.chunk_rows * spec.chunk_rows
        for piece in store.state.tails.get(name) or store.places.tails.get(name, []):
            if start <= piece.start < rows:
                yield piece.slot, piece.offset, piece.offset + piece.rows * spec.row_bytes
    for kept in store.state.attached.values():
        if isinstance(kept, Piece):
            yield kept.slot, kept.offset, kept.offset + kept.rows
