"""Readers of a store that somebody else writes to, goes back in, and replaces.

A reader takes turns between opening anew, following (`refresh`, with columns that were opened before),
holding an older commit, sampling in threads, going on with one sampler, and reading a store that is replaced
by conversions. It may be told that what it asks for is gone (ConflictError; EvictedError of a ring;
NotFoundError for an old commit), and must be able to go on within `PATIENCE` seconds. It may never be told
anything else, nor be given rows that are not those of the commit.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.errors import ConflictError, EvictedError, NotFoundError, SchemaError
from replaystore.sampling.sampler import Sampler
from replaystore.testing.histories import Book, Rows, Shown
from replaystore.views.column import Column

__all__ = ["Ground", "Reader"]

PATIENCE = 4.0
"""Seconds in which a reader must have gone on to an acknowledged commit, on an idle machine."""
MOST = 5
"""Failures that a reader tells of."""
ROWS, SLICE = 512, 1024
"""Rows of one read."""


@dataclass
class Ground:
    """Where everything happens, and what the processes share."""

    folder: str
    suffix: str
    capacity: int | None
    readers: int
    replacing: bool = True
    """Whether a store is replaced, too."""
    numbers: NDArray[np.int64] = field(init=False)
    """Whether to stop, the newest acknowledged commit, the failures, and what each reader has read."""

    def __post_init__(self) -> None:
        self.numbers = np.frombuffer(mmap.mmap(-1, 8 * (3 + self.readers)), np.int64)

    @property
    def live(self) -> str:
        """The store that is written to."""
        return os.path.join(self.folder, "live" + self.suffix)

    @property
    def replaced(self) -> str:
        """The store that is replaced: all rows of it are of one history, which its metadata tell."""
        return os.path.join(self.folder, "replaced" + self.suffix)

    @property
    def codec(self) -> str:
        return "gzip:1" if self.suffix == ".h5" else "zstd:1"

    def book(self) -> Book:
        """What commits of the live store show."""
        return Book(os.path.join(self.folder, "book"))

    @property
    def read(self) -> int:
        """Rows that all readers have read."""
        return int(self.numbers[3:].sum())

    @property
    def stopping(self) -> bool:
        return bool(self.numbers[0])


class Reader:
    """One process that reads."""

    def __init__(self, ground: Ground, number: int, seed: int) -> None:
        self.ground, self.number = ground, number
        self.generator = np.random.default_rng([seed, number])
        self.book = ground.book()
        self.failures: list[str] = []
        self.counts: dict[str, int] = {}
        self._following: Buffer | None = None
        self._columns: list[Column] = []
        self._held: Buffer | None = None
        self._sampled: Buffer | None = None
        self._sampler: Sampler | None = None
        self._refused_since: float | None = None

    def run(self) -> None:
        """Read until it is told to stop."""
        turns = [self.fresh, self.follow, self.hold, self.named, self.sample, self.go_on]
        turns += [self.see_replaced] if self.ground.replacing else []
        likely = np.full(len(turns), 1.0)
        likely[self.number % len(turns)] += 3
        while not self.ground.stopping and len(self.failures) < MOST:
            turn = turns[int(self.generator.choice(len(turns), p=likely / likely.sum()))]
            try:
                turn()
            except Exception as error:  # noqa: BLE001  # none of any kind is expected
                self._fail(turn.__name__, _told(error))
                self._following = self._held = self._sampler = None

    def _fail(self, turn: str, what: str) -> None:
        self.failures.append(f"{turn}: {what}"[:500])
        self.ground.numbers[2] += 1

    def _count(self, what: str, times: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + times

    # --- turns

    def fresh(self) -> None:
        """Open, look, close."""
        with self._in_time("opening"):
            acknowledged = int(self.ground.numbers[1])
            buffer = self._opened(self.ground.live)
        with buffer:
            if buffer.commit_id < acknowledged:
                self._fail("fresh", f"it shows commit {buffer.commit_id}; {acknowledged} was acknowledged")
            self._look(buffer, self.book.shown(buffer.commit_id))

    def follow(self) -> None:
        """Go on to the newest commit, and look, also through columns that were there before."""
        if self._following is None or self.generator.random() < 0.02:
            self._following = self._opened(self.ground.live)
            self._columns = []
        buffer = self._following
        with self._in_time("refreshing"):
            self._refresh(buffer)
        shown = self.book.shown(buffer.commit_id)
        for _ in range(3):
            self._look(buffer, shown)
            if self.generator.random() < 0.5:
                time.sleep(self.generator.uniform(0, 0.02))
        self._columns = [*self._columns[-3:], buffer[str(self.generator.choice(list(buffer.schema.fields)))]]
        for column in self._columns:
            if column.name in buffer.schema.fields:
                rows = self.generator.integers(0, max(1, len(buffer)), ROWS if len(buffer) else 0)
                self._compare(shown, rows, partial(_read_column, column))

    def hold(self) -> None:
        """Look at an older commit, for some time."""
        if self._held is None:
            known = self.book.commits()[-40:]
            commit = known[int(self.generator.integers(len(known)))]
            try:
                self._held = buffers.open(self.ground.live, commit=commit)
            except (NotFoundError, EvictedError, ConflictError) as error:
                self._count(f"{type(error).__name__} of an older commit")
                return
        fine = self._look(self._held, self.book.shown(self._held.commit_id))
        if not fine or self.generator.random() < 0.1:
            self._held.close()
            self._held = None

    def named(self) -> None:
        """Open a commit by its name, while the segments of the log that others were in are removed. The name
        may be gone by a rollback, or taken back, and may have moved; the rows of one that is not the newest
        may have left a ring."""
        with self._opened(self.ground.live) as buffer:
            names, generation = dict(buffer.store.places.names), buffer.store.state.generation
        if not names:
            return
        name = list(names)[int(self.generator.integers(len(names)))]
        try:
            opened = buffers.open(self.ground.live, commit=name)
        except (NotFoundError, EvictedError, ConflictError) as error:
            self._count(f"{type(error).__name__} of a name")
            with self._opened(self.ground.live) as buffer:
                now = buffer.store.places.names.get(name)
                gone = buffer.store.state.generation != generation or now != names[name]
            if not gone and (isinstance(error, NotFoundError) or self.ground.capacity is None):
                self._fail("named", _told(error))
            return
        with opened:
            self._look(opened, self.book.shown(opened.commit_id))
        self._count("named commits")

    def sample(self) -> None:
        """Two threads sample while this one goes on."""
        with self._opened(self.ground.live) as buffer:
            if len(buffer) < 100:
                return
            threads = [threading.Thread(target=self._draw, args=(buffer, seed)) for seed in range(2)]
            for thread in threads:
                thread.start()
            for _ in range(2):
                time.sleep(0.005)
                with self._in_time("refreshing"):
                    self._refresh(buffer)
            for thread in threads:
                thread.join()

    def _draw(self, buffer: Buffer, seed: int) -> None:
        sampler = None
        try:
            sampler = buffer.sampler(128, seed=self.number + seed, prefetch=2 * seed)
            shown = self.ground.book().shown(sampler.commit_id)  # a book of its own
            for _ in range(4):
                self._check_batch(shown, sampler.sample())
        except (ConflictError, EvictedError) as error:
            self._count(f"{type(error).__name__} of a sampler")
        except SchemaError as error:
            # a ring has gone back to where it had hardly any.
            if "there is no step to sample" not in str(error):
                self._fail("sample", _told(error))
            self._count("nothing to sample")
        except Exception as error:  # noqa: BLE001  # none of any kind is expected
            self._fail("sample", _told(error))
        finally:
            if sampler is not None:
                sampler.close()

    def _check_batch(self, shown: Shown, batch: Mapping[str, NDArray[Any]]) -> None:
        problem = shown.wrong_batch(batch)
        if problem:
            self._fail("sample", problem)
        self._read(len(batch["index"]))

    def go_on(self) -> None:
        """A sampler that goes on from commit to commit, and over rollbacks."""
        try:
            if self._sampler is None:
                self._sampled = self._opened(self.ground.live)
                self._sampler = self._sampled.sampler(128, seed=self.number)
            sampler = self._sampler
            with self._in_time("refreshing"):
                sampler.refresh()
            shown = self.book.shown(sampler.commit_id)
            for _ in range(2):
                self._check_batch(shown, sampler.sample())
            self._count("batches of a sampler that goes on", 2)
        except (ConflictError, EvictedError) as error:
            self._count(f"{type(error).__name__} of a sampler that goes on")
            if "make another" not in str(error):
                return
            self._sampler = None
        except SchemaError as error:
            self._sampler = None
            if "there is no step to sample" not in str(error):
                raise

    def see_replaced(self) -> None:
        """Open the store that is replaced, and read it while it is."""
        with self._in_time("opening"):
            buffer = self._opened(self.ground.replaced)
        with buffer:
            history = int(buffer.metadata["history"])
            shown = Shown(buffer.commit_id, len(buffer), 0, [[0, history]])
            for _ in range(3):
                if not self._look(buffer, shown):
                    return
                time.sleep(self.generator.uniform(0, 0.05))

    # --- one read

    @contextmanager
    def _in_time(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        passed = time.monotonic() - begun
        if passed > _patience():
            self._fail(what, f"it takes {passed:.1f} s")

    def _opened(self, location: str) -> Buffer:
        begun = time.monotonic()
        while True:
            try:
                return buffers.open(location)
            except ConflictError:
                self._count("ConflictError of opening")
                if time.monotonic() - begun > _patience():
                    raise

    def _refresh(self, buffer: Buffer) -> None:
        begun, acknowledged = time.monotonic(), int(self.ground.numbers[1])
        while True:
            try:
                buffer.refresh()
                break
            except ConflictError:
                self._count("ConflictError of refreshing")
                if time.monotonic() - begun > _patience():
                    raise
        if buffer.commit_id < acknowledged:
            self._fail("refresh", f"it shows commit {buffer.commit_id}, and {acknowledged} was acknowledged")

    def _look(self, buffer: Buffer, shown: Shown) -> bool:
        """Read something in one of several ways; False if that was refused."""
        if len(buffer) != shown.rows - shown.first:
            self._fail("look", f"commit {shown.commit}: {len(buffer)} rows, not {shown.rows - shown.first}")
            return False
        way = int(self.generator.integers(8))
        if way == 0:
            return self._allowed(lambda: shown.wrong_table(buffer.trajectories.columns))
        if way == 1:
            return self._allowed(lambda: self._trajectory(buffer, shown))
        rows: Any
        if way < 4:
            start = int(self.generator.integers(0, max(1, len(buffer) - SLICE)))
            rows = np.arange(start, min(start + SLICE, len(buffer)))
            return self._compare(shown, rows, lambda _: buffer.read(slice(start, start + SLICE)))
        rows = self.generator.integers(0, max(1, len(buffer)), ROWS if len(buffer) else 0)
        return self._compare(shown, rows, buffer.read)

    def _trajectory(self, buffer: Buffer, shown: Shown) -> str:
        if not buffer.num_trajectories:
            return ""
        number = int(self.generator.integers(buffer.num_trajectories))
        read = buffer.trajectory(number)
        begins, ends, gone = shown.trajectories()
        at = number + gone
        begin, stop = (ends[-1] + 1 if len(ends) else 0), shown.rows
        if at < len(ends):
            begin, stop = begins[at], ends[at] + 1
        rows = np.arange(max(int(begin), shown.first), int(stop))
        self._read(len(rows))
        return shown.wrong(rows, read.columns)

    def _compare(self, shown: Shown, rows: Rows, read: Callable[[Any], Mapping[str, NDArray[Any]]]) -> bool:
        def look() -> str:
            columns = read(rows)
            self._read(len(rows))
            return shown.wrong(rows + shown.first, columns)

        return self._allowed(look)

    def _allowed(self, look: Callable[[], str]) -> bool:
        """Look; False if it was refused, in a way that is allowed."""
        try:
            problem = look()
        except ConflictError:
            self._count("ConflictError of a read")
        except EvictedError:
            if self.ground.capacity is None:
                raise
            self._count("EvictedError of a read")
        else:
            self._refused_since = None
            if problem:
                self._fail("look", problem)
            return not problem
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if now - self._refused_since > 5 * _patience():
            self._fail("look", f"every read was refused for {now - self._refused_since:.0f} s")
            self._refused_since = None
        return False

    def _read(self, rows: int) -> None:
        self.ground.numbers[3 + self.number] += rows


def _patience() -> float:
    """`PATIENCE`, longer where more processes wait for a processor than there are."""
    return PATIENCE * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _read_column(column: Column, rows: Rows) -> dict[str, NDArray[Any]]:
    return {column.name: column[rows]}


def _told(error: Exception) -> str:
    """An error and where it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)[:-7:-1]
    places = " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {error} at {places}"
