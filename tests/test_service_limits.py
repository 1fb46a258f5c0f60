"""What a client can cost: bodies that are too large, too slow or not what they say, answers that nobody
takes, and requests beyond what is served at a time. Each is refused, in bounded time and memory."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx2")

import urllib3
from serving import KnownTokens, bearer, serving
from starlette.testclient import TestClient

from replaystore.errors import (
    ConflictError,
    CorruptError,
    EvictedError,
    FormatError,
    SchemaError,
    StorageError,
)
from replaystore.service import refused
from replaystore.service.answers import Answer, as_json
from replaystore.service.app import ROUTES, make_app
from replaystore.service.limits import Limits, Room
from replaystore.service.refused import RefusedError, status_of
from replaystore.service.routes import Asked, Model, Route
from replaystore.service.service import Service

pytest_plugins = ["serving"]

LIMITS = Limits(body=100_000, held=300_000, wait=0.3, stall=0.5, slowest=1_000_000, requests=8)
HEADERS = bearer()


class Wish(Model):
    """What is asked for."""

    size: int = 0
    raises: str = ""


RAISED = {
    "full": StorageError("the disk is full", 28),
    "io": StorageError("the disk fails", 5),
    "conflict": ConflictError("another"),
    "evicted": EvictedError("gone"),
    "schema": SchemaError("does not fit"),
    "format": FormatError("no store"),
    "corrupt": CorruptError("damaged"),
    "os": PermissionError(13, "Permission denied", "/secret/place"),
    "bug": KeyError("/secret/place"),
}


async def echo(asked: Asked) -> Answer:
    return Answer(asked.body)


def wish(asked: Asked) -> Answer:
    wanted = asked.json(Wish)
    if wanted.raises:
        raise RAISED[wanted.raises]
    return as_json({"size": wanted.size})


async def much(asked: Asked) -> Answer:
    await asked.hold(200_000)
    return Answer(b"x" * (64 << 20))


OWN = (
    *ROUTES,
    Route("PUT", "/echo", "append", echo, "Gives it back.", takes="application/octet-stream", writes=True),
    Route("POST", "/wish", "admin", wish, "Does it.", takes=Wish),
    Route("GET", "/much", "read", much, "Gives much."),
)


@pytest.fixture
def service(root: Path) -> Service:
    return Service(root, KnownTokens(), limits=LIMITS)


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with serving(service, OWN) as found:
        yield found


def told(url: str, text: bytes, *, more: bytes = b"", seconds: float = 5.0) -> bytes:
    """What a server says to bytes; `more`: sent a byte at a time, until it says something."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=seconds) as connection:
        connection.sendall(text)
        found, until = b"", time.monotonic() + seconds
        connection.settimeout(0.02 if more else seconds)
        while time.monotonic() < until:
            try:
                piece = connection.recv(1 << 16)
            except TimeoutError:
                connection.sendall(more[:1])
                more = more[1:]
                continue
            found += piece
            if not piece or b"}" in found:
                break
        return found


def head(method: str, path: str, *lines: str) -> bytes:
    every = [f"{method} {path} HTTP/1.1", "Host: a", f"Authorization: {HEADERS['Authorization']}", *lines]
    return "\r\n".join([*every, "", ""]).encode()


def test_a_body_comes_back(url: str) -> None:
    body = bytes(range(256)) * 300
    found = urllib3.request("PUT", f"{url}/echo", headers=HEADERS, body=body)
    assert (found.status, found.data) == (200, body)


def test_a_body_that_is_too_large_is_not_read(url: str, service: Service) -> None:
    found = told(url, head("PUT", "/echo", "Content-Length: 100001"))
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in found.lower()
    assert service.room.held == 0


def test_a_body_without_a_length_is_refused(url: str) -> None:
    assert told(url, head("PUT", "/echo")).startswith(b"HTTP/1.1 411 ")
    chunked = head("PUT", "/echo", "Transfer-Encoding: chunked") + b"5\r\nabcde\r\n0\r\n\r\n"
    assert told(url, chunked).startswith(b"HTTP/1.1 411 ")
    assert told(url, head("PUT", "/echo", "Content-Length: -5")).startswith(b"HTTP/1.1 4")
    assert told(url, head("PUT", "/echo", "Content-Length: 5", "Content-Length: 9")).startswith(b"HTTP/1.1 4")


def test_a_body_that_comes_too_slowly_is_given_up(url: str, service: Service) -> None:
    started = time.monotonic()
    found = told(url, head("PUT", "/echo", "Content-Length: 1000"), more=b"x" * 999)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 4
    assert service.room.held == 0


