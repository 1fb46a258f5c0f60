"""A server that runs: its socket, the token of its user, signals, logs, and its end.

1. It is reached from this machine alone, unless what is sent can be read by nobody else: with TLS, or behind
   a proxy that has it.
2. SIGTERM, or Ctrl-C, ends it: nothing is appended any more, what is being answered is answered for
   `GRACE` seconds at most, and what was acknowledged is durable already. A second Ctrl-C does not wait.
3. No token is written anywhere but to the file of its user, and to a terminal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from replaystore import credentials
from replaystore.errors import ArgumentError, StorageError
from replaystore.extras import require
from replaystore.service.bounded import bounded
from replaystore.service.status import CLEAR, Status, StatusLine
from replaystore.service.tokens import TokenFile, Tokens

__all__ = ["PORT", "Running", "Settings", "serve"]

PORT = 8742
GRACE = 2
"""Seconds for what is being answered when the server ends."""
IDLE_SECONDS = 75
"""After which a connection between two requests is ended."""
MOST_CONNECTIONS = 2048
BACKLOG = 512


@dataclass(frozen=True)
class Settings:
    """What is served, and how."""

    root: str
    host: str = "127.0.0.1"
    port: int = PORT
    """0: one that is free."""
    tokens: str | None = None
    """A file; None: a token of this user's."""
    read_only: bool = False
    tls: tuple[str, str] | None = None
    """Files of a certificate and of its key."""
    behind_proxy: bool = False
    access_log: str | None = None
    """A file, to which a line is added for each request; "-": stderr."""

    def check(self) -> None:
        """ArgumentError: others could read what is sent."""
        if not (credentials.is_loopback(self.host) or self.tls or self.behind_proxy):
            raise ArgumentError(
                f"at {self.host} others can read what is sent, tokens too: give --tls-cert and --tls-key, or "
                "--behind-proxy if a proxy with TLS is all that reaches it; or leave out --host"
            )


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    root: str
    address: str
    """replay://host:port"""
    port: int
    token: str | None
    """Of this user; None: there is a file of tokens."""
    token_file: str
    """Where it is kept, or the file of tokens."""
    stop: Callable[[], None]
    """Ends it, from any thread."""


def serve(settings: Settings, *, started: Callable[[Running], None] = lambda _: None) -> None:
    """Serve until it is told to end.

    Args:
        started: called when it answers.

    Raises:
        MissingDependencyError: the extra `service` is not installed.
        ArgumentError, NotFoundError, StorageError: it cannot be served so.
    """
    require("starlette", "`replaystore serve`", "service")
    from replaystore.service.app import make_app
    from replaystore.service.service import Service

    settings.check()
    certificate = None if settings.tls is None else _certificate(*settings.tls)
    file = None if settings.tokens is None else TokenFile(settings.tokens)
    if file is not None:
        file.grants()  # which says what is wrong with it, if anything is
    listening = _listening(settings)
    try:
        port = listening.getsockname()[1]
        own = credentials.kept_for_user(port) if file is None else None
        service = Service(settings.root, Tokens(file, own), read_only=settings.read_only)
        where = str(credentials.file_of(port)) if settings.tokens is None else settings.tokens
        server = _server(make_app(service), settings, certificate)
        scheme = "replay" if settings.tls is None else "replays"
        address = f"{scheme}://{_in_address(settings.host)}:{port}"
        server.on_started = lambda: started(
            Running(service.root.folder, address, port, own, where, server.end)
        )
        server.on_end = service.ending.set
        status = Status(service.metrics, lambda: len(server.server_state.connections))
        with _logging(settings.access_log), _shown(status):
            server.run(sockets=[listening])
    finally:
        listening.close()
    if server.interrupted:
        raise KeyboardInterrupt


def _server(app: Any, settings: Settings, certificate: ssl.SSLContext | None) -> Any:
    """A server of uvicorn, which says when it answers, and when it begins to end."""
    uvicorn = require("uvicorn", "`replaystore serve`", "service")

    class Server(uvicorn.Server):  # type: ignore[misc, name-defined]
        on_started: Callable[[], None]
        on_end: Callable[[], None]
        interrupted = False

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                self.on_started()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            self.on_end()
            self.let_go(idle=True)
            asyncio.get_running_loop().call_later(GRACE, self.let_go)
            await super().shutdown(sockets=sockets)
            self.let_go()

        def let_go(self, *, idle: bool = False) -> None:
            """End connections, or those that are idle: with TLS an end that is agreed about takes as long as
            the client likes."""
            for one in list(self.server_state.connections):
                if not idle or one.is_idle:
                    one.transport.abort()

        def end(self) -> None:
            """Begin to end."""
            self.should_exit = True

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.interrupted = self.interrupted or sig == signal.SIGINT
            self.should_exit = True

    config = uvicorn.Config(
        app,
        http=bounded(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE,
        limit_concurrency=MOST_CONNECTIONS,
        backlog=BACKLOG,
        ssl_context_factory=None if certificate is None else lambda *_: certificate,
    )
    return Server(config)


# --- what it needs


def _listening(settings: Settings) -> socket.socket:
    """The socket. StorageError: the address cannot be had."""
    host, port = settings.host.strip("[]"), settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StorageError(
            f"{_in_address(host)}:{port} cannot be listened at ({said}): choose another --port or --host",
            error.errno if isinstance(error, OSError) else None,
        ) from error


def _in_address(host: str) -> str:
    host = host.strip("[]")
    return f"[{host}]" if ":" in host else host


def _certificate(certificate: str, key: str) -> ssl.SSLContext:
    """ArgumentError: they are not a certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def no_password() -> str:
        raise ArgumentError(f"{key} needs a password, and nobody is there to give it: decrypt it")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ArgumentError(
            f"{certificate} and {key} are no certificate and its key in PEM ({said}): check both files"
        ) from error
    return context


@contextmanager
def _logging(access_log: str | None) -> Iterator[None]:
    """What goes wrong is written to stderr, and a line for each request to where that is wanted."""
    plain = logging.Formatter("%(asctime)s %(message)s")
    marked = logging.Formatter((CLEAR if _is_terminal() else "") + "replaystore: %(levelname)s: %(message)s")
    handlers: list[tuple[str, logging.Handler, logging.Formatter, int]] = [
        ("replaystore.service", logging.StreamHandler(), marked, logging.WARNING),
        ("uvicorn.error", logging.StreamHandler(), marked, logging.ERROR),
    ]
    if access_log is not None:
        to = logging.StreamHandler() if access_log == "-" else _log_file(access_log)
        handlers.append(("replaystore.service.access", to, plain, logging.INFO))
    before = {
        name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name, *_ in handlers
    }
    for name, handler, form, level in handlers:
        handler.setFormatter(form)
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = False
    try:
        yield
    finally:
        for name, handler, _, _ in handlers:
            logger = logging.getLogger(name)
            logger.removeHandler(handler)
            handler.close()
            logger.level, logger.propagate = before[name]


def _log_file(path: str) -> logging.Handler:
    """Which nobody else may read: it says who asked for what."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}): choose another --access-log", error.errno
        ) from error


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _shown(status: Status) -> Iterator[None]:
    """The line in the terminal, if there is one."""
    if not _is_terminal() or threading.current_thread() is not threading.main_thread():
        yield
        return
    line = StatusLine(status, sys.stderr)
    line.start()
    try:
        yield
    finally:
        line.end()
