"""A server that runs, in a thread of this process, over a folder that tests fill."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import replaystore as rs
from replaystore import credentials
from replaystore.service.serving import Running, Settings, serve

SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (4,), "observation"),
        "action": rs.Field("float32", (2,), "action"),
        "reward": rs.Field("float64", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)


def steps(first: int, count: int, *, ends: tuple[int, ...] = ()) -> dict[str, Any]:
    """Steps that have their numbers in them."""
    numbers = np.arange(first, first + count)
    terminated = np.zeros(count, np.bool_)
    terminated[list(ends)] = True
    return {
        "observation": np.repeat(numbers[:, None], 4, axis=1).astype(np.float32),
        "action": np.repeat(numbers[:, None], 2, axis=1).astype(np.float32),
        "reward": numbers.astype(np.float64),
        "terminated": terminated,
        "truncated": np.zeros(count, np.bool_),
    }


def recorded(path: Path, count: int = 100, **options: Any) -> Path:
    """A store of so many steps, in trajectories of 10."""
    with rs.create(path, SCHEMA, **options) as buffer:
        buffer.append(steps(0, count, ends=tuple(range(9, count, 10))))
    return path


@contextmanager
def serving(root: Path, **settings: Any) -> Iterator[Running]:
    """A server of this folder, which has ended afterwards."""
    found: list[Running] = []
    there = threading.Event()

    def started(running: Running) -> None:
        found.append(running)
        there.set()

    failed: list[BaseException] = []

    def run() -> None:
        try:
            serve(Settings(str(root), port=settings.pop("port", 0), **settings), started=started)
        except BaseException as error:  # noqa: BLE001  # raised where the server is used
            failed.append(error)
        finally:
            there.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        there.wait()
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        if found:
            found[0].stop()
        thread.join()
    if failed:
        raise failed[0]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's tokens are."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(credentials.VARIABLE, raising=False)
    return tmp_path / "config"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that is served."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def running(root: Path, user: Path) -> Iterator[Running]:
    """A server of it."""
    with serving(root) as found:
        yield found
