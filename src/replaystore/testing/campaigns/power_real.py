"""Power cuts of real file systems: ext4 and XFS in an image, shut down while a writer runs, mounted again,
and looked at.

The image lies in memory, so that syncs are quick and many cuts fit into a minute; what counts is which writes
the file system had given to it. What a scenario needs before is made anew for each try, and synced.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from replaystore.testing.apart import apart
from replaystore.testing.campaigns import Tally
from replaystore.testing.crashes import forked
from replaystore.testing.images import SYSTEMS, Image, available, mounted
from replaystore.testing.scenarios import Scenario, floor_of
from replaystore.testing.trials import LIMIT, drawn, last_line, load

__all__ = ["PROMISE", "control", "run"]

PROMISE = "after a power cut of ext4 or XFS, everything acknowledged is there"
NAMES = [
    *(
        "zarr",
        "hdf5",
        "ring",
        "archive",
        "archive-hdf5",
        "unsynced",
        "unsynced-hdf5",
        "publish",
        "rollback",
        "rollback-hdf5",
        "values",
        "values-hdf5",
    ),
    *(
        "overwrite",
        "overwrite-hdf5",
        "convert",
        "convert-hdf5",
        "convert-zip",
        "repair",
        "velora-files",
        "active-pickle",
    ),
]
LATER = 1.1
"""Of the time that a scenario takes, the part in which the power is cut."""


def run(folder: str, *, count: int, seed: int, names: list[str] | None = None) -> Tally:
    """Cut the power so many times."""
    return apart(__name__, "attack", (folder,), {"count": count, "seed": seed, "names": names})


def control(folder: str, *, seed: int) -> Tally:
    """Nothing is synced."""
    return apart(
        __name__, "attack", (folder,), {"count": 12, "seed": seed, "names": ["zarr", "hdf5"], "syncs": False}
    )


def attack(
    folder: str, *, count: int, seed: int, names: list[str] | None = None, syncs: bool = True
) -> Tally:
    """`run` and `control`, in a process of their own."""
    reasons = {system: available(system) for system in SYSTEMS}
    systems = [system for system, reason in reasons.items() if not reason]
    if not systems:
        return Tally(skipped="; ".join(f"{system}: {reason}" for system, reason in reasons.items()))
    load()
    tally, generator = Tally(), np.random.default_rng(seed)
    share = -(-count // len(systems))
    for system in systems:
        with mounted(system, folder) as image:
            for scenario, tries, label in drawn(
                names or NAMES, min(share, count - tally.tried), generator, repeats=8
            ):
                _several(image, scenario, tries, label, generator, tally, syncs=syncs)
    return tally


def _several(
    image: Image,
    scenario: Scenario,
    tries: int,
    label: str,
    generator: np.random.Generator,
    tally: Tally,
    *,
    syncs: bool,
) -> None:
    place = os.path.join(image.place, "now")
    seconds, problem = _without(scenario, place)
    if problem:
        tally.count(image.system, tries)
        tally.failures.append(f"{image.system}, {label}: {problem}")
        return
    for _ in range(tries):
        tally.count(image.system)
        problem = _prepare(scenario, place)
        after = float(generator.uniform(0, LATER * seconds))
        told = [] if problem else _cut(image, scenario, place, after, syncs=syncs)
        image.again()
        problem = problem or _check(scenario, place, told)
        if problem:
            tally.failures.append(
                f"{image.system}, {label}, power cut after {after * 1000:.1f} ms: {problem}"
            )


def _child(action: Any) -> tuple[int, list[Any]]:
    def limited(tell: Any) -> None:
        signal.alarm(LIMIT)
        action(tell)

    return forked(limited)


def _prepare(scenario: Scenario, place: str) -> str:
    """Make what is there before, and sync it."""
    shutil.rmtree(place, ignore_errors=True)
    os.mkdir(place)
    status, told = _child(lambda _: scenario.prepare(place))
    os.sync()
    return last_line(told, status) if status else ""


def _without(scenario: Scenario, place: str) -> tuple[float, str]:
    """How long it takes without a cut, and what goes wrong with that."""
    problem = _prepare(scenario, place)
    if problem:
        return 0.0, problem
    begun = time.monotonic()
    status, told = _child(lambda tell: scenario.perform(place, tell))
    seconds = time.monotonic() - begun
    return seconds, last_line(told, status) if status else _check(scenario, place, told)


@contextmanager
def _unsynced() -> Iterator[None]:
    with ExitStack() as stack:
        for name in ("fsync", "fdatasync"):
            stack.enter_context(patch(f"os.{name}", lambda _: None))
        yield


def _cut(image: Image, scenario: Scenario, place: str, after: float, *, syncs: bool) -> list[Any]:
    """Perform, and cut the power meanwhile: what was told before.

    While ext4 is being shut down, a sync may return without an error for bytes that are lost: what was told
    later than the cut began does not count."""
    reading, writing = os.pipe()
    seen, telling = os.pipe()
    switch = os.fork()
    if not switch:  # the one who cuts
        os.close(writing)
        os.read(reading, 1)
        time.sleep(after)
        os.write(telling, repr(time.monotonic()).encode())
        image.cut()
        os._exit(0)
    os.close(reading)
    os.close(telling)

    def performed(tell: Any) -> None:
        os.close(writing)
        with ExitStack() as stack:
            if not syncs:
                stack.enter_context(_unsynced())
            scenario.perform(place, lambda message: tell((time.monotonic(), message)))

    os.write(writing, b"!")
    _, told = _child(performed)
    os.close(writing)
    os.waitpid(switch, 0)
    with os.fdopen(seen) as pipe:
        began = float(pipe.read())
    return [message[1] for message in told if isinstance(message, tuple) and message[0] < began]


def _check(scenario: Scenario, place: str, told: list[Any]) -> str:
    floor = floor_of(told, cut=True)
    status, answer = _child(lambda _: scenario.check(place, floor, cut=True))
    return f"acknowledged {floor}: {last_line(answer, status)}" if status else ""
