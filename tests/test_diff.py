"""`replaystore diff`: where two buffers differ first, and in what."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from conversions import record

import replaystore as rs
from replaystore.comparing.found import Difference
from replaystore.errors import NotFoundError, UnknownFieldError, UnsupportedError

pytest_plugins = ["commands"]

SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (2, 3), "observation"),
        "action": rs.Field("int64", (), "action"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
        "said": rs.Field.of_text("extra"),
        "tokens": rs.Field("int32", (None,), "extra"),
    }
)
LENGTHS = (5, 9, 7)


def steps(number: int) -> dict[str, Any]:
    length, random = LENGTHS[number], np.random.default_rng(number)
    ends = np.zeros(length, bool)
    ends[-1] = True
    return {
        "observation": random.random((length, 2, 3)).astype(np.float32),
        "action": random.integers(0, 5, length),
        "terminated": ends,
        "truncated": np.zeros(length, bool),
        "said": [f"step {step}" for step in range(length)],
        "tokens": [np.arange(step % 4, dtype=np.int32) for step in range(length)],
    }


Change = Callable[[list[dict[str, Any]]], None]


def make(
    where: Path, change: Change | None = None, *, seeds: tuple[int, ...] = (1, 2, 3), **options: Any
) -> Path:
    """Three trajectories, in which something is changed."""
    told = [steps(number) for number in range(3)]
    if change is not None:
        change(told)
    with rs.create(where, SCHEMA, **options) as buffer:
        for number, columns in enumerate(told):
            seen = np.full((1, 2, 3), number, np.float32)
            buffer.append(
                columns,
                env=number,
                seed=seeds[number],
                split="train" if number else "val",
                final_observation=seen,
            )
    return where


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make(tmp_path / "a.zarr", metadata={"by": "me", "at": [1, 2]})


@pytest.mark.parametrize("target", ["b.h5", "b.zarr.zip"])
def test_what_is_the_same_is_in_any_layout(store: Path, tmp_path: Path, target: str) -> None:
    rs.convert(store, tmp_path / target, layout="archive")

    found = rs.diff(store, tmp_path / target)

    assert found.equal
    assert not found
    assert found.first is None
    assert found.to_json() == {"equal": True, "first": None, "schema": [], "fields": {}, "rest": {}}


def set_(name: str, trajectory: int, place: Any, value: Any) -> Change:
    def change(told: list[dict[str, Any]]) -> None:
        told[trajectory][name][place] = value

    return change


FIRST: dict[str, tuple[Change, str, tuple[int, int, tuple[int, ...]], Any]] = {
    "a number": (set_("observation", 1, (6, 1, 2), 7.5), "observation", (1, 6, (1, 2)), 7.5),
    "not a number": (set_("observation", 0, (0, 0, 0), np.nan), "observation", (0, 0, (0, 0)), None),
    "an action": (set_("action", 2, 3, 9), "action", (2, 3, ()), 9),
    "a text": (set_("said", 1, 8, "something"), "said", (1, 8, ()), "something"),
    "a text as long": (set_("said", 1, 4, "step x"), "said", (1, 4, ()), "step x"),
    "a token": (set_("tokens", 0, 3, np.array([0, 1, 5], np.int32)), "tokens", (0, 3, (2,)), 5),
    "more tokens": (set_("tokens", 2, 1, np.array([0, 0], np.int32)), "tokens", (2, 1, ()), [0, 0]),
}


@pytest.mark.parametrize("what", FIRST)
def test_the_first_value_that_differs_is_named(store: Path, tmp_path: Path, what: str) -> None:
    change, name, place, value = FIRST[what]
    make(tmp_path / "b.zarr", change, metadata={"by": "me", "at": [1, 2]})

    found = rs.diff(store, tmp_path / "b.zarr")

    assert list(found.fields) == [name]
    assert found.rest == {}
    first = found.first
    assert first is not None
    assert (first.thing, (first.trajectory, first.step, first.at)) == (name, place)
    assert first.theirs == value or value is None
    assert first.mine != first.theirs


def test_of_several_each_is_named_and_the_first_of_all(store: Path, tmp_path: Path) -> None:
    def change(told: list[dict[str, Any]]) -> None:
        told[2]["action"][0] += 1
        told[1]["observation"][3] += 1
        told[1]["observation"][7] += 1

    make(tmp_path / "b.zarr", change, seeds=(1, 2, 9), metadata={"by": "me", "at": [1, 3]})

    found = rs.diff(store, tmp_path / "b.zarr")

    assert set(found.fields) == {"action", "observation"}
    assert (found.fields["action"].trajectory, found.fields["action"].step) == (2, 0)
    assert found.first == found.fields["observation"]
    assert found.first.step == 3
    assert (found.rest["seed"].trajectory, found.rest["seed"].mine, found.rest["seed"].theirs) == (2, 3, 9)
    assert (found.rest["metadata"].mine, found.rest["metadata"].theirs) == ([1, 2], [1, 3])
    assert rs.diff(store, tmp_path / "b.zarr", fields=["said"]).fields == {}


def test_a_boundary_that_lies_elsewhere(store: Path, tmp_path: Path) -> None:
    def change(told: list[dict[str, Any]]) -> None:
        told[1] = {name: values[:6] for name, values in told[1].items()}
        told[1]["terminated"] = np.arange(6) == 5

    make(tmp_path / "b.zarr", change, metadata={"by": "me", "at": [1, 2]})

    found = rs.diff(store, tmp_path / "b.zarr")

    assert found.fields["action"].trajectory == 1
    assert (found.fields["action"].step, found.fields["action"].theirs) == (6, None)
    assert found.fields["terminated"].step == 5
    assert "step 6" in str(found.fields["said"])


def test_other_schemas_and_other_numbers_of_trajectories(store: Path, tmp_path: Path) -> None:
    schema = rs.Schema(
        {
            "observation": rs.Field("float64", (6,), "observation"),
            "action": SCHEMA.fields["action"],
            "more": rs.Field("int8", (2,), "extra"),
        }
    )
    with rs.create(tmp_path / "b.zarr", schema) as buffer:
        buffer.append(
            {"observation": np.zeros((4, 6)), "action": np.zeros(4, int), "more": np.zeros((4, 2), np.int8)}
        )

    found = rs.diff(store, tmp_path / "b.zarr")

    assert "only the second has more (int8 of shape (2))" in found.schema
    assert "only the first has said (text)" in found.schema
    assert (
        "observation is float32 of shape (2, 3) in the first, float64 of shape (6) in the second"
        in found.schema
    )
    assert "there are 3 trajectories in the first, 1 in the second" in found.schema
    assert found.fields.keys() == {"action"}
    assert found.rest["open"].theirs is True


def test_what_was_seen_in_the_end_and_steps_of_no_trajectory(tmp_path: Path) -> None:
    for name in ("a.zarr", "b.zarr"):
        record(str(tmp_path / name))
    with rs.open(tmp_path / "a.zarr") as mine:
        assert rs.diff(mine, tmp_path / "b.zarr").equal
    make(tmp_path / "c.zarr")
    told = [steps(number) for number in range(3)]
    with rs.create(tmp_path / "d.zarr", SCHEMA) as buffer:
        for number, columns in enumerate(told):
            seen = np.full((1, 2, 3), number + (number == 2), np.float32)
            buffer.append(
                columns,
                env=number,
                seed=number + 1,
                split="train" if number else "val",
                final_observation=seen,
            )

    found = rs.diff(tmp_path / "c.zarr", tmp_path / "d.zarr")

    assert list(found.rest) == ["final_observation"]
    assert (found.rest["final_observation"].trajectory, found.rest["final_observation"].theirs) == (2, 3.0)


def test_commits_of_either(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, keep_commits=9) as buffer:
        commits = []
        for number in range(3):
            buffer.append(steps(number))
            buffer.commit()
            commits.append(buffer.commit_id)

    assert rs.diff(tmp_path / "a.zarr", tmp_path / "a.zarr", commit=commits[1], other_commit=commits[1]).equal
    found = rs.diff(tmp_path / "a.zarr", tmp_path / "a.zarr", commit=commits[0])
    assert found.schema == ["there are 1 trajectories in the first, 3 in the second"]
    assert found.fields == {}


def test_a_file_of_other_software(tmp_path: Path) -> None:
    schema = rs.Schema(
        {
            "observation": rs.Field("float32", (2,), "observation"),
            "action": rs.Field("float32", (1,), "action"),
            "reward": rs.Field("float32", (), "reward"),
        }
    )
    for number, name in enumerate(["a.zarr", "b.zarr"]):
        with rs.create(tmp_path / name, schema) as buffer:
            rewards = np.arange(6, dtype=np.float32)
            rewards[4] += number
            columns = {
                "observation": np.ones((6, 2), np.float32),
                "action": np.ones((6, 1), np.float32),
                "reward": rewards,
            }
            buffer.append(columns, ends=[5], final_observation=np.ones((1, 2), np.float32))
        rs.convert(tmp_path / name, tmp_path / f"{name[0]}_state.safetensors")

    found = rs.diff(tmp_path / "a_state.safetensors", tmp_path / "b_state.safetensors")

    assert list(found.fields) == ["reward"]
    assert found.fields["reward"].theirs == 5.0
    with pytest.raises(UnsupportedError, match="no commits"):
        rs.diff(tmp_path / "a_state.safetensors", tmp_path / "b.zarr", commit=1)


def test_the_command_line_says_where(
    store: Path, tmp_path: Path, run: Run, facts: Callable[..., Any]
) -> None:
    make(tmp_path / "b.zarr", FIRST["an action"][0], metadata={"by": "me", "at": [1, 2]})

    code, out, err = run("diff", store, tmp_path / "b.zarr")
    as_json = facts("diff", store, tmp_path / "b.zarr", code=1)
    same = run("diff", store, store)

    assert (code, err) == (1, "")
    told, *lines = out.splitlines()
    assert told == f"the first is {store}, the second {tmp_path / 'b.zarr'}"
    assert re.fullmatch(r"action, trajectory 2, step 3: \d+ in the first, 9 in the second", lines[0])
    assert (as_json["first"]["trajectory"], as_json["first"]["step"]) == (2, 3)
    assert same == (0, "they hold the same\n", "")
    code, _, err = run("diff", store, tmp_path / "nothing.zarr")
    assert (code, err.count("\n")) == (1, 1)
    with pytest.raises(NotFoundError):
        rs.diff(store, tmp_path / "nothing.zarr")
    with pytest.raises(UnknownFieldError):
        rs.diff(store, tmp_path / "b.zarr", fields=["nothing"])


def test_each_difference_is_a_line_that_says_which_side_has_what() -> None:
    told = [
        Difference("observation", 0, 3, (0, 1), 1.5, 2.5),
        Difference("action", 1, 6, (), None, 4),
        Difference("seed", 2, None, (), 3, 9, column=True),
        Difference("level", None, None, (), "a column", None, column=True),
        Difference("metadata['by']", None, None, (), None, "me"),
        Difference("steps"),
    ]

    assert list(map(str, told)) == [
        "observation[0, 1], trajectory 0, step 3: 1.5 in the first, 2.5 in the second",
        "action, trajectory 1, step 6: no such step in the first, 4 in the second",
        "the column 'seed', trajectory 2: 3 in the first, 9 in the second",
        "only the first has the column 'level'",
        "metadata['by']: nothing in the first, 'me' in the second",
        "steps: not the same in both",
    ]
