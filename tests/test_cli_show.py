"""`replaystore show`: rows, trajectories, and values too large to print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run, own_rows, own_schema

import replaystore as rs

pytest_plugins = ["commands"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("10:13", [10, 11, 12]),
        ("598:", [598, 599]),
        (":2", [0, 1]),
        ("-2:", [598, 599]),
        ("7", [7]),
        ("-1", [599]),
    ],
)
def test_rows_are_chosen_as_of_a_list(
    rows: str, expected: list[int], recorded: Path, facts: Callable[..., Any]
) -> None:
    found = facts("show", recorded, f"--rows={rows}", "--fields", "reward,observation")

    assert [step["row"] for step in found["steps"]] == expected
    with rs.open(recorded) as buffer:
        for step in found["steps"]:
            assert step["observation"] == buffer["observation"][step["row"]].tolist()
            trajectory = buffer.trajectory(step["trajectory_index"])
            assert step["index"] == step["row"]
            assert trajectory["observation"][step["step"]].tolist() == step["observation"]
            assert step.keys() == {"row", "index", "trajectory_index", "step", "observation", "reward"}


def test_the_numbers_that_steps_of_a_ring_have_for_ever_are_shown(
    tmp_path: Path, facts: Callable[..., Any]
) -> None:
    with rs.create(tmp_path / "a.zarr", own_schema(), capacity=4) as buffer:
        for reward in range(11):
            buffer.append(own_rows([float(reward)]))
    shown = {step["index"]: step["reward"] for step in facts("show", tmp_path / "a.zarr")["steps"]}
    with rs.open(tmp_path / "a.zarr") as buffer:
        batch = buffer.sampler(32, seed=0, next_observation=False).sample()
        rewards = buffer.read(index=list(shown))["reward"]
    assert min(shown) == 7
    assert rewards.tolist() == list(shown.values())
    assert [shown[index] for index in batch["index"].tolist()] == batch["reward"].tolist()


def test_rows_are_aligned(recorded: Path, run: Run) -> None:
    _, out, _ = run("show", recorded)
    lines = out.splitlines()

    assert lines[0].split() == [
        "row",
        "index",
        "trajectory_index",
        "step",
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
    ]
    assert [line.split()[0] for line in lines[1:11]] == [str(row) for row in range(10)]
    assert len({len(line) for line in lines[1:11]}) == 1
    assert lines[-1] == "10 of 600 steps; --rows A:B shows others, --rows : all"


def test_a_trajectory_is_shown_with_what_is_known_of_it(
    recorded: Path, facts: Callable[..., Any], run: Run
) -> None:
    found = facts("show", recorded, "--trajectory", 2)

    with rs.open(recorded) as buffer:
        trajectory = buffer.trajectory(2)
        assert found["trajectory"] == {"index": 2, **trajectory.info}
        assert [step["step"] for step in found["steps"]] == list(range(len(trajectory)))
        assert [step["action"] for step in found["steps"]] == trajectory["action"].tolist()
        assert trajectory.final_observation is not None
        assert found["final_observation"] == {"observation": trajectory.final_observation.tolist()}
    assert "final observation" in run("show", recorded, "--trajectory", 2)[1]
    assert "final" not in run("show", recorded, "--trajectory", 2, "--fields", "reward")[1]


def test_where_chooses_among_trajectories(recorded: Path, facts: Callable[..., Any]) -> None:
    with rs.open(recorded) as buffer:
        lengths = buffer.trajectories["length"]
        chosen = buffer.trajectories.where("length > 20")
        rows = buffer.parts.rows(chosen["trajectory"]).tolist()

    table = facts("show", recorded, "--trajectories", "--where", "length > 20")["trajectories"]
    assert [row["index"] for row in table] == chosen.index.tolist()
    assert (
        facts("show", recorded, "--where", "length > 20", "--trajectory", 0)["trajectory"]["length"]
        == lengths[chosen.index[0]]
    )
    assert [
        step["row"] for step in facts("show", recorded, "--where", "length > 20", "--rows", ":")["steps"]
    ] == rows


def test_large_values_are_abbreviated_and_json_has_no_nan(
    run: Run, facts: Callable[..., Any], tmp_path: Path
) -> None:
    with rs.create(tmp_path / "a.zarr", own_schema()) as buffer:
        buffer.append(own_rows([1.0, float("nan"), float("-inf")]))

    out = run("show", tmp_path / "a.zarr")[1]
    assert "8x8 0…0" in out
    assert "[0 0 0 … 0]" in out
    assert [step["reward"] for step in facts("show", tmp_path / "a.zarr")["steps"]] == [
        1.0,
        "NaN",
        "-Infinity",
    ]
    assert facts("info", tmp_path / "a.zarr")["steps"] == 3
