"""What may be interrupted: each scenario prepares a folder, does something in it, and says what must be true
of it afterwards.

A campaign runs `perform` in a child that is killed, refused or cut from power at some moment, and `check` in
another one. What is there is a pure function of the scenario's seed, so that `check` compares bit for bit.

Invariants: `perform` tells a floor only when the store has returned from what it promises; floors only grow.
`check` raises whatever is wrong, and leaves a folder that works.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["SCENARIOS", "Floor", "Scenario", "Tell", "floor_of", "make"]


@dataclass(frozen=True)
class Floor:
    """What a store has acknowledged."""

    number: int
    """The newest commit, or how far a replacement got."""
    synced: bool = True
    """Whether a power cut must leave it, too; a kill always must."""


Tell = Callable[[object], None]


class Scenario(Protocol):
    """One thing that is done to a store, with all arguments chosen."""

    name: str
    torch: bool
    """Whether it needs torch, which makes forks slower."""

    def prepare(self, folder: str) -> None:
        """What is there before."""

    def perform(self, folder: str, tell: Tell) -> None:
        """What may be interrupted; tells `Floor`s."""

    def recover(self, folder: str) -> None:
        """What somebody does first who finds the folder: this may be interrupted, too."""

    def check(self, folder: str, floor: int | None, *, cut: bool = False) -> None:
        """Look, go on, and verify. `floor`: the newest that must be there, None if nothing was acknowledged;
        `cut`: after a power cut."""


def floor_of(told: list[object], *, cut: bool = False) -> int | None:
    """The newest that must be there after a kill, or after a power cut."""
    known = [message.number for message in told if isinstance(message, Floor) and (message.synced or not cut)]
    return max(known, default=None)


RECORDINGS = "replaystore.testing.scenarios.recordings"
CONVERTING = "replaystore.testing.scenarios.converting"
EXPORTING = "replaystore.testing.scenarios.exporting"
NAMING = "replaystore.testing.scenarios.naming"
SAVING = "replaystore.testing.scenarios.saving"
MENDING = "replaystore.testing.scenarios.mending"

SCENARIOS: dict[str, str] = {
    "zarr": RECORDINGS,
    "hdf5": RECORDINGS,
    "ring": RECORDINGS,
    "wrapped": RECORDINGS,
    "wrapped-unsynced": RECORDINGS,
    "archive": RECORDINGS,
    "archive-hdf5": RECORDINGS,
    "unsynced": RECORDINGS,
    "unsynced-hdf5": RECORDINGS,
    "publish": RECORDINGS,
    "publish-hdf5": RECORDINGS,
    "rollback": RECORDINGS,
    "rollback-hdf5": RECORDINGS,
    "values": RECORDINGS,
    "values-hdf5": RECORDINGS,
    "names": NAMING,
    "names-hdf5": NAMING,
    "names-ring": NAMING,
    "overwrite": CONVERTING,
    "overwrite-hdf5": CONVERTING,
    "convert": CONVERTING,
    "convert-hdf5": CONVERTING,
    "convert-zip": CONVERTING,
    "convert-archive": CONVERTING,
    "convert-archive-hdf5": CONVERTING,
    "export-npz": EXPORTING,
    "export-folder": EXPORTING,
    "through": EXPORTING,
    "through-folder": EXPORTING,
    "merge": EXPORTING,
    "merge-hdf5": EXPORTING,
    "repair": MENDING,
    "repair-hdf5": MENDING,
    "velora": SAVING,
    "velora-hdf5": SAVING,
    "velora-files": SAVING,
    "velora-again": SAVING,
    "velora-in-place": SAVING,
    "active": SAVING,
    "active-hdf5": SAVING,
    "active-pickle": SAVING,
    "active-again": SAVING,
    "active-again-hdf5": SAVING,
    "export-velora": SAVING,
    "export-pickle": SAVING,
}
"""By name, the module that has it."""


def make(name: str, seed: int) -> Scenario:
    """A scenario, with what is left open chosen by a seed."""
    module = importlib.import_module(SCENARIOS[name])
    found: Scenario = module.scenario(name, seed)
    return found
