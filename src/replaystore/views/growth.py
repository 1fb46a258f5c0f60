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
from replaystore.trajectories.columns import PARTS
from replaystore.trajectories.growth import OpenParts
from replaystore.trajectories.opened import Open
from replaystore.views.shown import Shown

__all__ = ["CommitGrowth"]

Rows = NDArray[np.int64]
NAMES = [tree.parts(name) for name in PARTS]


class CommitGrowth:
    """The growth of a store as of the commit that is shown, which may become another one."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._known: tuple[tuple[int, int], list[Open]] | None = None
        """Of which commit the open trajectories are known."""

    @property
    def first(self) -> int:
        """As `Growth.first`."""
        return self._shown.store.first("steps")

    @property
    def stop(self) -> int:
        """As `Growth.stop`."""
        return self._shown.store.rows("steps")

    @property
    def generation(self) -> int:
        """As `Growth.generation`."""
        return self._shown.store.state.generation

    @property
    def oldest_part(self) -> int:
        """As `Growth.oldest_part`."""
        return self._shown.store.first(NAMES[0])

    @property
    def closed_parts(self) -> int:
        """As `Growth.closed_parts`."""
        return self._shown.store.rows(NAMES[0])

    def closed(self, since: int) -> Rows:
        """As `Growth.closed`."""
        store = self._shown.store
        skip = since - store.first(NAMES[0])
        parts = np.stack([store.table(name)[skip:] for name in NAMES], axis=1)
        self._check(parts)
        return parts

    def opened(self) -> OpenParts:
        """As `Growth.opened`."""
        entries = self._open()
        columns = [
            [entry.part_start, entry.part_length, entry.stride, entry.trajectory, entry.offset, -1]
            for entry in entries
        ]
        parts = np.array(columns, np.int64).reshape(-1, 6)
        self._check(parts)
        followed = np.array([entry.following is not None for entry in entries], np.bool_)
        start, length, stride, trajectory, offset = np.ascontiguousarray(parts[:, :5].T)
        return OpenParts(start, length, stride, trajectory, offset, followed)

    def _open(self) -> list[Open]:
        """The open trajectories that have a part, in the order of their numbers."""
        commit = self._shown.store.state.commit, self.generation
        if self._known is None or self._known[0] != commit:
            entries = [entry for entry in self._shown.open_trajectories() if entry.part_length]
            self._known = commit, sorted(entries, key=lambda entry: entry.trajectory)
        return self._known[1]

    def _check(self, parts: Rows) -> None:
        order = np.argsort(parts[:, 0], kind="stable")
        finals = self._shown.store.state.lengths.get("final", 0)
        columns = [np.ascontiguousarray(parts[order, at]) for at in range(len(PARTS))]
        check_parts(columns, rows=self.stop, finals=finals, where=self._shown.where)

    def following(self, name: str) -> NDArray[Any]:
        """As `Growth.following`."""
        declared = self._shown.schema.fields[name]
        opened = self._open()
        found = np.zeros((len(opened), *declared.shape), declared.dtype)
        for at, entry in enumerate(opened):
            if entry.following is not None:
                found[at] = entry.following[name]
        return found

    def final_rows(self, name: str, numbers: Rows) -> NDArray[Any]:
        """As `Growth.final_rows`."""
        return self._shown.final_rows(name, numbers)
