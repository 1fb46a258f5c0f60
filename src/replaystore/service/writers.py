"""The writing sides of all stores that somebody writes to, and which session is of which store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import open as open_buffer
from replaystore.errors import NotFoundError
from replaystore.service.jobs import Begun
from replaystore.service.root import Root
from replaystore.service.store_writer import StoreWriter

__all__ = ["Writers"]

Answer = TypeVar("Answer")
MOST_KNOWN = 1 << 16
"""Sessions of which it is known whose they are; ended ones among them."""


class Writers:
    """What writes to the stores below a root. Any thread may call it."""

    def __init__(self, root: Root, committed: Callable[[float], object] = lambda _: None) -> None:
        """`committed` is told of each commit: the seconds that it took."""
        self._root, self._committed = root, committed
        self._lock = threading.Lock()
        self._writers: dict[str, StoreWriter] = {}
        self._stores: OrderedDict[str, str] = OrderedDict()
        """By session."""

    def of(self, store: str) -> StoreWriter:
        """The writing side of a store. NotFoundError: there is no such store."""
        self._root.place(store)
        with self._lock:
            known = self._writers.get(store)
            if known is None:
                known = self._writers[store] = StoreWriter(
                    partial(self._open, store), committed=self._committed
                )
            return known

    def _open(self, store: str) -> Buffer:
        return open_buffer(self._root.place(store), "r+")

    def begin(
        self, store: str, session: str, environments: int, first: int | None, *, cut: bool
    ) -> Future[Begun]:
        """As `StoreWriter.begin`; from then on it is known whose the session is."""
        future = self.of(store).begin(session, environments, first, cut=cut)
        future.add_done_callback(partial(self._know, store, session))
        return future

    def _know(self, store: str, session: str, future: Future[Begun]) -> None:
        if not future.cancelled() and future.exception() is None:
            with self._lock:
                self._stores[session] = store
                self._stores.move_to_end(session)
                while len(self._stores) > MOST_KNOWN:
                    self._stores.popitem(last=False)

    def store_of(self, session: str) -> str:
        """Whose session it is. NotFoundError: nobody has begun it since the server was started."""
        with self._lock:
            store = self._stores.get(session)
        if store is None:
            raise NotFoundError(
                f"there is no session {session:.40} here: POST …/writers begins it, or goes on with it and "
                "tells which number is the next"
            )
        return store

    def sessions(self) -> int:
        """How many go on, in stores that are open for writing."""
        with self._lock:
            return sum(writer.sessions for writer in self._writers.values())

    def close(self) -> None:
        """Take nothing more, commit what was sent, and close all."""
        with self._lock:
            writers = list(self._writers.values())
        if writers:
            with ThreadPoolExecutor(len(writers)) as threads:
                list(threads.map(StoreWriter.close, writers))
