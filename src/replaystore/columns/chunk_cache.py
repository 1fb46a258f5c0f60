"""Decoded chunks kept on the local disk, for storage that is slow to ask: at most so many bytes, in one file
that has no name, so that nothing is left of it however the process ends.

The file is a ring: what is put in takes the place of what was put in first. Columns and samplers of a buffer
share it, in all threads. A forked child begins with an empty one of its own. Only chunks that were compared
with their checksums are put in, under a key that has the checksum in it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import warnings
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ReplayStoreWarning
from replaystore.forks import renew_in_children

__all__ = ["ChunkCache", "Key"]

Key = tuple[str, int, int]
"""An array, the number of a chunk, and its checksum."""


class ChunkCache:
    """Chunks in a file of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock: Any = threading.RLock()
        renew_in_children(self, "_lock")
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._file = -1
        self._end_of_file: Any = None
        """Closes the file, at the latest when nobody refers to the cache."""
        self._usable = True
        self._chunks: OrderedDict[Key, tuple[int, int]] = OrderedDict()
        """Where each lies, and how long it is, in the order in which they were put in."""
        self._end = 0

    def __contains__(self, key: Key) -> bool:
        with self._lock:
            return self._process == os.getpid() and key in self._chunks

    def get(self, key: Key, out: NDArray[np.uint8]) -> bool:
        """Copy a chunk to `out`, which has its size; whether it is there."""
        with self._lock:
            place = self._chunks.get(key) if self._process == os.getpid() else None
            if place is None or place[1] != out.size:
                return False
            try:
                return os.preadv(self._file, [out.data], place[0]) == out.size
            except OSError:
                del self._chunks[key]
                return False

    def put(self, key: Key, chunk: NDArray[np.uint8]) -> None:
        """Keep a chunk. Where the disk does not take it, reading goes on without."""
        with self._lock:
            if self._process != os.getpid():
                self._forget_parent()
            if not self._usable or chunk.size > self.limit or key in self._chunks:
                return
            begin = self._end if self._end + chunk.size <= self.limit else 0
            if begin < self._end:
                self._drop(self._end, self.limit)
            self._drop(begin, begin + chunk.size)
            try:
                self._open()
                _write(self._file, chunk, begin)
            except OSError as error:
                self._give_up(error)
                return
            self._chunks[key] = begin, chunk.size
            self._end = begin + chunk.size

    def _open(self) -> None:
        if self._file < 0:
            with tempfile.TemporaryFile(prefix="replaystore-cache-", buffering=0) as file:
                self._file = os.dup(file.fileno())
            self._end_of_file = weakref.finalize(self, os.close, self._file)

    def _drop(self, begin: int, end: int) -> None:
        """Forget what lies there, which is what was put in first."""
        while self._chunks:
            at, length = next(iter(self._chunks.values()))
            if not (at < end and begin < at + length):
                return
            self._chunks.popitem(last=False)

    def _give_up(self, error: OSError) -> None:
        self._close()
        self._usable = False
        warnings.warn(
            f"the cache of decoded chunks cannot be written ({error.strerror or error}); reading goes on "
            f"without it: make room in {tempfile.gettempdir()}, or name another folder in TMPDIR, and open "
            "the buffer again",
            ReplayStoreWarning,
            stacklevel=2,
        )

    def _forget_parent(self) -> None:
        """Leave the file to the process that made it."""
        self._close()
        self._begin()

    def _close(self) -> None:
        self._chunks.clear()
        self._end = 0
        if self._file >= 0:
            self._end_of_file()
        self._file = -1

    def close(self) -> None:
        """Keep nothing, now and later."""
        with self._lock, contextlib.suppress(OSError):
            self._usable = False
            self._close()


def _write(file: int, chunk: NDArray[np.uint8], offset: int) -> None:
    """Write all of a chunk."""
    data = np.ascontiguousarray(chunk).data
    while len(data):
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
