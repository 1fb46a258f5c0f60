"""Writers that share a store through a server: everything once, in order, durable when it is acknowledged.

The process is killed at every write, at any time, and its power is cut; the disk is full at every write.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers_story import ENVS, SCHEMA, check, committed, message, run_clients, session, sound

import replaystore as rs
from replaystore.errors import ConflictError, NotFoundError, SchemaError, StorageError
from replaystore.service.sent import Sent
from replaystore.service.sessions import Sessions
from replaystore.service.store_writer import StoreWriter
from replaystore.testing.crashes import forked, tiny
from replaystore.testing.disks import Disk, put
from replaystore.testing.faults import Faults, Operation, RecordingFiles, using

SUFFIXES = [".zarr", ".h5"]


def opening(location: str) -> Callable[[], rs.Buffer]:
    return lambda: rs.open(location, "r+")


@pytest.mark.parametrize("place", ["{}/a.zarr", "{}/a.h5", "memory:sessions"])
def test_clients_that_repeat_hurry_and_lose_answers(place: str, tmp_path: Path) -> None:
    location = place.format(tmp_path)
    rs.create(location, SCHEMA, overwrite=True).close()
    writer = StoreWriter(opening(location))

    assert run_clients(writer, 8, 60) == []

    writer.close()
    with rs.open(location) as buffer:
        assert check(buffer, dict.fromkeys(range(8), 60)) == dict.fromkeys(range(8), 60)
        assert buffer.commit_id < 8 * 60 * 2 / 3, "messages share commits"
    if not place.startswith("memory:"):
        sound(location)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_process_is_killed_at_every_write(suffix: str, tmp_path: Path) -> None:
    location, done = str(tmp_path / f"a{suffix}"), dict.fromkeys(range(3), 0)
    with tiny():
        rs.create(location, SCHEMA).close()
        kills = 0
        for point in range(1, 61):
            faults = Faults(kill_at=2 * (point % 37) + point // 4, kill_phase=(0.0, 0.5, 1.0)[point % 3])
            stop = min(done.values()) + 14

            def serve(
                tell: Callable[[Any], None], faults: Faults = faults, stop: int = stop, seed: int = point
            ) -> None:
                with using(faults.files):
                    wrong = run_clients(StoreWriter(opening(location)), 3, stop, seed=seed, tell=tell)
                assert not wrong, wrong

            status, told = forked(serve)
            assert status in (-9, 0), told[-1]
            kills += status == -9
            for client, number in told:
                done[client] = max(done[client], number)
            with rs.open(location) as buffer:
                done = {**done, **check(buffer, {c: n for c, n in done.items() if n})}
    assert kills > 50
    with rs.open(location, "r+") as buffer:
        check(buffer, done)
    sound(location)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_process_is_killed_at_any_time(suffix: str, tmp_path: Path) -> None:
    location, done = str(tmp_path / f"a{suffix}"), dict.fromkeys(range(4), 0)
    rs.create(location, SCHEMA).close()
    rng, moment = np.random.default_rng(0), 0.05
    for seed in range(20):

        def serve(tell: Callable[[Any], None], seed: int = seed) -> None:
            wrong = run_clients(StoreWriter(opening(location)), 4, 1 << 40, seed=seed, tell=tell)
            assert not wrong, wrong

        status, told = forked(serve, kill_after=float(rng.uniform(0.3, 1.7)) * moment)
        assert status == -9, told[-1]
        moment *= 1 if told else 1.5
        for client, number in told:
            done[client] = max(done[client], number)
        with rs.open(location) as buffer:
            done = {**done, **check(buffer, {c: n for c, n in done.items() if n})}
    assert min(done.values()) > 0
    rs.open(location, "r+").close()
    sound(location)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_at_every_write(suffix: str, tmp_path: Path) -> None:
    location, faults = str(tmp_path / f"a{suffix}"), Faults()
    with tiny(), using(faults.files):
        rs.create(location, SCHEMA).close()
        for point in range(1, 32):
            writer = StoreWriter(opening(location))
            begun = writer.begin(session(0), ENVS).result(20)
            faults.full_at, faults.kill_phase = faults.count + 1 + point % 31, (0.0, 0.5)[point % 2]
            for number in range(begun.next, begun.next + 8):
                _until_taken(writer, number, faults)
            writer.close()
            faults.full_at = None
            done = begun.next + 7
            with rs.open(location) as buffer:
                assert check(buffer, {0: done}) == {0: done}
    sound(location)


def _until_taken(writer: StoreWriter, number: int, faults: Faults) -> None:
    """Send a message until it is taken; there is room again when it was refused twice."""
    for attempt in range(4):
        with contextlib.suppress(StorageError):
            try:
                writer.send(session(0), number, message(0, number)).result(20)
            except NotFoundError:
                writer.begin(session(0), ENVS).result(20)
                writer.send(session(0), number, message(0, number)).result(20)
            return
        if attempt == 1:
            faults.full_at = None
    raise AssertionError(f"{number} is refused although there is room")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_sync_that_fails_acknowledges_nothing(suffix: str, tmp_path: Path) -> None:
    location, faults = str(tmp_path / f"a{suffix}"), Faults(failing=("sync_file",), error=5)
    with using(faults.files):
        rs.create(location, SCHEMA).close()
        writer = StoreWriter(opening(location))
        writer.begin(session(0), ENVS).result(20)
        writer.send(session(0), 1, message(0, 1)).result(20)
        faults.full_at = faults.count
        with pytest.raises(StorageError):
            writer.send(session(0), 2, message(0, 2)).result(20)
        faults.full_at = None
        next_one = writer.begin(session(0), ENVS).result(20).next
        for number in range(next_one, 5):
            writer.send(session(0), number, message(0, number)).result(20)
        writer.close()
    with rs.open(location) as buffer:
        assert check(buffer, {0: 4}) == {0: 4}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_acknowledged_survives_a_power_cut(suffix: str, tmp_path: Path) -> None:
    live, left, name = tmp_path / "live", str(tmp_path / "cut"), f"a{suffix}"
    live.mkdir()
    recording = RecordingFiles(below=str(live))

    def tell(what: tuple[int, int]) -> None:
        recording.operations.append(Operation("acknowledged", "{}:{}".format(*what)))

    with tiny(), using(recording.files):
        rs.create(live / name, SCHEMA).close()
        begin = len(recording.operations)
        writer = StoreWriter(opening(str(live / name)))
        assert run_clients(writer, 3, 25, tell=tell) == []
        writer.close()
    rng, disk, acknowledged, done = np.random.default_rng(1), Disk(), dict[int, int](), 0
    moments = sorted(rng.integers(begin, len(recording.operations) + 1, 40).tolist())
    with tiny():
        for moment in moments:
            for operation in recording.operations[done:moment]:
                if operation.kind == "acknowledged":
                    client, number = map(int, operation.name.split(":"))
                    acknowledged[client] = max(number, acknowledged.get(client, 0))
                else:
                    disk.do(operation)
            done = moment
            put(left, disk.cut(rng))
            with rs.open(os.path.join(left, name)) as buffer:
                there = check(buffer, acknowledged)
            with rs.open(os.path.join(left, name), "r+") as buffer:
                assert check(buffer, acknowledged) == there


# --- sessions


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    rs.create(tmp_path / "a.zarr", SCHEMA).close()
    found = StoreWriter(opening(str(tmp_path / "a.zarr")))
    yield found
    found.close()


def sent(steps: int, ends: list[int] | None = None, **run: Any) -> Sent:
    columns = {
        "observation": np.ones((steps, 4), np.int32),
        "reward": np.ones(steps),
        "terminated": np.zeros(steps, np.bool_),
    }
    return Sent.of(columns, {"runs": [{"steps": steps, "ends": ends, **run}]})


def test_sessions_have_environments_of_their_own(writer: StoreWriter) -> None:
    begun = [writer.begin(session(n), 3).result(20) for n in range(3)]
    assert [(one.first, one.environments, one.next) for one in begun] == [(0, 3, 1), (3, 3, 1), (6, 3, 1)]
    assert writer.begin(session(1), 3).result(20) == begun[1], "it may be begun again"
    writer.end(session(1)).result(20)
    writer.end(session(1)).result(20)
    assert writer.begin(session(7), 2).result(20).first == 3, "its environments are free"
    assert writer.begin(session(8), 4, 100).result(20).first == 100
    for wrong, error, words in (
        ((session(7), 3), ConflictError, "has environments 3 to 4"),
        ((session(9), 1, 101), ConflictError, "those of another session"),
        (("../x", 1), SchemaError, "hexadecimal"),
        ((session(9), 0), SchemaError, "environments"),
        ((session(9), True), SchemaError, "environments"),
        ((session(9), 1, -1), SchemaError, "first"),
    ):
        with pytest.raises(error, match=words):
            writer.begin(*wrong).result(20)
    with pytest.raises(NotFoundError, match="begins one"):
        writer.send(session(1), 1, sent(1)).result(20)


def test_the_next_number_is_known_after_a_restart(writer: StoreWriter, tmp_path: Path) -> None:
    writer.begin(session(1), 1).result(20)
    for number in (1, 2, 3):
        writer.send(session(1), number, sent(2)).result(20)
    writer.close()
    again = StoreWriter(opening(str(tmp_path / "a.zarr")))
    with pytest.raises(ConflictError, match="4 is the next"):
        again.send(session(1), 5, sent(1)).result(20)
    assert again.begin(session(1), 1).result(20).next == 4
    assert again.send(session(1), 2, sent(2)).result(20).number == 3
    again.close()
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert (len(buffer), buffer.num_trajectories) == (6, 1)
    with pytest.raises(ConflictError, match="about to end"):
        writer.begin(session(1), 1)


def test_what_does_not_fit_changes_nothing_and_its_number_is_the_next(writer: StoreWriter) -> None:
    writer.begin(session(1), 2).result(20)
    good = sent(3)
    wrong = [
        Sent({**good.columns, "reward": np.ones(3, np.float32)}, {}, good.runs),
        Sent({**good.columns, "reward": np.ones(2)}, {}, good.runs),
        Sent({**good.columns, "reward": np.float64(2)}, {}, good.runs),
        sent(3, env=2),
        sent(3, ends=[3]),
        sent(3, seed=[1, 2]),
        sent(3, seed=-1),
        Sent.of(good.columns, {"runs": [{"steps": 1, "cut": True}, {"steps": 2, "seed": [4]}]}),
        Sent(good.columns, {"observation": np.ones((2, 4), np.int32)}, good.runs),
    ]
    for one in wrong:
        with pytest.raises(SchemaError):
            writer.send(session(1), 1, one).result(20)
    for said in (
        {"runs": [{"env": 0}]},
        {"runs": [{"steps": -1}]},
        {"other": 1},
        {"name": "12"},
        {"runs": 1},
    ):
        with pytest.raises(SchemaError):
            Sent.of(good.columns, said)
    assert writer.send(session(1), 1, good).result(20).number == 1
    assert writer.do(lambda buffer: (len(buffer), buffer.num_trajectories)).result(20) == (3, 1)


def test_trajectories_begin_go_on_and_are_cut_as_messages_say(writer: StoreWriter, tmp_path: Path) -> None:
    writer.begin(session(1), 2).result(20)
    writer.send(session(1), 1, sent(3, seed=5, split="train")).result(20)
    writer.send(session(1), 2, sent(2, ends=[0], seed=[None])).result(20)
    writer.send(session(1), 3, sent(0, cut=True)).result(20)
    writer.send(session(1), 4, sent(4, env=1)).result(20)
    writer.end(session(1)).result(20)
    writer.begin(session(2), 1, cut=False).result(20)
    writer.send(session(2), 1, sent(1)).result(20)
    writer.end(session(2), cut=False).result(20)
    writer.begin(session(3), 1, cut=False).result(20)
    writer.send(session(3), 1, sent(1)).result(20)
    writer.end(session(3), cut=False).result(20)
    with rs.open(tmp_path / "a.zarr") as buffer:
        table = buffer.trajectories
        assert table["length"].tolist() == [4, 1, 4, 2]
        assert table["open"].tolist() == [False, False, False, True]
        assert (table["seed"][0], table["split"][0]) == (5, "train")
        assert buffer.more == {}
    writer.begin(session(4), 1).result(20)
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert not buffer.trajectories["open"].any(), "what an earlier recording left open is cut off"


def test_commits_get_names_in_the_order_of_messages(writer: StoreWriter, tmp_path: Path) -> None:
    writer.begin(session(1), 1).result(20)
    futures = [writer.send(session(1), 1, sent(2))]
    futures.append(writer.send(session(1), 2, Sent.of({}, {"name": "epoch-1"})))
    futures.append(writer.send(session(1), 3, sent(3)))
    futures.append(writer.send(session(1), 2, Sent.of({}, {"name": "epoch-1"})))
    assert [future.result(20).number >= number for future, number in zip(futures, (1, 2, 3, 2), strict=True)]
    with rs.open(tmp_path / "a.zarr", commit="epoch-1") as buffer:
        assert len(buffer) == 2


def test_other_things_are_done_between_commits(writer: StoreWriter, tmp_path: Path) -> None:
    writer.begin(session(1), 1).result(20)
    writer.send(session(1), 1, sent(2)).result(20)
    first = writer.do(lambda buffer: buffer.commit("first")).result(20)
    writer.send(session(1), 2, sent(2)).result(20)
    writer.do(lambda buffer: buffer.rollback(first)).result(20)
    assert writer.begin(session(1), 1).result(20).next == 3, "what was given up stays given up"
    late = rs.Field("int8", (), "extra")
    before = writer.send(session(1), 3, sent(1))
    writer.do(lambda buffer: buffer.add_field("late", late)).result(20)
    before.result(20)
    with pytest.raises(SchemaError, match="late"):
        writer.send(session(1), 4, sent(1)).result(20)
    with pytest.raises(NotFoundError):
        writer.do(lambda buffer: buffer.rollback("nothing")).result(20)
    more = sent(1)
    writer.send(session(1), 4, Sent({**more.columns, "late": np.ones(1, np.int8)}, {}, more.runs)).result(20)

    def alone() -> int:
        with rs.open(tmp_path / "a.zarr", "r+") as buffer:
            return len(buffer)

    assert writer.apart(alone).result(20) == 4
    with pytest.raises(ZeroDivisionError):
        writer.do(lambda _: 1 / 0).result(20)
    assert writer.begin(session(1), 1).result(20).next == 5


def test_an_idle_writer_lets_others_write(tmp_path: Path) -> None:
    rs.create(tmp_path / "a.zarr", SCHEMA).close()
    writer = StoreWriter(opening(str(tmp_path / "a.zarr")), idle=0.01)
    writer.begin(session(1), 1).result(20)
    writer.send(session(1), 1, sent(2)).result(20)
    for _ in range(1000):
        try:
            with rs.open(tmp_path / "a.zarr", "r+") as buffer:
                assert committed(buffer) == {1: 1}
            break
        except ConflictError:
            continue
    assert writer.send(session(1), 2, sent(1)).result(20).number == 2
    writer.close()


def test_environments_of_no_session_are_found_among_many() -> None:
    sessions = Sessions()
    for number in range(50):
        sessions.begin(f"{number:032x}", 3, first=10 * number)

    envs = range(600)

    assert sessions.nobodys(envs) == [env for env in envs if env >= 500 or env % 10 >= 3]
    assert Sessions().nobodys([4, 5]) == [4, 5]
