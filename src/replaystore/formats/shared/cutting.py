"""Rows that lie one behind another, cut into blocks: for formats that have one row a step.

A format gives its rows in runs of any length, together with where trajectories begin; what comes out are
blocks that never reach over the end of a trajectory. A block is handed on only when it is known whether its
trajectory goes on, so that the last one of a run waits for the next run. Slices are views: what a row costs
does not depend on how many trajectories there are, and a trajectory costs a few microseconds.

Where a file has the next observation of each row, it is compared with the observation of the next row, bit
for bit. Where they agree it is left out; where they do not, and after the last row of a trajectory, it is the
observation that followed (`Block.final`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.ragged import Ragged
from replaystore.trajectories.blocks import Block

__all__ = ["Run", "begins_of_ends", "begins_of_numbers", "cut"]

Arrays = Mapping[str, Any]
"""Arrays by field, and a Ragged of each field of any length."""


@dataclass(frozen=True)
class Run:
    """Rows that lie one behind another."""

    columns: Arrays
    """Of every field."""
    begins: NDArray[np.bool_]
    """Whether a trajectory begins with a row. The first row of all begins one in any case."""
    final_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """The rows, in order, of which it is known what was observed after them although no row says it."""
    finals: Arrays = field(default_factory=dict)
    """That, a row each, of every field of observations."""
    following: Arrays | None = None
    """Where the file has it for each row: the next observation, of every field of observations."""
    told: Arrays = field(default_factory=dict)
    """"seed", "split" (texts), "env" for each row, of which those of first rows count; "terminated" and
    "truncated", of which those of last rows do."""
    table: Arrays = field(default_factory=dict)
    """Columns of the table of trajectories, for each row, of which those of first rows count."""

    def __len__(self) -> int:
        return len(self.begins)


def begins_of_ends(ends: NDArray[np.bool_], *, before: bool) -> NDArray[np.bool_]:
    """Where trajectories begin, from where they end. `before`: whether one ended with the row before."""
    return np.concatenate([[before], ends[:-1]]).astype(np.bool_)[: len(ends)]


def begins_of_numbers(numbers: NDArray[Any], before: Any) -> NDArray[np.bool_]:
    """Where trajectories begin, from what tells them apart in each row. `before`: that of the row before;
    None: there is none."""
    begins = np.ones(len(numbers), np.bool_)
    begins[1:] = numbers[1:] != numbers[:-1]
    if len(numbers) and before is not None:
        begins[0] = bool(numbers[0] != before)
    return begins


def cut(runs: Iterable[Run]) -> Iterator[Block]:
    """All rows as blocks. The last trajectory ends with the last row."""
    waiting: Block | None = None
    maybe: dict[str, Any] | None = None
    first = True
    for run in runs:
        if not len(run):
            continue
        begins = bool(run.begins[0]) or first
        first = False
        if waiting is not None:
            if maybe is not None and (begins or not _same_row(maybe, run.columns)):
                waiting = replace(waiting, final=maybe)
            yield _settled(waiting, ends=begins)
        *done, waiting = _pieces(run, begins=begins)
        yield from done
        maybe = None if run.following is None else _row(run.following, len(run) - 1)
    if waiting is not None:
        yield _settled(waiting if maybe is None else replace(waiting, final=maybe), ends=True)


def _pieces(run: Run, *, begins: bool) -> list[Block]:
    """The blocks of a run. Of the last one it is not known whether it ends."""
    count = len(run)
    finals = _finals(run)
    at = np.flatnonzero(run.begins[1:]) + 1
    starts = np.union1d(np.concatenate([[0], at]), np.array([row + 1 for row in finals if row + 1 < count]))
    bounds = [*starts.astype(np.int64).tolist(), count]
    fresh = run.begins.tolist()
    fresh[0] = begins
    ended = {name: run.told[name] for name in ("terminated", "truncated") if name in run.told}
    known = {name: run.told[name] for name in ("seed", "split") if name in run.told}
    env = run.told.get("env")
    found = []
    for start, stop in pairwise(bounds):
        more: dict[str, Any] = {name: bool(flags[stop - 1]) for name, flags in ended.items()}
        if fresh[start]:
            more |= {name: _plain(values[start]) for name, values in known.items()}
            more["row"] = {name: values[start] for name, values in run.table.items()}
        found.append(
            Block(
                {name: rows[start:stop] for name, rows in run.columns.items()},
                env=0 if env is None else int(env[start]),
                begins=fresh[start],
                ends=stop < count and fresh[stop],
                final=finals.get(stop - 1),
                **more,
            )
        )
    return [*(_settled(block, ends=block.ends) for block in found[:-1]), found[-1]]


def _settled(block: Block, *, ends: bool) -> Block:
    """A block of which it is known whether its trajectory ends; how, only a last block says."""
    if ends:
        return replace(block, ends=True) if not block.ends else block
    if block.terminated is None and block.truncated is None and not block.ends:
        return block
    return replace(block, ends=False, terminated=None, truncated=None)


def _finals(run: Run) -> dict[int, dict[str, Any]]:
    """What was observed after rows, where the next row does not say it; but for the last row."""
    found = {int(row): _row(run.finals, place) for place, row in enumerate(run.final_rows)}
    if run.following is None:
        return found
    differs = run.begins[1:].copy()
    for name, rows in run.following.items():
        differs |= ~_equal(rows[:-1], run.columns[name][1:])
    return found | {int(row): _row(run.following, int(row)) for row in np.flatnonzero(differs)}


def _row(rows: Arrays, at: int) -> dict[str, Any]:
    """One row of some columns: of a field of any length its values."""
    return {
        name: values[at : at + 1].named if isinstance(values, Ragged) else values[at]
        for name, values in rows.items()
    }


def _same_row(row: Mapping[str, Any], columns: Arrays) -> bool:
    return all(
        np.asarray(value).tobytes() == np.asarray(_row(columns, 0)[name]).tobytes()
        for name, value in row.items()
    )


def _equal(one: Any, other: Any) -> NDArray[np.bool_]:
    """Which rows have the same bits."""
    if isinstance(one, Ragged):
        lengths = one.lengths == other.lengths
        found = np.zeros(len(one), np.bool_)
        for at in np.flatnonzero(lengths):
            found[at] = one[at : at + 1].named.tobytes() == other[at : at + 1].named.tobytes()
        return found
    count = len(one)
    if not count:
        return np.zeros(0, np.bool_)
    mine = np.ascontiguousarray(one).reshape(count, -1).view(np.uint8)
    theirs = np.ascontiguousarray(other).reshape(count, -1).view(np.uint8)
    same: NDArray[np.bool_] = (mine == theirs).all(axis=1)
    return same


def _plain(value: Any) -> Any:
    """A number, or a text, as Python has it."""
    return value.item() if isinstance(value, np.generic) else value
