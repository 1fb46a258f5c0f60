"""Files on a server, read by ranges: what is asked for, what is believed, and what is an error."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from served import HASTY, LARGE, SMALL

import replaystore as rs
from replaystore import errors, registry
from replaystore.storage.alone import alone, is_alone
from replaystore.storage.http.files import HttpFiles
from replaystore.storage.http.joining import GAP, MANY, PART, WASTED, plan
from replaystore.storage.local import Files
from replaystore.storage.places import LocalPlaces
from replaystore.storage.protocol import Maps, Writes
from replaystore.testing import samples
from replaystore.testing.servers import Asked, Server, serving

pytest_plugins = ["served"]


# --- reading


def test_it_is_far_and_neither_lists_nor_maps_nor_writes(files: HttpFiles) -> None:
    assert files.far
    assert not files.lists
    assert not isinstance(files, Maps | Writes)
    for call in (files.list, files.walk):
        with pytest.raises(errors.UnsupportedError, match="cannot be listed: copy"):
            call()


def test_ranges_are_those_of_the_file(files: HttpFiles, server: Server) -> None:
    assert files.read("small") == SMALL
    assert files.read("small", 10, 20) == SMALL[10:30]
    assert files.read("small", 1000, 500) == SMALL[1000:]
    assert files.read("small", 1020) == SMALL[1020:]
    assert files.read("small", 2000) == files.read("small", 1024) == files.read("small", 5000, 7) == b""
    assert files.read("empty") == files.read("empty", 0, 5) == b""
    assert len(server.log) == 9
    assert files.read("small", 3, 0) == b""
    assert files.read_whole("small", 1024) == SMALL
    with pytest.raises(errors.CorruptError, match="has 1024 bytes, and at most 1000"):
        files.read_whole("small", 1000)
    target = bytearray(8)
    assert files.read_into("small", 1020, memoryview(target)) == 4
    assert target == SMALL[1020:] + bytes(4)


def test_size_existence_and_identity_are_one_request_each(files: HttpFiles, server: Server) -> None:
    assert files.size("small") == 1024
    assert files.size("empty") == 0
    assert files.size("large") == len(LARGE)
    assert files.exists("small")
    assert not files.exists("none")
    assert files.status("small") == (1024, files.status("small")[1])
    assert files.status("small") != files.status("large")
    assert len(server.log) == 9
    assert sum(one.bytes for one in server.log) < 100
    for call in (files.read, files.size, files.status):
        with pytest.raises(FileNotFoundError):
            call("none")


def test_the_end_of_a_file_comes_with_its_size_in_one_request(files: HttpFiles, server: Server) -> None:
    assert files.read_end("large", 1000) == (LARGE[-1000:], len(LARGE))
    assert files.read_end("small", 5000) == (SMALL, 1024)
    assert files.read_end("empty", 10) == (b"", 0)
    assert len(server.log) == 3


def test_what_is_large_comes_in_parts_side_by_side(files: HttpFiles, server: Server) -> None:
    server.latency = 0.25
    assert files.read("large") == LARGE
    assert server.rounds() == 2  # the first part says how large it is
    server.log.clear()
    assert files.read("large", 5, len(LARGE)) == LARGE[5:]
    assert files.read("large", 5, 2 * PART) == LARGE[5 : 5 + 2 * PART]
    assert server.rounds() == 2
    assert max(one.bytes for one in server.log) <= PART * 3 // 2


def test_several_ranges_come_side_by_side_and_neighbours_together(files: HttpFiles, server: Server) -> None:
    server.latency = 0.25
    wanted = [(0, 10), (20, 10), (15, 10), (PART, 100), (len(LARGE) - 10, 50), (7, 0), (2 * PART, 5)]

    found = files.read_ranges("large", wanted)

    assert found == [LARGE[offset : offset + length] for offset, length in wanted]
    assert len(server.log) == 4
    assert server.rounds() == 1


def test_what_is_announced_comes_in_one_round_and_is_kept_until_it_is_read(
    files: HttpFiles, server: Server
) -> None:
    server.latency = 0.25
    places = [("small", 0, 10), ("a/b", 0, None), ("none", 0, 5), ("large", 7, 9), ("large", PART, 9)]
    files.fetch_ahead(places)
    files.fetch_ahead(places)
    assert files.read("small", 0, 10) == SMALL[:10]
    assert files.read("a/b") == b"below"
    assert files.read_ranges("large", [(7, 9), (PART, 9)]) == [LARGE[7:16], LARGE[PART : PART + 9]]
    with pytest.raises(FileNotFoundError):
        files.read("none", 0, 5)
    assert server.rounds() == 1
    assert len(server.log) == 5

    assert files.read("small", 0, 10) == SMALL[:10]  # once only
    assert len(server.log) == 6


def test_what_is_announced_is_bounded(
    files: HttpFiles, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replaystore.storage.http.files.MOST_AHEAD", 1000)
    files.fetch_ahead([("large", 0, 900), ("large", PART, 900)])
    assert files.read("large", PART, 900) == LARGE[PART : PART + 900]
    assert files.read("large", 0, 900) == LARGE[:900]
    files.fetch_ahead([("large", 0, 900)])  # there is room again
    files.forget("large")
    files.fetch_ahead([("large", 0, 900)])
    files.close()
    assert len(server.log) <= 4
    assert files.read("large", 0, 900) == LARGE[:900]


def test_a_file_that_grows_is_seen_to_grow(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one")
    with serving(tmp_path) as server:
        files = HttpFiles(server.url, patience=HASTY)
        assert files.read("log") == b"one"
        (tmp_path / "log").write_bytes(b"one two")
        assert files.read("log") == b"one two"
        assert files.size("log") == 7


def test_a_pinned_file_that_another_replaces_is_a_conflict(tmp_path: Path) -> None:
    (tmp_path / "zip").write_bytes(b"one")
    with serving(tmp_path) as server:
        files = HttpFiles(server.url, patience=HASTY)
        files.pin("zip")
        assert files.read("zip") == b"one"
        (tmp_path / "new").write_bytes(b"two")
        os.replace(tmp_path / "new", tmp_path / "zip")
        with pytest.raises(errors.ConflictError, match=r"/zip is another file than before; open it again"):
            files.read("zip")
        files.fetch_ahead([("zip", 0, 3)])
        with pytest.raises(errors.ConflictError):
            files.read("zip", 0, 3)
        files.forget("zip")
        assert files.read("zip") == b"two"


def test_a_forked_child_reads_on_connections_of_its_own(files: HttpFiles) -> None:
    files.fetch_ahead([("small", 0, 10)])
    assert files.read("small", 10, 10) == SMALL[10:20]
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        right = (
            files.read("small", 0, 10) == SMALL[:10] and files.read("large", 3, 2 * PART)[:1] == LARGE[3:4]
        )
        os.write(writer, b"right" if right else b"wrong")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert answer.read() == b"right"
    os.waitpid(child, 0)
    assert files.read("small", 0, 10) == SMALL[:10]


def test_a_thread_that_must_not_wait_for_others_makes_its_requests_itself(
    files: HttpFiles, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 asks for bytes while it holds its lock, which a thread that collects garbage may need."""
    answered = threading.Event()

    def wait(asked: Asked) -> None:
        if asked.number < 2:
            answered.wait(HASTY.stall / 2)

    server.faults = wait  # type: ignore[assignment]
    files.fetch_ahead([("small", 0, 10), ("large", 0, 10)])
    while len(server.log) < 2:
        time.sleep(0.001)
    monkeypatch.setattr(
        "replaystore.storage.http.files.in_background", lambda *_: pytest.fail("another thread was asked")
    )
    with alone():
        assert files.read("small", 0, 10) == SMALL[:10]
        assert files.read_ranges("large", [(5, 5), (PART, 5)]) == [LARGE[5:10], LARGE[PART : PART + 5]]
        assert files.read("large", 1, 2 * PART) == LARGE[1 : 2 * PART + 1]
    answered.set()
    assert files.read("large", 0, 10) == LARGE[:10]  # was on its way


