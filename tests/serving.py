"""A service for tests: an application over a folder, asked without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.testclient import TestClient

from replaystore.service.app import make_app
from replaystore.service.service import Service
from replaystore.service.tokens import SCOPES, Grant, Scope

__all__ = ["KnownTokens", "asking", "bearer"]


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
