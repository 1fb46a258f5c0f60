"""A ring's disk: what leaves it is given back, at the cost of what leaves, whatever has left before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays import committing
from replaystore.errors import ConflictError
from replaystore.storage.local import Files

SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (5,), "observation"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
    }
)
CAPACITY = 1024


def steps(first: int, count: int, *, every: int = 16) -> dict[str, np.ndarray[Any, Any]]:
    """Steps that say their own numbers; each `every`-th ends a trajectory."""
    numbers = np.arange(first, first + count)
    return {
        "observation": np.repeat(numbers, 5).reshape(count, 5).astype(np.float32),
        "reward": numbers.astype(np.float32),
        "terminated": numbers % every == every - 1,
    }


def append(buffer: rs.Buffer, first: int, count: int, *, every: int = 16) -> None:
    columns = steps(first, count, every=every)
    ends = int(columns["terminated"].sum()) + (not columns["terminated"][-1])
    final = np.full((ends, 5), -1, np.float32)
    buffer.append(columns, final_observation=final)
    buffer.commit()


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return tmp_path / "ring.zarr"


def shards_of(path: Path, field: str = "observation") -> list[int]:
    """The shards of a field that are there."""
    return sorted(int(file.name.split(".")[1]) for file in (path / "steps" / field).glob("c.*"))


def counted(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[tuple[str, str]]:
    """Notes each call of these operations of files."""
    calls: list[tuple[str, str]] = []

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: Files, file: str = "", *rest: Any, **more: Any) -> Any:
            calls.append((name, file))
            return method(self, file, *rest, **more)

        return called

    for name in names:
        monkeypatch.setattr(Files, name, noting(name, getattr(Files, name)))
    return calls


def test_a_commit_gives_back_what_leaves_and_looks_at_nothing_else(
    ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rs.create(ring, SCHEMA, capacity=CAPACITY, durability="none") as buffer:
        append(buffer, 0, 8 * CAPACITY)
        append(buffer, 8 * CAPACITY, 128)
        calls = counted(monkeypatch, "list", "remove")
        most = 0
        for first in range(8 * CAPACITY + 128, 16 * CAPACITY, 128):
            before = len(calls)
            append(buffer, first, 128)
            most = max(most, len([name for name, file in calls[before:] if file.startswith("steps/")]))
        assert not [file for name, file in calls if name == "list" and file.startswith("steps/")]
        # At most two shards of each of three fields.
        assert most <= 2 * 3
        assert len(buffer) == CAPACITY
        assert buffer["reward"][:].tolist() == list(range(15 * CAPACITY, 16 * CAPACITY))


def test_shards_that_have_gone_are_not_there(ring: Path) -> None:
    with rs.create(ring, SCHEMA, capacity=CAPACITY, durability="none") as buffer:
        for first in range(0, 8 * CAPACITY, 512):
            append(buffer, first, 512)
        assert len(shards_of(ring)) <= 10


class Killed(BaseException):
    """As if the process were gone."""


@pytest.mark.parametrize("at", range(2))
def test_what_a_killed_writer_has_not_given_back_the_next_one_does(
    ring: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    buffer = rs.create(ring, SCHEMA, capacity=CAPACITY)
    append(buffer, 0, 2 * CAPACITY)
    done = 0

    def killed(method: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: Files, file: str) -> Any:
            nonlocal done
            if file.startswith("steps/"):
                done += 1
                if done > at:
                    raise Killed
            return method(self, file)

        return called

    with monkeypatch.context() as patched:
        patched.setattr(Files, "remove", killed(Files.remove))
        with pytest.raises(Killed):
            append(buffer, 2 * CAPACITY, CAPACITY)
        assert done == at + 1
    with pytest.raises(ConflictError, match="interrupted"):
        buffer.close()
    with rs.open(ring, mode="r+") as again:
        assert shards_of(ring)[0] == again.first_row // again.store.spec("steps/observation").shard_rows
        assert again["reward"][:].tolist() == list(range(again.first_row, again.first_row + CAPACITY))
    assert rs.verify(ring).problems == []


def allocated(path: Path) -> int:
    """Bytes that the disk holds of a store."""
    return sum((Path(at) / name).lstat().st_blocks * 512 for at, _, files in os.walk(path) for name in files)


def rows_of_tables(path: Path) -> dict[str, int]:
    """Rows of each group of tables that a writer would read."""
    with rs.open(path) as buffer:
        store = buffer.store
        return {name: store.rows(name) - store.first(name) for name in store.specs() if name[:5] != "steps"}


@pytest.mark.parametrize("every", [1, pytest.param(16, marks=pytest.mark.disk), 5000])
def test_tables_of_a_ring_are_as_long_as_its_window(
    ring: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(committing, "SEGMENT_BYTES", 5 << 10)
    with rs.create(ring, SCHEMA, capacity=CAPACITY, durability="none") as buffer:
        sizes = []
        for first in range(0, 64 * CAPACITY, 512):
            append(buffer, first, 512, every=every)
            if first % (8 * CAPACITY) == 0:
                sizes.append(sum(len(buffer.store.table(name)) for name in buffer.store.state.tables))
        shown = buffer.read(slice(0, 200))
        assert shown["reward"].tolist() == list(range(63 * CAPACITY, 63 * CAPACITY + 200))
        begins = buffer.trajectory(0)
        assert begins["reward"][0] == 63 * CAPACITY
        if every <= CAPACITY:
            assert buffer.final_observation(int(buffer.trajectories["trajectory"][0])) is not None
        assert sizes[-1] <= sizes[2] + 64
    for name, rows in rows_of_tables(ring).items():
        assert rows <= 2 * CAPACITY // every + 8, name  # those of one more segment of the log, too
    assert rs.verify(ring).problems == []
    with rs.open(ring, mode="r+") as buffer:
        table = buffer.trajectories
        count = len(table) - int(table.open.sum())
        buffer.set_trajectory_column("score", np.arange(count) / 2)
        append(buffer, 64 * CAPACITY, 512, every=every)
        assert len(buffer) == CAPACITY
    with rs.open(ring) as buffer:
        scores = buffer.trajectories["score"]
        known = scores[~np.isnan(scores)].tolist()
        assert known == (np.arange(count) / 2)[count - len(known) :].tolist()
    assert rs.verify(ring).problems == []
