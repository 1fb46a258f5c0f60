"""Rows of environments that took turns, trajectory by trajectory: what a conversion makes of the order of
rows where it may.

Frames of one environment that lie side by side take a seventh to a quarter less room than those of eight in
turn, and a fragment of a trajectory is in few chunks, not in all.

Invariants:
1. Only the numbers of rows change, and with them `parts`: trajectories, their steps, what follows these, rows
   of no trajectory, and all tables stay as they were.
2. Rows stay within their window, so many rows of the source, so that a conversion needs no more memory than a
   window, and reads everything once. A trajectory that reaches beyond a window is a part in each.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from replaystore.converting.excerpt import Excerpt
from replaystore.trajectories.parts import Parts, numbers

__all__ = ["WINDOW_BYTES", "grouped"]

WINDOW_BYTES = 64 << 20
"""Of the widest field."""

Rows = NDArray[np.int64]


def grouped(everything: Excerpt, window: int) -> Excerpt:
    """The same rows with those of each trajectory side by side in each window; as it was, if they are that
    already."""
    count, first = everything.rows, int(everything.starts[0])
    going = [entry for entry in everything.opened if entry.part_length]
    parts = _with_open(everything)
    begin, length = parts.between(0, count)
    none = np.full(len(begin), -1)
    runs = Parts(  # behind those of trajectories, so that they come last in the order below
        np.append(parts.start, begin),
        np.append(parts.length, length),
        np.append(parts.stride, np.ones_like(begin)),
        np.append(parts.trajectory, none),
        np.append(parts.offset, begin),
        np.append(parts.final, none),
    )
    piece, cut, taken = _cut(runs, window)
    start = runs.start[piece] + cut * runs.stride[piece]
    offset, owner = runs.offset[piece] + cut, runs.trajectory[piece]
    order = np.lexsort((offset, owner, owner < 0, start // window))
    start, taken, offset, owner, piece, cut = (
        column[order] for column in (start, taken, offset, owner, piece, cut)
    )
    if ((start + taken)[:-1] == start[1:]).all() and (runs.stride[piece][taken > 1] == 1).all():
        return everything
    final = np.where(cut + taken == runs.length[piece], runs.final[piece], -1)
    laid = _side_by_side(taken, owner, offset, final)
    newest = {entry.trajectory: int(laid.parts_of(entry.trajectory)[-1]) for entry in going}
    closed = np.setdiff1d(np.arange(len(laid)), list(newest.values()))
    opened = [
        replace(
            entry,
            part_start=int(laid.start[newest[entry.trajectory]]),
            part_length=int(laid.length[newest[entry.trajectory]]),
            stride=1,
            offset=int(laid.offset[newest[entry.trajectory]]),
        )
        if entry.part_length
        else entry
        for entry in everything.opened
    ]
    return replace(
        everything,
        starts=first + start,
        lengths=taken,
        strides=runs.stride[piece],
        window=window,
        parts=_chosen(laid, closed),
        opened=opened,
        notes=[*everything.notes, "rows lie trajectory by trajectory, and have other numbers"],
    )


def _with_open(everything: Excerpt) -> Parts:
    """All parts, sorted, those of open trajectories included."""
    rows = [
        (e.part_start, e.part_length, e.stride, e.trajectory, e.offset, -1)
        for e in everything.opened
        if e.part_length
    ]
    more = np.array(rows, np.int64).reshape(-1, 6).T
    known = everything.parts
    columns = [known.start, known.length, known.stride, known.trajectory, known.offset, known.final]
    joined = [np.append(column, new) for column, new in zip(columns, more, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return Parts(*(column[order] for column in joined))


def _cut(runs: Parts, window: int) -> tuple[Rows, Rows, Rows]:
    """(part, its first step, number of steps) of the pieces that lie in one window each."""
    first = runs.start // window
    several = runs.last // window - first + 1
    piece = np.repeat(np.arange(len(runs)), several)
    begin = numbers(first, several) * window - runs.start[piece]
    low = np.maximum(-(-begin // runs.stride[piece]), 0)
    high = np.minimum(-(-(begin + window) // runs.stride[piece]), runs.length[piece])
    kept = high > low
    return piece[kept], low[kept], (high - low)[kept]


def _side_by_side(length: Rows, owner: Rows, offset: Rows, final: Rows) -> Parts:
    """The parts of pieces that lie one behind the other; -1 owns those of no trajectory."""
    start = np.cumsum(length) - length
    goes_on = (owner[1:] == owner[:-1]) & (final[:-1] < 0) & (offset[1:] == (offset + length)[:-1])
    begins = np.flatnonzero(np.append(True, ~goes_on)[: len(owner)])
    lasts = np.append(begins[1:], len(owner)) - 1
    total = start[lasts] + length[lasts] - start[begins]
    parts = Parts(start[begins], total, np.ones_like(total), owner[begins], offset[begins], final[lasts])
    return _chosen(parts, np.flatnonzero(parts.trajectory >= 0))


def _chosen(parts: Parts, at: Rows) -> Parts:
    columns = (parts.start, parts.length, parts.stride, parts.trajectory, parts.offset, parts.final)
    return Parts(*(column[at] for column in columns))
