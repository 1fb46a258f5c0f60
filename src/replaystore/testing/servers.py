"""A static file server on this machine, for tests and measurements: it gives ranges, can be slow, writes down
what it was asked, and fails in whatever way a test wants.

    with serving(folder, latency=0.02) as server:
        replaystore.open(f"{server.url}/a.zarr")
    print(len(server.log), server.rounds())

`python -m replaystore.testing.servers FOLDER` serves one from a process of its own, until its input ends; it
prints its address, and says on each line of input what it was asked since the last one, as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import random
import re
import socket
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["FAULTS", "SILENT", "Asked", "Server", "at_random", "serving"]

FAULTS = (
    "truncated",  # half of the body, then the end of the connection
    "unmeasured",  # the same without a Content-Length
    "dropped",  # no answer, but the end of the connection
    "reset",  # the same, as an error
    "short-length",  # a Content-Length below what is sent
    "long-length",  # and one above it
    "short-range",  # an honest answer to less than what was asked for
    "other-range",  # an honest answer to another question
    "lying-range",  # the header of another range before the right bytes
    "ignored",  # all of the file, whatever was asked for
    "unlabelled",  # 206 without a Content-Range
    "multipart",
    "gzip",
    "bad-chunks",
    "garbage",  # no HTTP
    "many-headers",
    "416",  # though there are such bytes
    "500",
    "503",
    "429",
    "403",
    "404",
    "page",  # of HTML, for whatever is asked for
    "moved",  # for ever
    "stall",  # no answer
    "stall-in-body",
)
"""What can be told from an answer, or is an answer in its own right."""
SILENT = ("shifted", "changed", "cut")
"""Sound answers of other bytes than the file has, or of a file that ends earlier: only who knows more can
tell."""
Faults = Callable[["Asked"], str | None]
_CLOSING = {"truncated", "unmeasured", "long-length", "bad-chunks", "garbage", "short-length"}


@dataclass
class Asked:
    """One request."""

    number: int
    path: str
    range: str
    begun: float
    ended: float = 0.0
    status: int = 0
    bytes: int = 0
    """Of the body that was sent."""
    fault: str | None = None
    login: str = ""
    """What came as Authorization."""


@dataclass
class Server:
    """A server that runs, at `url`. What it does can be changed meanwhile."""

    folder: Path
    latency: float = 0.0
    """Seconds before each answer."""
    faults: Faults | None = None
    """Which fault, if any, the answer to a request has."""
    url: str = ""
    log: list[Asked] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What went wrong in the server itself, and should not."""
    ending: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    connections: set[socket.socket] = field(default_factory=set)

    def rounds(self, log: Sequence[Asked] | None = None) -> int:
        """The longest chain of requests that began when the one before it had been answered."""
        asked = sorted(self.log if log is None else log, key=lambda one: one.ended or float("inf"))
        longest: list[int] = []
        ends = [one.ended or float("inf") for one in asked]
        best = 0
        for one in asked:
            before = bisect_left(ends, one.begun)
            depth = 1 + (longest[before - 1] if before and before <= len(longest) else 0)
            best = max(best, depth)
            longest.append(best)
        return best

    def waves(self, log: Sequence[Asked]) -> int:
        """How often it was asked something when nobody waited for an answer: rounds of requests that go side
        by side, however many connections there are for them."""
        found, until = 0, 0.0
        for one in sorted(log, key=lambda one: one.begun):
            found += one.begun > until
            until = max(until, one.ended or float("inf"))
        return found

    def note(self, path: str, range_: str, login: str) -> Asked:
        with self.lock:
            asked = Asked(len(self.log), path, range_, time.monotonic(), login=login)
            self.log.append(asked)
        if self.faults is not None:
            asked.fault = self.faults(asked)
        return asked


def at_random(probability: float, seed: int, kinds: Sequence[str] = FAULTS) -> Faults:
    """One of these faults, in so many of the answers."""
    chance = random.Random(seed)  # noqa: S311  # it is to repeat itself

    def fault(_: Asked) -> str | None:
        return chance.choice(kinds) if chance.random() < probability else None

    return fault


