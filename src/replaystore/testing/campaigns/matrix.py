"""Every pair of formats, with every difficult store, in random order: what comes back is what there was, but
for what the reports say.

The control has a format that holds everything lie in one thing after another; each lie must be caught, and
without a lie nothing.
"""

from __future__ import annotations

import os
import random

from replaystore import registry
from replaystore.testing import difficult
from replaystore.testing.campaigns import Tally
from replaystore.testing.held import LIARS, Held
from replaystore.testing.matrix import Cell, Matrix, cells, ways

__all__ = ["PROMISE", "control", "run"]

PROMISE = "a conversion keeps what its report does not name"
LONG = "short"
"""The store of thousands of trajectories goes through one format, not through two."""
RUN = "rollouts"
INSTEAD = "velora"
"""In whose place the control puts formats."""


def run(folder: str, *, count: int, seed: int) -> Tally:
    """Go so many ways."""
    tally, generator = Tally(), random.Random(seed)  # noqa: S311  # chosen, not secret
    _, both = ways()
    every = cells([name for name in [*difficult.DIFFICULT, RUN] if name != LONG])
    every += [Cell(LONG, None, name) for name in both]
    matrix = Matrix(folder, seed=seed)
    for cell in generator.sample(every, min(count, len(every))):
        outcome = matrix.outcome(cell, difficult.rollouts if cell.store == RUN else None)
        tally.count("refused" if outcome.refused else "compared")
        way = " → ".join(filter(None, cell))
        tally.failures += [f"{way}: {problem}" for problem in outcome.problems]
    return tally


def control(folder: str, *, seed: int) -> Tally:
    """Let a format lie: fails where it is caught, if it is caught in every lie and in nothing else."""
    tally = Tally()
    caught = dict[str, list[str]]()
    for number, (lie, format_) in enumerate({"nothing": Held, **LIARS}.items()):
        with registry.using("formats", INSTEAD, format_()):
            matrix = Matrix(os.path.join(folder, str(number)), seed=seed)
            outcomes = [matrix.outcome(Cell(store, None, INSTEAD)) for store in ("wide", "everything")]
        tally.count(lie)
        caught[lie] = [problem for outcome in outcomes for problem in (outcome.refused, *outcome.problems)]
    found = {lie for lie, problems in caught.items() if any(problems)}
    if found == LIARS.keys():
        tally.failures = [f"{lie}: {next(filter(None, caught[lie]))}" for lie in LIARS]
    else:
        wrong = found.symmetric_difference(LIARS)
        tally.counts |= {f"wrong: {lie}: {next(filter(None, caught[lie]), 'not seen')}": 1 for lie in wrong}
    return tally
