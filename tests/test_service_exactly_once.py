"""Eight clients append through a network that delays, cuts and drops, to a server that is killed again and
again: everything that was acknowledged is there, once, and in order."""

from __future__ import annotations

import random
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from killed_service import Network, killable, send_all, wait_for
from writers_story import SCHEMA, check, sound

import replaystore as rs
from replaystore import credentials
from replaystore.service.serving import Settings, serve

pytest_plugins = ["live_service"]
CLIENTS, MESSAGES, KILLS = 8, 150, 8


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_nothing_is_lost_or_doubled(name: str, root: Path, user: Path) -> None:
    rs.create(root / name, SCHEMA).close()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with killable(lambda: serve(Settings(str(root), port=port))) as restart:
        network, wrong, kills, moments = Network(port, seed=1), list[str](), 0, random.Random(2)
        wait_for(port)
        token = credentials.token_for("127.0.0.1", port)

        def one(client: int) -> None:
            try:
                send_all(network.port, token, name, client, MESSAGES)
            except BaseException as error:  # noqa: BLE001  # the test's own thread says so
                wrong.append(f"client {client}: {type(error).__name__}: {error}")

        threads = [threading.Thread(target=one, args=(client,)) for client in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for kills in range(1, KILLS + 1):  # noqa: B007  # it is looked at afterwards
            wait_for(port)
            time.sleep(moments.uniform(0, 0.4))  # while it opens the store, or takes steps
            if not any(thread.is_alive() for thread in threads):
                break
            restart()
        for thread in threads:
            thread.join()
        network.close()
    assert (wrong, kills) == ([], KILLS)
    rs.open(root / name, "r+").close()
    with rs.open(root / name) as buffer:
        found = check(buffer, dict.fromkeys(range(CLIENTS), MESSAGES))
    assert found == dict.fromkeys(range(CLIENTS), MESSAGES)
    sound(str(root / name))
