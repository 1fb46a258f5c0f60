"""What a commit has that an earlier one had not: the growth of a store that is read, as
`trajectories/growth.py` says it.

What is told is checked as it is read, like whole tables: no row number leads beyond the rows of the commit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema import tree
from replaystore.trajectories.checks import check_parts
from replaystore.trajectories.growth import OpenParts
from replaystore.trajectories.opened import COLUMNS, Open, followed
from replaystore.views.followed import stored_parts
from replaystore.views.shown import Shown

__all__ = ["CommitGrowth"]

Rows = NDArray[np.int64]
OF_PARTS = [COLUMNS.index(name) for name in ("part_start", "part_length", "stride", "trajectory", "offset")]
PART_LENGTH = COLUMNS.index("part_length")
FIXED = np.array([at for at in range(len(COLUMNS) + 1) if at != PART_LENGTH])
"""Rows of the matrix of open trajectories: all of them but the lengths of parts, and the returns."""


class CommitGrowth:
    """The growth of a store as of the commit that is shown, which may become another one."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._known: tuple[int, int] | None = None
        """Of which commit the open trajectories are known,"""
        self._opened = _parts_of(np.empty((6, 0), np.int64), np.empty(0, np.bool_))
        self._entries: list[Open] | None = None
        """those that have a part, if an observation after a last step has to be looked for,"""
        self._shared: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None
        """or of all open ones which have a part, and which are followed by an observation."""
        self._apart = np.empty(0, np.int64), np.empty(0, np.int64)
        """First rows and strides of open parts that are known to have no row in common, however long."""
        self._checked: tuple[tuple[int, ...], bytes] | None = None
        """What was found good of open trajectories: the shape of their matrix, and all of it but the lengths
        of their parts."""

    @property
    def bounds(self) -> tuple[int, int]:
        """As `Growth.bounds`."""
        store = self._shown.store
        return store.first("steps"), store.rows("steps")

    @property
    def generation(self) -> int:
        """As `Growth.generation`."""
        return self._shown.store.state.generation

    @property
    def oldest_part(self) -> int:
        """As `Growth.oldest_part`."""
        return self._shown.store.first(tree.PARTS)

    @property
    def closed_parts(self) -> int:
        """As `Growth.closed_parts`."""
        return self._shown.store.rows(tree.PARTS)

    def closed(self, since: int) -> Rows:
        """As `Growth.closed`."""
        store = self._shown.store
        parts = stored_parts(store)[since - store.first(tree.PARTS) :]
        self._check(list(np.ascontiguousarray(parts.T)))
        return parts

    def opened(self) -> OpenParts:
        """As `Growth.opened`."""
        store = self._shown.store
        commit = store.state.commit, self.generation
        if self._known != commit:
            self._look()
            self._known = commit
        return self._opened

    def _look(self) -> None:
        """Read what is open: a writer keeps it with each commit, and who refreshes at each pays for it."""
        if self._longer():
            return
        shown, kept = self._shown, self._shown.open_numbers()
        told = followed(kept)
        if self._kept_beside(int(np.count_nonzero(told))):
            growing = kept[PART_LENGTH] > 0 if kept.size else told
            self._entries, self._shared = None, (growing, told)
            parts = kept[OF_PARTS] if kept.size else np.empty((5, 0), np.int64)
            if not growing.all():
                parts, told = parts[:, growing], told[growing]
        else:
            entries = [entry for entry in shown.open_trajectories() if entry.part_length]
            entries.sort(key=lambda entry: entry.trajectory)
            self._entries, self._shared = entries, None
            columns = [[e.part_start, e.part_length, e.stride, e.trajectory, e.offset] for e in entries]
            parts = np.ascontiguousarray(np.array(columns, np.int64).reshape(-1, 5).T)
            told = np.array([entry.following is not None for entry in entries], np.bool_)
        self._check_open(parts)
        self._opened = _parts_of(parts, told)
        whole = self._shared is not None and 0 < len(told) == kept.shape[1] and len(self._apart[0])
        self._checked = (kept.shape, kept[FIXED].tobytes()) if whole else None

    def _longer(self) -> bool:
        """Whether the commit has the same open trajectories as the one before, none of whose parts can have a
        row of another, with parts of other lengths: as nearly always."""
        kept, known = self._shown.store.state.extra["open"], self._checked
        if known is None or not isinstance(kept, np.ndarray) or kept.dtype != np.int64:
            return False
        if kept.shape != known[0] or kept[FIXED].tobytes() != known[1]:
            return False
        opened = self._opened
        length, most = kept[PART_LENGTH], (self.bounds[1] - 1 - opened.start) // opened.stride
        if np.count_nonzero((length < 1) | (length - 1 > most)):
            return False
        if not self._kept_beside(int(np.count_nonzero(opened.followed))):
            return False
        self._opened = OpenParts(
            opened.start, length, opened.stride, opened.trajectory, opened.offset, opened.followed
        )
        return True

    def _kept_beside(self, count: int) -> bool:
        """Whether the commit has the observations after so many last steps."""
        shown = self._shown
        names = shown.schema.names("observation")
        for name in names if count else ():
            data = shown.store.attachment(name)
            if data is None or len(data) != count * shown.schema.fields[name].row_bytes:
                return False
        return bool(names) or not count

    def _check_open(self, parts: Rows) -> None:
        start, length, stride = parts[:3]
        if not len(start):
            return
        if not (np.array_equal(start, self._apart[0]) and np.array_equal(stride, self._apart[1])):
            self._check([*parts, np.full(len(start), -1)])
            lanes = start % stride
            apart = int(stride.min()) == int(stride.max()) and len(set(lanes.tolist())) == len(lanes)
            self._apart = (start.copy(), stride.copy()) if apart else (start[:0], stride[:0])
        elif int(length.min()) < 1 or ((self.bounds[1] - 1 - start) // stride < length - 1).any():
            self._check([*parts, np.full(len(start), -1)])

    def _check(self, columns: list[Rows]) -> None:
        start = columns[0]
        if not (start[1:] >= start[:-1]).all():
            order = np.argsort(start, kind="stable")
            columns = [column[order] for column in columns]
        finals = self._shown.store.state.lengths.get("final", 0)
        check_parts(columns, rows=self.bounds[1], finals=finals, where=self._shown.where)

    def following(self, name: str) -> NDArray[Any]:
        """As `Growth.following`."""
        opened, (dtype, shape) = self.opened(), self._shown.schema.fields[name].stored
        count = len(opened.start)
        if self._shared is None:
            found = np.zeros((count, *shape), dtype)
        else:
            growing, told = self._shared
            data = self._shown.store.attachment(name) if told.any() else b""
            assert data is not None, "it has been there"
            rows = np.frombuffer(data, dtype).reshape(-1, *shape)
            if len(rows) == count == len(told):
                return rows
            found = np.zeros((count, *shape), dtype)
            found[told[growing]] = rows[growing[told]]
        for at, entry in enumerate(self._entries or ()):
            if entry.following is not None:
                found[at] = entry.following[name]
        return found

    def final_rows(self, name: str, numbers: Rows) -> NDArray[Any]:
        """As `Growth.final_rows`."""
        return self._shown.final_rows(name, numbers)


def _parts_of(parts: Rows, told: NDArray[np.bool_]) -> OpenParts:
    return OpenParts(parts[0], parts[1], parts[2], parts[3], parts[4], told)
