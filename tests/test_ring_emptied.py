"""A ring which all trajectories that have ended have left: tables of whose rows none is kept, some of which
never had a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import replaystore as rs
from replaystore.testing.samples import shards_of

CAPACITY = 24
SCHEMA = rs.Schema(
    {
        "observation/place": rs.Field("float32", (2,), "observation"),
        "observation/frame": rs.Field("uint8", (8, 8, 3), "observation"),
        "reward": rs.Field("float64", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "info/advantage": rs.Field("float32", (), "info", mutable=True),
    }
)
STORAGE = {"observation/frame": {"codec": "gzip:1", "chunk_rows": 4}}


@pytest.fixture(autouse=True, params=[None, 4], ids=["usual shards", "shards of 4"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("replaystore.arrays.committing.SEGMENT_BYTES", 5 << 10)
    if request.param is None:
        yield
        return
    with shards_of(request.param):
        yield


def observed(number: int) -> dict[str, Any]:
    return {
        "place": np.full((1, 2), number, np.float32),
        "frame": np.full((1, 8, 8, 3), number % 251, np.uint8),
    }


def rows(first: int, count: int) -> dict[str, Any]:
    """The steps from this one on, the last of which ends a trajectory."""
    numbers = np.arange(first, first + count)
    frames = ((numbers - 1) % 251).astype(np.uint8)
    return {
        "observation/place": np.repeat(numbers[:, None] - 1, 2, 1).astype(np.float32),
        "observation/frame": np.broadcast_to(frames[:, None, None, None], (count, 8, 8, 3)),
        "reward": numbers.astype(np.float64),
        "terminated": numbers == numbers[-1],
        "info/advantage": numbers.astype(np.float32),
    }


class Story:
    """One environment in a ring, with a commit at each step."""

    def __init__(self, path: Path, episodes: int, *, columns: bool) -> None:
        """So many short episodes, and one that goes on until they have left."""
        self.path, self.number = path, 0
        self.buffer = rs.create(path, SCHEMA, capacity=CAPACITY, storage=STORAGE, durability="none")
        self.writer = self.buffer.writer(1)
        self.writer.reset(observed(0))
        for _ in range(episodes):
            for at in range(3):
                self.step(ends=at == 2)
            self.writer.reset(observed(self.number))
            if columns:
                self.buffer.set_trajectory_column("score", np.arange(self.ended(), dtype=np.float32))
        self.go_on()

    def ended(self) -> int:
        return int((~self.buffer.trajectories.open).sum())

    def step(self, *, ends: bool = False) -> None:
        self.number += 1
        self.writer.step(
            observation=observed(self.number),
            reward=np.array([self.number], np.float64),
            terminated=np.array([ends]),
            info={"info/advantage": np.zeros(1, np.float32)},
        )
        self.buffer.commit()
        last = self.buffer.first_row + len(self.buffer) - 1
        self.buffer.set_values("info/advantage", np.array([last]), np.array([self.number], np.float32))
        self.buffer.commit()

    def go_on(self) -> None:
        """Steps of the long episode, until tables keep no row."""
        state = self.buffer.store.state
        for _ in range(40 * CAPACITY):
            self.step()
            if state.dropped.get("trajectories", -1) == state.lengths["trajectories"]:
                break
        assert state.dropped["trajectories"] == state.lengths["trajectories"] > 0
        assert state.dropped["final"] == state.lengths["final"] > 0

    def check(self, buffer: Any) -> None:
        count = len(buffer)
        numbers = np.arange(self.number - count + 1, self.number + 1)
        np.testing.assert_array_equal(buffer["reward"][:], numbers)
        np.testing.assert_array_equal(buffer["info/advantage"][:], numbers)
        np.testing.assert_array_equal(buffer["observation/place"][:][:, 0], numbers - 1)
        np.testing.assert_array_equal(buffer["observation/frame"][:][:, 0, 0, 0], (numbers - 1) % 251)


def kill(story: Story) -> None:
    story.buffer.abandon()


def publish(story: Story) -> None:
    story.buffer.publish()
    group: Any = zarr.open_group(story.path, mode="r")
    for name, array in group["trajectories"].arrays():
        assert array.shape[0] == story.buffer.store.state.lengths["trajectories"], name
    last = group["steps/reward"][-1]
    assert last == story.number
    story.buffer.abandon()


def close(story: Story) -> None:
    story.writer.close()
    story.buffer.close()


def go_back(story: Story) -> None:
    story.buffer.commit("here")
    story.writer.close()
    story.buffer.append(rows(story.number + 1, 3))
    story.buffer.commit()
    story.buffer.rollback("here")
    story.buffer.abandon()


def add_columns(story: Story) -> None:
    """Of no trajectory that has ended."""
    story.buffer.set_trajectory_column("late", np.zeros(0, np.int32))
    story.buffer.add_field("extra", rs.Field("float32", (), "extra"))
    story.buffer.abandon()


ENDS = [kill, publish, close, go_back, add_columns]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("episodes", [1, 4])
def test_a_ring_that_all_that_has_ended_has_left_goes_on(
    tmp_path: Path, end: Callable[[Story], None], episodes: int
) -> None:
    path = tmp_path / "ring.zarr"
    story = Story(path, episodes, columns=episodes == 1)
    end(story)
    assert rs.verify(path).problems == []
    for _ in range(2):
        with rs.open(path, mode="r+") as buffer:
            story.check(buffer)
        assert rs.verify(path).problems == []
    group: Any = zarr.open_group(path, mode="r")
    assert group["steps/reward"][-1] == story.number
    with rs.open(path) as buffer:
        shown: Any = zarr.open_group(buffer.zarr_store(), mode="r")
        assert shown["steps/reward"][-1] == story.number
    for suffix in ("archive.zarr", "archive.h5", "archive.zarr.zip"):
        rs.convert(path, tmp_path / suffix)
        with rs.open(tmp_path / suffix) as archive:
            story.check(archive)
        assert rs.verify(tmp_path / suffix).problems == []
    with rs.open(path, mode="r+") as buffer:
        more = CAPACITY // 2
        columns = rows(story.number + 1, more)
        if "extra" in buffer.schema.fields:
            columns["extra"] = np.zeros(more, np.float32)
        buffer.append(columns)
        story.number += more
        buffer.commit()
        story.check(buffer)
        ended = int((~buffer.trajectories.open).sum())
        assert ended
        buffer.set_trajectory_column("score", np.arange(ended, dtype=np.float32))
    assert rs.verify(path).problems == []
    with rs.open(path) as buffer:
        story.check(buffer)
        assert buffer.trajectories["score"].tolist()[:ended] == list(range(ended))