def test_hdf5_asks_for_bytes_alone(tmp_path: Path) -> None:
    seen = []

    class Watched(Files):
        def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
            seen.append(is_alone())
            return super().read_ranges(name, ranges)

    with rs.create(tmp_path / "a.h5", samples.small()) as buffer:
        buffer.append(samples.columns(buffer.schema, 300, seed=1))
    with registry.using("storage", "local", LocalPlaces(Watched)), rs.open(tmp_path / "a.h5") as buffer:
        buffer.read(slice(None))
    assert True in seen
    assert not is_alone()


def test_threads_share_one_object(files: HttpFiles) -> None:
    wrong = list[int]()

    def read(number: int) -> None:
        for step in range(20):
            begin = (number * 7919 + step * 104729) % (len(LARGE) - 100)
            if files.read_ranges("large", [(begin, 50), (begin + 50, 50)]) != [
                LARGE[begin : begin + 50],
                LARGE[begin + 50 : begin + 100],
            ]:
                wrong.append(begin)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- which requests are made


def test_the_smallest_gaps_are_joined_until_there_are_few_requests() -> None:
    places = [("a", number * (GAP + 200 + number), 100) for number in range(100)]

    requests, brought = plan(places)

    assert len(requests) == MANY
    assert all(len(numbers) == 1 for numbers in brought)
    assert requests[0].stop > places[30][1]  # the first gaps are the smallest
    assert requests[-1].stop - requests[-1].begin == 100


def test_no_more_is_wasted_than_that_is_worth() -> None:
    far = [("a", number * WASTED, 100) for number in range(100)]
    assert len(plan(far)[0]) >= 99

    requests, _ = plan([(f"file{number}", 0, 10) for number in range(200)])
    assert len(requests) == 200


def test_every_byte_that_is_wanted_is_asked_for_once() -> None:
    places = [("a", 0, 3 * PART), ("a", PART, 10), ("b", 5, 0), ("a", 3 * PART + GAP, 10), ("b", 0, None)]

    requests, brought = plan(places)

    spans = [(span.name, span.begin, span.stop) for span in requests]
    assert len(set(spans)) == len(spans) == 5
    assert [len(numbers) for numbers in brought] == [3, 1, 0, 1, 1]
    assert sum(stop - begin for name, begin, stop in spans if name == "a") == 3 * PART + GAP + 10


def test_what_failed_ahead_is_asked_for_again_when_it_is_announced_again(tmp_path: Path) -> None:
    places = [("x", 0, 4), ("x", 1000, 4)]
    with serving(tmp_path) as server:
        files = HttpFiles(server.url, patience=HASTY)
        files.fetch_ahead(places)
        with pytest.raises(FileNotFoundError):
            files.read(*places[0])
        assert len(server.log) == 1, "of both"
        (tmp_path / "x").write_bytes(bytes(2000))
        files.fetch_ahead(places)
        assert [files.read(*place) for place in places] == [bytes(4)] * 2
        files.close()
