"""Readers beside a writer that commits, publishes and goes back: one read shows one history, or says that
it cannot.

For each container a writer, four readers, and a process that replaces another store by conversions, at the
same time, in processes of their own (`replaystore.testing.readers` says what readers do). Every row tells
its history (`replaystore.testing.histories`), so that a mixed or wrong row is seen whatever it is mixed
with.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from replaystore.arrays.reading import StoreReader
from replaystore.buffers import create_open as buffers
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.zarr.container import ZarrContainer
from replaystore.converting.convert import convert
from replaystore.errors import ConflictError, EvictedError, NotFoundError
from replaystore.sampling.sampler import Sampler
from replaystore.testing.campaigns import Tally
from replaystore.testing.histories import LATE, SCHEMA, Shown, few_rows, values
from replaystore.testing.readers import Ground, Reader
from replaystore.testing.samples import shards_of

__all__ = ["PROMISE", "control", "run"]

PROMISE = "beside a writer that also goes back, a read shows rows of one history, or a ConflictError"
STORES = {"zarr": (".zarr", None), "hdf5": (".h5", None), "ring": (".zarr", 4000)}
READERS = 4
KEPT = 20
"""Commits that can be opened without a name: segments of the log are removed beside the readers."""
NAMED, NAMES = 0.2, 4
"""Of the commits, those that get a name; and how many names there are."""
ROWS_A_SECOND = 1500
"""What can be read at least on a slow machine; a run that is slower fails."""
GRACE = 60.0
"""Seconds for beginning and ending."""
LEAST = 200
"""Rows that a buffer has when the writer samples it."""
LARGE = 40_000
"""Beyond so many rows the writer goes far back."""


class Writer:
    """One process that writes."""

    def __init__(self, ground: Ground, seed: int, going_back: float) -> None:
        self.ground, self.book = ground, ground.book()
        self.generator = np.random.default_rng(seed)
        self.buffer = buffers.open(ground.live, "r+")
        self.shown = self.book.shown(self.buffer.commit_id)
        self.alive = [self.shown]
        self.segments, self.late = copy.deepcopy(self.shown.segments), dict(self.shown.late)
        self.history = self.segments[-1][1]
        self.dirty, self.generation, self.drawn = False, -1, list[str]()
        self.counts: dict[str, int] = {}
        kinds = {"append": 6.0, "commit": 5.0, "publish": 0.7, "add_field": 0.2, "reopen": 0.3}
        kinds |= {"forget": 0.4, "roll_back": going_back, "sample": 3.0}
        self.live: Sampler | None = None
        self.kinds, self.weights = list(kinds), np.array(list(kinds.values())) / sum(kinds.values())

    def run(self) -> None:
        """Write until it is told to stop."""
        while not self.ground.stopping:
            kind = str(self.generator.choice(self.kinds, p=self.weights))
            self.counts[kind] = self.counts.get(kind, 0) + 1
            getattr(self, kind)()
            if self.buffer.rows_recorded > LARGE and self.ground.capacity is None:
                self.roll_back(far=True)
            time.sleep(self.generator.uniform(0, 0.004))
        self.commit()
        self.buffer.close()

    def append(self) -> None:
        row = self.buffer.rows_recorded
        rows = np.arange(row, row + int(self.generator.integers(1, 400)))
        if self.segments[-1][1] != self.history:
            self.segments.append([row, self.history])
        names = self.buffer.schema.fields
        history = np.full(len(rows), self.history)
        self.buffer.append({name: values(name, history, rows) for name in names})
        self.dirty = True

    def commit(self, *, publish: bool = False) -> None:
        name = None
        if not publish and self.generator.random() < NAMED:
            name = f"name-{int(self.generator.integers(NAMES))}"
            if not self.dirty and name == self.buffer.store.state.name:  # it has it
                name = None
        if self.dirty or name is not None:
            self._note_recorded()
        self.buffer.publish() if publish else self.buffer.commit(name)
        self._done()
        self.dirty = False

    def forget(self) -> None:
        if self.buffer.names:
            self._note_recorded()
            self.buffer.forget(str(self.generator.choice(self.buffer.names)))
            self._done()
            self.dirty = False

    def publish(self) -> None:
        self.commit(publish=True)

    def add_field(self) -> None:
        name = f"info/late{len(self.late)}"
        if len(self.late) < 3:
            self.late = {**self.late, name: self.buffer.rows_recorded}
            self.buffer.add_field(name, LATE)
            self.dirty = True

    def reopen(self) -> None:
        self.commit()
        self.live = None
        self.buffer.close()
        self.buffer = buffers.open(self.ground.live, "r+")

    def roll_back(self, *, far: bool = False) -> None:
        back = len(self.alive) // 2 if far else int(self.generator.integers(len(self.alive[-8:])))
        target = self.alive[-back - 1]
        before = self.shown, self.segments, self.late
        # It shows what that one showed: a ring keeps the rows of a commit with a name.
        self._note(Shown(self.shown.commit + 1, target.rows, target.first, target.segments, target.late))
        try:
            self.buffer.rollback(target.commit)
        except (EvictedError, NotFoundError):  # it has left the ring, or the log
            self.alive = [known for known in self.alive if known.commit > target.commit] or [before[0]]
            self.shown, self.segments, self.late = before
            return
        self.alive = [known for known in self.alive if known.commit <= target.commit]
        self.segments, self.late = copy.deepcopy(target.segments), dict(target.late)
        self.history += 1
        self.dirty = False
        self._done()

    def sample(self) -> None:
        """Draw from what was recorded, of which no commit may have a part."""
        fields = self.buffer.schema.fields.keys()
        if self.live is not None and not set(self.drawn) <= fields:
            self.live = None  # a rollback has taken a field of it
        if self.live is None:
            if self.buffer.rows_recorded - self.shown.first < LEAST:
                return
            self.drawn, number = sorted(fields), int(self.generator.integers(100))
            self.live = self.buffer.sampler(64, live=True, seed=number)
        try:
            batch = self.live.sample()
        except ConflictError:
            if self.generation == self.buffer.store.state.generation:
                raise
            if self.buffer.rows_recorded - self.shown.first < LEAST:
                self.live = None
                return
            self.live.refresh()
            batch = self.live.sample()
        self.generation = self.buffer.store.state.generation
        now = replace(self.shown, rows=self.buffer.rows_recorded, segments=self.segments, late=self.late)
        problem = now.wrong_batch(batch)
        if problem:
            raise AssertionError(f"live, after {problem}")

    def _note_recorded(self) -> None:
        """The next commit shows all that was recorded."""
        rows, first = self.buffer.rows_recorded, self.shown.first
        if self.ground.capacity is not None:
            first = max(first, rows - self.ground.capacity)
        self._note(Shown(self.shown.commit + 1, rows, first, self.segments, self.late))

    def _note(self, shown: Shown) -> None:
        self.shown = copy.deepcopy(shown)
        self.book.note(self.shown)

    def _done(self) -> None:
        """A commit has returned: it is the one that was noted, and everybody must see it from now on."""
        if self.buffer.commit_id != self.shown.commit:
            raise AssertionError(f"commit {self.buffer.commit_id} is not {self.shown.commit}")
        self.ground.numbers[1] = self.shown.commit
        if self.alive[-1].commit != self.shown.commit:
            self.alive = [*self.alive[-60:], self.shown]


def _replace(ground: Ground, history: int) -> None:
    """Convert a store of a history to the place where one is replaced."""
    source = os.path.join(ground.folder, "next" + ground.suffix)
    rows = np.arange(500 + 137 * history % 1500)
    settings: dict[str, Any] = {"storage": few_rows(ground.codec), "metadata": {"history": history}}
    with buffers.create(source, SCHEMA, overwrite=True, **settings) as buffer:
        buffer.append({name: values(name, np.full(len(rows), history), rows) for name in SCHEMA.fields})
    convert(source, ground.replaced, overwrite=True)


def _keep_replacing(ground: Ground) -> dict[str, int]:
    history = 1
    while not ground.stopping:
        history += 1
        _replace(ground, history)
        time.sleep(0.1)
    return {"replace": history}


# --- processes


class Process:
    """A forked child that works until it is told to stop, and tells then what it did."""

    def __init__(self, name: str, work: Callable[[], dict[str, int]]) -> None:
        self.name = name
        self._reading, writing = os.pipe()
        self._process = os.fork()
        if not self._process:
            status, told = 1, ""
            try:
                os.close(self._reading)
                with _small():
                    os.write(writing, pickle.dumps(work()))
                status = 0
            except BaseException:  # noqa: BLE001  # whatever it is, the parent is told
                told = traceback.format_exc()
            finally:
                if status:
                    os.write(writing, pickle.dumps(" < ".join(told.strip().splitlines()[-1:-6:-1])[:800]))
                os._exit(status)
        os.close(writing)

    @property
    def ended(self) -> bool:
        """Whether it has ended; it can be asked once more for what it told."""
        return os.waitid(os.P_PID, self._process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def result(self, seconds: float) -> Any:
        """What it told: a dict, or in one line why it ended. It is killed after so many seconds."""
        until = time.monotonic() + seconds
        while not self.ended and time.monotonic() < until:
            time.sleep(0.02)
        hangs = not self.ended
        if hangs:
            os.kill(self._process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        with os.fdopen(self._reading, "rb") as pipe:
            data = pipe.read()
        if hangs:
            return "it hangs"
        if status < 0 or not data:
            return f"it died of {signal.Signals(-status).name if status < 0 else f'status {status}'}"
        return pickle.loads(data)  # noqa: S301  # written by our own child


@contextmanager
def _small() -> Iterator[None]:
    """Shards and segments of the log so small that many begin within seconds."""
    with (
        shards_of(8),
        patch("replaystore.arrays.committing.SEGMENT_BYTES", 30_000),
    ):
        yield


def run(folder: str, *, count: int, seed: int) -> Tally:
    """Read so many rows, a third in each container."""
    tally = Tally()
    for number, name in enumerate(STORES):
        ground = _ground(name, folder)
        tally.add(_race(name, ground, -(-count // len(STORES)), seed + number, going_back=0.6))
    return tally


def control(folder: str, *, seed: int) -> Tally:
    """A writer that goes back over what readers have open, and readers that do not ask whether it did."""
    with ExitStack() as stack:
        for owner, name in (
            (ZarrContainer, "fork"),
            (Hdf5Container, "fork"),
            (StoreReader, "check_generation"),
        ):
            if hasattr(owner, name):
                stack.enter_context(patch.object(owner, name, lambda *_: None))
        ground = _ground("zarr", folder)
        ground.replacing = False
        return _race("zarr", ground, 500_000, seed, going_back=4, most=1)


def _ground(name: str, folder: str) -> Ground:
    place = os.path.join(folder, name)
    os.mkdir(place)
    return Ground(place, *STORES[name], READERS)


def _race(name: str, ground: Ground, count: int, seed: int, *, going_back: float, most: int = 20) -> Tally:
    """Read so many rows in one container, or up to so many failures."""
    setting = Process("preparation", lambda: _prepare(ground)).result(GRACE)
    tally = Tally()
    if isinstance(setting, str):
        tally.failures.append(f"{name}: preparation: {setting}")
        return tally

    def write() -> dict[str, int]:
        writer = Writer(ground, seed, going_back)
        writer.run()
        return writer.counts

    def read(number: int) -> dict[str, Any]:
        reader = Reader(ground, number, seed)
        reader.run()
        return {"failures": reader.failures, **reader.counts}

    working = [Process("writer", write)]
    working += [Process("replacer", partial(_keep_replacing, ground))] if ground.replacing else []
    working += [Process(f"reader {number}", partial(read, number)) for number in range(READERS)]
    seconds = count / ROWS_A_SECOND + GRACE
    until = time.monotonic() + seconds
    while ground.read < count and ground.numbers[2] < most and not any(one.ended for one in working):
        time.sleep(0.05)
        if time.monotonic() >= until:
            tally.failures.append(f"{name}: only {ground.read} rows were read in {seconds:.0f} s")
            break
    ground.numbers[0] = 1
    for process in working:
        told = process.result(GRACE)
        if isinstance(told, str):
            tally.failures.append(f"{name}: {process.name}: {told}")
            continue
        tally.failures += [f"{name}: {process.name}: {failure}" for failure in told.pop("failures", [])]
        for kind, times in told.items():
            tally.counts[kind] = tally.counts.get(kind, 0) + times
    tally.count(f"rows of {name}", ground.read)
    return tally


def _prepare(ground: Ground) -> dict[str, int]:
    settings: dict[str, Any] = {"storage": few_rows(ground.codec), "keep_commits": KEPT}
    buffer = buffers.create(ground.live, SCHEMA, capacity=ground.capacity, **settings)
    buffer.close()
    ground.book().note(Shown())
    if ground.replacing:
        _replace(ground, 1)
    return {}
