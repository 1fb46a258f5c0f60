"""What several arrays say of one another, read while another thread goes on to another commit.

Where values of any length lie is read first, and then the values: if the commit that is shown becomes
another one in between, the one seems to be damage of the other. Readers would wait for each commit if they
held it, so that they read again, and hold it, only where something does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from replaystore.errors import CorruptError, StorageError

__all__ = ["Turning", "settled"]

Found = TypeVar("Found")


class Turning(Protocol):
    """What shows a commit, which may become another one."""

    @property
    def turn(self) -> AbstractContextManager[Any]:
        """Held while it does."""


def settled(view: Turning, read: Callable[[], Found]) -> Found:
    """What is read of a view: once more, with its commit held, if it seems to be damaged."""
    try:
        return read()
    except (CorruptError, StorageError):  # of a file that was dropped meanwhile
        with view.turn:
            return read()
