"""Kill a writer at many moments, and see that nothing is lost that it had acknowledged.

    python -m replaystore.testing.crashes zarr --points 200 --seed 1

A workload runs in a forked child, which is killed at the n-th operation on files, in the middle of it, or at
a random time. Then, in other children, so that this process never has threads and stays cheap to fork: the
store opens for reading, and shows a commit that the workload made, not older than the newest acknowledged,
bit for bit; it opens for writing (some are killed again while recovering), shows the same, goes on, and
verifies.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from replaystore import registry
from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.checking.verify import verify
from replaystore.errors import NotFoundError
from replaystore.testing.campaigns import reached
from replaystore.testing.contents import Contents
from replaystore.testing.far import far_disk
from replaystore.testing.faults import Faults, using
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import shards_of, small, storage
from replaystore.testing.workloads import Workload, act

__all__ = ["Campaign", "check_from_far", "forked", "tiny"]

SUFFIXES = {"zarr": (".zarr", "zstd:1"), "hdf5": (".h5", "gzip:1")}
POINTS_PER_WORKLOAD = 20
ACTIONS = 8
MAKING, BY_TIME, RECOVERY = 0.07, 0.2, 0.25
"""Of the kills, those while a store is being made; those at a random time; those followed by one during
recovery, and so on."""


@contextmanager
def tiny() -> Iterator[None]:
    """Shards, segments of the log and tail arrays so small that a short workload begins many of them.

    Some commits begin a segment and some do not: its first record alone has some 6000 bytes."""
    with (
        shards_of(2),
        patch("replaystore.arrays.committing.SEGMENT_BYTES", 9000),
        patch("replaystore.arrays.committing.TIDY_BYTES", 7000),
        patch("replaystore.arrays.appending.TAIL_BYTES", 512),
    ):
        yield


def forked(
    action: Callable[[Callable[[Any], None]], None], *, kill_after: float | None = None
) -> tuple[int, list[Any]]:
    """Run `action` in a child: its exit status (-9: killed; 1: an exception, whose text is the last message)
    and what it told.

    `action` is given a function that tells this process something, which is safe once the function has
    returned."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            reached.child_begins()
            action(lambda message: _tell(writing, message))
            status = 0
        except BaseException:  # noqa: BLE001  # whatever it is, the parent is told
            _tell(writing, traceback.format_exc())
        finally:
            reached.child_ends()
            os._exit(status)
    os.close(writing)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), list(_messages(data))


def _tell(pipe: int, message: Any) -> None:
    data = pickle.dumps(message)
    os.write(pipe, len(data).to_bytes(8, "little") + data)  # at once, up to the size of a pipe's buffer


def _messages(data: bytes) -> Iterator[Any]:
    while data:
        end = 8 + int.from_bytes(data[:8], "little")
        if len(data) < end:
            return
        yield pickle.loads(data[8:end])  # noqa: S301  # written by our own child
        data = data[end:]


@dataclass(frozen=True)
class Point:
    """When to kill."""

    operation: int | None
    phase: float
    seconds: float | None


