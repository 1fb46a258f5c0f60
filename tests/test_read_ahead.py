"""Which pages the system is told that rows are going to be needed of, where they are not in memory."""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.columns.readahead import ReadAhead, read_ahead

PAGE = mmap.PAGESIZE
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems take no advice")


class Library:
    """Says that nothing is in memory, and notes what is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def mincore(self, address: int, length: int, found: Any) -> int:
        return 0

    def madvise(self, address: int, length: int, what: int) -> int:
        if what == mmap.MADV_WILLNEED:
            self.asked.append((address, length))
        return 0


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    with pytest.MonkeyPatch.context() as patched:
        found = Library()
        patched.setattr("replaystore.columns.readahead._library", lambda: found)
        patched.setattr("replaystore.columns.readahead.SEQUENTIAL_BYTES", 0)  # the rest is never asked for
        yield found


def opened(row_bytes: int, count: int) -> tuple[ReadAhead, int]:
    """Advice on so many rows, and where they begin."""
    items = np.frombuffer(mmap.mmap(-1, row_bytes * count), np.dtype((np.void, row_bytes)))
    ahead = read_ahead(items)
    assert ahead is not None
    assert ahead.look() == 0
    return ahead, items.ctypes.data


@settings(max_examples=60, deadline=None)
@given(
    row_bytes=st.sampled_from([1, 68, 4096, 9000]),
    rows=st.lists(st.integers(0, 2999), max_size=40),
    span=st.integers(1, 9),
)
def test_the_pages_of_all_rows_are_asked_for_once(
    library: Library, row_bytes: int, rows: list[int], span: int
) -> None:
    ahead, base = opened(row_bytes, 3000)
    library.asked.clear()
    ahead.want(np.array(rows, np.int64), span)

    asked = [
        page
        for begin, length in library.asked
        for page in range((begin - base) // PAGE, (begin - base + length) // PAGE)
    ]
    needed = {
        page
        for row in rows
        for page in range(row * row_bytes // PAGE, (min(row + span, 3000) * row_bytes - 1) // PAGE + 1)
    }
    last = -(-3000 * row_bytes // PAGE)
    assert len(asked) == len(set(asked))
    assert needed <= set(asked) <= set(range(last))
    # Rows end in their last page or the one before it; runs that nearly touch are one.
    longest = (span * row_bytes - 1) // PAGE + 2
    first = np.array([row * row_bytes // PAGE for row in rows])
    assert all(np.any((first <= page) & (page < first + 2 * longest)) for page in asked)


def test_the_first_batch_imports_nothing_that_it_does_not_need() -> None:
    code = (
        "import mmap, sys, numpy as np\n"
        "from replaystore.columns import readahead\n"
        "items = np.frombuffer(mmap.mmap(-1, 1 << 20), np.dtype((np.void, 64)))\n"
        "ahead = readahead.read_ahead(items)\n"
        "ahead.look()\n"
        "ahead.resident = 0.0\n"
        "ahead.want(np.arange(99))\n"
        "assert 'numpy.ma' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
