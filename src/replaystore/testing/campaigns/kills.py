"""Killed at any system call: what was acknowledged is there, whole, and everything goes on.

A scenario runs in a child that is killed before, after or in the middle of its n-th call that changes
something; of some, opening what was left for writing is killed as well, and that again. Then the scenario
checks what is there.
"""

from __future__ import annotations

import numpy as np

from replaystore.testing.campaigns import Tally
from replaystore.testing.scenarios import SCENARIOS, Scenario
from replaystore.testing.shim import CHANGES, Kind, Mode, preloaded
from replaystore.testing.trials import KILLED, NAMING, Baseline, Room, drawn, last_line

__all__ = ["PROMISE", "control", "run"]

PROMISE = "killed at any system call, nothing acknowledged is lost and nothing is half"
SHARES = [0.0, 0.3, 0.9, 1.0]
"""How much of a write is done before the kill."""
NAMED, AGAIN = 0.4, 0.25
"""Of the kills, those at a call that gives or takes a name; those followed by one while the store is opened
for writing."""
RECOVERY_CALLS, LAST = 60, 12


def run(folder: str, *, count: int, seed: int, names: list[str] | None = None) -> Tally:
    """Kill so many times."""
    return preloaded(__name__, "attack", folder, count=count, seed=seed, names=names)


def control(folder: str, *, seed: int) -> Tally:
    """A disk that forgets a write now and then, and says that it was made."""
    return preloaded(__name__, "lied_to", folder, seed=seed)


def attack(folder: str, *, count: int, seed: int, names: list[str] | None = None) -> Tally:
    """`run`, in a process with the shim."""
    tally, generator, room = Tally(), np.random.default_rng(seed), Room(folder)
    for scenario, tries, label in drawn(names or list(SCENARIOS), count, generator):
        baseline, problem = room.begin(scenario)
        if problem:
            tally.failures.append(f"{label}: {problem}")
            tally.count(scenario.name, tries)
            continue
        done = 0
        while done < tries:
            kills, problem = _kill(room, scenario, baseline, generator)
            done += kills
            tally.count(scenario.name, kills)
            if problem:
                tally.failures.append(f"{label}, {problem}")
    return tally


def _kill(
    room: Room, scenario: Scenario, baseline: Baseline, generator: np.random.Generator
) -> tuple[int, str]:
    """Kill once, or several times in a row, and look: how often, and what was wrong."""
    kinds = NAMING if generator.random() < NAMED and baseline.calls(NAMING) else CHANGES
    at, share = _call(baseline.calls(kinds), generator), float(generator.choice(SHARES))
    room.restore()
    status, told = room.perform(scenario, mode=Mode.KILL, at=at, share=share, kinds=kinds)
    where = f"killed at {_named(kinds)} {at}, {share:g} of {room.shim.struck or 'it'}"
    if status not in (0, KILLED):
        return 1, f"{where}: {last_line(told, status)}"
    kills = 1
    while generator.random() < AGAIN:
        at, share = int(generator.integers(1, RECOVERY_CALLS)), float(generator.choice(SHARES))
        status, answer = room.recover(scenario, mode=Mode.KILL, at=at, share=share)
        where += f", recovery at {at}, {share:g} of {room.shim.struck or 'it'}"
        if status not in (0, KILLED):
            return kills, f"{where}: {last_line(answer, status)}"
        kills += status == KILLED
    problem = room.check(scenario, told)
    return kills, f"{where}: {problem}" if problem else ""


def _call(calls: int, generator: np.random.Generator) -> int:
    """Any of the calls; of every three, one of the last: where new things take the place of old ones."""
    last = min(calls, LAST) if generator.random() < 1 / 3 else calls
    return calls - int(generator.integers(max(1, last)))


def _named(kinds: frozenset[Kind]) -> str:
    return "naming call" if kinds == NAMING else "call"


def lied_to(folder: str, *, seed: int) -> Tally:
    """`control`, in a process with the shim."""
    tally, generator, room = Tally(), np.random.default_rng(seed), Room(folder)
    writes = frozenset({Kind.WRITE})
    for scenario, tries, label in drawn(["zarr", "hdf5"], 16, generator, repeats=8):
        baseline, problem = room.begin(scenario)
        for _ in range(0 if problem else tries):
            room.restore()
            at = int(generator.integers(baseline.calls(writes))) + 1
            status, told = room.perform(scenario, mode=Mode.LIE, at=at, kinds=writes)
            tally.count(scenario.name)
            problem = last_line(told, status) if status else room.check(scenario, told)
            if problem:
                tally.failures.append(f"{label}, {room.shim.struck} left out: {problem}")
    return tally
