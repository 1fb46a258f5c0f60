"""From the steps that a writer has staged to the runs of an assembler: which trajectories begin and end among
them, and with which final observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.trajectories.assembler import Begin, End, Run

__all__ = ["Reset", "staged_run"]

STEP = 1 << 32
"""What happens in a step comes after the resets before it, of which there are fewer."""


@dataclass(frozen=True)
class Reset:
    """Trajectories that begin before the step staged at `time`; `number` counts resets, which may be several
    at one time."""

    time: int
    number: int
    mask: NDArray[np.bool_]
    seeds: Sequence[int]
    finals: Mapping[str, NDArray[Any]]
    """The observations that were there before, of all environments."""
    begins: Mapping[str, NDArray[Any]]
    """The observations that are there now."""


def staged_run(
    env: int,
    columns: Mapping[str, NDArray[Any]],
    mine: slice,
    valid: NDArray[np.bool_],
    current: Mapping[str, Any],
    resets: Sequence[Reset],
    *,
    going: bool,
) -> Run:
    """One environment's rows, with what is known of the ends and beginnings among them.

    Args:
        columns: the rows of all environments, of which `mine` are its.
        valid: of each staged step, whether the environment recorded it.
        current: the observations that the next step starts from.
        going: whether a trajectory is open, which the first step goes on with unless it was reset.
    """
    none = np.zeros(mine.stop, np.bool_)
    terminated, truncated = columns.get("terminated", none)[mine], columns.get("truncated", none)[mine]
    times = np.flatnonzero(valid)
    run = Run(env, mine.start, terminated, truncated, None)
    run.following = {name: values[env] for name, values in current.items()} or None
    for place in np.flatnonzero(terminated | truncated).tolist():
        row = mine.start + place + 1
        # A copy, for what waits for a commit would keep all staged rows in memory otherwise.
        final = {name: columns[name][row].copy() for name in current} if row < mine.stop else run.following
        run.ends[place] = End((int(times[place]), STEP), final or None)
    reset_at: dict[int, Begin] = {}
    for reset in resets:
        if not reset.mask[env]:
            continue
        place, when = int(np.searchsorted(times, reset.time)), (reset.time, reset.number)
        before = reset_at.get(place)  # reset again before a step: what began then begins otherwise
        reset_at[place] = Begin(when if before is None else before.time, reset.seeds[env])
        if place > 0 and before is None:
            ended = run.ends.get(place - 1)
            run.ends[place - 1] = End(
                when if ended is None else ended.time,
                {name: known[env] for name, known in reset.finals.items()} or None,
            )
    # Where no reset follows an end, the next step begins a trajectory nevertheless.
    follow = [0, *(place + 1 for place in run.ends)]
    run.begins = {
        place: Begin((int(times[place]), STEP), -1)
        for place in follow
        if place < len(times) and (place > 0 or not going)
    }
    run.begins |= reset_at
    return run
