"""Power cuts, modelled: of what was done to a disk, only what was synced is left for sure, and of the rest
any part.

A scenario runs once with the shim noting every call (libhdf5's and shutil's too). A `Disk` is told them up to
some moment, and says what a cut could leave: unsynced writes lost, reordered or torn, unsynced names lost.
From that the scenario must go on; in some, the power is cut again while it is being opened for writing.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from replaystore.testing.campaigns import Tally
from replaystore.testing.disks import Disk, put, read
from replaystore.testing.scenarios import SCENARIOS, Floor, Scenario, Tell
from replaystore.testing.shim import Kind, Record, preloaded
from replaystore.testing.trials import Room, drawn, last_line

__all__ = ["PROMISE", "control", "run"]

PROMISE = "after a power cut, everything acknowledged is there; without syncs, some commit is"
LEAST, ANYWHERE, TWICE = 0.3, 0.3, 0.15
"""Of the cuts: those that leave only what was synced; those at any call, and not where syncing begins; those
that are followed by one more while the store is recovered."""
GENERATOR = np.random.Generator


def run(folder: str, *, count: int, seed: int, names: list[str] | None = None) -> Tally:
    """Cut the power so many times."""
    return preloaded(__name__, "attack", folder, count=count, seed=seed, names=names)


def control(folder: str, *, seed: int) -> Tally:
    """A disk that is never told to sync."""
    return preloaded(
        __name__, "attack", folder, count=24, seed=seed, names=["zarr", "hdf5", "convert"], syncs=False
    )


@dataclass
class _Recording:
    """What was done, and what was acknowledged meanwhile."""

    records: list[Record]
    told: list[tuple[int, Any]]
    """(after so many records, what was told)."""

    def moments(self, count: int, generator: GENERATOR) -> list[int]:
        """Before which calls to cut, in order."""
        kinds = [record.kind for record in self.records]
        syncs = [
            number
            for number, kind in enumerate(kinds)
            if kind is Kind.SYNC and number and kinds[number - 1] is not Kind.SYNC
        ]
        anywhere = round(count * ANYWHERE) if syncs else count
        chosen = generator.integers(1, len(kinds) + 1, anywhere).tolist()
        return sorted([*chosen, *(generator.choice(syncs, count - anywhere).tolist() if syncs else [])])

    def acknowledged(self, moment: int) -> list[Any]:
        return [message for at, message in self.told if at <= moment]


def attack(
    folder: str, *, count: int, seed: int, names: list[str] | None = None, syncs: bool = True
) -> Tally:
    """`run` and `control`, in a process with the shim."""
    tally, generator, room = Tally(), np.random.default_rng(seed), Room(folder)
    for scenario, tries, label in drawn(names or list(SCENARIOS), count, generator, repeats=24):
        _, problem = room.begin(scenario)
        room.restore()
        before = read(room.place)
        recording, problem = (
            (None, problem)
            if problem
            else _record(room, lambda tell, scenario=scenario: scenario.perform(room.place, tell))
        )
        if problem or recording is None:
            tally.count(scenario.name, tries)
            tally.failures.append(f"{label}: {problem}")
            continue
        disk, done = Disk(before), 0
        for moment in recording.moments(tries, generator):
            _go(disk, recording.records[done:moment], syncs=syncs)
            done = moment
            tally.count(scenario.name)
            problem = _cut(room, scenario, disk, recording.acknowledged(moment), generator)
            if problem:
                tally.failures.append(
                    f"{label}, power cut before call {moment} of {len(recording.records)}, {problem}"
                )
    return tally


def _record(room: Room, action: Any) -> tuple[_Recording | None, str]:
    """Do something in a child whose calls are noted."""
    log = room.place + ".log"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    room.shim.record(descriptor)

    def noting(_: Tell) -> None:
        def told(message: object) -> None:
            room.shim.mark(f"{message.number} {message.synced}" if isinstance(message, Floor) else "")

        with patch("replaystore.containers.hdf5.copy._share", lambda *_: False):
            action(told)

    status, told = room.child(noting)
    room.shim.rest()
    os.close(descriptor)
    if status:
        return None, f"recording: {last_line(told, status)}"
    found = _Recording([], [])
    for record in room.shim.records(log):
        if record.kind is not None:
            found.records.append(record)
        elif record.path:
            number, synced = record.path.split()
            found.told.append((len(found.records), Floor(int(number), synced == "True")))
    return found, ""


def _go(disk: Disk, records: list[Record], *, syncs: bool = True) -> None:
    for record in records:
        if syncs or record.kind is not Kind.SYNC:
            disk.heard(record)


def _cut(room: Room, scenario: Scenario, disk: Disk, told: list[Any], generator: GENERATOR) -> str:
    """Cut the power, perhaps twice, and look: what was wrong."""
    where = "what was synced" if generator.random() < LEAST else "a part"
    left = disk.synced() if where == "what was synced" else disk.cut(generator)
    put(room.place, left)
    if generator.random() < TWICE:
        recording, problem = _record(room, lambda _: scenario.recover(room.place))
        if recording is None:
            return f"{where} left, recovering: {problem}"
        if recording.records:
            again = Disk(left)
            moment = int(generator.integers(1, len(recording.records) + 1))
            _go(again, recording.records[:moment])
            put(room.place, again.cut(generator))
            where += f", another before call {moment} of recovery"
    problem = room.check(scenario, told, cut=True)
    return f"{where} left: {problem}" if problem else ""
