"""One try after another of a scenario: a folder is put back as it was, something happens to a child, and what
is left is checked.

Used by campaigns that run with the shim (`replaystore.testing.shim.preloaded`). The process itself never
opens a store, so that it stays cheap to fork and has no threads; whatever is done is done in children, each
of which has `LIMIT` seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from replaystore.testing.crashes import forked
from replaystore.testing.scenarios import SCENARIOS, Scenario, floor_of, make
from replaystore.testing.shim import Kind, Mode, Shim

__all__ = ["KILLED", "NAMING", "Baseline", "Room", "drawn", "last_line"]

LIMIT = 100
"""Seconds, after which a child hangs."""
KILLED = -signal.SIGKILL
NAMING = frozenset({Kind.RENAME, Kind.UNLINK, Kind.LINK, Kind.RMDIR})
"""Calls by which a file gets or loses its name: few, and each of them a moment of danger."""
REPEATS, LEAST = 16, 6
"""Tries of a scenario before the next one is prepared, at most and at least."""


@dataclass
class Baseline:
    """A scenario in which nothing went wrong."""

    seen: dict[Kind, int]
    """How many calls it makes."""
    told: list[Any]
    seconds: float

    def calls(self, kinds: frozenset[Kind]) -> int:
        """How many of these kinds."""
        return sum(self.seen[kind] for kind in kinds)


class Room:
    """A folder in which scenarios are tried."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.realpath(folder)
        self.place = os.path.join(self._folder, "now")
        self._template = os.path.join(self._folder, "before")
        self.shim = Shim(self.place)
        load()

    def child(
        self, action: Callable[[Callable[[Any], None]], None], *, kill_after: float | None = None
    ) -> tuple[int, list[Any]]:
        """As `forked`, within LIMIT seconds: the status is that of SIGALRM if it took longer."""

        def limited(tell: Callable[[Any], None]) -> None:
            signal.alarm(LIMIT)
            action(tell)

        return forked(limited, kill_after=kill_after)

    def begin(self, scenario: Scenario) -> tuple[Baseline, str]:
        """Make what is there before, and perform without a fault; what went wrong."""
        problem = self._prepare(scenario)
        return (Baseline({}, [], 0.0), problem) if problem else self._baseline(scenario)

    def _prepare(self, scenario: Scenario) -> str:
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

    def _baseline(self, scenario: Scenario) -> tuple[Baseline, str]:
        self.restore()
        begun = time.monotonic()
        self.shim.plan(Mode.COUNT)
        status, told = self.child(lambda tell: scenario.perform(self.place, tell))
        found = Baseline(self.shim.seen(), told, time.monotonic() - begun)
        self.shim.rest()
        if status:
            return found, f"without a fault: {last_line(told, status)}"
        return found, self.check(scenario, told)

    def perform(
        self, scenario: Scenario, *, kill_after: float | None = None, **plan: Any
    ) -> tuple[int, list[Any]]:
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


def drawn(
    names: list[str], count: int, generator: np.random.Generator, *, repeats: int = REPEATS
) -> Iterator[tuple[Scenario, int, str]]:
    """Scenarios, how often to try each, and what it is called in messages; those without torch first. Of few
    tries, all are of some names: to prepare a scenario takes as long as some tries of it."""
    some = (
        names
        if count >= LEAST * len(names)
        else generator.permutation(names)[: max(1, count // LEAST)].tolist()
    )
    shares = {name: count // len(some) + (number < count % len(some)) for number, name in enumerate(some)}
    for name in sorted(some, key=lambda name: (make(name, 0).torch, list(SCENARIOS).index(name))):
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

    for name in (
        "containers.zarr.container",
        "containers.hdf5.container",
        "storage.zip",
        "containers.codecs",
        "converting.convert",
        "checking.repair",
        "checking.verify",
    ):
        importlib.import_module(f"replaystore.{name}")
    for name in ("numcodecs", "zarr", "h5py"):
        importlib.import_module(name)
