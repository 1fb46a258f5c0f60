"""One try after another of a scenario: a folder is put back as it was, something happens to a child, and what is left is checked.

Used by campaigns that run with the shim (`replaystore.testing.shim.preloaded`). The process itself never opens a store, so that it stays
cheap to fork and has no threads; whatever is done is done in children, each of which has `LIMIT` seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from replaystore.testing.crashes import forked
from replaystore.testing.scenarios import SCENARIOS, Scenario, floor_of, make
from replaystore.testing.shim import CHANGES, Kind, Mode, Shim

__all__ = ["KILLED", "NAMING", "Baseline", "Room", "drawn", "last_line"]

LIMIT = 100
"""Seconds, after which a child hangs."""
KILLED = -signal.SIGKILL
NAMING = frozenset({Kind.RENAME, Kind.UNLINK, Kind.LINK, Kind.RMDIR})
"""Calls by which a file gets or loses its name: few, and each of them a moment of danger."""
REPEATS = 16
"""Tries of a scenario before the next one is prepared."""


@dataclass
class Baseline:
    """A scenario in which nothing went wrong."""

    calls: dict[frozenset[Kind], int]
    """How many calls of these kinds it makes."""
    told: list[object]
    seconds: float


class Room:
    """A folder in which scenarios are tried."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.realpath(folder)
        self.place = os.path.join(self._folder, "now")
        self._template = os.path.join(self._folder, "before")
        self.shim = Shim(self.place)
        load()

    def child(self, action: Callable[[Callable[[Any], None]], None], *, kill_after: float | None = None) -> tuple[int, list[Any]]:
        """As `forked`, within LIMIT seconds: the status is that of SIGALRM if it took longer."""

        def limited(tell: Callable[[Any], None]) -> None:
            signal.alarm(LIMIT)
            action(tell)

        return forked(limited, kill_after=kill_after)

    def prepare(self, scenario: Scenario) -> str:
        """Make what is there before; what went wrong with that."""
        self.shim.rest()
        for folder in (self._template, self.place):
            shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(self.place)
        status, told = self.child(lambda _: scenario.prepare(self.place))
        if status:
            return f"preparing: {last_line(told, status)}"
        os.rename(self.place, self._template)
        return ""

    def restore(self) -> None:
        """Put the folder back as it was before."""
        shutil.rmtree(self.place, ignore_errors=True)
        _copy(self._template, self.place)

    def baseline(self, scenario: Scenario, *kinds: frozenset[Kind]) -> tuple[Baseline, str]:
        """Perform without a fault, once for each set of kinds, and check; what went wrong."""
        found = Baseline({}, [], 0.0)
        for chosen in kinds or (CHANGES,):
            self.restore()
            self.shim.plan(Mode.COUNT, kinds=chosen)
            status, told = self.child(lambda tell: scenario.perform(self.place, tell))
            found.calls[chosen] = self.shim.count
            self.shim.rest()
            if status:
                return found, f"without a fault: {last_line(told, status)}"
            found.told = told
        return found, self.check(scenario, found.told)

    def perform(self, scenario: Scenario, *, kill_after: float | None = None, **plan: Any) -> tuple[int, list[Any]]:
        """Perform with a fault planned: status, and what was told."""
        self.shim.plan(**plan) if plan else self.shim.rest()
        result = self.child(lambda tell: scenario.perform(self.place, tell), kill_after=kill_after)
        self.shim.rest()
        return result

    def recover(self, scenario: Scenario, **plan: Any) -> tuple[int, list[Any]]:
        """Recover with a fault planned."""
        self.shim.plan(**plan)
        result = self.child(lambda _: scenario.recover(self.place))
        self.shim.rest()
        return result

    def check(self, scenario: Scenario, told: list[Any], *, cut: bool = False) -> str:
        """What is wrong with the folder, after this was told; nothing if it is as it should be."""
        floor = floor_of(told, cut=cut)
        status, answer = self.child(lambda _: scenario.check(self.place, floor, cut=cut))
        return f"acknowledged {floor}: {last_line(answer, status)}" if status else ""


def drawn(names: list[str], count: int, generator: np.random.Generator, *, repeats: int = REPEATS) -> Iterator[tuple[Scenario, int, str]]:
    """Scenarios, how often to try each, and what it is called in messages: every name as often as the others, those without torch first."""
    shares = {name: count // len(names) for name in names}
    for name in generator.permutation(names)[: count % len(names)].tolist():
        shares[name] += 1
    for name in sorted(names, key=lambda name: (make(name, 0).torch, list(SCENARIOS).index(name))):
        left = shares[name]
        while left > 0:
            tries, seed = min(repeats, left), int(generator.integers(1 << 30))
            left -= tries
            yield make(name, seed), tries, f"{name} {seed}"


def last_line(told: list[Any], status: int) -> str:
    """How a child ended, in one line."""
    if status == -signal.SIGALRM:
        return f"it hangs: not done after {LIMIT} s"
    if status < 0:
        return f"the interpreter died of {signal.Signals(-status).name}"
    text = str(told[-1]).strip().splitlines() if told else ["?"]
    place = next((line.strip() for line in reversed(text) if line.strip().startswith('File "')), "")
    place = place.removeprefix('File "').replace('", line ', ":").split(",")[0]
    return f"{text[-1][:400]} ({'/'.join(place.split('/')[-2:])})"


def _copy(source: str, target: str) -> None:
    """As shutil.copytree, where files are small."""
    os.mkdir(target)
    for entry in os.scandir(source):
        name = os.path.join(target, entry.name)
        if entry.is_dir(follow_symlinks=False):
            _copy(entry.path, name)
        else:
            shutil.copyfile(entry.path, name, follow_symlinks=False)


def load() -> None:
    """Import what stores import when they are first opened: children should not have to."""
    import importlib

    for name in ("backends.zarr", "backends.hdf5", "backends.zip", "backends.codecs", "conversion", "repairing", "verification"):
        importlib.import_module(f"replaystore.{name}")
    for name in ("numcodecs", "zarr", "h5py"):
        importlib.import_module(name)