def test_without_a_token_no_body_is_read(url: str, service: Service) -> None:
    found = told(url, b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 401 ")
    assert service.room.held == 0


def test_answers_that_nobody_takes_end_and_give_back_what_they_hold(
    url: str, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as first:
        first.sendall(head("GET", "/much"))
        while not service.room.held:
            time.sleep(0.01)
        waiting = urllib3.request("GET", f"{url}/much", headers=HEADERS, preload_content=False, retries=False)
        assert waiting.status == 503, "there was no room for two"
        assert waiting.headers["Retry-After"] == "5"
        waiting.close()
        until = time.monotonic() + 5
        while service.room.held and time.monotonic() < until:
            time.sleep(0.05)
        assert service.room.held == 0
        found = urllib3.request("GET", f"{url}/much", headers=HEADERS)
        assert len(found.data) == 64 << 20
        first.settimeout(5)
        taken = 0
        while piece := first.recv(1 << 20):
            taken += len(piece)
        assert taken < 64 << 20
    assert not caplog.records
    assert service.open_requests == 0


def test_more_requests_than_are_answered_are_refused(service: Service, root: Path) -> None:
    service.open_requests = LIMITS.requests
    with TestClient(make_app(service), headers=HEADERS) as client:
        found = client.get("/v1/stores")
        assert (found.status_code, found.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").status_code == 200
    service.open_requests = 0


def test_room_is_given_in_turn() -> None:
    async def run() -> list[str]:
        room, order = Room(100, 5.0), list[str]()

        async def take(name: str, size: int) -> None:
            async with room.hold(size):
                order.append(name)
                await asyncio.sleep(0.01)

        await asyncio.gather(take("large", 500), take("a", 60), take("b", 60), take("c", 40))
        assert room.held == 0
        return order

    assert sorted(asyncio.run(run())) == ["a", "b", "c", "large"]


STATUSES = {"full": 507, "io": 503, "conflict": 409, "evicted": 410, "schema": 422, "format": 404}
STATUSES |= {"corrupt": 500, "os": 503, "bug": 500}


@pytest.mark.parametrize(("raises", "status"), STATUSES.items())
def test_errors_have_their_status(
    service: Service, raises: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(make_app(service, OWN), headers=HEADERS) as client:
        found = client.post("/wish", json={"raises": raises})
    assert found.status_code == status
    assert found.json().keys() == {"error", "message"}
    assert "/secret" not in found.text
    assert bool(caplog.records) == (raises in ("os", "bug", "corrupt"))


def test_every_error_of_the_library_has_a_status() -> None:
    from replaystore import errors

    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, errors.ReplayStoreError) and kind not in (errors.ReplayStoreError, RefusedError):
            assert any(issubclass(kind, known) for known, _ in refused.STATUS), name
            assert status_of(kind("message")) >= 400


def test_json_is_what_the_route_takes(service: Service) -> None:
    with TestClient(make_app(service, OWN), headers=HEADERS) as client:
        for body in (b"", b"{", b"[]", b'{"size": "a"}', b'{"none": 1}', b'{"size": NaN}', b"\xff"):
            found = client.post("/wish", content=body)
            assert found.status_code == 422, body
        assert client.post("/wish", json={"size": 5}).json() == {"size": 5}


def test_a_server_that_only_reads_or_ends_changes_nothing(service: Service) -> None:
    with TestClient(make_app(service, OWN), headers=HEADERS) as client:
        assert client.put("/echo", content=b"a").status_code == 200
        service.read_only = True
        assert client.put("/echo", content=b"a").status_code == 403
        assert client.post("/wish", json={}).status_code == 200
        service.read_only = False
        service.ending.set()
        assert client.put("/echo", content=b"a").status_code == 503


def test_no_secret_is_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "replaystore")
    with TestClient(make_app(service, OWN), headers=HEADERS) as client:
        client.get("/v1/stores?after=the-secret", headers={"Authorization": "Bearer the-secret"})
        client.post("/wish", json={"raises": "bug"}, headers={"Cookie": "the-secret"})
        client.get("/v1/stores/a%0Ab.zarr?the-secret", headers={"Authorization": "Basic the-secret"})
    lines = [record.getMessage() for record in caplog.records if record.name == "replaystore.service.access"]
    assert len(lines) == 3
    assert " 401 " in lines[0]
    assert "/v1/stores/a%0Ab.zarr" in lines[2]
    assert "the-secret" not in caplog.text
