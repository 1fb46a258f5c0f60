"""Which rows of a buffer are those of each environment of a file, one after another.

Steps of one trajectory follow each other; trajectories in the order of the table. There is one environment,
or as many as the buffer tells apart, if each has as many steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.outgoing import Outgoing
from replaystore.trajectories.parts import Parts

__all__ = ["Lane", "lanes_of"]

Rows = NDArray[np.int64]
MAX_LANES = 4096


class Lane:
    """The steps of some trajectories, numbered from 0 on."""

    def __init__(self, out: Outgoing, trajectories: Rows, order: Rows, owner: Rows) -> None:
        """`trajectories`: rows of the table; `order`: the parts of all, `owner`: of which row each is."""
        parts: Parts = out.parts
        mine = np.isin(owner, trajectories)
        self._part = order[mine]
        """Of its trajectories, one after another: those of the table are in order, and so are their parts."""
        self._start, self._stride = parts.start[self._part] - out.first, parts.stride[self._part]
        self._stop = np.cumsum(parts.length[self._part])
        owner = owner[mine]
        ends = np.append(owner[1:] != owner[:-1], True)[: len(owner)]
        self.trajectories = owner[ends]
        """Rows of the table."""
        self.last, self.inside = self._part[ends], self._part[~ends]
        """Parts that trajectories end with, and the others."""
        self.known = out.after[self.last]
        """Of trajectories, whether it is known what was observed after them."""
        self.unknown = int((~self.known).sum())
        self.lengths = np.diff(self._stop[ends], prepend=0)
        """Of trajectories."""

    def __len__(self) -> int:
        return int(self._stop[-1]) if len(self._stop) else 0

    @property
    def ends(self) -> Rows:
        """Where trajectories end: before which step."""
        stops: Rows = np.cumsum(self.lengths)
        return stops

    def rows(self, steps: Rows) -> Rows:
        """The rows of the buffer, from its oldest on, of these steps."""
        at = np.searchsorted(self._stop, steps, side="right")
        before = np.where(at > 0, self._stop[at - 1], 0) if len(self._stop) else at
        found: Rows = self._start[at] + (steps - before) * self._stride[at]
        return found


def lanes_of(out: Outgoing) -> tuple[list[Lane], Rows]:
    """The environments of a file, and rows of the table in the order in which trajectories end there."""
    parts, table = out.parts, out.table
    ids = table["trajectory"]
    order = parts.parts_of(ids)
    by_id = np.argsort(ids)
    owner = by_id[np.searchsorted(ids, parts.trajectory[order], sorter=by_id)] if len(ids) else order
    lengths = np.bincount(owner, parts.length[order], len(ids)).astype(np.int64)
    env = table["env"]
    found, lane = np.unique(env, return_inverse=True)
    steps = np.bincount(lane, lengths, len(found)) if len(found) else np.zeros(0)
    several = 2 <= len(found) <= MAX_LANES and found[-1] == len(found) - 1 and (steps == steps[0]).all()
    groups = [np.flatnonzero(lane == one) for one in range(len(found))] if several else [np.arange(len(ids))]
    lanes = [Lane(out, group, order, owner) for group in groups]
    ends = np.concatenate([one.ends for one in lanes])
    places = np.concatenate([np.full(len(one.trajectories), number) for number, one in enumerate(lanes)])
    rows = np.concatenate([one.trajectories for one in lanes])
    return lanes, rows[np.lexsort((places, ends))]
