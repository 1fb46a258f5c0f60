"""How much of its past a store keeps: the newest commits, and those that have names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.checking.verify import verify
from replaystore.errors import ArgumentError, NotFoundError

SUFFIXES = ["zarr", "h5"]
SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (4,), "observation"),
        "info/frame": rs.Field("uint8", (16, 16, 3), "info"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
    }
)
STORAGE = {"info/frame": {"codec": "gzip:1", "chunk_rows": 16}}


def rows(start: int, count: int) -> dict[str, Any]:
    """Steps that tell their number."""
    numbers = np.arange(start, start + count)
    return {
        "observation": np.repeat(numbers[:, None], 4, 1).astype(np.float32),
        "info/frame": np.tile(numbers.astype("<i8").view(np.uint8), 96)
        .reshape(96, count, 8)
        .transpose(1, 0, 2)
        .reshape(count, 16, 16, 3),
        "reward": numbers.astype(np.float32),
        "terminated": numbers % 7 == 6,
    }


def add(buffer: rs.Buffer, count: int) -> None:
    buffer.append(rows(buffer.rows_recorded, count), final_observation=None)


def check_shows(buffer: rs.Buffer, count: int, first: int = 0) -> None:
    """All that a commit of so many rows shows is as it was."""
    expected = rows(first, count - first)
    for name, values in buffer.read(slice(None)).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    table, numbers = buffer.trajectories, np.arange(first, count)
    assert table["terminated"].sum() == (numbers % 7 == 6).sum()
    assert sum(len(buffer.trajectory(i)["reward"]) for i in range(len(table))) == count - first


@pytest.fixture(params=SUFFIXES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"a.{request.param}"


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.arrays.committing.SEGMENT_BYTES", 12_000)


def test_old_commits_go_and_named_ones_stay(place: Path) -> None:
    with rs.create(place, SCHEMA, storage=STORAGE, keep_commits=20) as buffer:
        for number in range(200):
            add(buffer, 3)
            buffer.commit(f"n{number}" if number % 30 == 7 else None)
        known = buffer.commits()
        numbers = [found.commit for found in known]
        assert set(range(181, 201)) <= set(numbers)
        assert len(numbers) < 80
        assert [found.name for found in known if found.name] == [f"n{n}" for n in range(7, 200, 30)]
        with pytest.raises(
            NotFoundError, match=r"older than the history that is kept, which are the commits from [0-9]+ on"
        ):
            rs.open(place, commit=3)
    assert verify(place).problems == []
    with rs.open(place) as buffer:  # closing it has ended a segment
        known = buffer.commits()
    assert {*range(181, 201)} <= {found.commit for found in known}
    for found in known:
        with rs.open(place, commit=found.commit) as old:
            check_shows(old, found.steps)
    with rs.open(place, "r+") as buffer:
        for number in reversed(range(7, 200, 30)):
            buffer.rollback(f"n{number}")
            check_shows(buffer, 3 * number + 3)
            add(buffer, 2)
            buffer.commit()
            check_shows(buffer, 3 * number + 5)
    assert verify(place).problems == []


def test_the_log_is_bounded_whatever_was_committed(place: Path) -> None:
    sizes = list[int]()
    with rs.create(place, SCHEMA, keep_commits=10, durability="none") as buffer:
        add(buffer, 1)
        for number in range(600):
            buffer.set_trajectory_column("note", np.zeros(int((~buffer.trajectories.open).sum()), np.int32))
            buffer.commit("latest" if number % 50 == 0 else None)
            if number in (200, 599):
                sizes.append(
                    sum(f.stat().st_size for f in place.rglob("*"))
                    if place.is_dir()
                    else place.stat().st_size
                )
        assert len(buffer.commits()) < 250
    assert sizes[1] <= sizes[0] + 200_000  # of a million; HDF5's directory is written anew now and then


def test_a_name_that_moves_leaves_nothing_behind(place: Path) -> None:
    with rs.create(place, SCHEMA, keep_commits=5) as buffer:
        for number in range(150):
            add(buffer, 1)
            buffer.commit("latest" if number % 10 == 0 else None)
        first, *others = [found.commit for found in buffer.commits()]
        assert [found.steps for found in buffer.commits() if found.name == "latest"] == [141]
        assert first == 141 or others[0] == first + 1
        assert len(buffer.store.container.segments()) < 8


def test_what_is_kept_is_remembered_and_can_be_changed(place: Path) -> None:
    with rs.create(place, SCHEMA, keep_commits=5, keep_named=3) as buffer:
        assert (buffer.store.state.keep_commits, buffer.store.state.keep_named) == (5, 3)
    with rs.open(place, "r+", keep_commits=7) as buffer:
        add(buffer, 1)
        buffer.commit()
    with rs.open(place) as buffer:
        assert (buffer.store.state.keep_commits, buffer.store.state.keep_named) == (7, 3)


@pytest.mark.parametrize(
    "settings", [{"keep_commits": 0}, {"keep_commits": True}, {"keep_named": -1}, {"keep_named": "1"}]
)
def test_what_is_no_number_of_commits_is_refused(place: Path, settings: Any) -> None:
    with pytest.raises(ArgumentError, match="is a number of commits"):
        rs.create(place, SCHEMA, **settings)
    assert not place.exists()


def test_a_reader_keeps_no_commits(place: Path) -> None:
    rs.create(place, SCHEMA).close()
    with pytest.raises(ArgumentError, match="for writing"):
        rs.open(place, keep_commits=3)


def test_a_sealed_archive_keeps_the_name_of_its_last_commit(place: Path) -> None:
    with rs.create(place, SCHEMA, layout="archive") as buffer:
        add(buffer, 5)
        buffer.commit("early")
        add(buffer, 5)
        buffer.commit("final")
    with rs.open(place, commit="final") as buffer:
        check_shows(buffer, 10)
        assert [found.name for found in buffer.commits()] == ["final"]
    with pytest.raises(NotFoundError, match="early"):
        rs.open(place, commit="early")
    assert verify(place).problems == []


def test_what_is_to_be_kept_is_not_forgotten_by_going_back(place: Path) -> None:
    with rs.create(place, SCHEMA) as buffer:
        add(buffer, 3)
        buffer.commit("a")
    with rs.open(place, "r+", keep_commits=5, keep_named=3) as buffer:
        buffer.rollback("a")
    with rs.open(place, "r+") as buffer:
        assert (buffer.store.state.keep_commits, buffer.store.state.keep_named) == (5, 3)
        add(buffer, 1)
        buffer.commit()
    with rs.open(place) as buffer:
        assert (buffer.store.state.keep_commits, buffer.store.state.keep_named) == (5, 3)


def test_keeping_more_from_now_on_is_no_damage(place: Path) -> None:
    with rs.create(place, SCHEMA, keep_commits=2) as buffer:
        for number in range(200):
            add(buffer, 3)
            buffer.commit(f"n{number}" if number % 90 == 0 else None)
    assert verify(place).problems == []
    with rs.open(place, "r+", keep_commits=1_000_000) as buffer:
        for _ in range(100):
            add(buffer, 1)
            buffer.commit()
    assert verify(place).problems == []
    with rs.open(place) as buffer:
        oldest = buffer.store.state.pruned
        assert 190 < oldest <= 200
        assert set(range(oldest, 301)) <= {found.commit for found in buffer.commits()}
    with pytest.raises(NotFoundError, match=f"from {oldest} on"):
        rs.open(place, commit=120)
    with rs.open(place, "r+") as buffer:
        buffer.rollback("n180")
    assert verify(place).problems == []


def test_a_log_that_lacks_a_segment_is_damaged_whatever_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    with rs.create(place, SCHEMA, keep_commits=2) as buffer:
        for _ in range(100):
            add(buffer, 3)
            buffer.commit()
    with rs.open(place, "r+", keep_commits=1_000_000) as buffer:
        for _ in range(200):
            add(buffer, 3)
            buffer.commit()
    segments = sorted(int(file.name) for file in (place / "journal/log").iterdir() if file.name.isdigit())
    assert len(segments) > 3
    for segment in segments[:-1]:
        data = (place / f"journal/log/{segment}").read_bytes()
        (place / f"journal/log/{segment}").unlink()
        assert verify(place).problems, segment
        (place / f"journal/log/{segment}").write_bytes(data)
    assert verify(place).problems == []
