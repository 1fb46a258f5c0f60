"""The connections of the process to servers, and the threads that use them side by side.

1. Connections are kept for the next request, at most `CONNECTIONS` to one server.
2. A request ends in time, whatever the server sends: each read of a socket looks at the deadline first, be it
   of headers or of the body, so that a server that sends a byte now and then is left, too.
3. A forked child makes connections and threads of its own.
"""

from __future__ import annotations

import http.client
import io
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

__all__ = ["CONNECTIONS", "in_background", "send"]

CONNECTIONS = 32
"""To one server, and threads that wait for answers."""
SERVERS = 8
REDIRECTS = 5
T = TypeVar("T")
_now = threading.local()
"""`until`: the deadline of the request of this thread."""


class _Timed(io.RawIOBase):
    """What a socket gives, until the deadline. The socket's own timeout bounds each single read."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._until = socket, getattr(_now, "until", float("inf"))

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int | None:
        if time.monotonic() > self._until:
            raise TimeoutError("the answer takes too long")
        found: int | None = self._socket.readinto(target)
        return found

    def close(self) -> None:
        if not self.closed:
            self._socket.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        raw: Any = self.fp
        self.fp = io.BufferedReader(_Timed(raw.detach()))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Connections:
    """Those of this process."""

    KINDS: ClassVar = {"http": _Pool, "https": _SecurePool}

    def __init__(self) -> None:
        self.inherited: list[Any] = []
        """Of the parent of a forked process: never used, and never closed, since its locks may be held."""
        self.start_anew()

    def start_anew(self) -> None:
        """As in a forked child, where threads and held locks did not come along."""
        self.inherited.append(getattr(self, "manager", None))
        self.manager = urllib3.PoolManager(num_pools=SERVERS, maxsize=CONNECTIONS, block=True)
        self.manager.pool_classes_by_scheme = self.KINDS
        self.lock = threading.Lock()
        self.threads: ThreadPoolExecutor | None = None


_connections = _Connections()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_connections.start_anew)


def send(
    url: str,
    headers: Mapping[str, str],
    *,
    connect: float,
    stall: float,
    until: float,
    method: str = "GET",
    body: bytes | None = None,
) -> urllib3.BaseHTTPResponse:
    """Send a request, and wait for the head of the answer; its body is read in this thread, and the answer
    closed or released. urllib3's errors."""
    _now.until = until
    left = max(0.001, until - time.monotonic())
    return _connections.manager.request(
        method,
        url,
        body=body,
        headers=dict(headers),
        preload_content=False,
        decode_content=False,
        redirect=True,
        timeout=urllib3.Timeout(connect=min(connect, left), read=min(stall, left)),
        pool_timeout=left,
        retries=urllib3.Retry(
            total=REDIRECTS,
            redirect=REDIRECTS,
            connect=0,
            read=0,
            status=0,
            other=0,
            raise_on_status=False,
            respect_retry_after_header=False,
        ),
    )


def in_background(call: Callable[..., T], *args: Any) -> Future[T]:
    """Have a thread make a call, or make it here where no more threads are started."""
    with _connections.lock:
        if _connections.threads is None:
            _connections.threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="replaystore-http")
        threads = _connections.threads
    try:
        return threads.submit(call, *args)
    except RuntimeError:  # the interpreter is ending
        done: Future[T] = Future()
        try:
            done.set_result(call(*args))
        except Exception as error:  # noqa: BLE001  # raised by who asks for the result
            done.set_exception(error)
        return done
