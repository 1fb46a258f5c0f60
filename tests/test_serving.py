"""A server that runs: where it may be reached, what it prints and logs, the bounds of its connections, its
end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from live_service import recorded, serving

import replaystore as rs
from replaystore import credentials
from replaystore.errors import ArgumentError, NotFoundError, StorageError
from replaystore.service import bounded
from replaystore.service.metrics import Metrics
from replaystore.service.serving import Running, Settings, serve
from replaystore.service.status import Status
from replaystore.service.tokens import TokenFile

pytest_plugins = ["commands", "live_service"]


@contextmanager
def process(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """`replaystore serve` in a process of its own, and what it prints."""
    command = [sys.executable, "-m", "replaystore.cli", "serve", *map(str, arguments)]
    found = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert found.stdout is not None
    try:
        facts = dict(found.stdout.readline().strip().split(None, 1) for _ in range(3))
        yield found, facts
    finally:
        found.kill()
        found.communicate()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::", ""])
def test_others_are_not_let_in_without_tls(root: Path, user: Path, host: str) -> None:
    with pytest.raises(ArgumentError, match="--tls-cert"):
        serve(Settings(str(root), host=host, port=0))
    Settings(str(root), host=host, behind_proxy=True).check()
    Settings(str(root), host=host, tls=("a", "b")).check()


def test_the_command_prints_what_where_and_not_the_token(root: Path, user: Path) -> None:
    recorded(root / "a.zarr")
    with process(root, "--port", 0) as (server, facts):
        assert list(facts) == ["serving", "address", "token"]
        assert facts["serving"] == str(root)
        file = Path(facts["token"].removeprefix("in "))
        token = file.read_text().strip()
        with rs.open(f"{facts['address']}/a.zarr") as buffer:
            assert len(buffer) == 100
        server.terminate()
        out, err = server.communicate(timeout=30)
        assert server.returncode == 0
        assert (out, err) == ("", "")
        assert token not in facts.values()


def test_it_ends_soon_whoever_waits(root: Path, user: Path) -> None:
    """A client that sends half a request, and one that takes no answer."""
    recorded(root / "a.zarr")
    (root / "large.zarr").mkdir()
    (root / "large.zarr" / "zarr.json").write_bytes(bytes(64 << 20))
    with process(root, "--port", 0) as (server, facts):
        port = int(facts["address"].rpartition(":")[2])
        token = credentials.token_for("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)) as half, socket.socket() as slow:
            half.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(
                f"GET /v1/stores/large.zarr/files/zarr.json HTTP/1.1\r\nHost: a\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            assert slow.recv(100).startswith(b"HTTP/1.1 200")
            begun = time.monotonic()
            server.terminate()
            server.wait(timeout=30)
            assert time.monotonic() - begun < 5
            assert server.returncode == 0


def test_ctrl_c_is_an_interrupt(root: Path, user: Path) -> None:
    with process(root, "--port", 0) as (server, _):
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
        assert server.returncode == 130


def test_a_server_that_is_started_again_has_the_same_token(root: Path, user: Path) -> None:
    recorded(root / "a.zarr")
    with serving(root) as first:
        port, token = first.port, first.token
        buffer = rs.open(f"{first.address}/a.zarr")
    with serving(root, port=port) as again:
        assert again.token == token
        assert buffer["reward"][3] == 3.0
        buffer.close()


def test_the_access_log_has_no_secret(root: Path, user: Path, tmp_path: Path) -> None:
    recorded(root / "a.zarr")
    log = tmp_path / "access.log"
    with serving(root, access_log=str(log)) as running:
        rs.open(f"{running.address}/a.zarr").close()
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            asked = f"GET /healthz?token={running.token} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            client.sendall(asked.encode())
            while client.recv(4096):
                pass
        assert running.token is not None

    text = log.read_text()
    assert re.search(r"127\.0\.0\.1 owner GET /v1/stores/a\.zarr/files/zarr\.json 20[06] \d+ B", text)
    assert "/healthz" in text
    assert running.token not in text
    assert os.stat(log).st_mode & 0o077 == 0


def test_tokens_of_a_file_are_all_that_is_known(root: Path, user: Path, tmp_path: Path) -> None:
    recorded(root / "a.zarr")
    file = TokenFile(tmp_path / "tokens.json")
    token = file.add("reader", ["read"])
    with serving(root, tokens=str(file.path)) as running:
        assert running.token is None
        assert not credentials.file_of(running.port).exists()
        with rs.open(f"{running.address}/a.zarr", token=token) as buffer:
            assert len(buffer) == 100
        file.revoke("reader")
        with pytest.raises(StorageError, match="401"):
            rs.open(f"{running.address}/a.zarr", token=token)


def test_what_cannot_be_served_is_one_line(run: Run, root: Path, user: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments in (
            [root, "--port", port],
            [tmp_path / "none", "--port", 0],
            [root, "--host", "0.0.0.0"],
            [root, "--host", "no.such.host.invalid", "--behind-proxy"],
            [root, "--port", 0, "--tls-cert", tmp_path / "a", "--tls-key", tmp_path / "b"],
            [root, "--port", 0, "--access-log", tmp_path / "none" / "log"],
        ):
            code, out, err = run("serve", *arguments)
            assert (code, out, err.count("\n")) == (1, "", 1), err
    assert run("serve", root, "--tls-cert", "a")[0] == 2


def test_a_file_that_is_no_folder_is_not_served(user: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder"):
        serve(Settings(str(tmp_path / "none"), port=0))


# --- bounds of a connection


def left(client: socket.socket, seconds: float) -> bytes:
    """What comes until the server ends the connection."""
    client.settimeout(seconds)
    found = b""
    while part := client.recv(65536):
        found += part
    return found


def test_a_head_that_never_ends_is_not_kept(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ")
        sent = 0
        with contextlib.suppress(OSError):  # reset, or a broken pipe
            while sent < 1000:
                client.sendall(b"a" * 65536)
                sent += 1
                time.sleep(0.001)
        assert sent < 1000


def test_a_head_that_comes_too_slowly_ends_the_connection(
    root: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "HEAD_SECONDS", 0.3)
    with serving(root) as running:
        for begin in (b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"):
            with socket.create_connection(("127.0.0.1", running.port)) as client:
                client.sendall(begin)
                assert left(client, 10) == b""
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            for _ in range(2):  # the connection goes on, and so does its time
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                client.settimeout(10)
                assert client.recv(65536).startswith(b"HTTP/1.1 200")
                time.sleep(0.4)
            client.sendall(b"GET /healthz")
            assert left(client, 10) == b""


def test_two_requests_in_one_packet_are_both_answered(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        asked = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
        client.sendall(asked + b"\r\n" + asked + b"Connection: close\r\n\r\n")
        assert left(client, 10).count(b"HTTP/1.1 200") == 2


# --- the line in the terminal


def test_the_line_says_what_happened_since_the_last_one() -> None:
    metrics = Metrics()
    status = Status(metrics, lambda: 1)
    metrics.count("replaystore_appended_steps_total", 1000)
    metrics.time("replaystore_commit_seconds", 0.002)
    metrics.time("replaystore_commit_seconds", 0.004)

    line = status.line()

    assert line.startswith("1 client · ")
    assert re.search(r" [1-9][\d,]* steps/s · 0 samples/s · durable after 3\.0 ms$", line)
    assert re.fullmatch(r"1 client · 0 steps/s · 0 samples/s", status.line())


def test_a_column_that_was_sent_brings_its_token(root: Path, user: Path, tmp_path: Path) -> None:
    import pickle

    recorded(root / "a.zarr")
    file = TokenFile(tmp_path / "tokens.json")
    token = file.add("reader", ["read"])
    with serving(root, tokens=str(file.path)) as running:
        with rs.open(f"{running.address}/a.zarr", token=token) as buffer:
            sent = pickle.dumps(buffer["reward"])
            assert token not in f"{buffer!r}{buffer.whereabouts!r}{buffer.whereabouts}{buffer.describe()}"
        np.testing.assert_array_equal(pickle.loads(sent)[5:8], [5.0, 6.0, 7.0])
