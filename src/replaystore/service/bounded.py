"""Connections of uvicorn, with bounds on what a client can have it wait for and keep.

A request whose head has not come whole in time, or is too long, ends its connection. uvicorn itself ends
those that are idle between two requests, and the application bounds what follows the head.
"""

from __future__ import annotations

import asyncio
from typing import Any

from replaystore.extras import require

__all__ = ["ABORT", "bounded"]

ABORT = "replaystore.abort"
"""The extension of a request by which its connection is ended at once."""
MOST_HEAD = 64 << 10
"""Bytes of the head of a request, beyond what one packet brings."""
HEAD_SECONDS = 20.0
"""In which the head of a request comes."""


def bounded() -> type[asyncio.Protocol]:
    """The protocol of uvicorn for HTTP/1.1: of httptools, where that is, else of h11."""
    try:
        module = require("uvicorn.protocols.http.httptools_impl", "`replaystore serve`", "service")
        kind: Any = module.HttpToolsProtocol
    except ModuleNotFoundError:  # of httptools
        kind = require("uvicorn.protocols.http.h11_impl", "`replaystore serve`", "service").H11Protocol
    return type("Bounded", (_Bounds, kind), {})


class _Bounds:
    """What is added to a protocol of uvicorn."""

    cycle: Any
    """The request that is answered; None: there was none yet."""
    transport: asyncio.Transport
    scope: dict[str, Any]
    _head, _timer = 0, None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._wait()

    def on_message_begin(self) -> None:
        """Let the application end a connection on which nothing is taken: closing it would wait for that."""
        super().on_message_begin()  # type: ignore[misc]
        self.scope["extensions"] = {ABORT: self.transport.abort}

    def data_received(self, data: bytes) -> None:
        """Take what has come; whatever is behind the last whole request is the head of one."""
        super().data_received(data)  # type: ignore[misc]
        if not self.is_idle:
            self._done()
            return
        self._head += len(data)
        if self._head > MOST_HEAD:
            self.transport.abort()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        self._done()
        super().connection_lost(error)  # type: ignore[misc]

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._too_slow)

    def _done(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._head, self._timer = 0, None

    def _too_slow(self) -> None:
        if self.is_idle:
            self.transport.abort()
