"""Commits that have names: opened and gone back to by a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import replaystore as rs
from replaystore.cli import main
from replaystore.errors import ArgumentError, EvictedError, NotFoundError
from replaystore.gymnasium import Record

SUFFIXES = ["zarr", "h5"]
SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (4,), "observation"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
    }
)


def rows(start: int, count: int) -> dict[str, Any]:
    """Steps that tell their number."""
    numbers = np.arange(start, start + count)
    return {
        "observation": np.repeat(numbers[:, None], 4, 1).astype(np.float32),
        "reward": numbers.astype(np.float32),
        "terminated": numbers % 7 == 6,
    }


def add(buffer: rs.Buffer, count: int) -> None:
    start = buffer.rows_recorded
    buffer.append(rows(start, count))


@pytest.fixture(params=SUFFIXES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"a.{request.param}"


def test_a_commit_is_opened_and_gone_back_to_by_its_name(place: Path) -> None:
    with rs.create(place, SCHEMA) as buffer:
        for epoch in range(4):
            add(buffer, 10)
            buffer.commit(f"epoch-{epoch}")
            add(buffer, 5)
            buffer.commit()
        for epoch in range(4):
            with rs.open(place, commit=f"epoch-{epoch}") as old:
                assert len(old) == 15 * epoch + 10
                assert old.describe().name == f"epoch-{epoch}"
        named = [(found.steps, found.name) for found in buffer.commits() if found.name]
        assert named == [(15 * epoch + 10, f"epoch-{epoch}") for epoch in range(4)]
        shown = buffer.commits()[3].commit
        buffer.rollback("epoch-1")
        assert len(buffer) == 25
        assert buffer.shows == shown
        assert [found.name for found in buffer.commits() if found.name] == ["epoch-0", "epoch-1"]
        with pytest.raises(NotFoundError, match=r"epoch-2.*epoch-1"):
            buffer.rollback("epoch-2")
        add(buffer, 1)
        buffer.commit("epoch-2")
    with rs.open(place, commit="epoch-2") as old:
        assert old["reward"][:].tolist() == list(range(26))


def test_a_name_that_is_given_again_moves(place: Path) -> None:
    with rs.create(place, SCHEMA) as buffer:
        add(buffer, 3)
        first = buffer.commit("best")
        assert buffer.commit("best") == first  # it has the name, and nothing is new
        add(buffer, 3)
        second = buffer.commit("best")
        assert second != first
        with rs.open(place, commit="best") as old:
            assert old.commit_id == second
        assert [found.name for found in buffer.commits()] == [None, None, "best"]
        buffer.rollback(first)  # as of which it was the name of that
        with rs.open(place, commit="best") as old:
            assert old.commit_id == first
            assert len(old) == 3


def test_a_name_alone_makes_a_commit_that_shows_the_same(place: Path) -> None:
    with rs.create(place, SCHEMA) as buffer:
        add(buffer, 30)
        number = buffer.commit()
        sampler = buffer.sampler(4, seed=1)
        sampler.sample()
        state = sampler.state_dict()
        expected = sampler.sample()
        assert buffer.commit("a") == number + 1
        assert buffer.shows == number
        assert buffer.commit("b") == number + 2
        assert buffer.shows == number
        add(buffer, 5)
        buffer.commit()
        assert buffer.shows == buffer.commit_id
        for name in ("b", "a"):
            buffer.rollback(name)
            sampler = buffer.sampler(4, seed=1)
            sampler.load_state_dict(state)
            found = sampler.sample()
            assert all(np.array_equal(expected[key], found[key]) for key in expected)
    with rs.open(place) as buffer:
        assert buffer.shows == number


@pytest.mark.parametrize("name", ["", "12", "a/b", "-a", "a b", "ä", "x" * 81, 3, b"a", "a\n"])
def test_what_is_no_name_is_refused_and_nothing_is_committed(place: Path, name: Any) -> None:
    with rs.create(place, SCHEMA) as buffer:
        add(buffer, 3)
        with pytest.raises(ArgumentError, match="epoch-12"):
            buffer.commit(name)
        assert buffer.commit_id == 0


@pytest.mark.parametrize("commit", [True, 1.0, np.float64(1), None, b"a", [1], 1j, -1, 9, "9"])
def test_what_is_no_commit_is_refused_wherever_one_is_named(place: Path, commit: Any) -> None:
    """A flag equals a number; written to the log as what it is, the store was lost."""
    with rs.create(place, SCHEMA) as buffer:
        for name in ("a", "b"):
            add(buffer, 3)
            buffer.commit(name)
        with pytest.raises((ArgumentError, NotFoundError)):
            buffer.rollback(commit)
        if commit is not None:  # the newest
            for asked in (lambda: rs.open(place, commit=commit), lambda: rs.verify(place, commit=commit)):
                with pytest.raises((ArgumentError, NotFoundError)):
                    asked()
        add(buffer, 3)
        buffer.commit()
        buffer.rollback(np.int64(1))
        assert buffer.shows == 1
    with rs.open(place, commit=np.uint8(1)) as old:
        assert len(old) == 3
    assert not rs.verify(place).problems


def test_names_survive_segments_of_the_log_and_reopening(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replaystore.arrays.committing.SEGMENT_BYTES", 3000)
    with rs.create(place, SCHEMA) as buffer:
        for number in range(40):
            add(buffer, 2)
            buffer.commit(f"n{number}" if number % 3 == 0 else None)
    with rs.open(place, "r+") as buffer:
        assert buffer.describe().names == 14
        for number in reversed(range(0, 40, 3)):
            with rs.open(place, commit=f"n{number}") as old:
                assert len(old) == 2 * number + 2
            buffer.rollback(f"n{number}")
            assert len(buffer) == 2 * number + 2


def test_a_commit_costs_the_same_however_many_names_there_are(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment begins by saying them all: not at each commit."""
    monkeypatch.setattr("replaystore.arrays.committing.SEGMENT_BYTES", 3000)
    with rs.create(place, SCHEMA) as buffer:
        for number in range(200):
            add(buffer, 1)
            buffer.commit(f"n{number}")
        bases = set()
        for _ in range(60):
            add(buffer, 1)
            buffer.commit()
            bases.add(buffer._store.state.base)
        assert len(bases) <= 3
    assert not rs.verify(place).problems


