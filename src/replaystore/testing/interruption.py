"""Interrupting code where a Ctrl-C could: at the n-th event inside replaystore, or after some time.

1. An event is a call, a return, or the return of a call into C, in a frame of this package's own code (but
   not of its tests). Python looks for signals at just such places, so a Ctrl-C may arrive at each of them.
2. Events are counted only while something is watched, in the thread that watches: the same code gives the
   same numbers again, but for what the garbage collector does.
3. What is raised goes out of the code like a Ctrl-C does. Only one that arrives in a `__del__` or a
   weakref's callback is lost, as Python loses it; `lost` says so.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from replaystore.errors import ReplayStoreError

__all__ = ["ALLOWED", "Interruption", "limited", "says_so"]

OWN = os.path.dirname(__file__) + os.sep
ROOT = os.path.dirname(os.path.dirname(__file__)) + os.sep
EVENTS = ("call", "return", "c_return")
SECONDS = 30
"""How long one try may take; then it hangs."""
SAYING = r"reopen|open it|anew|interrupt|not enough memory"
"""What an error says of them that is due to the interrupt."""
ALLOWED: tuple[type[BaseException], ...] = (KeyboardInterrupt, MemoryError, ReplayStoreError)
"""What may come out of something that was interrupted."""


class Interruption:
    """Something that arrives while code runs: at event `at`, from 1 on, `after` so many seconds, or never."""

    def __init__(
        self,
        *,
        at: int | None = None,
        after: float | None = None,
        during: str = "",
        error: type[BaseException] = KeyboardInterrupt,
    ) -> None:
        self._at, self._after, self._during, self._error = at, after, during, error
        self.count = 0
        self.where = ""
        """The place where it arrived; empty if it did not."""
        self.told: Callable[[str], None] = lambda _: None
        """Called with the place when it arrives: a process may not live to tell it later."""
        self.lost = False
        self.events: dict[str, tuple[int, int]] = {}
        """By what was watched, the events before it and after it."""
        self.seconds: dict[str, float] = {}
        sys.unraisablehook = self._unraisable

    def _unraisable(self, _: Any) -> None:
        self.lost = bool(self.where)

    @property
    def unheard(self) -> bool:
        """Whether it has arrived and must have come out. (That memory is short may be dealt with.)"""
        return bool(self.where) and not self.lost and self._error is KeyboardInterrupt

    @contextmanager
    def watching(self, name: str) -> Iterator[None]:
        """Count, and interrupt; `name` says what is watched."""
        first, begun = self.count, time.monotonic()
        by_time = self._after is not None and name == self._during and not self.where
        try:
            if by_time:
                signal.signal(signal.SIGINT, lambda _, frame: self._arrive("signal", frame))
                signal.signal(signal.SIGALRM, self._ring)
                signal.setitimer(signal.ITIMER_REAL, self._after or 0)
            else:
                sys.setprofile(self._seen if self._after is None else None)
            yield
        finally:
            sys.setprofile(None)
            if by_time:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                limited()
            self.events[name] = first, self.count
            self.seconds[name] = time.monotonic() - begun

    def _seen(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event in EVENTS and code.co_filename.startswith(ROOT) and not code.co_filename.startswith(OWN):
            self.count += 1
            if self.count == self._at:
                sys.setprofile(None)
                self._arrive(event, frame)

    def _ring(self, *_: Any) -> None:
        limited()
        signal.raise_signal(signal.SIGINT)

    def _arrive(self, event: str, frame: FrameType | None) -> None:
        code = None if frame is None else frame.f_code
        name = "?" if code is None else f"{os.path.basename(code.co_filename)}:{code.co_name}"
        self.where = f"{self._error.__name__} at {event} of {name}:{0 if frame is None else frame.f_lineno}"
        self.told(self.where)
        # HDF5 swallows what is raised where it has called Python back, before any of our lines; signals wait
        # for its end.
        self.lost = self.lost or (event != "signal" and "hdf5_overlay" in name)
        raise self._error


def limited(seconds: float = SECONDS) -> None:
    """Let SIGALRM kill this process after so many seconds."""
    signal.setitimer(signal.ITIMER_REAL, seconds)  # first, or what was set before might do so now
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def says_so(error: BaseException) -> str:
    """What is wrong with what came out of something that was interrupted; empty if nothing is."""
    if not isinstance(error, ReplayStoreError) or re.search(SAYING, str(error)):
        return ""
    return f"after an interrupt it says {type(error).__name__}: {error}"
