"""Where the trajectories of a buffer of TorchRL begin and end: looked at before its steps are read, in slices
of flags and numbers of trajectories.

A run is steps that follow each other in a lane: it ends where a flag says so, where the next step has the
number of another trajectory, and where the buffer ends. Where environments took turns in one lane, a
trajectory is several runs of one number.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.shared.cutting import unlike
from replaystore.formats.torchrl.grids import BLOCK, FLAGS, Grid, Held, flags_of
from replaystore.formats.torchrl.naming import Naming
from replaystore.formats.torchrl.trees import Key

__all__ = ["Looked", "Runs", "different", "look"]

TRIED = 256
"""So many steps are compared with what follows them, to see whether that is the observation of the next."""


@dataclass(frozen=True)
class Runs:
    """Of one lane, in order."""

    stop: NDArray[np.int64]
    """After the last step of each."""
    flagged: NDArray[np.bool_]
    ids: NDArray[np.int64] | None
    env: NDArray[np.int64]
    begins: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    """Whether its trajectory begins, and ends, with it."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many steps each has."""
        return np.diff(self.stop, prepend=0)


@dataclass
class Looked:
    """What was found before steps are read."""

    runs: list[list[Runs]]
    """Of each grid, of each lane."""
    keep: set[Key]
    """Flags that do not follow from others."""
    shifted: bool
    """What follows each step is the observation of the next one."""

    @property
    def trajectories(self) -> int:
        """How many begin."""
        return sum(int(runs.begins.sum()) for grid in self.runs for runs in grid)

    @property
    def cut(self) -> int:
        """How many go on where the buffer does."""
        return sum(len(runs.stop) > 0 and not runs.flagged[-1] for grid in self.runs for runs in grid)


def look(held: Held, naming: Naming, *, by_number: bool = False) -> Looked:
    """`by_number`: flags do not end trajectories, only their numbers do."""
    keep: set[Key] = set()
    runs = []
    for grid in held.grids:
        found: list[list[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64] | None]]]
        found = [[] for _ in range(grid.lanes)]
        before: NDArray[np.int64] | None = None
        for start in range(0, grid.count, max(1, BLOCK // max(1, grid.lanes))):
            stop = min(grid.count, start + max(1, BLOCK // max(1, grid.lanes)))
            flagged = _flagged(held, naming, grid, start, stop, keep)
            ids = _ids(held, naming, grid, start, stop)
            last = flagged & (not by_number)
            if ids is not None:
                last[:-1] |= ids[1:] != ids[:-1]
                if before is not None:
                    _end_before(found, ids[0], before, start)
                before = ids[-1]
            for lane in range(grid.lanes):
                at = np.flatnonzero(last[:, lane])
                found[lane].append(
                    (start + at + 1, flagged[at, lane], None if ids is None else ids[at, lane])
                )
        alone = len(held.grids) == 1 and grid.lanes == 1
        runs.append([_runs(grid, lane, pieces, before, alone=alone) for lane, pieces in enumerate(found)])
    return Looked(runs, keep, _shifted(held, naming, runs))


def _flagged(
    held: Held, naming: Naming, grid: Grid, start: int, stop: int, keep: set[Key]
) -> NDArray[np.bool_]:
    """Which steps a flag says to be the last ones; flags that are no more than that leave `keep`."""
    found = np.zeros((stop - start, grid.lanes), np.bool_)
    for key in naming.flags.values():
        found |= flags_of(grid.read(held.columns[key], start, stop), held.where, "/".join(key))
    if naming.done is not None:
        done = flags_of(grid.read(held.columns[naming.done], start, stop), held.where, "next/done")
        follows = "terminated" in naming.flags and (
            (done == found).all() if "truncated" in naming.flags else (done >= found).all()
        )
        if not follows:
            keep.add(naming.done)
        found |= done
    for name in FLAGS:
        root: Key = (name,)
        if root in keep or root not in held.columns or ("next", name) not in held.columns:
            continue
        if held.columns[root].dtype == np.bool_ and grid.read(held.columns[root], start, stop).any():
            keep.add(root)
    return found


def _ids(held: Held, naming: Naming, grid: Grid, start: int, stop: int) -> NDArray[np.int64] | None:
    if naming.ids is None:
        return None
    found = grid.read(held.columns[naming.ids], start, stop)
    return found.reshape(found.shape[:2]).astype(np.int64, copy=False)


def _end_before(
    found: list[list[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64] | None]]],
    first: NDArray[np.int64],
    before: NDArray[np.int64],
    start: int,
) -> None:
    """End the runs that the slice before left open, if another number follows."""
    for lane, pieces in enumerate(found):
        stops = pieces[-1][0]
        if first[lane] != before[lane] and not (len(stops) and stops[-1] == start):
            pieces.append((np.array([start]), np.zeros(1, np.bool_), before[lane : lane + 1]))


def _runs(
    grid: Grid,
    lane: int,
    pieces: list[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64] | None]],
    last: NDArray[np.int64] | None,
    *,
    alone: bool,
) -> Runs:
    none = np.zeros(0, np.int64)
    stop = np.concatenate([none, *(one[0] for one in pieces)]).astype(np.int64)
    flagged = np.concatenate([none.astype(np.bool_), *(one[1] for one in pieces)])
    ids = None
    if last is not None:
        ids = np.concatenate([none, *(one[2] for one in pieces if one[2] is not None)])
    if grid.count and not (len(stop) and stop[-1] == grid.count):
        stop, flagged = np.append(stop, grid.count), np.append(flagged, False)
        if ids is not None and last is not None:
            ids = np.append(ids, last[lane])
    count = len(stop)
    if alone and ids is not None and count:
        continues = _continues(ids, flagged)
        if continues.any():
            return Runs(stop, flagged, ids, *_lanes(ids, continues))
    whole = np.ones(count, np.bool_)
    return Runs(stop, flagged, ids, np.full(count, grid.env + lane), whole, whole)


