"""What a client sends to be appended: runs of steps, each of one environment, and several of them as one body
(service/sent.py says how it is read).

A run that is too long for one body is cut. Where a cut falls into a trajectory, what follows the steps before
it is the observation of the first step behind it, so that nothing is lost by cutting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore import wire
from replaystore.buffers.given import Given
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.schema.given_ragged import joined, stacked
from replaystore.schema.ragged import Ragged
from replaystore.trajectories.pieces import NEVER

__all__ = ["BODY_BYTES", "Run", "cut", "packed", "run_of"]

BODY_BYTES = 8 << 20
"""Of one body, about."""


@dataclass
class Run:
    """Consecutive steps of one environment."""

    env: int
    columns: Mapping[str, Any]
    count: int
    ends: list[int]
    """The places of the last steps of trajectories that end."""
    finals: Mapping[str, Any] = field(default_factory=dict)
    """The observation after each trajectory that is touched, by field; empty: not known."""
    seeds: list[int | None] | int | None = None
    split: str = ""
    cut: bool = False
    """The open trajectory is cut off before them."""

    @property
    def touched(self) -> int:
        """The trajectories that have steps among these."""
        return len(self.ends) + bool(self.count and (not self.ends or self.ends[-1] != self.count - 1))

    @property
    def stays_open(self) -> bool:
        """Whether the last trajectory does not end."""
        return self.touched > len(self.ends)

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return _size(self.columns) + _size(self.finals)

    def said(self, first: int) -> dict[str, Any]:
        """What the body says of it; `first`: what its session calls environment 0."""
        told: dict[str, Any] = {"env": self.env - first, "steps": self.count}
        told |= {"ends": self.ends} if self.count else {}
        told |= {"finals": self.touched} if self.finals else {}
        told |= {"split": self.split} if self.split else {}
        told |= {"cut": True} if self.cut else {}
        return told | ({} if self.seeds is None else {"seed": self.seeds})


def _size(arrays: Mapping[str, Any]) -> int:
    return sum(rows.nbytes for rows in arrays.values())


def run_of(given: Given) -> Run:
    """The run that was given to be appended, with arrays of its own."""
    told, finals = given.told, dict[str, Any]()
    if isinstance(told, list):
        ends = [piece.start + piece.length - 1 for piece in told if piece.ends != NEVER]
        after = [piece.following if piece.ends == NEVER else piece.final for piece in told]
        known = [one for one in after if one is not None]
        for name in known[0] if known else ():
            finals[name] = stacked(given.schema.fields[name], [one[name] for one in known])
    else:
        pieces, finals, _ = told
        ends = (pieces.start + pieces.length - 1)[pieces.ends != NEVER].tolist()
    seeds: list[int | None] | int | None = None
    if isinstance(given.seeds, list):
        seeds = [None if seed < 0 else seed for seed in given.seeds]
    elif given.seeds is not None and given.seeds >= 0:
        seeds = given.seeds
    return Run(
        given.env, _copied(given.columns), given.count, ends, _copied(finals), seeds, given.split, given.cut
    )


def _copied(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: rows.map(np.copy) if isinstance(rows, Ragged) else np.array(rows)
        for name, rows in arrays.items()
    }


def cut(run: Run, schema: Schema, *, begins_open: bool, most: int = BODY_BYTES) -> Iterator[Run]:
    """A run in pieces of about so many bytes. `begins_open`: its first trajectory goes on from before."""
    rows = max(1, int(most * run.count / max(run.nbytes, 1)))
    if run.count <= rows:
        yield run
        return
    ends = np.array(run.ends, np.int64)
    seeds, begin, touched, is_open = _each(run.seeds), 0, 0, begins_open and not run.cut
    while begin < run.count:
        stop = min(begin + rows, run.count)
        inside = ends[(ends >= begin) & (ends < stop)]
        if not run.finals and len(inside) and stop < run.count:
            stop = int(inside[-1]) + 1  # else what follows the last step would have to be known of all
        columns = {name: values[begin:stop] for name, values in run.columns.items()}
        piece = replace(run, columns=columns, count=stop - begin, ends=(inside - begin).tolist(), finals={})
        piece.cut = run.cut and begin == 0
        through = piece.stays_open and stop < run.count
        piece.finals = _finals(run, schema, touched, piece, stop if through else None)
        if seeds is not None:
            piece.seeds = [next(seeds, None) for _ in range(piece.touched - is_open)]
        yield piece
        touched, is_open, begin = touched + len(inside), piece.stays_open, stop


def _each(seeds: list[int | None] | int | None) -> Iterator[int | None] | None:
    """The seeds of trajectories that begin, one by one; None: there are none."""
    return None if seeds is None else iter(seeds if isinstance(seeds, list) else [seeds])


def _finals(run: Run, schema: Schema, touched: int, piece: Run, behind: int | None) -> dict[str, Any]:
    """What follows the trajectories of a piece, of which `touched` have ended before; `behind`: the row that
    follows its last one, if that trajectory goes on there."""
    names = schema.names("observation")
    last = {} if behind is None else {name: run.columns[name][behind : behind + 1] for name in names}
    if not run.finals:
        return last if piece.touched == 1 else {}
    count = piece.touched - (behind is not None)
    found = {name: rows[touched : touched + count] for name, rows in run.finals.items()}
    return {name: joined([rows, last[name]]) for name, rows in found.items()} if last else found


def packed(runs: Sequence[Run], first: int, name: str | None = None) -> bytes:
    """A body of runs of one session, and of a name for the commit that has them. What goes on where the run
    before has stopped is one run with it."""
    arrays = _joined(run.columns for run in runs if run.count)
    told = list[Run]()
    for run in runs:
        if told and _goes_on(told[-1], run):
            _extend(told[-1], run)
        else:
            told.append(replace(run))
    arrays |= {tree.FINAL + field: rows for field, rows in _joined(run.finals for run in told).items()}
    said: dict[str, Any] = {"runs": [run.said(first) for run in told]}
    if name is not None:
        said["name"] = name
    return wire.pack(arrays, said)


def _goes_on(run: Run, following: Run) -> bool:
    """Whether the second goes on with the trajectory that the first leaves open, and all that is told of them
    can be told of both as one."""
    if (
        run.env != following.env
        or not following.count
        or following.cut
        or following.seeds is not None
        or run.split != following.split
        or not run.stays_open
    ):
        return False
    if run.touched > 1:
        return not run.finals and not following.finals
    return all(
        not isinstance(row, Ragged) and row[0].tobytes() == following.columns[name][0].tobytes()
        for name, row in run.finals.items()
    )


def _extend(run: Run, following: Run) -> None:
    """Have the first run tell of both."""
    if isinstance(run.seeds, list):
        run.seeds = run.seeds + [None] * (following.touched - 1)
    run.ends = run.ends + [run.count + place for place in following.ends]
    run.count += following.count
    run.finals = following.finals


def _joined(arrays: Iterable[Mapping[str, Any]]) -> dict[str, NDArray[Any] | Ragged]:
    several = [one for one in arrays if one]
    if not several:
        return {}
    return {name: joined([one[name] for one in several]) if len(several) > 1 else rows
            for name, rows in several[0].items()}  # fmt: skip
