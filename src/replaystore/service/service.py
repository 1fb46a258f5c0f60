"""A server's state: what it serves, to whom, and how much of it at a time. It knows nothing of routes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from replaystore.service.limits import Limits, Room
from replaystore.service.metrics import Metrics
from replaystore.service.readers import Readers
from replaystore.service.root import Root
from replaystore.service.tokens import Grant
from replaystore.service.writers import Writers

__all__ = ["Service", "Tokens"]

Answer = TypeVar("Answer")


class Tokens(Protocol):
    """Who may do what."""

    def find(self, token: str) -> Grant | None:
        """What a token gives; None: nothing."""


class Service:
    """What a server serves."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        tokens: Tokens,
        *,
        limits: Limits | None = None,
        read_only: bool = False,
    ) -> None:
        """`read_only`: what would change a store is refused. NotFoundError: there is no such folder."""
        self.root, self.tokens, self.read_only = Root(root), tokens, read_only
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.readers = Readers(self.root, self.limits.commits)
        self.writers = Writers(self.root, self._was_committed)
        self.room = Room(self.limits.held, self.limits.wait)
        self.open_requests = self.open_streams = 0
        self.openapi: dict[str, Any] = {}
        """What the application says of its routes."""
        self.ending = asyncio.Event()
        """Set when the server is about to end: events end, and nothing is appended any more."""
        self._threads = ThreadPoolExecutor(self.limits.threads, "replaystore-service")
        self.metrics.gauge("replaystore_open_requests", lambda: self.open_requests)
        self.metrics.gauge("replaystore_held_bytes", lambda: self.room.held)
        self.metrics.gauge("replaystore_writers", self.writers.sessions)

    async def in_thread(self, task: Callable[[], Answer]) -> Answer:
        """Do what takes long, or waits for a disk, beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, task)

    def _was_committed(self, seconds: float) -> None:
        self.metrics.count("replaystore_commits_total")
        self.metrics.time("replaystore_commit_seconds", seconds)

    def close(self) -> None:
        """Release everything, once no request is answered any more."""
        self.writers.close()  # which ends those that wait in threads
        self._threads.shutdown()
        self.readers.close()
