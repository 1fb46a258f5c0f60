"""The steps of a buffer of TorchRL as blocks, one trajectory after another, and lanes in turn.

Each block is cut out of a slice of rows that all tensors are read in together. What follows a step is held
against the observation of the next one: where it is another and nothing says that a trajectory ends there, it
is cut there, so that both are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.kept import Kept
from replaystore.formats.shared.known import Known
from replaystore.formats.source import Block
from replaystore.formats.torchrl.ends import Looked, Runs, different
from replaystore.formats.torchrl.grids import Grid, Held, flags_of
from replaystore.formats.torchrl.naming import Naming

__all__ = ["Steps"]

Arrays = dict[str, NDArray[Any]]


@dataclass
class _Lane:
    """Where the reading of a lane is."""

    runs: Runs
    run: int = 0
    place: Literal["run", "cut", "inside"] = "run"
    """Whether the next step is the first of a run, or the first after a trajectory that was cut."""
    after: dict[int, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    """By environments, what followed the last step of trajectories that go on in another run."""


class _Run(NamedTuple):
    """A run."""

    stop: int
    env: int
    begins: bool
    ends: bool
    known: Known


class Steps:
    """What `Source.blocks` gives."""

    def __init__(self, held: Held, naming: Naming, looked: Looked, kept: Kept | None) -> None:
        self._held, self._naming, self._looked, self._kept = held, naming, looked, kept
        self._fields = naming.fields if kept is None else kept.schema.fields
        observed = {name for name, declared in self._fields.items() if declared.role == "observation"}
        self._whole = bool(naming.observed) and set(naming.observed) >= observed
        """Whether what follows steps is there in all fields of observations."""
        self.cuts = 0
        """Where trajectories were cut because something else followed."""

    @property
    def row_bytes(self) -> int:
        """What is read for a step."""
        widths = [declared.row_bytes for declared in self._fields.values()]
        observed = [self._fields[name].row_bytes for name in self._naming.observed]
        return max(1, sum(widths) + sum(observed))

    def blocks(self, most: int) -> Iterator[Block]:
        """All steps."""
        self.cuts = 0
        for grid, runs in zip(self._held.grids, self._looked.runs, strict=True):
            lanes = [_Lane(one) for one in runs]
            step = max(1, most // (self.row_bytes * max(1, grid.lanes)))
            for start in range(0, grid.count, step):
                stop = min(grid.count, start + step)
                columns, after = self._read(grid, start, stop)
                apart = self._apart(grid, stop, columns, after)
                for number, lane in enumerate(lanes):
                    rows = {name: values[:, number] for name, values in columns.items()}
                    following = {name: values[:, number] for name, values in after.items()}
                    yield from self._lane(grid, lane, start, stop, rows, following, apart[:, number])

    # --- a slice of rows

    def _read(self, grid: Grid, start: int, stop: int) -> tuple[Arrays, Arrays]:
        """Rows of all fields, and what followed them, by field: shape (steps, lanes, …)."""
        held, naming = self._held, self._naming
        pairs: dict[Any, tuple[NDArray[Any], NDArray[Any]]] = {}
        columns, after = Arrays(), Arrays()
        for name, declared in self._fields.items():
            if name in naming.flags:
                key = naming.flags[name]
                columns[name] = flags_of(grid.read(held.columns[key], start, stop), held.where, name)
                continue
            taken = naming.taken.get(name)
            if taken is None:
                continue
            if taken.key in held.pairs:
                if taken.key not in pairs:
                    pairs[taken.key] = held.pair(grid, taken.key, start, stop)
                values = pairs[taken.key][taken.after]
            else:
                values = grid.read(held.columns[taken.key], start, stop)
            shape = (stop - start, grid.lanes, *declared.shape)
            columns[name] = values.reshape(shape)
            if name in naming.observed:
                after[name] = pairs[taken.key][1].reshape(shape)
        self._derive(grid, columns, start, stop)
        return columns, after

    def _derive(self, grid: Grid, columns: Arrays, start: int, stop: int) -> None:
        """`truncated`, where only terminated and done are there."""
        naming = self._naming
        if "truncated" in columns or "truncated" not in self._fields or naming.done is None:
            return
        done = flags_of(
            grid.read(self._held.columns[naming.done], start, stop), self._held.where, "next/done"
        )
        columns["truncated"] = done & ~columns["terminated"]

    def _apart(self, grid: Grid, stop: int, columns: Arrays, after: Arrays) -> NDArray[np.bool_]:
        """After which steps something else followed than the next row has."""
        first = next(iter(columns.values()))
        found = np.zeros(first.shape[:2], np.bool_)
        if self._held.compact or not self._looked.shifted or self._kept is not None:
            return found
        for name, key in self._naming.observed.items():
            before, following = columns[name], after[name]
            found[:-1] |= _different(following[:-1], before[1:])
            if stop < grid.count:
                ahead = self._held.pair(grid, key, stop, stop + 1)[0].reshape(1, *before.shape[1:])
                found[-1:] |= _different(following[-1:], ahead)
        return found

    # --- one lane

    def _lane(
        self,
        grid: Grid,
        lane: _Lane,
        start: int,
        stop: int,
        rows: Arrays,
        after: Arrays,
        apart: NDArray[np.bool_],
    ) -> Iterator[Block]:
        runs, cuts = lane.runs, set[int]()
        first, last = lane.run, int(np.searchsorted(runs.stop, stop, side="right"))
        inner = runs.stop[first:last].tolist()
        if self._kept is None:
            cuts = set((start + 1 + np.flatnonzero(apart)).tolist()) - set(inner)
        places = sorted({*inner, *(cut for cut in cuts if cut < grid.count), stop})
        some = list(self._runs(runs, slice(first, last + 1)))
        at = start
        for place in places:
            piece = slice(at - start, place - start)
            block = {name: values[piece] for name, values in rows.items()}
            following = {name: values[piece.stop - 1] for name, values in after.items()}
            yield self._block(grid, lane, some[lane.run - first], place, block, following, cut=place in cuts)
            at = place

    def _runs(self, runs: Runs, some: slice) -> Iterator[_Run]:
        """Some of the runs of a lane, with what is known of their trajectories."""
        env, kept = runs.env[some].tolist(), self._kept
        if kept is not None:
            known = kept.known(some, self._fields)
        elif runs.ids is None:
            known = map(Known, env)
        else:
            known = (
                Known(number, row={"traj_ids": own}) for number, own in zip(env, runs.ids[some], strict=True)
            )
        stop, begins, ends = (values[some].tolist() for values in (runs.stop, runs.begins, runs.ends))
        return map(_Run, stop, env, begins, ends, known)

    def _block(
        self,
        grid: Grid,
        lane: _Lane,
        run: _Run,
        place: int,
        rows: Arrays,
        following: Mapping[str, NDArray[Any]],
        *,
        cut: bool,
    ) -> Block:
        """The steps of a lane up to a place, which lie in one run."""
        ended = place == run.stop
        begins = lane.place == "cut" or (lane.place == "run" and run.begins)
        if lane.place == "run" and not begins and self._other(lane.after.get(run.env), rows):
            begins = True  # it is another trajectory of the same number
            self.cuts += 1
        ends = cut or (ended and run.ends)
        known = (ended or cut) and run.known.final and self._is_known(grid, place)
        if ended and not ends:
            lane.after[run.env] = following
        lane.run += ended
        lane.place = "run" if ended else "cut" if cut else "inside"
        self.cuts += cut
        return run.known.tell(Block(rows, 0, begins, ends, final=following if known else None))

    def _is_known(self, grid: Grid, place: int) -> bool:
        """Whether what followed the step before a place is there."""
        if self._held.compact and self._whole:
            at = int(np.searchsorted(grid.ends, place - 1))
            return at < len(grid.ends) and int(grid.ends[at]) == place - 1
        return self._whole

    @staticmethod
    def _other(before: Mapping[str, NDArray[Any]] | None, rows: Arrays) -> bool:
        """Whether what a trajectory goes on with is not what followed its last step."""
        if before is None:
            return True
        return any(different(seen[None], rows[name][:1])[0] for name, seen in before.items())


def _different(one: NDArray[Any], two: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of which lanes differ."""
    flat = (math.prod(one.shape[:2]), *one.shape[2:])
    return different(one.reshape(flat), two.reshape(flat)).reshape(one.shape[:2])