def test_info_lists_names(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rs.create(place, SCHEMA) as buffer:
        add(buffer, 3)
        buffer.commit("first")
        add(buffer, 3)
        buffer.commit()
    with pytest.raises(SystemExit):
        main(["info", str(place), "--commits"])
    text = capsys.readouterr().out
    assert "first" in text
    assert "named commits" in text


def test_a_ring_keeps_the_rows_of_its_newest_named_commit(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=20_000) as buffer:
        add(buffer, 30_000)
        buffer.commit("a")
        for _ in range(40):
            add(buffer, 1000)
            buffer.commit()
        ring = buffer.describe().ring
        assert ring is not None
        assert ring["kept_for_names"] == 40_000
        with rs.open(buffer.location, commit="a") as old:
            assert old["reward"][:].tolist() == list(range(10_000, 30_000))
        buffer.rollback("a")
        assert buffer["reward"][:].tolist() == list(range(10_000, 30_000))
        add(buffer, 50_000)
        buffer.commit("b")
        with pytest.raises(EvictedError):
            buffer.rollback("a")
        ring = buffer.describe().ring
        assert ring is not None
        assert ring["kept_for_names"] == 0


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_rings_that_are_checkpointed_together_go_back_to_the_newest_name_of_all(
    tmp_path: Path, first: bool, keep: int
) -> None:
    """Killed between their commits of one name, each time; it takes the two newest names."""
    places = [tmp_path / f"{number}.zarr" for number in range(3)]
    for place in places:
        rs.create(place, SCHEMA, capacity=50, keep_named=keep, durability="none").abandon()
    shown = list[list[Any]]()
    for turn in range(6):
        buffers = [rs.open(place, "r+") for place in places]
        for buffer in buffers:
            add(buffer, 40)
            buffer.commit()
        for buffer in buffers:
            buffer.commit(f"ck-{turn}")
        shown = [buffer["reward"][:].tolist() for buffer in buffers]
        for buffer in buffers:
            add(buffer, 40)
        for buffer in buffers[: 1 if first else 2]:
            buffer.commit(f"ck-{turn + 1}")
        for buffer in buffers:
            buffer.abandon()
        buffers = [rs.open(place, "r+") for place in places]
        common = [name for name in buffers[0].names if all(name in other.names for other in buffers)]
        assert common[-1] == f"ck-{turn}"
        if keep == 1:
            with pytest.raises(EvictedError, match=r"rows of the newest 1 \(keep_named says how many"):
                buffers[0].rollback(common[-1])
            return
        for buffer, rewards in zip(buffers, shown, strict=True):
            buffer.rollback(common[-1])
            assert buffer["reward"][:].tolist() == rewards
            buffer.close()


def test_names_stay_until_they_are_forgotten_and_commits_are_those_that_can_be_opened(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=50, durability="none") as buffer:
        for turn in range(4):
            add(buffer, 80)
            buffer.commit(f"ck-{turn}")
        assert buffer.names == [f"ck-{turn}" for turn in range(4)]
        assert [known.name for known in buffer.commits() if known.name] == ["ck-3"]
        for name in buffer.names[:-1]:
            with pytest.raises(EvictedError, match="left the ring"):
                rs.open(buffer.location, commit=name)
            buffer.forget(name)
        assert buffer.names == ["ck-3"]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", ["ring.zarr", "a.zarr", "a.h5"])
def test_who_goes_back_to_nothing_is_told_how(tmp_path: Path, kind: str, many: bool) -> None:
    """Where there was no name yet: it is nothing, or an error whose advice leads there."""
    options: dict[str, Any] = {"durability": "none", "keep_commits": 20}
    options |= {"capacity": 50} if kind == "ring.zarr" else {}
    place = tmp_path / kind
    buffer = rs.create(place, SCHEMA, **options)
    for _ in range(3000 if many else 12):
        add(buffer, 10)
        buffer.commit()
    if kind != "ring.zarr" and not many:
        buffer.rollback(0)
    else:
        with pytest.raises(
            (EvictedError, NotFoundError), match=r"create another buffer in its place \(overwrite=True\)"
        ):
            buffer.rollback(0)
        buffer.close()
        buffer = rs.create(place, SCHEMA, overwrite=True, **options)
        assert buffer.commit_id == 0
    assert len(buffer) == 0
    add(buffer, 10)
    buffer.commit()
    assert buffer["reward"][:].tolist() == list(range(10))
    buffer.close()


@pytest.mark.parametrize("back", [1, 2, 5, 10])
def test_a_full_ring_goes_back_to_a_named_commit_and_to_those_after_it(tmp_path: Path, back: int) -> None:
    raw = gymnasium.make("CartPole-v1")
    buffer = rs.create(tmp_path / "ring.zarr", raw, capacity=2_000, durability="none")
    env, commits = Record(raw, buffer), list[int]()
    env.reset(seed=0)
    env.action_space.seed(0)
    shown = dict[int, Any]()
    for step in range(6_100):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        if step % 100 == 99:
            commits.append(buffer.commit("ten-ago" if step == 5_099 else None))
            if step >= 5_099:
                shown[commits[-1]] = buffer.read(slice(None))
    buffer.abandon()
    with rs.open(tmp_path / "ring.zarr", "r+") as buffer:
        wanted = "ten-ago" if back == 10 else commits[-1 - back]
        buffer.rollback(wanted)
        found = buffer.read(slice(None))
        for name, values in shown[commits[-1 - back]].items():
            np.testing.assert_array_equal(found[name], values)
        assert len(buffer) == 2_000
        with pytest.raises((EvictedError, NotFoundError)):
            buffer.rollback(commits[20])


def test_commands_take_a_name_or_a_number(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rs.create(place, SCHEMA) as buffer:
        add(buffer, 3)
        number = buffer.commit("first")
        add(buffer, 4)

    def run(*command: str) -> Any:
        with pytest.raises(SystemExit) as ended:
            main([*command, "--json"])
        assert not ended.value.code
        return json.loads(capsys.readouterr().out)

    for commit in ("first", str(number)):
        assert run("info", str(place), "--commit", commit)["steps"] == 3
        assert run("show", str(place), "--commit", commit)["rows"] == 3
        assert run("verify", str(place), "--commit", commit)["commit"] == number
    run("convert", str(place), str(tmp_path / "b.zarr"), "--commit", "first")
    with rs.open(tmp_path / "b.zarr") as converted:
        assert converted["reward"][:].tolist() == [0, 1, 2]
    with pytest.raises(SystemExit) as ended:
        main(["info", str(place), "--commit", "nobody"])
    assert ended.value.code == 1
    assert "no commit has the name 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("newest", [True, False])
def test_a_named_commit_is_read_while_its_ring_goes_on(
    tmp_path: Path, newest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader has read nothing yet when the tables of trajectories go to another segment of the log."""
    monkeypatch.setattr("replaystore.arrays.committing.SEGMENT_BYTES", 8 << 10)

    def answer(count: int = 64) -> None:
        start = buffer.rows_recorded
        buffer.append(
            rows(start, count), ends=range(count), final_observation=np.zeros((count, 4), "float32")
        )

    went = 0
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=256, keep_named=2) as buffer:
        for number in range(25):
            answer()
            buffer.commit(f"round-{number}")
            stop = buffer.rows_recorded
            if not newest:
                answer()
                buffer.commit(f"round-{number}-and-more")
            with rs.open(buffer.location, commit=f"round-{number}") as old:
                base = buffer.store.state.base
                answer()
                buffer.commit("newest") if newest else buffer.commit()
                went += buffer.store.state.base != base
                begin = max(0, stop - 256)
                assert old["reward"][:].tolist() == list(range(begin, stop))
                assert len(old.trajectories) == stop - begin
                assert old.trajectory(0)["reward"].tolist() == [begin]
                batch = old.sampler(64, order="epoch", seed=0).sample()
                np.testing.assert_array_equal(batch["observation"][:, 0], batch["reward"])
    assert went > 10
