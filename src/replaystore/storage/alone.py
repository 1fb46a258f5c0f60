"""A thread that must not wait for others.

While HDF5's library asks for bytes, it holds its lock; any other thread that happens to collect garbage of
its would wait for that lock, and whoever waits for such a thread in turn waits for ever. Storage with threads
of its own does without them meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["alone", "is_alone"]


class _State(threading.local):
    depth = 0


_state = _State()


@contextmanager
def alone() -> Iterator[None]:
    """This thread waits for no other meanwhile."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1


def is_alone() -> bool:
    """Whether this thread must not wait for others."""
    return _state.depth > 0
