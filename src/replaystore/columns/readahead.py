"""Random rows of mapped files that are not in memory: the system is told which pages are wanted before the
first one is touched.

Without advice each page that is touched brings its neighbours along (8 MiB of them on some disks) and is
waited for, one after the other. Here neighbours are not read (MADV_RANDOM) and all pages of a batch are asked
for at once (MADV_WILLNEED), so that the disk works on them side by side. Advice costs a system call a page,
so it is given only while a sample of the pages says that they are not in memory. Once so many pages were
asked for that reading all would have been quicker, and if all fit in half of the memory that is free, the
rest is asked for too, a stretch with each batch.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESIDENT", "ReadAhead", "read_ahead"]

PROBES = 64
"""Places that are looked at to see how much is in memory."""
PROBE_PAGES = 16
RESIDENT = 0.9
"""The share of pages in memory from which on nothing is asked for."""
SEQUENTIAL_BYTES = 16 << 10
"""Reading so many bytes in order takes as long as one page at random."""
STRETCH = 8 << 20


class ReadAhead:
    """Advice on one column's rows.

    Args:
        items: the rows, as items of a flat array that begins with a page.
    """

    def __init__(self, items: NDArray[np.void]) -> None:
        self._items = items
        self._bytes, self._row = items.nbytes, items.dtype.itemsize
        self._address = items.ctypes.data
        self._asked = 0
        self._filled = 0
        self.resident = 1.0
        """The share of pages that were in memory when it was looked last."""
        self._advised = False

    @property
    def cold(self) -> bool:
        """Whether pages are asked for."""
        return self.resident < RESIDENT

    def want(self, rows: NDArray[np.int64], span: int = 1) -> None:
        """Rows (places in `items`) are going to be touched, each with the `span` - 1 behind it."""
        if not self.cold or not len(rows):
            return
        last = -(-self._bytes // mmap.PAGESIZE)
        begin = rows * self._row // mmap.PAGESIZE
        end = (rows * self._row + span * self._row - 1) // mmap.PAGESIZE
        length = int((end - begin).max()) + 1
        begin = np.minimum(begin, last - 1)  # what has been added since is in memory
        pages = np.sort(begin)  # np.unique imports 10 ms of other things when it is called first
        gaps = np.diff(pages)
        runs = np.flatnonzero(gaps > length)
        starts, stops = pages[np.append(0, runs + 1)], pages[np.append(runs, len(pages) - 1)] + length
        for start, stop in zip(starts.tolist(), np.minimum(stops, last).tolist(), strict=True):
            self._advise(mmap.MADV_WILLNEED, start * mmap.PAGESIZE, (stop - start) * mmap.PAGESIZE)
        self._asked += 1 + int(np.count_nonzero(gaps))
        self._fill()

    def _fill(self) -> None:
        """A stretch of the rest, if it is time for that."""
        if (
            self._asked * SEQUENTIAL_BYTES < self._bytes
            or self._filled >= self._bytes
            or self._bytes > _free_memory() // 2
        ):
            return
        length = min(STRETCH, _pages(self._bytes - self._filled))
        self._advise(mmap.MADV_WILLNEED, self._filled, length)
        self._filled += length

    def look(self) -> float:
        """See how much is in memory: the share of a sample of pages."""
        last = max(1, -(-self._bytes // mmap.PAGESIZE))
        probed = min(PROBE_PAGES, last)
        found = ctypes.create_string_buffer(probed)
        here = 0
        starts = np.linspace(0, last - probed, PROBES).astype(np.int64)
        for start in starts.tolist():
            if _library().mincore(self._address + start * mmap.PAGESIZE, probed * mmap.PAGESIZE, found) != 0:
                here += probed  # this system does not say: no advice
                continue
            here += sum(byte & 1 for byte in found.raw)
        self.resident = here / (PROBES * probed)
        if self.cold and not self._advised:
            self._advise(mmap.MADV_RANDOM, 0, _pages(self._bytes))
            self._advised = True
        if not self.cold:
            self._asked = self._filled = 0
        return self.resident

    def _advise(self, what: int, begin: int, length: int) -> None:
        """Advice on bytes of the rows. The system may not follow it, which is no error."""
        _library().madvise(self._address + begin, length, what)


def read_ahead(items: NDArray[np.void] | None) -> ReadAhead | None:
    """Advice on a mapped column's rows; None where the system takes none."""
    if items is None or not items.nbytes or sys.platform != "linux":
        return None
    return ReadAhead(items)


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _free_memory() -> int:
    """Bytes that the system could use for files."""
    with open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0


@functools.cache
def _library() -> ctypes.CDLL:
    found = ctypes.CDLL(None, use_errno=True)
    found.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    found.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
