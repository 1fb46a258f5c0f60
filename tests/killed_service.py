"""A server that is killed again and again, and a network between it and its clients that delays, cuts and
drops."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from writers_story import ENVS, message, session

from replaystore import wire

__all__ = ["Network", "killable", "send_all", "wait_for"]


@contextmanager
def killable(serve: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Processes that serve, one after the other; what is given kills the one there is and starts the next.

    They are forked from one that has no threads, so that hundreds start in seconds. To be called before this
    process has some."""
    orders, done = os.pipe(), os.pipe()
    nursery = os.fork()
    if not nursery:
        _nursery(serve, orders[0], done[1], [orders[1], done[0]])

    def restart() -> None:
        os.write(orders[1], b"k")
        os.read(done[0], 1)

    try:
        yield restart
    finally:
        os.close(orders[1])
        os.waitpid(nursery, 0)
        for end in (orders[0], *done):
            os.close(end)


def _nursery(serve: Callable[[], object], orders: int, done: int, others: list[int]) -> None:
    for end in others:
        os.close(end)
    child = 0
    while True:
        if not child:
            child = os.fork()
            if not child:
                with contextlib.suppress(BaseException):
                    serve()
                os._exit(0)
        order = os.read(orders, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        child = 0
        if not order:
            os._exit(0)
        os.write(done, b"d")


def wait_for(port: int) -> None:
    """Until a server answers: connections are taken before."""
    for _ in range(6000):
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(asking):
            asking.request("GET", "/healthz")
            asking.getresponse().read()
            return
        time.sleep(0.005)
    raise AssertionError("no server is there")


class Network:
    """A port that leads to another one, not always."""

    def __init__(self, port: int, seed: int) -> None:
        self._to, self._random = port, random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody through any more."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                fate = self._random.random()
                if fate < 0.02:  # nothing of it arrives
                    break
                if fate < 0.04:  # half of it does
                    other.sendall(data[: len(data) // 2])
                    break
                if fate < 0.1:
                    time.sleep(0.005)
                other.sendall(data)
                if fate > 0.98:  # it arrives, and nothing more
                    break
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def send_all(port: int, token: str, store: str, client: int, stop: int) -> None:
    """Send the messages of a client, each until it is acknowledged."""
    with contextlib.closing(_Client(port, token)) as found:
        _send_all(found, store, client, stop)


def _send_all(found: _Client, store: str, client: int, stop: int) -> None:
    number = 0
    while number <= stop:
        if not number:
            asked = json.dumps({"session": session(client), "environments": ENVS}).encode()
            status, told = found.ask("POST", f"/v1/stores/{store}/writers", asked)
            number = told["next"] if status == 200 else 0
            continue
        sent = message(client, number)
        arrays = {**sent.columns, **{f"final/{name}": rows for name, rows in sent.finals.items()}}
        body = wire.pack(arrays, {"runs": [run.model_dump() for run in sent.runs]})
        status, told = found.ask("PUT", f"/v1/writers/{session(client)}/{number}", body)
        if status == 200:
            assert told["number"] >= number
            number += 1
        elif status == 404:
            number = 0
        else:
            assert status in (409, 503, 507), told


class _Client:
    def __init__(self, port: int, token: str) -> None:
        self._port, self._headers = port, {"Authorization": f"Bearer {token}"}
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Ask until there is an answer."""
        for _ in range(3000):
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
                self._connection.request(method, path, body, self._headers)
                answer = self._connection.getresponse()
                return answer.status, json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError):
                self.close()
                time.sleep(0.01)
        raise AssertionError("there is no answer")

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
