"""Ctrl-C at any moment of everything that writes: an operation happens or it does not, and the store is
whole.

A scene (of `sessions`, `replacements` or `saves`) is prepared once; each try is a copy of it in a forked
child, which is interrupted at an event or a time drawn from those of one operation, each operation as often
as the others. Half of the tries leave what was interrupted, as a `with` block does; the others use it
again. What is raised is a KeyboardInterrupt, or a MemoryError for those that come from elsewhere.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from unittest.mock import patch

import numpy as np

from replaystore.buffers.buffer import Buffer
from replaystore.testing.campaigns import Tally
from replaystore.testing.crashes import forked
from replaystore.testing.interruption import Interruption, limited
from replaystore.testing.replacements import replacements
from replaystore.testing.saves import saves
from replaystore.testing.sessions import sessions

__all__ = ["PROMISE", "control", "run"]

PROMISE = "interrupted, an operation happens or does not, and nothing acknowledged is lost"
LEAST = 12
"""Tries of a scene, at least: preparing one takes as long as many tries."""
MOST_TURNS = 6
"""Of the control: few moments of an operation lie between its halves, so that a turn may miss them."""
BY_TIME, BY_MEMORY = 0.2, 0.15
"""Of the tries, those by a signal at some time, and those by a MemoryError."""

LOADED = (
    "numcodecs",
    *(f"replaystore.containers.{name}" for name in ("zarr.container", "hdf5.container", "codecs")),
)
"""What stores import when they are first opened; children should not have to."""


class Scene(Protocol):
    """Something that is prepared once and interrupted many times."""

    name: str

    @property
    def operations(self) -> Mapping[str, str]:
        """The names that `play` watches, and what is done there."""

    def prepare(self, folder: str) -> None:
        """Bring what is found to an empty folder."""

    def play(self, folder: str, cut: Interruption, *, goes_on: bool) -> str:
        """In a child, on a copy of that folder: what is wrong; empty if nothing is."""


class Told(NamedTuple):
    """What a try has told."""

    problem: str
    where: str
    """Where it was interrupted."""
    events: Mapping[str, tuple[int, int]] = {}
    seconds: Mapping[str, float] = {}


@dataclass
class Prepared:
    """A scene, and what a run without an interrupt has shown."""

    scene: Scene
    folder: str
    events: Mapping[str, tuple[int, int]]
    seconds: Mapping[str, float]


def run(folder: str, *, count: int, seed: int) -> Tally:
    """Interrupt so many times."""
    for name in LOADED:
        importlib.import_module(name)
    return _campaign(folder, [*sessions(seed), *replacements(), *saves()], count, seed)


def control(folder: str, *, seed: int) -> Tally:
    """An `append` that is two."""
    whole = Buffer.append

    def halves(self: Buffer, columns: Any, **settings: Any) -> None:
        half = len(columns["reward"]) // 2
        if settings.get("final_observation") is None:
            whole(self, {name: rows[:half] for name, rows in columns.items()}, **settings)
            columns = {name: rows[half:] for name, rows in columns.items()}
        whole(self, columns, **settings)

    tally, scenes = Tally(), [scene for scene in sessions() if scene.name == "appends in zarr"]
    with patch.object(Buffer, "append", halves):
        for turn in range(MOST_TURNS):
            tally.add(_campaign(folder, scenes, 3 * LEAST, seed + turn))
            if tally.failures:
                break
    return tally


def _campaign(folder: str, scenes: Sequence[Scene], count: int, seed: int) -> Tally:
    tally, generator = Tally(), np.random.default_rng(seed)
    each = max(LEAST, -(-count // len(scenes)))
    for number in generator.permutation(len(scenes)).tolist():
        share = min(each, count - tally.tried)
        if share <= 0:
            break
        place = os.path.join(folder, "now")
        prepared = _prepare(scenes[number], os.path.join(folder, f"scene-{number}"), place, tally)
        if prepared is not None:
            _tries(prepared, place, share, generator, tally)
            shutil.rmtree(prepared.folder)
    return tally


def _prepare(scene: Scene, folder: str, place: str, tally: Tally) -> Prepared | None:
    """Prepare a scene, and play it twice without an interrupt: to count events, and to take the time."""
    os.mkdir(folder)
    scene.prepare(folder)
    found = []
    for cut in (Interruption(), Interruption(after=0)):
        told = _try(scene, folder, place, cut, goes_on=False)
        if told.problem:
            tally.failures.append(f"{scene.name}, without an interrupt: {told.problem}")
            return None
        found.append(told)
    return Prepared(scene, folder, found[0].events, found[1].seconds)


def _tries(prepared: Prepared, place: str, count: int, generator: np.random.Generator, tally: Tally) -> None:
    scene, names = prepared.scene, list(prepared.scene.operations)
    generator.shuffle(names)
    for number in range(count):
        name = names[number % len(names)]
        first, stop = prepared.events[name]
        drawn = generator.random()
        error = MemoryError if drawn < BY_MEMORY else KeyboardInterrupt
        cut = Interruption(at=int(generator.integers(first, max(stop, first + 1))) + 1, error=error)
        if drawn > 1 - BY_TIME:
            cut = Interruption(after=1e-6 + generator.uniform(0, prepared.seconds[name]), during=name)
        goes_on = bool(generator.random() < 0.5)
        told = _try(scene, prepared.folder, place, cut, goes_on=goes_on)
        tally.count(scene.operations[name])
        if told.problem:
            after = "used again" if goes_on else "left"
            tally.failures.append(f"{scene.name}, {name} ({told.where}, {after}): {told.problem[:300]}")


def _try(scene: Scene, folder: str, place: str, cut: Interruption, *, goes_on: bool) -> Told:
    """One try in a child."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, symlinks=True)

    def action(tell: Callable[[Any], None]) -> None:
        limited()
        problem, cut.told = "", tell
        try:
            problem = scene.play(place, cut, goes_on=goes_on)
        except BaseException as error:  # noqa: BLE001  # whatever it is, it should not have come out
            problem = _one_line(error)
        tell(Told(problem, cut.where, cut.events, cut.seconds))

    status, told = forked(action)
    if told and isinstance(told[-1], Told):
        return told[-1]
    where = str(told[-1]) if told else "?"
    return Told("it hangs" if status == -signal.SIGALRM else f"the process ends with {status}", where)


def _one_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[:-4:-1]
    where = " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {error} at {where}".replace("\n", " ")
