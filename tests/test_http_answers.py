"""What a server answers, and what is believed of it; addresses, and who is let in."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from served import HASTY, LARGE, SMALL

import replaystore
from replaystore import errors
from replaystore.storage.http import asking
from replaystore.storage.http.asking import Patience
from replaystore.storage.http.connections import CONNECTIONS
from replaystore.storage.http.files import HttpFiles
from replaystore.testing.servers import FAULTS, Asked, Server, serving

pytest_plugins = ["served"]

REFUSED = {"403", "gzip", "page"}
"""What is not tried again."""


def first(*faults: str | None) -> Any:
    """The first answers have these faults."""
    return lambda asked: faults[asked.number] if asked.number < len(faults) else None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_server_is_tried_again_or_is_one_error(server: Server, fault: str) -> None:
    files = HttpFiles(server.url, patience=HASTY)
    server.faults = first(fault)
    if fault in REFUSED:
        with pytest.raises(errors.StorageError, match=r"http://127.*/large cannot be read: ") as caught:
            files.read("large", 1000, 5000)
        assert "\n" not in str(caught.value)
    elif fault == "404":
        with pytest.raises(FileNotFoundError):
            files.read("large", 1000, 5000)
    else:
        assert files.read("large", 1000, 5000) == LARGE[1000:6000]
        assert len(server.log) == 2
    assert files.read("large", 1000, 5000) == LARGE[1000:6000]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "404"])
def test_a_server_that_always_fails_is_one_error(server: Server, fault: str) -> None:
    files = HttpFiles(server.url, patience=HASTY)
    server.faults = lambda _: fault

    with pytest.raises(errors.StorageError, match=r"http://127.*/large cannot be read: .*: .") as caught:
        files.read("large", 1000, 5000)

    assert "\n" not in str(caught.value)
    tries = {"moved": 6, "403": 1, "gzip": 1, "page": 1}.get(fault, HASTY.tries)
    assert len(server.log) == tries


def test_a_connection_that_is_given_up_makes_room_for_another(server: Server) -> None:
    files = HttpFiles(server.url, patience=HASTY)
    server.faults = lambda asked: None if asked.number % 2 else "other-range"
    for number in range(2 * CONNECTIONS):
        assert files.read("large", number, 10) == LARGE[number : number + 10]


def test_a_server_that_does_not_know_ranges_is_told_what_to_do(server: Server) -> None:
    files = HttpFiles(server.url, patience=HASTY)
    server.faults = lambda _: "ignored"

    assert files.read("small") == SMALL  # a file that was wanted whole
    assert files.read("small", 0, 5000) == SMALL
    assert files.read_end("small", 5000) == (SMALL, 1024)
    assert files.size("large") == len(LARGE)
    assert files.read("empty") == b""
    for read in (lambda: files.read("small", 1, 10), lambda: files.read("large")):
        with pytest.raises(errors.StorageError, match=r"sends whole files .*nginx.*, or copy it to a local"):
            read()


def test_a_server_that_is_not_there_is_one_error(folder: Path) -> None:
    with serving(folder) as server:
        url = server.url
    with pytest.raises(errors.StorageError, match=r"127\.0\.0\.1 cannot be reached \(Connection refused\)"):
        HttpFiles(url, patience=HASTY).read("small")
    with pytest.raises(errors.StorageError, match=r"there is no server nowhere\.invalid"):
        HttpFiles("http://nowhere.invalid", patience=HASTY).read("small")


@pytest.mark.timeout(30)
def test_a_server_that_sends_a_byte_now_and_then_is_left() -> None:
    """Each byte comes in time, and the whole does not."""
    import socket
    import time

    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                try:
                    while True:
                        connection.sendall(b"H")
                        time.sleep(0.05)
                except OSError:
                    continue

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    patience = Patience(tries=1, stall=0.5, whole=0.3)
    with pytest.raises(errors.StorageError, match="does not answer in time"):
        HttpFiles(f"http://127.0.0.1:{listening.getsockname()[1]}", patience=patience).read("a")
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5)


def test_the_pause_that_a_server_asks_for_is_made_within_a_bound() -> None:
    patience = Patience(pause=1.0, longest=4.0)

    assert patience.pause_before(0, 0.0) == patience.pause_before(1, 0.0) == 0.0
    assert patience.pause_before(1, 3.0) == 3.0
    assert 0.5 < patience.pause_before(2, 0.0) < 2 < patience.pause_before(5, 0.0)
    assert patience.pause_before(1, 1e9) == patience.pause_before(30, 0.0) == 4.0


def test_a_page_where_a_file_should_be_is_no_file(server: Server, folder: Path) -> None:
    server.faults = lambda _: "page"
    for name in ("nothing.zarr", "nothing.h5", "nothing.zip", "nothing"):
        with pytest.raises(
            errors.StorageError, match=r"a web page \(text/html\) and no file: check the address"
        ):
            replaystore.open(f"{server.url}/{name}")
    with pytest.raises(errors.StorageError, match="a web page"):
        HttpFiles(server.url, patience=HASTY).size("large")


def test_a_server_that_does_not_say_where_the_end_is_is_asked_for_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_BEYOND", re.compile("nothing is understood"))
    files = HttpFiles(server.url, patience=HASTY)
    assert files.read("small", len(SMALL), 10) == files.read("small", 5000, 10) == b""
    assert len(server.log) == 4
    server.faults = lambda asked: "416" if asked.range != "bytes=0-0" else None
    with pytest.raises(errors.StorageError, match="beyond its end, and not where"):
        files.read("small", 10, 10)


def test_https_where_none_is_spoken_is_told_at_once(server: Server) -> None:
    files = HttpFiles(f"https{server.url.removeprefix('http')}", patience=HASTY)
    with pytest.raises(errors.StorageError, match=r"does not speak https there .*begin with http://"):
        files.read("small")


# --- addresses


def test_names_are_escaped_and_what_was_given_is_kept(folder: Path, server: Server) -> None:
    files = HttpFiles(f"{server.url}/a%20b?key=a%2Fb&x", patience=HASTY)
    assert files.read("%41+é#?.zarr") == b"odd"
    assert server.log[-1].path == "/a%20b/%2541%2B%C3%A9%23%3F.zarr?key=a%2Fb&x"
    assert "key" not in files.path("x")

    url = f"{server.url}/a%20b/%2541+%C3%A9%23%3F.zarr?key=a%2Fb"
    one = HttpFiles(url, entrance="%41+é#?.zarr", patience=HASTY)
    assert one.read("%41+é#?.zarr") == b"odd"
    assert server.log[-1].path == url.removeprefix(server.url)


@pytest.mark.parametrize("name", ["../a", "a/../b", "/a", "a//b", "a/", "."])
def test_names_stay_below_the_address(files: HttpFiles, server: Server, name: str) -> None:
    with pytest.raises(errors.CorruptError, match="leads out of the store"):
        files.read(name)
    assert not server.log


def test_a_user_name_and_a_password_come_from_netrc(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replaystore.storage.http import asking

    seen = list[str]()
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    asking.login_of.cache_clear()
    server.faults = lambda asked: seen.append(asked.login)  # type: ignore[func-returns-value]
    HttpFiles(server.url, patience=HASTY).read("small")
    asking.login_of.cache_clear()
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 nonsense\n")
    with pytest.raises(errors.StorageError, match=r"netrc cannot be read \("):
        HttpFiles(server.url, patience=HASTY).read("small")
    asking.login_of.cache_clear()
    assert seen == ["Basic bWU6c2VjcmV0"]


def test_who_is_not_let_in_is_told_so(server: Server) -> None:
    server.faults = lambda _: "403"
    with pytest.raises(errors.StorageError, match=r"refuses it \(403\): check the address, .*netrc"):
        HttpFiles(server.url, patience=HASTY).exists("small")


def test_what_a_server_was_asked_is_written_down(server: Server, files: HttpFiles) -> None:
    files.read("small", 0, 5)
    assert [(one.path, one.range, one.status, one.bytes) for one in server.log] == [
        ("/small", "bytes=0-4", 206, 5)
    ]
    chain = [Asked(0, "", "", 0.0, 1.0), Asked(1, "", "", 0.5, 1.5), Asked(2, "", "", 1.2, 2.0)]
    assert server.rounds(chain) == 2
    assert server.rounds([]) == 0