def _continues(ids: NDArray[np.int64], flagged: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of which runs another one of the same number goes on with the trajectory."""
    order = np.argsort(ids, kind="stable")
    again = np.append(ids[order][1:] == ids[order][:-1], False)
    found = np.zeros(len(ids), np.bool_)
    found[order] = again
    return found & ~flagged


def _lanes(
    ids: NDArray[np.int64], continues: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The environments of runs whose trajectories took turns, and with which they begin and end."""
    opened: dict[int, int] = {}
    free, most = list[int](), 0
    env, begins = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    for run, (number, goes_on) in enumerate(zip(ids.tolist(), continues.tolist(), strict=True)):
        at = opened.pop(number, None)
        begins[run] = at is None
        if at is None:
            at = heapq.heappop(free) if free else most
            most = max(most, at + 1)
        if goes_on:
            opened[number] = at
        else:
            heapq.heappush(free, at)
        env[run] = at
    return env, begins, ~continues


def _shifted(held: Held, naming: Naming, runs: list[list[Runs]]) -> bool:
    """Whether what follows steps is, mostly, the observation of the next one. It is not where a step of the
    buffer stands for several of the environment."""
    if held.compact:
        return True
    tried = apart = 0
    for grid, start, stops in _windows(held, runs):
        stop = min(grid.count, start + TRIED)
        inner = ~np.isin(np.arange(start + 1, stop), stops)
        for key in naming.observed.values():
            before, after = held.pair(grid, key, start, stop)
            differ = different(after[:-1, 0], before[1:, 0]) & inner
            tried, apart = tried + int(inner.sum()), apart + int(differ.sum())
    return tried < 8 or 2 * apart <= tried


def _windows(held: Held, runs: list[list[Runs]]) -> Iterator[tuple[Grid, int, NDArray[np.int64]]]:
    for grid, lanes in list(zip(held.grids, runs, strict=True))[:4]:
        for start in {0, grid.count // 2, max(0, grid.count - TRIED)}:
            if grid.count:
                yield grid, start, lanes[0].stop


def different(one: NDArray[Any], two: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows differ in a bit."""
    if one.shape != two.shape or one.dtype != two.dtype:
        raise FormatError("what follows steps is of another shape than what they begin with")
    return unlike(one, two)
