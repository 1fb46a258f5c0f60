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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.ragged import Ragged
from replaystore.schema.roles import FLAGS
from replaystore.trajectories.blocks import Block

__all__ = ["Run", "begins_of_ends", "begins_of_numbers", "cut", "unlike"]

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
        waiting = None
        for piece in _pieces(run, begins=begins):
            if waiting is not None:
                yield waiting
            waiting = piece
        maybe = None if run.following is None else _row(run.following, len(run) - 1)
    if waiting is not None:
        yield _settled(waiting if maybe is None else replace(waiting, final=maybe), ends=True)


def _pieces(run: Run, *, begins: bool) -> Iterator[Block]:
    """The blocks of a run. Of the last one it is not known whether it ends. What is known of each is looked
    up for all of them at once: where trajectories are short, what one costs is most of what all cost."""
    count, starts, differing = len(run), run.begins.copy(), _differing(run)
    starts[0] = True
    starts[1:] |= differing[:-1]
    starts[(run.final_rows + 1)[run.final_rows + 1 < count]] = True
    first = np.flatnonzero(starts)
    last = np.append(first[1:], count) - 1
    fresh = [begins, *run.begins[first[1:]].tolist()]
    env = _values(run.told.get("env"), first, 0)
    told = zip(
        _values(run.told.get("seed"), first, -1),
        _values(run.told.get("split"), first, ""),
        *(
            [one if one is None else bool(one) for one in _values(run.told.get(name), last, None)]
            for name in FLAGS
        ),
        _places(run.final_rows, last),
        differing[last].tolist(),
        strict=True,
    )
    bounds = zip(first.tolist(), (last + 1).tolist(), env, fresh, [*fresh[1:], False], told, strict=True)
    for start, stop, number, new, ends, (seed, split, terminated, truncated, place, differs) in bounds:
        piece = slice(start, stop)
        block = Block({name: rows[piece] for name, rows in run.columns.items()}, number, new, ends)
        if new:
            block.seed, block.split = seed, split
            if run.table:
                block.row = {name: values[start] for name, values in run.table.items()}
        if ends or stop == count:
            block.terminated, block.truncated = terminated, truncated
        if place >= 0:
            block.final = _row(run.finals, place)
        elif differs and run.following is not None:
            block.final = _row(run.following, stop - 1)
        yield block


def _values(values: Any, rows: NDArray[np.int64], blank: Any) -> list[Any]:
    """What is told of these rows, as Python has it; `blank` where nothing is."""
    if values is None:
        return [blank] * len(rows)
    if isinstance(values, np.ndarray) and values.dtype != object:
        found: list[Any] = values[rows].tolist()
        return found
    return [_plain(values[row]) for row in rows.tolist()]


def _places(known: NDArray[np.int64], rows: NDArray[np.int64]) -> list[int]:
    """Where these rows are in a sorted list; -1: they are not."""
    at = np.searchsorted(known, rows)
    found: list[int] = np.where(np.append(known, -1)[at] == rows, at, -1).tolist()
    return found


def _settled(block: Block, *, ends: bool) -> Block:
    """A block of which it is known whether its trajectory ends; how, only a last block says."""
    if ends:
        return replace(block, ends=True) if not block.ends else block
    if block.terminated is None and block.truncated is None and not block.ends:
        return block
    return replace(block, ends=False, terminated=None, truncated=None)


def _differing(run: Run) -> NDArray[np.bool_]:
    """After which rows something else was observed than the next row says; of the last row it is not said."""
    differs = np.zeros(len(run), np.bool_)
    if run.following is not None:
        differs[:-1] = run.begins[1:]
        for name, rows in run.following.items():
            differs[:-1] |= unlike(rows[:-1], run.columns[name][1:])
    return differs


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


def unlike(one: Any, other: Any) -> NDArray[np.bool_]:
    """Which rows are not the same, bit for bit."""
    if isinstance(one, Ragged):
        found: NDArray[np.bool_] = one.lengths != other.lengths
        for at in np.flatnonzero(~found).tolist():
            found[at] = one[at : at + 1].named.tobytes() != other[at : at + 1].named.tobytes()
        return found
    if not one.size:
        return np.zeros(len(one), np.bool_)
    width = one.nbytes // len(one)
    word = next(size for size in (8, 4, 2, 1) if width % size == 0)
    a, b = (
        np.ascontiguousarray(rows).reshape(-1).view(np.uint8).view(f"u{word}").reshape(len(rows), -1)
        for rows in (one, other)
    )
    if a.shape[1] > 32:
        return np.asarray((a != b).any(axis=1))
    found = a[:, 0] != b[:, 0]
    for at in range(1, a.shape[1]):
        found |= a[:, at] != b[:, at]
    return found


def _plain(value: Any) -> Any:
    """A number, or a text, as Python has it."""
    return value.item() if isinstance(value, np.generic) else value
