"""Killed at a random time: what was acknowledged is there, whole, and everything goes on.

As the campaign of kills at system calls, whose moments are of files only: this one also hits what is between
them.
"""

from __future__ import annotations

import numpy as np

from replaystore.testing.campaigns import Tally
from replaystore.testing.scenarios import SCENARIOS
from replaystore.testing.shim import Kind, Mode, preloaded
from replaystore.testing.trials import KILLED, REPEATS, Room, drawn, last_line

__all__ = ["PROMISE", "control", "run"]

PROMISE = "killed at a random time, nothing acknowledged is lost and nothing is half"
LATER = 1.1
"""Of the time that a scenario takes, the part in which it is killed: some are killed when they are done."""


def run(folder: str, *, count: int, seed: int, names: list[str] | None = None) -> Tally:
    """Kill so many times."""
    return preloaded(__name__, "attack", folder, count=count, seed=seed, names=names)


def control(folder: str, *, seed: int) -> Tally:
    """A disk that forgets all writes from some moment on, and says that they were made."""
    return preloaded(__name__, "attack", folder, count=24, seed=seed, names=["zarr", "hdf5"], lying=True)


def attack(
    folder: str, *, count: int, seed: int, names: list[str] | None = None, lying: bool = False
) -> Tally:
    """`run` and `control`, in a process with the shim."""
    tally, generator, room = Tally(), np.random.default_rng(seed), Room(folder)
    writes = frozenset({Kind.WRITE})
    for scenario, tries, label in drawn(
        names or list(SCENARIOS), count, generator, repeats=3 if lying else REPEATS
    ):
        tally.count(scenario.name, tries)
        baseline, problem = room.begin(scenario)
        if problem:
            tally.failures.append(f"{label}: {problem}")
            continue
        for _ in range(tries):
            room.restore()
            after = float(generator.uniform(0, LATER * baseline.seconds))
            plan = (
                {"mode": Mode.LIE_ON, "at": int(generator.integers(1, 40)), "kinds": writes} if lying else {}
            )
            status, told = room.perform(scenario, kill_after=after, **plan)
            if status not in (0, KILLED):
                problem = last_line(told, status)
            else:
                problem = room.check(scenario, told)
            if problem:
                tally.failures.append(f"{label}, killed after {after * 1000:.1f} ms: {problem}")
    return tally
