"""The writer of a served store: what is staged becomes a run for each environment, and is sent from time to
time, so that others see it soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.lanes import Lanes
from replaystore.buffers.staged import pieces_of, rows_of
from replaystore.buffers.stepping import Stepping
from replaystore.client.runs import Run
from replaystore.interrupts import Operations
from replaystore.schema.fields import Schema
from replaystore.schema.given_ragged import joined
from replaystore.trajectories.pieces import Pieces

__all__ = ["ServedWriter"]

SECONDS = 0.05
"""In which steps wait for others that are sent together with them."""


class ServedWriter(Stepping):
    """Writes the steps of several environments, as `Stepping` says. Made by `buffer.writer`."""

    def __init__(
        self,
        schema: Schema,
        num_envs: int,
        send: Callable[[Sequence[Run]], None],
        *,
        split: str = "",
        writable: Callable[[], None],
        operations: Operations,
        closed: Callable[[Any], None],
    ) -> None:
        """`send` has runs sent."""
        super().__init__(
            schema, num_envs, split=split, writable=writable, operations=operations, closed=closed
        )
        self._send = send
        self._open = np.zeros(num_envs, np.bool_)
        """Where a trajectory is open, as the store has it."""
        self._seeds = np.full(num_envs, -1, np.int64)
        """Of trajectories that have begun, and have no step yet."""
        self._next = 0.0
        """When what is staged is sent."""

    def offer(self, *step: Any) -> bool:
        now = time.monotonic()
        if now >= self._next:
            self.flush()
            self._next = now + SECONDS
        return super().offer(*step)

    def _all_begin(self) -> None:
        return

    def _end(self) -> None:
        self._send([_run(int(env), {}, 0, cut=True) for env in np.flatnonzero(self._open)])
        self._open[:] = False

    def _flush(self) -> None:
        staging, count = self._staging, self.num_envs
        staging.rewind()
        rows = rows_of(staging.time, 0, Lanes(count, 0), staging.masks)
        flags = staging.flags("terminated"), staging.flags("truncated")
        pieces, times, envs = pieces_of(rows, staging.time, *flags, staging.resets, count)
        columns, after = staging.take(rows.time * count + rows.env)
        finals = staging.finals(times, envs) if len(times) else {}
        known = {name: joined([finals[name], row]) if finals else row for name, row in after.items()}
        bounds = np.searchsorted(rows.env, np.arange(count + 1))
        places = np.searchsorted(pieces.env, np.arange(count + 1))
        runs, is_open, seeds = [], self._open.copy(), self._seeds.copy()
        for env in np.unique(pieces.env).tolist():
            told = pieces.take(np.arange(places[env], places[env + 1]))
            begin, stop = int(bounds[env]), int(bounds[env + 1])
            of = {name: values[begin:stop] for name, values in columns.items()} if stop > begin else {}
            run = self._run_of(env, of, stop - begin, told, is_open, seeds, known, len(times))
            if run.count or run.cut:
                runs.append(run)
        self._send(runs)
        self._open, self._seeds = is_open, seeds
        staging.handed_over(after)

    def _run_of(
        self,
        env: int,
        columns: dict[str, Any],
        count: int,
        told: Pieces,
        is_open: NDArray[np.bool_],
        seeds: NDArray[np.int64],
        known: dict[str, Any],
        finals: int,
    ) -> Run:
        """What an environment has done, of which these pieces tell. `known`: final observations, and behind
        them the newest one of each environment; `finals`: how many final ones."""
        run = _run(env, columns, count, split=self.split)
        after, given, last = list[int](), list[int | None](), -1
        begun = not is_open[env]
        for at in range(len(told.env)):
            if told.begins[at] >= 0:  # a reset, which ends what is open, and begins anew
                run.cut = run.cut or (last < 0 and bool(is_open[env]))
                begun, seeds[env] = True, told.seed[at]
            length = int(told.length[at])
            if not length:
                continue
            if begun:
                given.append(None if seeds[env] < 0 else int(seeds[env]))
                begun, seeds[env] = False, -1
            last += length
            ended = told.ends[at] >= 0 or (at + 1 < len(told.env) and told.begins[at + 1] >= 0)
            if ended:
                run.ends.append(last)
                after.append(int(told.final[at]))
                begun = True
        if run.stays_open:
            after.append(finals + env)
        if run.touched and known and all(place >= 0 for place in after):
            run.finals = {name: rows.take(after, axis=0) if isinstance(rows, np.ndarray) else rows.take(after)
                          for name, rows in known.items()}  # fmt: skip
        run.seeds = given if any(seed is not None for seed in given) else None
        is_open[env] = run.stays_open if run.count else is_open[env] and not run.cut
        return run


def _run(env: int, columns: dict[str, Any], count: int, *, split: str = "", cut: bool = False) -> Run:
    return Run(env, columns, count, [], split=split, cut=cut)
