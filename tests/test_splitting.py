"""Splits of a whole buffer: `replaystore.split_trajectories`, and the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run

import replaystore as rs
from replaystore import errors

pytest_plugins = ["commands"]

SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (1,), "observation"),
        "reward": rs.Field("float64", (), "reward"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Twenty trajectories with the returns 0, 1, …, 19, and one that is open."""
    location = str(tmp_path / "a.zarr")
    with rs.create(location, SCHEMA) as buffer:
        for number in range(20):
            rows = {"observation": np.zeros((2, 1), np.float32), "reward": np.array([0.0, number])}
            buffer.append({**rows, "truncated": np.array([False, True])}, split="old")
        rows = {"observation": np.zeros((1, 1), np.float32), "reward": np.zeros(1)}
        buffer.append({**rows, "truncated": np.zeros(1, bool)}, split="old")
    return location


def splits(location: str) -> list[str]:
    with rs.open(location) as buffer:
        return [str(name) for name in buffer.trajectories["split"].tolist()]


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_fractions_are_drawn_at_random_and_again(place: str, tmp_path: Path, suffix: str) -> None:
    target = str(tmp_path / f"b.{suffix}")
    rs.convert(place, target)
    with rs.open(target) as buffer:
        commit = buffer.commit_id

    found = rs.split_trajectories(target, fractions=(0.8, 0.1, 0.1), seed=3)

    assert found == {"train": 16, "val": 2, "test": 2}
    first = splits(target)
    assert first != sorted(first)
    assert first[-1] == "old"
    rs.split_trajectories(target, fractions=(8, 1, 1), seed=3)
    assert splits(target) == first
    rs.split_trajectories(target, fractions=(0.8, 0.1, 0.1), seed=4)
    assert splits(target) != first
    with rs.open(target) as buffer:
        assert buffer.commit_id == commit + 3
        assert rs.verify(target).problems == []
        assert len(buffer.trajectories.where(split="val")) == 2


def test_returns_are_cut_where_the_bounds_are(place: str) -> None:
    found = rs.split_trajectories(place, returns=(5, 15))

    assert found == {"below 5": 5, "5 to 15": 10, "from 15": 5}
    assert splits(place)[4:6] == ["below 5", "5 to 15"]


def test_each_value_of_a_column_is_a_split(place: str) -> None:
    with rs.open(place, "r+") as buffer:
        buffer.set_trajectory_columns({"good": np.arange(20) % 2 == 0, "level": np.arange(20) // 10})
        assert rs.split_trajectories(buffer, column="good") == {"good false": 10, "good true": 10}
        assert rs.split_trajectories(buffer, column="level", names=["easy", "hard"]) == {
            "easy": 10,
            "hard": 10,
        }
    assert splits(place)[0] == "easy"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "one of fractions=, returns= and column="),
        ({"fractions": (0.5, 0.5), "column": "env"}, "one of fractions=, returns= and column="),
        ({"fractions": (0.999, 0.001)}, "the part 0.001 would have none"),
        ({"fractions": (0.8, 0.1)}, "fractions sum to 1, and 0.8, 0.1 to 0.9: .* give the rest a part too"),
        ({"fractions": (0.8, 0.4)}, "fractions sum to 1, and 0.8, 0.4 to 1.2"),
        ({"fractions": (0.8, 8)}, "or shares such as 8, 1, 1"),
        ({"fractions": (0.5, -0.5)}, "two positive numbers or more"),
        ({"fractions": "0.5,0.5"}, "fractions are numbers"),
        ({"fractions": (0.5, np.nan)}, "fractions are numbers"),
        ({"returns": (5, 1)}, "from low to high"),
        ({"returns": ()}, "returns are numbers"),
        ({"column": "nope"}, "there is no such column; columns are trajectory, env"),
        ({"fractions": (0.5, 0.5), "names": ["a"]}, r"there are 2 parts \(train, test\), and 1 names"),
        ({"fractions": (0.5, 0.5), "names": ["a", "a"]}, "all of them different"),
    ],
)
def test_a_rule_that_cannot_be_followed_changes_nothing(place: str, asked: Any, message: str) -> None:
    with pytest.raises((errors.ArgumentError, errors.SchemaError), match=message):
        rs.split_trajectories(place, **asked)

    assert set(splits(place)) == {"old"}


def test_too_many_values_and_unknown_ones_are_refused(place: str) -> None:
    with rs.open(place, "r+") as buffer:
        buffer.set_trajectory_column("score", np.array([np.nan, *range(19)]))
    with pytest.raises(errors.SchemaError, match="1 trajectories have no value of column 'score'"):
        rs.split_trajectories(place, column="score")


def test_the_command_prints_the_splits(place: str, run: Run, facts: Callable[..., Any]) -> None:
    code, out, err = run("split", place, "--by", "fraction", "0.5,0.5", "--names", "a, b")

    assert (code, err) == (0, "")
    assert out.splitlines() == ["a  10 trajectories", "b  10 trajectories"]
    found = facts("split", place, "--by", "return", "-1,10")
    assert found["splits"] == {"below -1": 0, "-1 to 10": 10, "from 10": 10}
    assert facts("split", place, "--by", "column", "env")["splits"] == {"env 0": 20}
    for wrong in ("a,b", ""):
        code, _, err = run("split", place, "--by", "fraction", wrong)
        assert code == 2
        assert "--by takes numbers with commas between them" in err
