"""Servers that fail: opening, reading, sampling and verifying stores of every kind over HTTP while answers
are cut, moved, mislabelled, late, or errors.

A count is a number of faults. Of what a server says in earnest, that a file is shorter or is not there is
believed: an older commit may be shown then, rightly. Bytes that are changed within a sound answer are no
fault that a server is tried with: only checksums can tell, and raw rows are read without.
"""

from __future__ import annotations

import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from replaystore import registry
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import create
from replaystore.buffers.create_open import open as open_buffer
from replaystore.checking.verify import verify
from replaystore.converting.convert import convert
from replaystore.errors import ReplayStoreError, ReplayStoreWarning
from replaystore.schema.ragged import Ragged
from replaystore.storage.http.asking import Patience
from replaystore.storage.http.places import HttpPlaces, HttpZipPlaces
from replaystore.testing import samples
from replaystore.testing.campaigns import Tally
from replaystore.testing.servers import FAULTS, Asked, Faults, Server, at_random, serving

__all__ = ["PROMISE", "control", "run"]

PROMISE = "a server that fails gives what is stored, or one error, in time"
LIMIT = 60.0
"""Seconds, after which a try hangs."""
HASTY = Patience(tries=3, pause=0.001, longest=0.01, connect=1.0, stall=0.1, whole=3.0)
TRIED = (*FAULTS, "cut")
SLOW = frozenset({"stall", "stall-in-body"})
STORES = {
    "live.zarr": "live",
    "sealed.zarr": "archive",
    "sealed.zip": "archive",
    "live.h5": "live",
    "sealed.h5": "archive",
}
ROWS = 400
Shown = dict[str, np.ndarray[Any, Any]]


@dataclass
class _Try:
    """What is done with a store, and what was seen; an empty `wrong` is as promised."""

    location: str
    beside: str
    """The same store on the disk."""
    seed: int
    wrong: str = ""

    def open_and_read(self) -> None:
        """Each value is that of the commit which is shown."""
        draw = np.random.default_rng(self.seed)
        with open_buffer(self.location) as buffer, open_buffer(self.beside, commit=buffer.commit_id) as right:
            names = list(buffer.schema.fields)
            for _ in range(3):
                name = names[draw.integers(len(names))]
                begin, end = sorted(draw.integers(0, len(right) + 1, 2).tolist())
                self._compare(
                    f"{name}[{begin}:{end}]", {"": buffer[name][begin:end]}, {"": right[name][begin:end]}
                )
            self._compare(
                "a batch",
                buffer.sampler(16, seed=self.seed).sample(),
                right.sampler(16, seed=self.seed).sample(),
            )
            self._compare("the table", _table(buffer), _table(right))

    def verify(self) -> None:
        """It may say what it could not read."""
        verify(self.location)

    def _compare(self, what: str, found: Any, right: Any) -> None:
        for name, values in right.items():
            same = (
                found[name] == values if isinstance(values, Ragged) else _bytes(found[name]) == _bytes(values)
            )
            if not same:
                self.wrong = self.wrong or f"other values in {what} {name}"

    def perform(self) -> None:
        """Do it, and note what should not have been."""
        action: Callable[[], None] = self.verify if self.seed % 5 == 0 else self.open_and_read
        try:
            action()
        except ReplayStoreError as error:
            if "\n" in str(error) or not str(error):
                self.wrong = f"a message of other than one line: {error!r}"
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told
            self.wrong = f"{type(error).__name__} escaped: {error}"


def _bytes(values: Any) -> bytes:
    return np.asarray(values).tobytes()


def _table(buffer: Buffer) -> Shown:
    return {
        name: buffer.trajectories[name] for name in ("length", "index") if name in buffer.trajectories.columns
    }


def _faults(draw: random.Random) -> Faults:
    """A few answers in a row, one kind of fault always, or any at random."""
    kinds = TRIED if draw.random() < 0.15 else [fault for fault in TRIED if fault not in SLOW]
    way, kind = draw.random(), draw.choice(kinds)
    if way < 0.4:
        first, last = draw.randrange(draw.choice((5, 50, 200))), draw.choice((1, 1, 2, 4))
        return lambda asked: kind if first <= asked.number < first + last else None
    if way < 0.5:
        begin = draw.randrange(20)
        return lambda asked: kind if asked.number >= begin else None
    return at_random(draw.choice((0.01, 0.05, 0.2, 0.5)), draw.randrange(1 << 30), kinds)


@contextmanager
def _stores(folder: str, seed: int) -> Iterator[Server]:
    """A server of a store of each kind; those that are live have two commits. Of every second seed they have
    fields of any length."""
    source = os.path.join(folder, "source.zarr")
    settings, schema = samples.storage("zstd:1", ragged=seed % 2 == 1), samples.small(ragged=seed % 2 == 1)
    with samples.shards_of(4), warnings.catch_warnings(), ExitStack() as held:
        warnings.simplefilter("ignore", ReplayStoreWarning)
        for name in ("source.zarr", *(name for name, layout in STORES.items() if layout == "live")):
            with create(os.path.join(folder, name), schema, storage=_fitting(name, settings)) as buffer:
                for number in range(2):
                    buffer.append(samples.columns(buffer.schema, ROWS // 2, seed=seed + number))
                    buffer.commit()
        for name, layout in STORES.items():
            if layout == "archive":
                convert(source, os.path.join(folder, name), layout="archive")
        held.enter_context(registry.using("storage", "http", HttpPlaces(HASTY)))
        held.enter_context(registry.using("storage", "http-zip", HttpZipPlaces(HASTY)))
        held.enter_context(patch("replaystore.checking.verify._probe", lambda *_: True))
        yield held.enter_context(serving(folder))


def _fitting(name: str, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """HDF5 codes with gzip."""
    if not name.endswith(".h5"):
        return settings
    return {
        field: {**setting, "codec": setting["codec"].replace("zstd", "gzip")}
        for field, setting in settings.items()
    }


def run(folder: str, *, count: int, seed: int) -> Tally:
    """So many faults, in stores of all kinds in turn."""
    tally, number = Tally(), 0
    with _stores(folder, seed) as server:
        while tally.tried < count:
            name = list(STORES)[number % len(STORES)]
            draw = random.Random(f"{seed}/{number}")  # noqa: S311  # to be had again
            server.log.clear()
            server.faults = _faults(draw)
            tried = _Try(f"{server.url}/{name}", os.path.join(folder, name), draw.randrange(1 << 30))
            begun, worker = time.monotonic(), threading.Thread(target=tried.perform, daemon=True)
            worker.start()
            worker.join(LIMIT)
            server.faults = None
            seen = [asked for asked in list(server.log) if asked.fault is not None]
            if worker.is_alive():
                tally.failures.append(f"{number}: {name}: it hangs: {_told(seen)}")
                break
            if tried.wrong:
                took = time.monotonic() - begun
                tally.failures.append(f"{number}: {name}: {tried.wrong} ({_told(seen)}; {took:.1f} s)")
            for asked in seen:
                tally.count(asked.fault or "")
            number += 1
    return tally


def _told(seen: list[Asked]) -> str:
    kinds = sorted({asked.fault or "" for asked in seen})
    return f"{len(seen)} faults: {', '.join(kinds)}"


def control(folder: str, *, seed: int) -> Tally:
    """Faults while no answer is compared with the question."""
    blind = patch("replaystore.storage.http.asking.agrees", lambda *_: True)
    with blind, patch(f"{__name__}.TRIED", ("other-range",)):
        return run(folder, count=500, seed=seed)
