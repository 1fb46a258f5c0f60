"""The examples do what they say."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import replaystore as rs

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / request.param)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    assert [file.name for file in sorted(EXAMPLES.glob("*.py"))] == [
        "any_simulator.py",
        "my_format.py",
        "record_and_convert.py",
        "resume_dqn.py",
        "token_replay.py",
    ]


@pytest.mark.parametrize("example", ["record_and_convert.py"], indirect=True)
def test_the_demo_records_converts_and_compares(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "STEPS", 2000)
    monkeypatch.setattr(example, "ENV_ID", "Pendulum-v1")
    monkeypatch.setattr(example, "HAS_MUJOCO", False)
    monkeypatch.setattr(sys, "argv", ["record_and_convert.py", str(tmp_path / "out")])

    example.main()

    assert "identical, bit for bit" in capsys.readouterr().out
    for name in ("recorded.zarr", "converted.h5", "converted_back.zarr"):
        with rs.open(tmp_path / "out" / name) as buffer:
            assert len(buffer) >= 2000


@pytest.mark.parametrize("example", ["record_and_convert.py"], indirect=True)
@pytest.mark.parametrize(("last", "what"), [(1.0, "reward"), (float("nan"), "reward"), (0.0, "length")])
def test_the_demo_would_notice_a_difference(
    example: ModuleType, last: float, what: str, tmp_path: Path
) -> None:
    schema = rs.Schema(
        {
            "reward": rs.Field(np.dtype(np.float64), (), "reward"),
            "observation": rs.Field(np.dtype(np.uint8), (), "observation"),
        }
    )
    for name, value, count in (("a.zarr", 0.0, 4), ("b.zarr", last, 4 + (what == "length"))):
        with rs.create(tmp_path / name, schema) as buffer:
            rewards = np.zeros(count)
            rewards[-1] = value
            buffer.append({"reward": rewards, "observation": np.zeros(count, np.uint8)})

    with pytest.raises(SystemExit, match="differ"):
        example.check_identical(tmp_path / "a.zarr", tmp_path / "b.zarr")
    example.check_identical(tmp_path / "a.zarr", tmp_path / "a.zarr")


@pytest.mark.parametrize("example", ["any_simulator.py"], indirect=True)
def test_a_writer_is_told_the_right_thing_in_every_autoreset_mode(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["any_simulator.py", str(tmp_path / "modes.zarr")])

    example.main()

    assert "1200 steps of" not in capsys.readouterr().out  # a call that only resets is no step
    with rs.open(tmp_path / "modes.zarr") as buffer:
        ended = buffer.trajectories.where("terminated")
        assert len(set(ended["split"].tolist())) == 3
        assert (np.unique(ended["split"], return_counts=True)[1] > 8).all()
        for number in range(buffer.num_trajectories):
            trajectory = buffer.trajectory(number)
            position, _, angle, _ = np.abs(trajectory.final_observation)
            assert np.abs(trajectory["observation"][0]).max() <= 0.05  # what CartPole resets to
            assert bool(trajectory.info["terminated"]) == (position > 2.4 or angle > np.radians(12))
            assert (trajectory["reward"] == 1).all()


@pytest.mark.torch
@pytest.mark.parametrize("example", ["token_replay.py"], indirect=True)
def test_a_learner_learns_what_two_actors_answer(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All in one process: each does the round that the other one waits for."""
    for turn in range(1, 31):
        example.ROUNDS = turn
        example.act(tmp_path, 0)
        example.act(tmp_path, 1)
        example.learn(tmp_path)
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [str(number) for number in range(30)]
    shares = [int(line.split()[1].rstrip("%")) for line in told]
    assert shares[0] < 40
    assert shares[-1] > 70
    with rs.open(tmp_path / "actor-1.zarr") as buffer:
        steps = buffer.read(slice(None))
        assert buffer.trajectories["length"].tolist() == [1] * example.WINDOW
        assert len(set(map(len, steps["prompt"]))) == 6
        for prompt, tokens, logprob, reward in zip(*steps.values(), strict=True):
            assert len(prompt) == len(tokens) == len(logprob)
            assert reward == np.float32(np.mean([chr(96 + token) for token in tokens] == np.array([*prompt])))
            assert (logprob <= 0).all()
