"""Rows of one trajectory as leaves: SHA-256 of at most 1 MiB of them each, made by threads.

Invariants:
1. How rows are cut on their way here changes nothing: leaves are cut where `LEAF` says.
2. Data of at most two turns of a crew are in memory. What is hashed is not changed before the turn after the
   next, or is not kept here at all.
3. Of a run of rows 32 bytes are kept for each leaf.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAF", "SMALL", "Crew", "Run", "bytes_of", "turn_bytes"]

LEAF = 1 << 20
"""Bytes of a leaf, but for a row that has more."""
SMALL = 1 << 16
"""Bytes that are hashed at once; handing them to a thread would take about as long."""


class Crew:
    """Threads that hash. Used with `with`."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or _processors()
        self._pool: ThreadPoolExecutor | None = None
        self._now: list[Future[Any]] = []
        self._before: list[Future[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)

    def do(self, work: Callable[[memoryview], Any], data: memoryview) -> Future[Any]:
        """Have a thread do it."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "replaystore-digest")
        future = self._pool.submit(work, data)
        self._now.append(future)
        return future

    def turn(self) -> None:
        """Wait for what was given before the last turn."""
        for future in self._before:
            future.result()
        self._before, self._now = self._now, []


def turn_bytes() -> int:
    """How much to give a crew in a turn, so that all of it is busy."""
    return max(8, _processors()) * LEAF


def _processors() -> int:
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known is not None else os.cpu_count() or 1


def _digest(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


class Run:
    """Rows of `width` bytes each, one behind another."""

    __slots__ = ("_going", "_leaf", "_room", "_unit", "digests")

    def __init__(self, width: int) -> None:
        self._unit = max(1, LEAF // width) * width
        self._room = 0
        """Bytes that the last leaf has room for; 0: it is complete, or there is none."""
        self._leaf: Any = None
        self._going: Future[Any] | None = None
        self.digests: list[bytes | Future[Any]] = []
        """Of the leaves that are complete."""

    def add(self, data: memoryview, crew: Crew) -> None:
        """These rows, as bytes."""
        size, at = len(data), 0
        while at < size:
            if not self._room:
                if size - at >= self._unit:
                    piece = data[at : at + self._unit]
                    self.digests.append(
                        crew.do(_digest, piece) if self._unit > SMALL else hashlib.sha256(piece).digest()
                    )
                    at += self._unit
                    continue
                self._leaf, self._room = hashlib.sha256(), self._unit
            piece = data[at : at + self._room]
            if self._going is not None:
                self._going.result()
                self._going = None
            if len(piece) > SMALL:
                self._going = crew.do(self._leaf.update, piece)
            else:
                self._leaf.update(piece)
            at += len(piece)
            self._room -= len(piece)
            if not self._room:
                self._complete()

    def _complete(self) -> None:
        if self._going is not None:
            self._going.result()
            self._going = None
        self.digests.append(self._leaf.digest())
        self._leaf, self._room = None, 0

    def leaves(self) -> bytes:
        """The digests of all leaves, one behind another; nothing is added after that."""
        if self._room:
            self._complete()
        return b"".join([one if isinstance(one, bytes) else one.result() for one in self.digests])


def bytes_of(rows: NDArray[Any]) -> memoryview:
    """Rows as bytes: C order, little endian."""
    rows = np.asarray(rows)
    if rows.dtype.byteorder == ">":
        rows = rows.astype(rows.dtype.newbyteorder("<"))
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
