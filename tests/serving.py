"""A service for tests: an application over a folder, asked without a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")

from starlette.testclient import TestClient

from replaystore.service.app import ROUTES, make_app
from replaystore.service.bounded import bounded
from replaystore.service.routes import Route
from replaystore.service.service import Service
from replaystore.service.tokens import SCOPES, Grant, Scope

__all__ = ["KnownTokens", "asking", "bearer", "serving"]


class KnownTokens:
    """Tokens whose words say what they give: `read+append`, and for some stores alone `read:runs/*`."""

    def find(self, token: str) -> Grant | None:
        words, _, path = token.partition(":")
        given = set(words.split("+"))
        scopes: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope in given)
        return Grant(words, scopes, path or "**") if given <= set(SCOPES) else None


def bearer(token: str = "+".join(SCOPES)) -> dict[str, str]:
    """The header that sends a token."""
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that is served."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def service(root: Path) -> Service:
    """What serves it; it ends with `asking`."""
    return Service(root, KnownTokens())


@pytest.fixture
def asking(service: Service) -> Iterator[TestClient]:
    """A client that may do everything."""
    app = make_app(service)
    with TestClient(app, base_url="http://127.0.0.1", headers=bearer(), follow_redirects=False) as client:
        yield client


@contextmanager
def serving(service: Service, routes: Sequence[Route] = ROUTES) -> Iterator[str]:
    """A server of this process, for software that needs one: its address. Any client may do everything that
    its token says (`bearer`)."""
    uvicorn = pytest.importorskip("uvicorn")
    app = make_app(service, routes)
    settings = uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none", http=bounded())
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server has not started"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        service.ending.set()
        server.should_exit = True
        thread.join()