@contextmanager
def serving(
    folder: str | os.PathLike[str], *, latency: float = 0.0, faults: Faults | None = None
) -> Iterator[Server]:
    """Serve the files of a folder meanwhile, to this machine only."""
    state = Server(Path(folder), latency, faults)

    class Serves(_Handler):
        server_state = state

    server = _Listening(("127.0.0.1", 0), Serves)
    server.state = state
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
        deadline = time.monotonic() + 5
        while state.connections and time.monotonic() < deadline:
            for connection in list(state.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            time.sleep(0.005)
    if state.problems:
        raise AssertionError(f"the server failed: {state.problems[0]}")


class _Listening(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128
    state: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # whoever asked has gone
            self.state.problems.append(repr(error))


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    server_state: Server

    def setup(self) -> None:
        self.server_state.connections.add(self.request)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server_state.connections.discard(self.request)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the base class names it
        """Nothing is printed."""

    def do_GET(self) -> None:
        state = self.server_state
        asked = state.note(self.path, self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        try:
            if state.latency:
                time.sleep(state.latency)
            self._answer(asked)
        finally:
            asked.ended = time.monotonic()

    def _answer(self, asked: Asked) -> None:
        path = self._file(asked)
        if path is None or asked.fault == "page":
            page = {"Content-Type": "text/html; charset=utf-8"} if asked.fault == "page" else {}
            self._send(asked, 200 if page else 404, page, b"<html>there is no such file</html>")
            return
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size // 2 if asked.fault == "cut" else status.st_size
            headers = {
                "ETag": f'"{status.st_mtime_ns:x}-{size:x}-{status.st_ino:x}"',
                "Accept-Ranges": "bytes",
            }
            begin, stop = _range(asked.range, size)
            if begin is None and not asked.fault:
                self._send(asked, 416, {**headers, "Content-Range": f"bytes */{size}"}, b"")
                return
            begin = begin or 0
            if asked.fault is not None:
                self._fail(asked, _Sound(file, size, begin, stop, headers))
                return
            file.seek(begin)
            body = file.read(stop - begin)
        if asked.range:
            self._send(asked, 206, {**headers, "Content-Range": f"bytes {begin}-{stop - 1}/{size}"}, body)
        else:
            self._send(asked, 200, headers, body)

    def _file(self, asked: Asked) -> Path | None:
        parts = [part for part in unquote(urlsplit(asked.path).path).split("/") if part]
        path = self.server_state.folder.joinpath(*parts)
        return path if ".." not in parts and path.is_file() else None

    def _send(
        self, asked: Asked, status: int, headers: dict[str, str], body: bytes, *, length: int | None = None
    ) -> None:
        """Send an answer; `length`: what the header says of it, -1: nothing."""
        asked.status, asked.bytes = status, len(body)
        length = len(body) if length is None else length
        if length >= 0:
            headers = {**headers, "Content-Length": str(length)}
        self.close_connection = self.close_connection or length < 0 or asked.fault in _CLOSING
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if len(body) > 1 << 16:
            self.end_headers()
            self.wfile.write(body)
        else:  # in one packet
            self._headers_buffer.extend((b"\r\n", body))  # type: ignore[attr-defined]  # of the base class
            self.flush_headers()

    # --- what goes wrong

    def _fail(self, asked: Asked, sound: _Sound) -> None:
        fault = asked.fault or ""
        if fault.isdecimal():
            more = {"Content-Range": f"bytes */{sound.size}"} if fault == "416" else {"Retry-After": "0"}
            self._send(asked, int(fault), more, b"it is not to be had")
        elif fault == "moved":
            self._send(asked, 302, {"Location": self.path}, b"")
        elif fault == "stall":
            self._wait()
        elif fault in ("dropped", "reset", "garbage"):
            self._break_off(fault)
        elif fault in ("ignored", "gzip", "multipart", "unlabelled", "bad-chunks", "many-headers"):
            self._answer_otherwise(asked, sound, fault)
        else:
            self._answer_wrongly(asked, sound, fault)

    def _answer_wrongly(self, asked: Asked, sound: _Sound, fault: str) -> None:
        """In the form that was asked for."""
        begin, stop, length = sound.begin, sound.stop, sound.stop - sound.begin
        if fault == "short-range":
            stop = begin + max(1, length // 2)
        elif fault == "other-range":
            begin = max(0, begin - 1) if begin else min(1, sound.size - 1)
            stop = max(begin + 1, min(sound.size, begin + length))
        moved = fault == "lying-range"
        body = sound.bytes(begin + (fault == "shifted"), stop + (fault == "shifted"))
        if fault == "shifted":
            body = (body + b"\0" * length)[:length]
        elif fault == "changed":
            body = bytes([*body[:-1], body[-1] ^ 1]) if body else body
        headers = {**sound.headers, "Content-Range": f"bytes {begin + moved}-{stop + moved - 1}/{sound.size}"}
        said = {"short-length": len(body) // 2, "long-length": len(body) + 7, "unmeasured": -1}.get(fault)
        if fault in ("truncated", "unmeasured", "stall-in-body"):
            said, body = len(body) if said is None else said, body[: len(body) // 2]
        self._send(asked, 206, headers, body, length=said)
        if fault == "stall-in-body":
            self._wait()

    def _answer_otherwise(self, asked: Asked, sound: _Sound, fault: str) -> None:
        body = sound.bytes(sound.begin, sound.stop)
        headers = {
            **sound.headers,
            "Content-Range": f"bytes {sound.begin}-{sound.stop - 1}/{sound.size}",
        }
        if fault == "ignored":
            self._send(asked, 200, sound.headers, sound.bytes(0, sound.size))
        elif fault == "unlabelled":
            self._send(asked, 206, sound.headers, body)
        elif fault == "gzip":
            self._send(asked, 206, {**headers, "Content-Encoding": "gzip"}, gzip.compress(body, 1))
        elif fault == "multipart":
            part = f"--x\r\nContent-Range: {headers['Content-Range']}\r\n\r\n".encode() + body + b"\r\n--x--"
            kind = {"Content-Type": "multipart/byteranges; boundary=x"}
            self._send(asked, 206, {**sound.headers, **kind}, part)
        elif fault == "many-headers":
            self._send(asked, 206, {**headers, **{f"X-{number}": "x" for number in range(200)}}, body)
        else:
            body = b"%x\r\n" % (len(body) + 5) + body + b"zz\r\n"
            self._send(asked, 206, {**headers, "Transfer-Encoding": "chunked"}, body, length=-1)

    def _break_off(self, fault: str) -> None:
        self.close_connection = True
        if fault == "garbage":
            self.wfile.write(bytes(range(1, 255)))
        elif fault == "reset":
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.request.close()

    def _wait(self) -> None:
        """Until whoever asked has gone."""
        self.close_connection = True
        self.request.settimeout(0.02)
        while not self.server_state.ending.is_set():
            try:
                if not self.request.recv(1):
                    return
            except TimeoutError:
                continue


@dataclass
class _Sound:
    """What the right answer is made of."""

    file: Any
    size: int
    begin: int
    stop: int
    headers: dict[str, str]

    def bytes(self, begin: int, stop: int) -> bytes:
        self.file.seek(begin)
        found: bytes = self.file.read(max(0, stop - begin))
        return found


def _range(text: str, size: int) -> tuple[int | None, int]:
    """The bytes that a request asks for; None: there are none."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if found is None:
        return 0, size
    if not found[1]:
        begin, stop = max(0, size - int(found[2] or 0)), size
    else:
        begin, stop = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
    return (begin, stop) if begin < stop else (None, size)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a folder until the input ends.")
    parser.add_argument("folder")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    given = parser.parse_args()
    with serving(given.folder, latency=given.latency) as server:
        print(server.url, flush=True)  # noqa: T201  # it is a program
        seen = 0
        for _ in sys.stdin:
            with server.lock:
                log = server.log[seen:]
                seen += len(log)
            said = {
                "requests": len(log),
                "rounds": server.rounds(log),
                "waves": server.waves(log),
                "bytes": sum(one.bytes for one in log),
            }
            print(json.dumps(said), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