class Campaign:
    """Crashes of stores of one backend, below a folder."""

    def __init__(self, backend: str, folder: str) -> None:
        suffix, self._codec = SUFFIXES[backend]
        self._rings = backend == "zarr"
        self._folder, self._place = folder, os.path.join(folder, "now")
        self.location = os.path.join(self._place, "store" + suffix)
        _load_everything()

    def run(self, points: int, seed: int) -> list[str]:
        """Crash so many times: one line for each that lost something or could not go on."""
        failures: list[str] = []
        generator = np.random.default_rng(seed)
        done = 0
        while done < points:
            number = int(generator.integers(1 << 30))
            capacity = 60 if self._rings and number % 3 == 0 else None
            workload = Workload(number, ACTIONS, capacity=capacity, ragged=number % 2 == 1)
            template = self._template(workload)
            self._restore(template)
            begun = time.monotonic()
            record = partial(self._record, workload, Faults(), new=False)
            status, told = forked(record)
            if status:
                return [*failures, f"workload {number} fails without a crash: {told[-1]}"]
            duration, operations = time.monotonic() - begun, told[-1]
            for _ in range(min(POINTS_PER_WORKLOAD, points - done)):
                done += 1
                self._restore(None if generator.random() < MAKING else template)
                point = Point(
                    int(generator.integers(operations)) + 1,
                    float(generator.choice([0.0, 0.3, 0.9, 1.0])),
                    None,
                )
                if generator.random() < BY_TIME:
                    point = Point(None, 0, generator.uniform(0, duration))
                problem = self._crash(workload, point, generator)
                if problem:
                    failures.append(f"workload {number}, {point}: {problem}")
        return failures

    def _template(self, workload: Workload) -> str:
        """An empty store that the workload can begin with: making one at every point would take most of the
        time."""
        kind = f"{workload.plain.capacity}-{len(workload.plain.schema.ragged)}"
        folder = os.path.join(self._folder, f"template-{kind}")
        if not os.path.exists(folder):
            self._restore(None)
            status, told = forked(lambda _: self._make(workload).close())
            if status:
                raise AssertionError(told[-1])
            shutil.copytree(self._place, folder)
        return folder

    def _restore(self, template: str | None) -> None:
        """Begin with a copy of this folder, or with an empty one."""
        shutil.rmtree(self._place, ignore_errors=True)
        if template is None:
            os.mkdir(self._place)
        else:
            shutil.copytree(template, self._place)

    def _make(self, workload: Workload) -> Buffer:
        with tiny():
            ragged = bool(workload.plain.schema.ragged)
            return buffers.create(
                self.location,
                small(ragged=ragged),
                storage=storage(self._codec, ragged=ragged),
                capacity=workload.plain.capacity,
                overwrite=True,
            )

    def _open(self) -> Buffer:
        return buffers.open(self.location, "r+")

    def _record(self, workload: Workload, faults: Faults, tell: Callable[[Any], None], *, new: bool) -> None:
        """The workload, in a child."""
        with tiny(), using(faults.files):
            buffer = self._make(workload) if new else self._open()
            tell((0, 0))
            for action in workload.actions:
                buffer = act(
                    buffer,
                    action,
                    acknowledge=lambda commit: tell((0, commit)),
                    reopen=lambda _: self._open(),
                )
            buffer.close()
        tell(faults.count)

    def _crash(self, workload: Workload, point: Point, generator: np.random.Generator) -> str:
        """Kill at this point, and look. The problem found, or nothing."""
        faults = Faults(kill_at=point.operation, kill_phase=point.phase)
        new = not os.listdir(self._place)
        status, told = forked(
            lambda tell: self._record(workload, faults, tell, new=new), kill_after=point.seconds
        )
        if status not in (0, -signal.SIGKILL):
            return f"the writer failed: {told[-1]}"
        acknowledged = max(
            (message[1] for message in told if isinstance(message, tuple)), default=None if new else 0
        )
        recoveries = []
        while generator.random() < RECOVERY:
            recoveries.append(
                Faults(
                    kill_at=int(generator.integers(1, 41)),
                    kill_phase=float(generator.choice([0.0, 0.3, 1.0])),
                )
            )
        for recovery in recoveries:
            recover = partial(self._recover, workload, acknowledged, recovery)
            status, told = forked(lambda _, recover=recover: recover())  # type: ignore[misc]
            if status not in (0, -signal.SIGKILL):
                return f"recovering after commit {acknowledged}: {told[-1]}"
        status, told = forked(
            lambda _: self._continue(workload, acknowledged, int(generator.integers(1 << 30)))
        )
        return "" if status == 0 else f"after commit {acknowledged}: {told[-1] if told else status}"

    def _look(self, workload: Workload, acknowledged: int | None) -> int | None:
        """The commit that is shown to a reader, which must be right."""
        try:
            reader = buffers.open(self.location)
        except NotFoundError:
            if acknowledged is not None:
                raise
            return None
        commit = reader.commit_id
        if acknowledged is not None and commit < acknowledged:
            raise AssertionError(f"it shows commit {commit}")
        then = workload.plain.history[commit]
        _same(then, reader)
        old = then.commits()[commit * 7 % len(then.commits())]
        _same(then, buffers.open(self.location, commit=old), old)
        check_from_far(self.location, commit)
        return commit

    def _recover(self, workload: Workload, acknowledged: int | None, faults: Faults) -> None:
        if self._look(workload, acknowledged) is not None:
            with tiny(), using(faults.files):
                buffers.open(self.location, "r+").abandon()

    def _continue(self, workload: Workload, acknowledged: int | None, seed: int) -> None:
        """Read, open for writing, go on, close, verify."""
        commit = self._look(workload, acknowledged)
        if commit is None:  # killed before there was a store
            self._record(workload, Faults(), lambda _: None, new=True)
            return
        plain = workload.plain.resumed(commit)
        with tiny():
            buffer: Buffer = buffers.open(self.location, "r+")
            _same(plain, buffer)
            more = Workload(seed, 2, start=plain)
            for action in more.actions:
                buffer = act(buffer, action, reopen=lambda _: self._open())
            buffer.close()
        with buffers.open(self.location) as reader:
            _same(plain, reader)
        # We are in a process of our own already.
        with patch("replaystore.checking.verify._probe", lambda *_: True):
            problems = verify(self.location).problems
        if problems:
            raise AssertionError(f"verify: {problems[0]}")


def check_from_far(location: str, commit: int) -> None:
    """Whoever cannot list the folder of a store sees the same commit. (A store in one file is not listed.)"""
    if os.path.isdir(location):
        with far_disk(), buffers.open(location) as reader:
            if reader.commit_id != commit:
                raise AssertionError(f"from far it shows commit {reader.commit_id}, not {commit}")


def _same(plain: PlainBuffer, buffer: Buffer, commit: int | None = None) -> None:
    problem = plain.contents(commit).difference(Contents.of(buffer))
    if problem:
        raise AssertionError(f"commit {buffer.commit_id}: {problem}")


def _load_everything() -> None:
    """What stores import when they are first opened: children should not have to."""
    for name in SUFFIXES:
        registry.load("containers", name)
    for module in ("replaystore.containers.codecs", "numcodecs"):
        importlib.import_module(module)


def main() -> int:
    """Print what was lost; the exit status says whether anything was."""
    parser = argparse.ArgumentParser(description="Kill writers, and see that nothing is lost.")
    parser.add_argument("backend", choices=SUFFIXES)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108  # a kill loses nothing that was written: syncing is not tested here
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        failures = Campaign(options.backend, folder).run(options.points, options.seed)
    survived = options.points - len(failures)
    sys.stdout.write(
        "".join(f"{failure}\n" for failure in failures)
        + (f"{survived} of {options.points} crashes were survived\n")
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
