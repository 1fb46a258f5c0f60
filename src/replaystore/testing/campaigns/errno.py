"""A system call is refused: the outcome is an error of ours that names the cause, and nothing is lost or
half-written.

A scenario runs in a child in which one call fails with some errno, once or from then on, or reads or writes
less than it was asked to. Either it goes through all the same, and everything is there, as it must if a call
only did less; or it ends with a ReplayStoreError whose message has the reason that the system gave.
Then a buffer that is still open commits and closes, or says that it cannot; and what was acknowledged is
there.
"""

from __future__ import annotations

import errno
import os

import numpy as np

from replaystore.buffers.buffer import Buffer
from replaystore.errors import ReplayStoreError
from replaystore.testing.campaigns import Tally
from replaystore.testing.scenarios import SCENARIOS, Floor, Scenario, Tell
from replaystore.testing.scenarios.recordings import Recording
from replaystore.testing.shim import ALL, CHANGES, GROWING, LOCKS, OPENS, Kind, Mode, preloaded
from replaystore.testing.trials import Baseline, Room, drawn, last_line

__all__ = ["FAULTS", "PROMISE", "control", "run"]

PROMISE = "a system call that fails ends in an error of ours that says why, and loses nothing"
ON = 0.3
"""Of the faults that can stay, those that do."""
K = Kind
FAULTS: dict[str, tuple[int, frozenset[Kind], bool]] = {
    "ENOSPC": (errno.ENOSPC, GROWING | {K.SYNC}, True),
    "EDQUOT": (errno.EDQUOT, GROWING | {K.SYNC}, True),
    "EIO": (errno.EIO, ALL - LOCKS, True),
    "EMFILE": (errno.EMFILE, OPENS, True),
    "EINTR": (errno.EINTR, frozenset({K.OPEN, K.CREATE, K.WRITE, K.RESIZE, K.SYNC, K.READ, K.LOCK}), False),
    "EROFS": (errno.EROFS, CHANGES - {K.SYNC}, True),
    "EACCES": (errno.EACCES, CHANGES - {K.SYNC, K.WRITE, K.RESIZE} | {K.OPEN}, True),
    "ENOLCK": (errno.ENOLCK, LOCKS, True),
    "EOPNOTSUPP": (errno.EOPNOTSUPP, LOCKS | {K.CLONE, K.COPY}, True),
    "short": (0, frozenset({K.WRITE, K.READ}), False),
    "short, then ENOSPC": (errno.ENOSPC, frozenset({K.WRITE}), True),
}
"""By name: the errno, the calls that may give it, and whether it may stay."""
LIES = {"lie": (0, frozenset({K.WRITE, K.RENAME}), False)}
"""The control's: calls that are missed if they are not made. (Nobody misses a sync before a power cut, and a
read that was not made finds what the buffer held.)"""


def run(folder: str, *, count: int, seed: int, names: list[str] | None = None) -> Tally:
    """Refuse so many calls."""
    return preloaded(__name__, "attack", folder, count=count, seed=seed, names=names)


def control(folder: str, *, seed: int) -> Tally:
    """A write or a rename is not made, and says that it was."""
    return preloaded(
        __name__, "attack", folder, count=18, seed=seed, names=["zarr", "hdf5", "convert"], lying=True
    )


def attack(
    folder: str, *, count: int, seed: int, names: list[str] | None = None, lying: bool = False
) -> Tally:
    """`run` and `control`, in a process with the shim."""
    tally, generator, room = Tally(), np.random.default_rng(seed), Room(folder)
    for scenario, tries, label in drawn(names or list(SCENARIOS), count, generator, repeats=24):
        baseline, problem = room.begin(scenario)
        if problem:
            tally.failures.append(f"{label}: {problem}")
            tally.count(scenario.name, tries)
            continue
        for _ in range(tries):
            fault = "lie" if lying else str(generator.choice(list(FAULTS)))
            if not baseline.calls((FAULTS | LIES)[fault][1]):
                fault = "EIO"
            tally.count(f"{scenario.name}, {fault}")
            problem = _refuse(room, scenario, baseline, fault, generator, lying=lying)
            if problem:
                tally.failures.append(f"{label}, {problem}")
    tally.counts = _by_both(tally.counts)
    return tally


def _by_both(counts: dict[str, int]) -> dict[str, int]:
    """By scenario, and by fault."""
    found: dict[str, int] = {}
    for kind, times in counts.items():
        for part in kind.split(", ", 1):
            found[part] = found.get(part, 0) + times
    return found


def _refuse(
    room: Room,
    scenario: Scenario,
    baseline: Baseline,
    fault: str,
    generator: np.random.Generator,
    *,
    lying: bool,
) -> str:
    code, kinds, stays = (FAULTS | LIES)[fault]
    at = int(generator.integers(baseline.calls(kinds))) + 1
    on = stays and bool(generator.random() < ON)
    mode = Mode.FAIL_ON if on else Mode.FAIL
    if fault.startswith("short"):
        mode = Mode.SHORT if code == 0 else Mode.SHORT_FAIL
    if lying:
        mode = Mode.LIE
    closing = bool(generator.random() < 0.6)
    room.restore()
    room.shim.plan(mode, at=at, share=float(generator.choice([0.1, 0.5, 0.9])), error=code, kinds=kinds)
    status, told = room.child(lambda tell: _attempt(room, scenario, code, tell, closing=closing))
    where = f"{fault}{' from' if on else ' at'} call {at}, {room.shim.struck or 'none'}"
    room.shim.rest()
    if isinstance(scenario, Recording):
        scenario.failed = next((message[1] for message in told if isinstance(message, tuple)), None)
    problem = last_line(told, status) if status else room.check(scenario, told)
    if isinstance(scenario, Recording):
        scenario.failed = None
    return f"{where}: {problem}" if problem else ""


def _attempt(room: Room, scenario: Scenario, code: int, tell: Tell, *, closing: bool) -> None:
    """Perform, in the child; AssertionError: it ended in another way than it may."""
    opened: list[Buffer] = []
    try:
        if isinstance(scenario, Recording):
            scenario.opened = opened.append
        scenario.perform(room.place, tell)
    except ReplayStoreError as error:
        if not _says(error, code):
            reason = os.strerror(code) if code else "and a call that does less than it was asked to is none"
            raise AssertionError(f"{type(error).__name__} without the reason, {reason}: {error}") from error
        if opened and isinstance(scenario, Recording):
            if closing:
                tell(("failed", scenario.reached))
            _finish(opened[-1], tell, closing=closing)


def _says(error: ReplayStoreError, code: int) -> bool:
    """Whether the first cause is in the message. That a call does less than it was asked to is no reason to
    fail: it is called again."""
    return bool(code) and (os.strerror(code) in str(error) or f"errno = {code}" in str(error))


def _finish(buffer: Buffer, tell: Tell, *, closing: bool) -> None:
    """Go on with a buffer in which something failed, as its user would: what it acknowledges now counts as
    well."""
    if not closing:
        buffer.abandon()
        return
    try:
        commit = buffer.commit()
        tell(Floor(commit))
        buffer.close()
    except ReplayStoreError:
        buffer.abandon()
