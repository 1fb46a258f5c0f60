"""Buffers of environments that take turns row by row, recorded as `stride_worlds` says it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stride_worlds import World

import replaystore as rs
from replaystore.testing import samples
from replaystore.trajectories.pieces import NEVER, STEP, Piece

__all__ = ["SCHEMA", "record", "steps_of", "tell"]

SCHEMA = samples.small()
Columns = dict[str, NDArray[Any]]


def steps_of(world: World) -> tuple[Columns, Columns]:
    """All rows, and the final observations by their number."""
    columns = samples.columns(SCHEMA, max(1, len(world.owner)), 5, ends=0)
    columns["reward"] = np.round(columns["reward"], 2)
    finals = samples.columns(SCHEMA, max(1, len(world.rows)), 6, ends=0)
    for rows in world.rows.values():
        columns["truncated"][rows[-1]] = True
    return columns, {name: finals[name] for name in SCHEMA.names("observation")}


def record(location: str, world: World, *, open_last: bool = False, **options: Any) -> rs.Buffer:
    """A buffer with the rows of a world, cut into calls and commits at random; with `open_last`, the last
    trajectory stays open."""
    chance = random.Random(len(world.owner))
    options = {"storage": samples.storage("zstd:1"), "durability": "none", **options}
    buffer = rs.create(location, SCHEMA, **options)
    last = max(world.rows, default=None) if open_last else None
    start = 0
    while start < len(world.owner):
        stop = start + chance.randint(1, 12)
        while stop > start + 1 and len(set(world.stride[start:stop])) > 1:
            stop -= 1
        tell(buffer, world, start, min(stop, len(world.owner)), last)
        if chance.random() < 0.3:
            buffer.commit()
        start = stop
    buffer.commit()
    return buffer


def tell(buffer: rs.Buffer, world: World, start: int, stop: int, last: int | None) -> None:
    """Hand over some rows; the trajectory `last` does not end."""
    columns, finals = steps_of(world)
    runs = []
    for trajectory, rows in world.rows.items():
        mine = [row for row in rows if start <= row < stop]
        while mine:
            stride = world.stride[mine[0]]
            count = 1
            while count < len(mine) and mine[count] == mine[count - 1] + stride:
                count += 1
            run, mine = mine[:count], mine[count:]
            known = {name: final[world.finals.get(trajectory, 0)] for name, final in finals.items()}
            final = known if trajectory in world.finals and run[-1] == rows[-1] else None
            ends = run[-1] == rows[-1] and trajectory != last
            runs.append(
                Piece(
                    trajectory,
                    run[0] - start,
                    len(run),
                    run[0] * STEP,
                    begins=run[0] * STEP if run[0] == rows[0] else NEVER,
                    seed=trajectory,
                    ends=run[-1] * STEP + STEP - 1 if ends else NEVER,
                    truncated=bool(columns["truncated"][run[-1]]),
                    final=final if ends else None,
                    rewards=columns["reward"][run],
                    following=None if ends else final,
                    stride=stride,
                )
            )
    runs.sort(key=lambda run: run.start)
    piece = {name: values[start:stop] for name, values in columns.items()}
    buffer._recorder.add_few(piece, stop - start, runs)
