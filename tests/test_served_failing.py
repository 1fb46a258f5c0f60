"""Whatever becomes of a server, of an answer or a token: what was written is there once, or it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from live_service import recorded, serving, steps

import replaystore as rs
from replaystore.client import sending
from replaystore.client.server import Server
from replaystore.errors import ConflictError, NotFoundError, StorageError
from replaystore.service.serving import Running
from replaystore.service.tokens import TokenFile
from replaystore.storage.http.asking import Again

pytest_plugins = ["live_service"]


def test_a_token_that_only_reads_does_not_write(root: Path, user: Path, tmp_path: Path) -> None:
    recorded(root / "a.zarr")
    file = TokenFile(tmp_path / "tokens.json")
    token = file.add("reader", ["read"])
    with serving(root, tokens=str(file.path)) as running:
        buffer = rs.open(f"{running.address}/a.zarr", "r+", token=token)
        buffer.append(steps(0, 3))
        with pytest.raises(StorageError, match="403"):
            buffer.commit()
        buffer.abandon()
    assert len(rs.open(root / "a.zarr")) == 100


def test_a_server_that_is_started_anew_has_everything_once(root: Path, user: Path) -> None:
    recorded(root / "a.zarr", 10)
    with serving(root) as running:
        port = running.port
        buffer = rs.open(f"{running.address}/a.zarr", "r+")
        buffer.append(steps(10, 5))
        buffer.commit()
    buffer.append(steps(15, 5))
    with serving(root, port=port):
        buffer.commit()
        assert buffer["reward"][:].tolist() == list(range(20))
    with serving(root, port=port):
        buffer.append(steps(20, 5))
        buffer.close()
    with rs.open(root / "a.zarr") as found:
        assert found["reward"][:].tolist() == list(range(25))
        assert found.num_trajectories == 2


def test_an_answer_that_was_lost_is_asked_for_again(
    running: Running, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(root / "a.zarr", 10)
    real, lost = Server._once, [0]

    def once(self: Server, method: str, *rest: Any) -> Any:
        told = real(self, method, *rest)
        lost[0] += 1
        if lost[0] % 2:
            raise Again("the answer was lost")
        return told

    monkeypatch.setattr(Server, "_once", once)
    with rs.open(f"{running.address}/a.zarr", "r+") as buffer:
        for number in range(10):
            buffer.append(steps(10 + number, 1))
            buffer.commit()
    with rs.open(root / "a.zarr") as found:
        assert found["reward"][:].tolist() == list(range(20))
        assert found.num_trajectories == 2


def test_what_cannot_be_sent_waits_for_the_next_commit(root: Path, user: Path) -> None:
    recorded(root / "a.zarr", 10)
    with serving(root) as running:
        port = running.port
        buffer = rs.open(f"{running.address}/a.zarr", "r+")
        buffer._sending._server._patience = type(buffer._sending._server._patience)(
            tries=2, pause=0.001, longest=0.01, connect=1.0, stall=1.0, whole=0.5
        )
    buffer.append(steps(10, 5))
    for _ in range(2):
        with pytest.raises(StorageError, match="reached"):
            buffer.commit()
    with serving(root, port=port):
        buffer.commit()
        buffer.close()
    with rs.open(root / "a.zarr") as found:
        assert found["reward"][:].tolist() == list(range(15))


def test_a_store_that_went_back_is_told(running: Running, root: Path, user: Path) -> None:
    recorded(root / "a.zarr", 10)
    buffer = rs.open(f"{running.address}/a.zarr", "r+")
    buffer.append(steps(10, 5))
    buffer.commit()
    session = buffer._sending.sessions[0]
    session.number += 3
    buffer.append(steps(15, 5))
    with pytest.raises(ConflictError):
        buffer.commit()
    with pytest.raises(ConflictError):
        buffer.append(steps(20, 5))
    buffer.abandon()


def test_nothing_more_waits_than_there_is_room_for(
    root: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MOST_WAITING", 2000)
    recorded(root / "a.zarr", 10)
    with serving(root) as running, rs.open(f"{running.address}/a.zarr", "r+") as buffer:
        for number in range(100):
            buffer.append(steps(10 + number, 1))
            assert buffer._sending._bytes <= 2000
    with rs.open(root / "a.zarr") as found:
        assert found["reward"][:].tolist() == list(range(110))


def test_what_is_not_there_is_told(running: Running) -> None:
    with pytest.raises(NotFoundError):
        rs.open(f"{running.address}/none.zarr", "r+")


def test_an_end_of_which_no_answer_came_is_asked_for_again(
    root: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session has ended, and the server that is started anew knows nothing of it."""
    recorded(root / "a.zarr", 10)
    with serving(root) as running:
        port = running.port
        buffer = rs.open(f"{running.address}/a.zarr", "r+")
        buffer.append(steps(10, 5))
        buffer.commit()
        real = Server._once

        def lost(self: Server, method: str, *rest: Any) -> Any:
            real(self, method, *rest)
            raise StorageError("the answer was lost")

        monkeypatch.setattr(Server, "_once", lost)
        with pytest.raises(StorageError, match="lost"):
            buffer._sending.end()
        monkeypatch.undo()
    with serving(root, port=port):
        buffer.close()
    with rs.open(root / "a.zarr") as found:
        assert found["reward"][:].tolist() == list(range(15))


def test_a_token_that_was_given_is_in_no_message(running: Running, root: Path) -> None:
    recorded(root / "a.zarr")
    assert running.token is not None
    with rs.open(f"{running.address}/a.zarr", "r+", token=running.token) as buffer:
        buffer.append(steps(10, 5))
        buffer.commit()
        assert f"{buffer!r}".startswith(f"<ServedBuffer '{running.address}/a.zarr': 105 steps, ")
    with pytest.raises(NotFoundError) as told:
        rs.open(f"{running.address}/none.zarr", token=running.token)
    assert running.token not in str(told.value)
