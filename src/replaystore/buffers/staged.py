"""From the steps that a writer has staged to the rows and pieces that they become: which step lies in which
row, which trajectories begin and end among them, and with which final observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.lanes import Lanes
from replaystore.trajectories.pieces import STEP, Piece, Pieces

__all__ = ["Reset", "Rows", "pieces_of", "rows_of"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Reset(NamedTuple):
    """Trajectories that begin before the step staged at `time`, in some environments."""

    time: int
    envs: Ints
    seeds: Sequence[int] | None
    """Of these environments, if known."""
    begins: Mapping[str, NDArray[Any]]
    """Their observations now."""


@dataclass(frozen=True)
class Rows:
    """Which recorded step lies in which row: the rows in their order have these, and the steps of one
    environment after the other those."""

    source: Ints | None
    """The step in each row, time * environments + environment; None: they lie in this very order."""
    env: Ints
    """Of each recorded step, one environment after the other."""
    time: Ints
    row: Ints


def rows_of(steps: int, first: int, lanes: Lanes, masks: Mapping[int, Flags]) -> Rows:
    """The rows of so many staged steps, from row `first` of the store on; `lanes` go on to what follows."""
    count, times = lanes.count, sorted(masks)
    recorded = np.ones((steps, count), np.bool_)
    if times:
        recorded[times] = [masks[time] for time in times]
    sizes = recorded.sum(axis=1)
    begins = np.cumsum(sizes) - sizes
    stop, since, at = int(sizes.sum()), [0], [lanes.at.copy()]
    for time, begin in zip(times, begins[times].tolist(), strict=True):
        if lanes.move(first + begin, masks[time]):
            since.append(time)
            at.append(lanes.at.copy())
    lane = np.array(at)[np.searchsorted(since, np.arange(steps), side="right") - 1]
    row = begins[:, None] + (lane - first - begins[:, None]) % count
    row[~recorded] = -1
    flat = row.reshape(-1)
    source: Ints | None = None
    if masks:
        source = np.empty(stop, np.int64)
        there = np.flatnonzero(flat >= 0)
        source[flat[there]] = there
        env, time_of = np.nonzero(row.T >= 0)
    else:
        if steps and (flat[:count] != np.arange(count)).any():
            source = np.argsort(flat)
        env, time_of = np.divmod(np.arange(count * steps), steps) if steps else (flat, flat)
    return Rows(source, env, time_of, row[time_of, env])


def pieces_of(
    rows: Rows,
    steps: int,
    terminated: Flags | None,
    truncated: Flags | None,
    resets: Sequence[Reset],
    count: int,
) -> tuple[Pieces, Ints, Ints]:
    """The pieces of these rows, and the (time, environment) of the steps whose observations are final: piece
    by piece of those that end.

    `terminated`, `truncated`: by time and environment."""
    env, time, total = rows.env, rows.time, len(rows.env)
    flags = [
        np.zeros(total, np.bool_) if known is None else known[time, env] for known in (terminated, truncated)
    ]
    done = flags[0] | flags[1]
    begins = np.empty(total, np.bool_)
    begins[:1] = True
    begins[1:] = (env[1:] != env[:-1]) | done[:-1] | (rows.row[1:] != rows.row[:-1] + count)
    reset = _Resets(rows, steps, resets)
    begins[reset.place] = True
    at = np.flatnonzero(begins)
    last = np.append(at[1:], total)[: len(at)] - 1
    number = np.cumsum(begins) - 1
    pieces = Pieces.of(len(at) + len(reset.late), stride=count)
    known = slice(len(at))
    pieces.env[known], pieces.start[known] = env[at], rows.row[at]
    pieces.length[known], pieces.when[known] = last + 1 - at, time[at] * STEP
    pieces.terminated[known], pieces.truncated[known] = flags[0][last], flags[1][last]
    ended = np.flatnonzero(done[last])
    pieces.ends[ended] = time[last[ended]] * STEP + (STEP - 1)
    # The first of several before one step says when, the last one with which seed.
    pieces.begins[number[reset.place[::-1]]] = reset.when[::-1]
    pieces.seed[number[reset.place]] = reset.seed
    if len(reset.late):
        late = slice(len(at), None)
        pieces.env[late], pieces.when[late] = reset.late, steps * STEP
        pieces.begins[late], pieces.seed[late] = reset.late_when, reset.late_seed
        order = np.argsort(pieces.env, kind="stable")
        pieces = pieces.take(order)
        last = np.append(last, np.full(len(reset.late), -1))[order]
    follows = np.append((pieces.env[1:] == pieces.env[:-1]) & (pieces.begins[1:] >= 0), False)
    final = np.flatnonzero(((pieces.ends >= 0) | follows[: len(last)]) & (pieces.length > 0))
    pieces.final[final] = np.arange(len(final))
    return pieces, time[last[final]], env[last[final]]


def one_step(
    rows: Ints, expected: Ints, flags: Mapping[str, Flags], resets: Sequence[Reset]
) -> tuple[list[Piece], Flags]:
    """One step: the pieces of the environments that have something to tell, and which others go on.

    Args:
        rows: of each environment; -1: it records none.
        expected: the rows with which their parts go on.
        flags: by row.
    """
    count = len(rows)
    reset: dict[int, list[tuple[int, int, int]]] = {}
    for number, one in enumerate(resets):
        for place, env in enumerate(one.envs.tolist()):
            seed = -1 if one.seeds is None else one.seeds[place]
            reset.setdefault(env, []).append((one.time, one.time * STEP + number, seed))
    done, there = np.zeros(count, np.bool_), rows >= 0
    for known in flags.values():
        done[there] |= known[rows[there]]
    quiet = (rows == expected) & there & ~done
    quiet[list(reset)] = False
    pieces: list[Piece] = []
    for env in np.flatnonzero(~quiet).tolist():
        before = [one for one in reset.get(env, ()) if one[0] == 0 or rows[env] < 0]
        after = [one for one in reset.get(env, ()) if one[0] == 1 and rows[env] >= 0]
        if rows[env] >= 0:
            piece = Piece(env, int(rows[env]), 1, 0, stride=count)
            if before:
                piece.begins, piece.seed = before[0][1], before[-1][2]
            told = {name: bool(known[rows[env]]) for name, known in flags.items()}
            piece.terminated, piece.truncated = told.get("terminated", False), told.get("truncated", False)
            if done[env]:
                piece.ends = STEP - 1
            elif after:
                piece.ends = after[0][1]
            pieces.append(piece)
            before = after
        if before:
            pieces.append(Piece(env, 0, 0, STEP, before[0][1], before[-1][2], stride=count))
    return pieces, quiet


class _Resets:
    """Resets by the place, among the recorded steps, of the step before which they happened; those that no
    step follows are `late`, one an environment."""

    def __init__(self, rows: Rows, steps: int, resets: Sequence[Reset]) -> None:
        none = np.empty(0, np.int64)
        self.place = self.when = self.seed = self.late = self.late_when = self.late_seed = none
        if not resets:
            return
        env = np.concatenate([reset.envs for reset in resets])
        when = np.repeat(
            [reset.time * STEP + number for number, reset in enumerate(resets)],
            [len(reset.envs) for reset in resets],
        )
        seed, at = np.full(len(env), -1), 0
        for reset in resets:
            if reset.seeds is not None:
                seed[at : at + len(reset.envs)] = reset.seeds
            at += len(reset.envs)
        key = rows.env * (steps + 1) + rows.time
        place = np.searchsorted(key, env * (steps + 1) + when // STEP)
        there = place < len(key)
        there[there] = rows.env[place[there]] == env[there]
        self.place, self.when, self.seed = place[there], when[there], seed[there]
        if there.all():
            return
        late, when, seed = env[~there], when[~there], seed[~there]
        self.late, first = np.unique(late, return_index=True)
        self.late_when = when[first]
        self.late_seed = seed[::-1][np.unique(late[::-1], return_index=True)[1]]
