"""Try every promise for some minutes, and print how often each was tried and what failed.

    python -m replaystore.testing.campaigns kills errno --minutes 30 --seed 7 --coverage

Campaigns take turns in a few processes: each turn is a number of tries that takes most of a minute, with a
seed of its own, so that a failure can be found again with that turn's seed and count. Every campaign's
control runs once, and must fail.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from replaystore.errors import MissingDependencyError
from replaystore.extras import require
from replaystore.testing.apart import apart
from replaystore.testing.campaigns import CAMPAIGNS, Tally, reached

__all__ = ["main"]

HANGS = 900.0
"""Seconds, after which a turn hangs."""
FIRST, TURN = 24, 45.0
"""Tries of a campaign's first turn; seconds that each later one should take."""
SHOWN = 20
"""Failures of a campaign that are printed."""


@dataclass
class _State:
    """How far a campaign is."""

    name: str
    promise: str
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    turns: int = 0
    running: int = 0
    control: Tally | None = None

    def size(self, share: float) -> int:
        """How many tries the next turn has: as many as take TURN seconds, or what is left of the campaign's
        share."""
        if not self.seconds or not self.tally.tried:
            return FIRST
        rate = self.tally.tried / self.seconds
        return max(1, int(rate * min(TURN, max(1.0, share - self.seconds))))

    def begins(self, count: int | None) -> None:
        """A turn of so many tries begins; None: the control."""
        if count is not None:
            self.turns += 1
            self.running += 1

    def ends(self, count: int | None, seed: int, tally: Tally, seconds: float) -> None:
        """It has ended so."""
        if count is None:
            self.control = tally
            self.tally.skipped = self.tally.skipped or tally.skipped
            return
        self.running -= 1
        self.seconds += seconds
        tally.failures = [f"[seed {seed}, count {count}] {failure}" for failure in tally.failures]
        self.tally.add(tally)


def _turn(module: str, folder: str | None, count: int | None, seed: int) -> tuple[Tally, float]:
    """One turn of a campaign (`count` None: its control), in a process of its own; if that breaks, it is a
    failure like any other."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as room:
        try:
            if count is None:
                tally = apart(module, "control", (room,), {"seed": seed}, timeout=HANGS)
            else:
                tally = apart(module, "run", (room,), {"count": count, "seed": seed}, timeout=HANGS)
        except RuntimeError as error:
            tally = Tally(failures=[f"the campaign broke: {error}"])
    return tally, time.monotonic() - begun


def _run(states: list[_State], *, seconds: float, seed: int, jobs: int) -> None:
    """Let them take turns until each has had its share of the time."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108  # campaigns that need a disk make one
    share, begun = seconds * jobs / max(1, len(states)), time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        waiting: dict[Future[tuple[Tally, float]], tuple[_State, int | None, int]] = {}

        def begin(state: _State, count: int | None, seed: int) -> None:
            state.begins(count)
            waiting[pool.submit(_turn, CAMPAIGNS[state.name], memory, count, seed)] = state, count, seed

        for state in states:
            begin(state, None, seed)
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                state, count, used = waiting.pop(future)
                state.ends(count, used, *future.result())
            while len(waiting) < jobs and time.monotonic() - begun < seconds:
                due = next(_due(states, share), None)
                if due is None:
                    break
                begin(due, due.size(share), seed + 1000 * due.turns)


def _due(states: list[_State], share: float) -> Iterator[_State]:
    """Those that have time left, the one that had least of it first."""
    left = [
        state for state in states if not state.tally.skipped and state.seconds + TURN * state.running < share
    ]
    return iter(sorted(left, key=lambda state: state.seconds + TURN * state.running))


# --- what is printed


def _table(states: list[_State]) -> str:
    width = max(len(state.promise) for state in states)
    lines = [f"{'campaign':14} {'promise':{width}} {'tried':>10} {'failed':>7}"]
    for state in states:
        tally = state.tally
        if tally.skipped:
            lines.append(f"{state.name:14} {state.promise:{width}}    skipped: {tally.skipped}")
        else:
            lines.append(
                f"{state.name:14} {state.promise:{width}} {tally.tried:>10,} {len(tally.failures):>7}"
            )
    return "\n".join([*lines, "", *(line for state in states for line in _kinds(state))])


def _kinds(state: _State) -> list[str]:
    """How many tries were of each kind."""
    counts = sorted(state.tally.counts.items())
    text = f"{state.name}: " + ", ".join(f"{kind} {times:,}" for kind, times in counts)
    return textwrap.wrap(text, 140, subsequent_indent="  ") if counts else []


def _failures(states: list[_State]) -> str:
    lines = []
    for state in states:
        if state.tally.failures:
            lines.append(f"\n{state.name}:")
            lines += [f"  {failure}" for failure in state.tally.failures[:SHOWN]]
            if len(state.tally.failures) > SHOWN:
                lines.append(f"  and {len(state.tally.failures) - SHOWN} more")
    return "\n".join(lines)


def _controls(states: list[_State]) -> list[str]:
    """The campaigns that are blind: what they try was broken on purpose, and they did not see it."""
    return [
        f"{state.name}: its control did not fail in {state.control.tried} tries: the campaign is blind"
        for state in states
        if state.control is not None and not state.control.skipped and not state.control.failures
    ]


def main() -> int:
    """The exit status says whether anything failed."""
    parser = argparse.ArgumentParser(
        prog="campaign", description=("Try every promise of the store, and say what failed.")
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(CAMPAIGNS)}")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", metavar="NAME,...", help="the same, in one word")
    parser.add_argument("--seed", type=int, default=0, help="another seed tries other things")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument(
        "--coverage",
        action="store_true",
        help=("print what of the log, commit and recovery code was reached"),
    )
    options = parser.parse_args()
    names = [*options.names, *(options.only.split(",") if options.only else ())] or list(CAMPAIGNS)
    unknown = [name for name in names if name not in CAMPAIGNS]
    if unknown:
        parser.error(f"there is no campaign {unknown[0]!r}: there are {', '.join(CAMPAIGNS)}")
    try:
        require("torch", "a campaign", "dev")
    except MissingDependencyError as error:
        parser.exit(1, f"campaign: {error}\n")
    states = [_State(name, importlib.import_module(CAMPAIGNS[name]).PROMISE) for name in names]
    noted = tempfile.mkdtemp(prefix="replaystore-coverage-") if options.coverage else None
    try:
        with reached.measured(noted):
            _run(states, seconds=60 * options.minutes, seed=options.seed, jobs=options.jobs)
        blind = _controls(states)
        sys.stdout.write(f"{_table(states)}\n{_failures(states)}\n" + "".join(f"{line}\n" for line in blind))
        if noted is not None:
            sys.stdout.write(reached.report(noted))
    finally:
        if noted is not None:
            shutil.rmtree(noted)
    return 1 if blind or any(state.tally.failures for state in states) else 0


if __name__ == "__main__":
    sys.exit(main())
