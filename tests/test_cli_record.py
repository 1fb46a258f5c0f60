"""`replaystore record`: exactly the steps asked for, and what is kept when it is stopped."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gymnasium
import pytest
from commands import Run, command

import replaystore as rs

pytest_plugins = ["commands"]


@pytest.mark.parametrize(("steps", "num_envs"), [(1, 1), (500, 1), (500, 7), (3, 8)])
def test_exactly_the_steps_asked_for_are_recorded(
    steps: int, num_envs: int, facts: Callable[..., Any], tmp_path: Path
) -> None:
    found = facts(
        "record", "CartPole-v1", tmp_path / "a.zarr", "--steps", steps, "--num-envs", num_envs, "--seed", 0
    )

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert len(buffer) == steps == found["steps"]
        assert buffer.num_trajectories == found["trajectories"]
        assert buffer.trajectories["length"].sum() == steps
        assert buffer.trajectories["length"].min() > 0
        assert not buffer.trajectories.open.any()
        assert all(
            trajectory.final_observation is not None
            for trajectory in map(buffer.trajectory, range(buffer.num_trajectories))
        )
    assert found["disk_bytes"] > found["bytes"] > 0


def test_a_seed_makes_the_same_recording(run: Run, tmp_path: Path) -> None:
    for name in ("a.zarr", "b.zarr"):
        assert (
            run("record", "CartPole-v1", tmp_path / name, "--steps", 200, "--num-envs", 2, "--seed", 5)[0]
            == 0
        )

    with rs.open(tmp_path / "a.zarr") as a, rs.open(tmp_path / "b.zarr") as b:
        assert (a["observation"][:] == b["observation"][:]).all()
        assert (a["action"][:] == b["action"][:]).all()
        assert set(a.trajectories["seed"].tolist()) == {5, 6, -1}


@pytest.mark.parametrize("capacity", [None, 30])
def test_texts_are_recorded_and_counted(
    capacity: int | None, facts: Callable[..., Any], tmp_path: Path
) -> None:
    def talk() -> Any:
        class Talk(gymnasium.Env[Any, Any]):
            observation_space = gymnasium.spaces.Text(90, min_length=90)
            action_space = gymnasium.spaces.Discrete(2)

            def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
                return "é" * 90, {}

            def step(self, action: Any) -> Any:
                return "é" * 90, 1.0, False, False, {}

        return Talk()

    gymnasium.register("Talk-v0", talk, disable_env_checker=True)
    ring = [] if capacity is None else ["--capacity", capacity]
    try:
        found = facts("record", "Talk-v0", tmp_path / "a.zarr", "--steps", 70, "--num-envs", 2, *ring)
    finally:
        gymnasium.registry.pop("Talk-v0")

    assert found["steps"] == 70
    assert 70 * 180 <= found["bytes"] <= 72 * 180 + 70 * 50
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert len(buffer) == (capacity or 70)
        assert set(buffer["observation"]) == {"é" * 90}


def test_recording_prints_a_table(run: Run, tmp_path: Path) -> None:
    code, out, err = run("record", "CartPole-v1", tmp_path / "a.h5", "--steps", 1000)

    assert (code, err) == (0, "")
    names = [line.split("  ")[0] for line in out.splitlines()]
    assert names == ["location", "steps", "trajectories", "data", "seconds", "MB/s", "steps/s", "seed"]
    assert re.search(r"^steps +1,000$", out, re.MULTILINE)


def test_recording_replaces_only_when_told_to(run: Run, tmp_path: Path) -> None:
    for steps in (20, 10):
        assert run("record", "CartPole-v1", tmp_path / "a.zarr", "--steps", steps, "--overwrite")[0] == 0

    assert run("record", "CartPole-v1", tmp_path / "a.zarr")[0] == 1
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert len(buffer) == 10


def test_recording_into_a_ring(facts: Callable[..., Any], tmp_path: Path) -> None:
    facts(
        "record",
        "CartPole-v1",
        tmp_path / "a.zarr",
        "--steps",
        3000,
        "--capacity",
        1000,
        "--commit-every",
        500,
    )

    found = facts("info", tmp_path / "a.zarr", "--commits")

    assert found["ring"] == {"capacity": 1000, "dropped_steps": 2000, "kept_for_names": 0, "kept_bytes": 0}
    assert found["steps"] == 1000
    assert found["commits"][-1]["commit"] == found["commit"]
    for commit in found["commits"]:
        with rs.open(tmp_path / "a.zarr", commit=commit["commit"]) as buffer:
            assert len(buffer) == commit["steps"]


def test_recording_an_archive_leaves_nothing_else(facts: Callable[..., Any], tmp_path: Path) -> None:
    facts("record", "CartPole-v1", tmp_path / "a.h5", "--steps", 300, "--layout", "archive")

    assert facts("info", tmp_path / "a.h5")["layout"] == "archive"
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", "a.h5.sha256"}


def test_a_recording_that_cannot_be_converted_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise rs.errors.StorageError("the disk is full")

    monkeypatch.setattr("replaystore.converting.convert.convert", full)

    code, _, err = run("record", "CartPole-v1", tmp_path / "a.h5", "--steps", 300, "--layout", "archive")

    assert code == 1
    assert err.endswith("replaystore: error: the disk is full\n")
    assert "a.h5.recording.zarr" in err
    with rs.open(tmp_path / "a.h5.recording.zarr") as buffer:
        assert len(buffer) == 300


def test_an_argument_reaches_the_environment(facts: Callable[..., Any], tmp_path: Path) -> None:
    facts(
        "record",
        "MountainCarContinuous-v0",
        tmp_path / "a.zarr",
        "--steps",
        10,
        "--env-arg",
        "goal_velocity=0.25",
        "--codec",
        "action=zstd:1",
    )

    found = facts("info", tmp_path / "a.zarr")

    assert found["environment"]["spec"]["kwargs"]["goal_velocity"] == 0.25
    assert {field["name"]: field["codec"] for field in found["fields"]}["action"] == "zstd:1"


@pytest.mark.parametrize(
    ("env_id", "message", "extra"),
    [
        ("HalfCheetah-v5", 'MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`', "mujoco"),
        ("X-v0", "install Atari", "atari"),
    ],
)
def test_a_missing_package_is_named(
    env_id: str, message: str, extra: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> NoReturn:
        raise gymnasium.error.DependencyNotInstalled(message)

    monkeypatch.setattr(gymnasium, "make_vec", missing)

    code, _, err = run("record", env_id, tmp_path / "a.zarr")

    assert code == 1
    assert f"pip install 'replaystore[{extra}]'" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_keeps_what_is_recorded(times: int, run: Run, tmp_path: Path) -> None:
    location = tmp_path / "a.zarr"
    arguments = command("record", "CartPole-v1", location, "--steps", 10**9, "--commit-every", 1000, "--json")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not has_steps(location):
            time.sleep(0.02)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert run("verify", location)[0] == 0
    with rs.open(location) as buffer:
        assert len(buffer) > 0
        if out:
            assert json.loads(out)["steps"] == len(buffer)
            assert json.loads(out)["interrupted"]
    assert out or times == 2


def has_steps(location: Path) -> bool:
    if not location.exists():
        return False
    with rs.open(location) as buffer:
        return len(buffer) > 0
