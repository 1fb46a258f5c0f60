"""Names that are taken back from commits: what follows for them, for the log and for the rows of a ring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.cli import main
from replaystore.errors import ArgumentError, EvictedError, NotFoundError
from replaystore.testing.far import far_disk
from replaystore.views.describing import bytes_on_disk

SCHEMA = rs.Schema({"reward": rs.Field("float32", (), "reward")})


def add(buffer: rs.Buffer, count: int) -> None:
    start = buffer.rows_recorded
    buffer.append({"reward": np.arange(start, start + count, dtype=np.float32)})


@pytest.fixture(params=["zarr", "h5"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"a.{request.param}"


def three(place: Path, **options: Any) -> rs.Buffer:
    """A buffer of three named commits of ten steps each."""
    buffer = rs.create(place, SCHEMA, **options)
    for name in ("a", "b", "c"):
        add(buffer, 10)
        buffer.commit(name)
    return buffer


def test_a_name_that_was_taken_back_is_that_of_no_commit(place: Path) -> None:
    with three(place) as buffer:
        before = buffer.commit_id
        assert buffer.forget("b") == before + 1 == buffer.commit_id
        assert buffer.names == ["a", "c"]
        assert buffer.shows == before  # nothing else is new
        with pytest.raises(NotFoundError, match="no commit has the name 'b'"):
            buffer.rollback("b")
        with rs.open(place) as reader:
            assert reader.names == ["a", "c"]
        with pytest.raises(NotFoundError, match="no commit has the name 'b'"):
            rs.open(place, commit="b")
        with rs.open(place, commit=2) as old:  # which is one of the newest
            assert old["reward"][:].tolist() == list(range(20))
    with rs.open(place, "r+") as buffer:
        assert buffer.names == ["a", "c"]
        add(buffer, 1)
        buffer.commit("b")
        assert buffer.names == ["a", "c", "b"]
    with rs.open(place, commit="b") as old:
        assert len(old) == 31
    assert rs.verify(place).problems == []


def test_what_was_recorded_is_committed_with_it(place: Path) -> None:
    buffer = three(place)
    add(buffer, 5)
    number = buffer.forget("a")
    buffer.abandon()  # as a kill does
    with rs.open(place) as reader:
        assert (reader.commit_id, len(reader), reader.shows, reader.names) == (number, 35, number, ["b", "c"])


def test_a_name_that_no_commit_has_cannot_be_taken_back(place: Path) -> None:
    with three(place) as buffer:
        add(buffer, 3)
        before = buffer.commit_id
        with pytest.raises(NotFoundError, match=r"no commit has the name 'd'.*is 'c'"):
            buffer.forget("d")
        for wrong in (3, None, "", "a/b", b"a"):
            with pytest.raises(ArgumentError, match="the name of a commit"):
                buffer.forget(wrong)  # type: ignore[arg-type]
        assert buffer.commit_id == before
        assert buffer.names == ["a", "b", "c"]


def test_names_that_were_taken_back_stay_so_whatever_is_gone_back_to(place: Path) -> None:
    with three(place) as buffer:
        buffer.forget("a")
        buffer.rollback("c")  # when it was made there was an "a"
        assert buffer.names == ["b", "c"]
        add(buffer, 1)
        buffer.commit("c")
        buffer.rollback("b")
        assert buffer.names == ["b"]
        buffer.rollback(1)
        assert buffer.names == []
        assert buffer["reward"][:].tolist() == list(range(10))


def test_a_commit_that_lost_its_name_leaves_the_log(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.arrays.committing.SEGMENT_BYTES", 4_000)
    with three(place, keep_commits=3) as buffer:

        def go_on() -> list[int]:
            for _ in range(60):
                add(buffer, 1)
                buffer.commit()
            return [found.commit for found in buffer.commits()]

        assert {1, 2, 3} <= set(go_on())
        buffer.forget("b")
        assert {1, 3} == {1, 2, 3} & set(go_on())
        buffer.forget("a")
        buffer.forget("c")
        assert not {1, 2, 3} & set(go_on())
    assert rs.verify(place).problems == []


def test_a_ring_gives_back_the_rows_of_a_name(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=20_000) as buffer:
        add(buffer, 20_000)
        buffer.commit("a")
        for _ in range(10):
            add(buffer, 50_000)
            buffer.commit()
        ring, (taken, _) = buffer.describe().ring, bytes_on_disk(buffer.location)
        assert ring is not None
        assert ring["kept_for_names"] == 500_000
        buffer.forget("a")
        ring, (left, _) = buffer.describe().ring, bytes_on_disk(buffer.location)
        assert ring is not None
        assert ring["kept_for_names"] == 0
        assert left < taken - 400_000 * 4  # at once, but for the shard that the ring begins in
        with pytest.raises(EvictedError):
            buffer.rollback(1)
        assert buffer["reward"][:].tolist() == list(range(500_000, 520_000))
    assert rs.verify(tmp_path / "a.zarr").problems == []


def test_in_a_ring_the_name_before_is_the_newest_again(tmp_path: Path) -> None:
    """Its rows are there if they have not left meanwhile."""
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=20, keep_named=1) as buffer:
        for name, count in (("a", 25), ("b", 3), ("c", 30)):
            add(buffer, count)
            buffer.commit(name)
        buffer.forget("c")
        with pytest.raises(EvictedError):
            rs.open(tmp_path / "a.zarr", commit="b")
        add(buffer, 1)
        buffer.commit("d")
        buffer.forget("d")
        add(buffer, 5)
        buffer.commit()
        assert buffer.names == ["a", "b"]
    assert rs.verify(tmp_path / "a.zarr").problems == []


def test_readers_learn_of_it(place: Path) -> None:
    with three(place) as buffer, rs.open(place) as near, rs.open(place, commit="a") as old:
        with far_disk():
            far = rs.open(place)
            buffer.forget("a")
            assert near.names == far.names == ["a", "b", "c"]
            for reader in (near, far):
                assert reader.refresh()
                assert reader.names == ["b", "c"]
                assert reader["reward"][:].tolist() == list(range(30))
            with pytest.raises(NotFoundError, match="no commit has the name 'a'"):
                rs.open(place, commit="a")
            far.close()
        assert old["reward"][:].tolist() == list(range(10))


def test_the_command_takes_a_name_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three(place).close()

    def run(*command: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*command])
        return int(ended.value.code or 0), *capsys.readouterr()

    assert run("forget", str(place), "b")[1].endswith("no commit has the name b any more (commit 4)\n")
    told = json.loads(run("forget", str(place), "a", "--json")[1])
    assert told == {"location": str(place), "forgotten": "a", "commit": 5, "names": 1}
    code, _, error = run("forget", str(place), "a")
    assert code == 1
    assert "no commit has the name 'a'" in error
    with rs.open(place) as reader:
        assert reader.names == ["c"]
