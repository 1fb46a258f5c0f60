"""What a server gives to its clients at most: memory for bodies, threads, and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from replaystore.service.refused import RefusedError

__all__ = ["Limits", "Room"]


@dataclass(frozen=True)
class Limits:
    """All of them; sizes in bytes, times in seconds."""

    body: int = 64 << 20
    """Of the body of a request."""
    answer: int = 64 << 20
    """Of an answer that is made for one request: rows, a table."""
    held: int = 96 << 20
    """Of all bodies that are in memory; who needs more waits."""
    wait: float = 30.0
    """For room, or for a turn."""
    stall: float = 30.0
    """In which a client sends or takes nothing."""
    slowest: int = 64 << 10
    """Bytes in a second that the body of a request comes with, beside `stall`."""
    requests: int = 512
    """That are answered at a time."""
    streams: int = 256
    """Of events, at a time."""
    threads: int = 8
    """That read, decode and append."""
    commits: int = 32
    """That are open for reading at a time."""


class Room:
    """So many bytes of memory, which are taken in turn."""

    def __init__(self, size: int, wait: float) -> None:
        self.size, self.held, self._wait = size, 0, wait
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Have so many bytes. RefusedError (503): there is no room for too long."""
        size = min(size, self.size)  # one alone may be larger, and has it all
        async with self._changed:
            try:
                async with asyncio.timeout(self._wait):
                    await self._changed.wait_for(lambda: self.held + size <= self.size)
            except TimeoutError:
                raise RefusedError(
                    503, "other clients hold all memory: try again later", {"Retry-After": "5"}
                ) from None
            self.held += size
        try:
            yield
        finally:
            async with self._changed:
                self.held -= size
                self._changed.notify_all()
