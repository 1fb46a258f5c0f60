"""What the coded columns of a process share: the chunks decoded last, and the threads that decode.

The cache is bounded in bytes. A forked child makes both anew.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.protocol import ChunkEntry

__all__ = ["DecodedChunks", "shared"]

CACHE_BYTES = 64 << 20

Key = tuple[int, int, ChunkEntry | None, int | None]
"""Column, chunk, and what tells its versions apart: a partly filled last chunk is replaced, a store may be
rolled back."""


class DecodedChunks:
    """The chunks decoded last, at most `limit` bytes of them. Safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._lock = threading.Lock()
        self._chunks: OrderedDict[Key, NDArray[np.uint8]] = OrderedDict()

    def get(self, key: Key) -> NDArray[np.uint8] | None:
        """The bytes of a chunk, if they are there."""
        with self._lock:
            found = self._chunks.get(key)
            if found is not None:
                self._chunks.move_to_end(key)
            return found

    def put(self, key: Key, chunk: NDArray[np.uint8]) -> None:
        """Keep the bytes of a chunk, and let go of those not used for the longest time."""
        if chunk.nbytes > self.limit:
            return
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = chunk
                self.size += chunk.nbytes
            while self.size > self.limit:
                self.size -= self._chunks.popitem(last=False)[1].nbytes

    def forget(self, column: int) -> None:
        """Let go of a column's chunks."""
        with self._lock:
            for key in [key for key in self._chunks if key[0] == column]:
                self.size -= self._chunks.pop(key).nbytes


class Shared:
    """What the columns of a process share; made anew in a forked child, where threads and held locks did not
    come along."""

    def __init__(self) -> None:
        self.cache = DecodedChunks(CACHE_BYTES)
        self.workers = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def pool(self) -> ThreadPoolExecutor:
        """The decoding threads, started on first use."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="replaystore-decode")
            return self._pool


shared = Shared()


def _after_fork() -> None:
    global shared  # noqa: PLW0603  # what a child inherited is of no use to it
    shared = Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
