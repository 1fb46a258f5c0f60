"""The steps of a buffer of TorchRL as blocks, one trajectory after another, and lanes in turn.

Each block is cut out of a slice of rows that all tensors are read in together. What follows a step is held
against the observation of the next one: where it is another and nothing says that a trajectory ends there, it
is cut there, so that both are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.kept import Kept
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


class Steps:
    """What `Source.blocks` gives."""

    def __init__(self, held: Held, naming: Naming, looked: Looked, kept: Kept | None) -> None:
        self._held, self._naming, self._looked, self._kept = held, naming, looked, kept
        self._fields = naming.fields if kept is None else kept.schema.fields
        self._known = set(naming.observed) >= {
            name for name, declared in self._fields.items() if declared.role == "observation"
        }
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
        last = int(np.searchsorted(runs.stop, stop, side="right"))
        inner = runs.stop[lane.run : last]
        if self._kept is None:
            cuts = set((start + 1 + np.flatnonzero(apart)).tolist()) - set(inner.tolist())
        places = sorted({*inner.tolist(), *(cut for cut in cuts if cut < grid.count), stop})
        at = start
        for place in places:
            low, high = at - start, place - start
            yield self._block(
                grid,
                lane,
                place,
                {name: values[low:high] for name, values in rows.items()},
                {name: values[low] for name, values in rows.items() if name in after},
                {name: values[high - 1] for name, values in after.items()},
                cut=place in cuts,
            )
            at = place

    def _block(
        self,
        grid: Grid,
        lane: _Lane,
        place: int,
        rows: Arrays,
        first: Mapping[str, NDArray[Any]],
        following: Mapping[str, NDArray[Any]],
        *,
        cut: bool,
    ) -> Block:
        """The steps of a lane up to a place, which lie in one run."""
        runs, run = lane.runs, lane.run
        env, ended = int(runs.env[run]), place == int(runs.stop[run])
        begins = lane.place == "cut" or (lane.place == "run" and bool(runs.begins[run]))
        if lane.place == "run" and not begins and self._other(lane.after.get(env), first):
            begins = True  # it is another trajectory of the same number
            self.cuts += 1
        ends = cut or (ended and bool(runs.ends[run]))
        final = following if self._is_known(grid, place, run) and (ended or cut) else None
        about: dict[str, Any] = {"env": env}
        if self._kept is not None:
            about = self._kept.begins(run) if begins else {"env": int(self._kept.env[run])}
            if ends:
                about |= self._flags(run)
        elif begins and runs.ids is not None:
            about["row"] = {"traj_ids": runs.ids[run]}
        if ended and not ends:
            lane.after[env] = following
        lane.run += ended
        lane.place = "run" if ended else "cut" if cut else "inside"
        self.cuts += cut
        return Block(rows, begins=begins, ends=ends, final=final, **about)

    def _flags(self, run: int) -> dict[str, bool]:
        """How a trajectory ended, where that is said beside it."""
        assert self._kept is not None
        return {name: flag for name, flag in self._kept.ends(run).items() if name not in self._fields}

    def _is_known(self, grid: Grid, place: int, run: int) -> bool:
        """Whether what followed the step before a place is known."""
        if not self._known or not self._naming.observed:
            return False
        if self._kept is not None:
            return int(self._kept.final[run]) >= 0
        if self._held.compact:
            at = int(np.searchsorted(grid.ends, place - 1))
            return at < len(grid.ends) and int(grid.ends[at]) == place - 1
        return True

    @staticmethod
    def _other(before: Mapping[str, NDArray[Any]] | None, first: Mapping[str, NDArray[Any]]) -> bool:
        """Whether what a trajectory goes on with is not what followed its last step."""
        if before is None:
            return True
        return any(different(before[name][None], rows[None])[0] for name, rows in first.items())


def _different(one: NDArray[Any], two: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of which lanes differ."""
    flat = (math.prod(one.shape[:2]), *one.shape[2:])
    return different(one.reshape(flat), two.reshape(flat)).reshape(one.shape[:2])
