"""Operations that happen or do not, whatever interrupts them.

1. Signals that Python turns into exceptions (Ctrl-C, SIGTERM where somebody handles it) wait until the
   operation is over, if it runs in the main thread; a second one does not wait.
2. What cannot be made to wait (a second signal, no memory, an exception set by another thread) is noticed:
   the operation stays `inside`, and whoever owns the state that it was changing must not believe that state
   any more.
3. Errors of replaystore say that nothing has happened, or what has: they leave nothing `inside`. An error of
   the operating system that nobody has translated is translated here.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from replaystore.errors import ReplayStoreError, StorageError
from replaystore.refusals import refusal

__all__ = ["Operations", "as_storage_errors", "signals_wait"]

_SIGNALS = (int(signal.SIGINT), int(signal.SIGTERM))
_MAIN = threading.main_thread()
# What `signal` wraps to turn numbers into enumerations, which takes longer than all else that is done here.
try:
    _plain: Any = importlib.import_module("_signal")
except ImportError:
    _plain = signal


class Operations:
    """Those of one object, which happen one after another; an operation that is part of another one is no
    operation of its own."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        """For messages."""
        self.inside: Operation | None = None
        """The one under way, or the one that was interrupted."""

    def __call__(self, what: str) -> Operation:
        """`with operations("append"):` around what is to happen as a whole."""
        return Operation(self, what)

    @property
    def interrupted(self) -> str:
        """The name of the operation that was interrupted, empty if none was; not to be asked inside of
        one."""
        inside = self.inside
        if inside is None or not (inside.failed or inside.thread == threading.get_ident()):
            return ""
        return inside.what


class Operation:
    """One of them."""

    __slots__ = ("_all", "_previous", "failed", "thread", "what")

    def __init__(self, operations: Operations, what: str) -> None:
        self._all = operations
        self._previous: list[tuple[int, Any]] = []
        self.what = what
        self.thread = threading.get_ident()
        self.failed = False

    def __enter__(self) -> Self:
        if self._all.inside is None:
            self._all.inside = self
            if self.thread == _MAIN.ident:
                self._previous = _hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._all.inside is not self:
            return
        ours = kind is None or issubclass(kind, ReplayStoreError)
        if ours:
            self._all.inside = None
        else:
            self.failed = True
        if self._previous:
            _release(self._previous)
        if not ours and isinstance(error, OSError):
            reason = refusal(error, str(self._all.owner))
            message = (
                f"{self._all.owner}: {self.what} failed: {reason}; close it, and open it again: it "
                "goes on from its last commit"
            )
            raise StorageError(message, error.errno) from error


_waiting: list[tuple[int, FrameType | None]] = []
"""The signal that came during the operation of the main thread."""


def _hold() -> list[tuple[int, Any]]:
    """Make signals wait; what handled them before."""
    previous = []
    for number in _SIGNALS:
        handler = _plain.getsignal(number)
        if callable(handler) and handler is not _wait:
            previous.append((number, handler))
            _plain.signal(number, _wait)
    return previous


def _wait(number: int, frame: FrameType | None) -> None:
    if _waiting:
        raise KeyboardInterrupt
    _waiting.append((number, frame))


def _release(previous: list[tuple[int, Any]]) -> None:
    """Let signals come again, and the one that waited first."""
    for number, handler in previous:
        if _plain.getsignal(number) is _wait:
            _plain.signal(number, handler)
    while _waiting:
        came, frame = _waiting.pop()
        for number, handler in previous:
            if number == came:
                handler(came, frame)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Signals wait until this is over, as they do for an operation: a library that calls Python back would
    swallow what they raise."""
    previous = _hold() if threading.get_ident() == _MAIN.ident else []
    try:
        yield
    finally:
        if previous:
            _release(previous)


@contextlib.contextmanager
def as_storage_errors(what: str) -> Iterator[None]:
    """What the operating system refuses, and nobody nearer to it has said more of, as a StorageError:
    "`what`: the reason"."""
    try:
        yield
    except ReplayStoreError:
        raise
    except OSError as error:
        advice = "nothing was changed that was not committed; mend the cause, then try again"
        raise StorageError(f"{what}: {refusal(error, what)}; {advice}", error.errno) from error
