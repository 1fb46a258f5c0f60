"""Open files: kept for the next use, not too many of them, and none closed while a thread reads from it."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator

from replaystore.forks import renew_in_children

__all__ = ["Descriptors", "read_all"]

ONE_READ = 1 << 30
"""Bytes that one call reads at most: the system gives no more than 2 GiB."""
OPEN_FILES, FEWEST = 256, 8
"""Descriptors kept open by one store, and by each of many: reopening costs some microseconds, and a process
may have 1024, whatever number of stores it has open."""


def read_all(fd: int, offset: int, length: int | None = None) -> bytes:
    """Bytes of an open file; fewer than asked for where it ends, and only there: one call may give fewer for
    other reasons."""
    if length is None:
        length = max(0, os.fstat(fd).st_size - offset)
    first = os.pread(fd, min(length, ONE_READ), offset) if length > 0 else b""
    if len(first) == length or not first:  # nearly always
        return first
    pieces = [first]
    while pieces[-1] and length > len(pieces[-1]):
        offset += len(pieces[-1])
        length -= len(pieces[-1])
        pieces.append(os.pread(fd, min(length, ONE_READ), offset))
    return b"".join(pieces)


_keepers: weakref.WeakSet[Descriptors] = weakref.WeakSet()
"""All there are in this process."""


class Descriptors:
    """The descriptors of named files; `descriptor` opens one, and `_keep`s it."""

    def __init__(self) -> None:
        _keepers.add(self)
        self._open: OrderedDict[str, int] = OrderedDict()
        self._users: dict[int, int] = {}
        """How many threads read from a descriptor."""
        self._unwanted: set[int] = set()
        """Descriptors that the last of them closes."""
        self._lock = threading.RLock()
        renew_in_children(self, "_lock")

    def descriptor(self, name: str) -> int:
        """An open descriptor, owned by this object. FileNotFoundError: there is no such file; CorruptError:
        it is no regular file.

        It is valid until the next call, in any thread: `borrowed` is for more than one thread."""
        raise NotImplementedError

    @contextlib.contextmanager
    def borrowed(self, name: str) -> Iterator[int]:
        """A descriptor that no other thread closes meanwhile."""
        with self._lock:
            fd = self._lent(self.descriptor(name))
        try:
            yield fd
        finally:
            self._give_back(fd)

    def _lent(self, fd: int) -> int:
        """A descriptor that is not closed before it is given back; the lock is held."""
        # A duplicate would cost two system calls more, and each of them lets other threads go first.
        self._users[fd] = self._users.get(fd, 0) + 1
        return fd

    def _give_back(self, fd: int) -> None:
        with self._lock:
            self._users[fd] -= 1
            if not self._users[fd]:
                del self._users[fd]
                if fd in self._unwanted:
                    self._unwanted.remove(fd)
                    os.close(fd)

    def forget(self, name: str) -> None:
        """Close the descriptor kept for a file; the next use opens what then has the name."""
        with self._lock:
            found = self._open.pop(name, None)
            if found is not None:
                self._close(found)

    def close(self) -> None:
        """Close all descriptors."""
        for name in list(self._open):
            self.forget(name)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """Close what a store that was dropped without `close` has open. Bound early: modules may be gone."""
        for fd in (*self._open.values(), *self._unwanted):
            with contextlib.suppress(OSError):  # of a process that has closed all files, as daemons do
                close(fd)
        self._open.clear()
        self._unwanted.clear()

    def _keep(self, name: str, fd: int) -> int:
        # By the square: what was opened before keeps what it had, and all of it together has an end.
        most = min(OPEN_FILES, max(FEWEST, OPEN_FILES // max(1, len(_keepers)) ** 2))
        while len(self._open) >= most:
            self._close(self._open.popitem(last=False)[1])
        self._open[name] = fd
        return fd

    def _close(self, fd: int) -> None:
        """Close a descriptor as soon as nobody reads from it; the lock is held."""
        if fd in self._users:
            self._unwanted.add(fd)
        else:
            os.close(fd)
