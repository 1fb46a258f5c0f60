"""What an agent gives is recorded with each step, beside what the environment does; seeds and environments
can be said where rows are appended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ArgumentError, SchemaError
from replaystore.gymnasium import Record, RecordVector

EXTRA = {
    "logprob": rs.Field("float32", (), "extra"),
    "policy/value": rs.Field("float64", (2,), "extra"),
}


def made(path: Path, envs: Any) -> rs.Buffer:
    return rs.create(path, rs.Schema.from_env(envs, extra=EXTRA), environment=envs)


def test_of_several_environments(tmp_path: Path) -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    given = []
    with made(tmp_path / "a.zarr", envs) as buffer:
        recorder = RecordVector(envs, buffer)
        recorder.reset(seed=3)
        logprob = np.zeros(3, np.float32)
        for step in range(60):
            logprob[:] = step + np.arange(3) / 4
            value = np.full((3, 2), step, np.float64)
            recorder.step(np.zeros(3, np.int64), extra={"logprob": logprob, "policy": {"value": value}})
            given.append(logprob.copy())
            logprob[:] = -1  # agents fill theirs anew
        recorder.close()
        assert buffer.document.environment is not None
        assert buffer.document.environment.id == "CartPole-v1"
        for number in range(buffer.num_trajectories):
            read = buffer.trajectory(number)
            env = int(read.info["env"])
            found = read["logprob"]
            steps = (found - env / 4).astype(int)
            assert (np.diff(steps) == 1).all()
            assert (read["policy/value"] == steps[:, None]).all()
            assert all(given[step][env] == value for step, value in zip(steps, found, strict=True))


@pytest.mark.parametrize("place", ["a.zarr", "a.h5"])
def test_values_of_a_mutable_field_may_come_later(tmp_path: Path, place: str) -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    later = {"advantage": rs.Field("float32", (2,), "extra", mutable=True)}
    schema = rs.Schema.from_env(envs, extra={"logprob": EXTRA["logprob"], **later})
    with rs.create(tmp_path / place, schema) as buffer:
        recorder = RecordVector(envs, buffer)
        recorder.reset(seed=3)
        for _ in range(6):
            recorder.step(np.zeros(3, np.int64), extra={"logprob": np.ones(3, np.float32)})
        with pytest.raises(SchemaError, match="'logprob' of the agent's"):
            recorder.step(np.zeros(3, np.int64))
        given = {"logprob": np.ones(3, np.float32), "advantage": np.full((3, 2), 5, np.float32)}
        recorder.step(np.zeros(3, np.int64), extra=given)
        buffer.set_values("advantage", range(6), np.arange(12, dtype=np.float32).reshape(6, 2))
        recorder.close()
        buffer.commit()
        assert buffer["advantage"][:, 0].tolist() == [*range(0, 12, 2), *[0] * 12, 5, 5, 5]
    env = gymnasium.make("CartPole-v1")
    with rs.create(tmp_path / f"b.{place}", rs.Schema.from_env(env, extra=later)) as buffer:
        single = Record(env, buffer)
        single.reset(seed=3)
        single.step(0)
        buffer.commit()
        assert buffer["advantage"][:].tolist() == [[0, 0]]


def test_of_one_environment(tmp_path: Path) -> None:
    env = gymnasium.make("CartPole-v1")
    with made(tmp_path / "a.h5", env) as buffer:
        recorder = Record(env, buffer)
        recorder.reset(seed=3)
        recorder.step(0, extra={"logprob": np.float32(0.5), "policy/value": np.array([1.0, 2.0])})
        recorder.step(0, extra={"logprob": 0.25, "policy/value": [3.0, 4.0]})
        buffer.commit()
        assert buffer["logprob"][:].tolist() == [0.5, 0.25]
        assert buffer["policy/value"][:].tolist() == [[1, 2], [3, 4]]


def test_a_field_that_is_added_later_is_asked_for(tmp_path: Path) -> None:
    env = gymnasium.make("CartPole-v1")
    with rs.create(tmp_path / "a.zarr", env) as buffer:
        recorder = Record(env, buffer)
        recorder.reset(seed=3)
        recorder.step(0)
        buffer.add_field("logprob", EXTRA["logprob"])
        with pytest.raises(SchemaError, match="'logprob' of the agent's: give its values with each step"):
            recorder.step(0)
        recorder.step(1, extra={"logprob": 2.0})
        buffer.commit()
        assert buffer["logprob"][:].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (None, "'logprob' of the agent's: give its values"),
        ({"logprob": np.zeros(2, np.float32)}, "'policy/value' of the agent's"),
        ({"logprob": np.zeros(2, np.float32), "policy": {"values": 0}}, "extra gives 'policy/values'"),
        (
            {"logprob": np.zeros(2, np.float32), "values": 0},
            "'values', .*its fields.*'logprob', 'policy/value'",
        ),
        ({"zlogprob": 0, "policy/value": np.zeros((2, 2))}, "'zlogprob', .*its fields.*'logprob', 'policy/v"),
        ({"logprob": np.zeros(2, np.float32), "policy/value": np.zeros((2, 2)), "q": 1}, "extra gives 'q'"),
        ({"logprob": np.zeros(3, np.float32), "policy/value": np.zeros((2, 2))}, r"shape \(2,\)"),
        ({"logprob": np.full(2, 0.1), "policy/value": np.zeros((2, 2))}, "give its values as 'float32'"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_environment_is_stepped(
    tmp_path: Path, extra: Any, said: str
) -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    with made(tmp_path / "a.zarr", envs) as buffer:
        recorder = RecordVector(envs, buffer)
        recorder.reset(seed=3)
        with pytest.raises(SchemaError, match=said):
            recorder.step(np.zeros(2, np.int64), extra=extra)
        right = {"logprob": np.zeros(2, np.float32), "policy/value": np.zeros((2, 2))}
        recorder.step(np.zeros(2, np.int64), extra=right)
        recorder.close()
        assert buffer.trajectories["length"].tolist() == [1, 1]


def test_extra_of_a_buffer_without_fields_of_an_agent(tmp_path: Path) -> None:
    env = gymnasium.make("CartPole-v1")
    with rs.create(tmp_path / "a.zarr", env) as buffer:
        recorder = Record(env, buffer)
        recorder.reset(seed=3)
        with pytest.raises(SchemaError, match="'logprob', and the buffer has no such field: it has none"):
            recorder.step(0, extra={"logprob": 1.0})
        with pytest.raises(ArgumentError, match="extra is a dict"):
            recorder.step(0, extra=[1.0])  # type: ignore[arg-type]


def rows(ends: list[bool]) -> dict[str, Any]:
    return {"x": np.zeros(len(ends), np.float32), "terminated": np.array(ends)}


SCHEMA = rs.Schema({"x": rs.Field("float32", (), "extra"), "terminated": rs.Field("bool", (), "terminated")})


def test_append_takes_the_seeds_of_what_begins(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, environment="Own-v3") as buffer:
        buffer.append(rows([False, True, False]), seed=7)
        buffer.append(rows([True, True, False]), seed=[8, None])
        buffer.append(rows([False]), seed=9)
        buffer.append(rows([True] * 9), seed=11)
        buffer.append(rows([True] * 9), seed=np.arange(9))
        with pytest.raises(SchemaError, match="2 seeds for 1 trajectories that begin"):
            buffer.append(rows([True]), seed=[1, 2])
        for wrong in (-1, [-1], np.int64(-1), -2, 1 << 63, 0.5, True, "7"):
            with pytest.raises(ArgumentError, match="a seed is a number"):
                buffer.append(rows([True]), seed=wrong)  # type: ignore[arg-type]
        buffer.commit()
        assert buffer.trajectories["seed"].tolist() == [7, -1, 8, -1, 11, *[-1] * 7, *range(9)]
        assert buffer.document.environment is not None
        assert buffer.document.environment.id == "Own-v3"


def test_a_writers_reset_refuses_what_is_no_seed_and_goes_on(tmp_path: Path) -> None:
    flags = {"terminated": rs.Field("bool", (), "terminated"), "truncated": rs.Field("bool", (), "truncated")}
    with rs.create(tmp_path / "a.zarr", rs.Schema(flags)) as buffer:
        writer, ended = buffer.writer(2), np.array([True, True])
        writer.reset(seed=np.array([3, 4]))
        writer.step(terminated=~ended, truncated=~ended)
        for wrong in (
            -1,
            [3, -1],
            -2,
            1 << 63,
            0.5,
            True,
            "7",
            np.array([1, 1 << 63], np.uint64),
            [1, float("nan")],
        ):
            with pytest.raises(ArgumentError, match="a seed is a number"):
                writer.reset(seed=wrong)  # type: ignore[arg-type]
        writer.step(terminated=ended, truncated=~ended)
        writer.reset(seed=[5, None])
        writer.step(terminated=ended, truncated=~ended)
        writer.flush()
        buffer.commit()
        assert buffer.trajectories["seed"].tolist() == [3, 4, 5, -1]
        assert buffer.trajectories["length"].tolist() == [2, 2, 1, 1]


def test_an_environment_is_said_once(tmp_path: Path) -> None:
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(ArgumentError, match="takes an environment once"):
        rs.create(tmp_path / "a.zarr", env, environment=env)
    with pytest.raises(ArgumentError, match="not a int"):
        rs.create(tmp_path / "a.zarr", SCHEMA, environment=3)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("place", ["a.zarr", "a.h5"])
def test_a_mask_that_is_mutable_may_come_later_too(tmp_path: Path, place: str) -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    later = {
        "advantage": rs.Field("float32", (), "extra", mutable=True),
        "known/advantage": rs.Field("bool", (), "mask", mutable=True),
    }
    schema = rs.Schema({**rs.Schema.from_env(envs).fields, **later})
    with rs.create(tmp_path / place, schema) as buffer:
        recorder = RecordVector(envs, buffer)
        recorder.reset(seed=3)
        for step in range(6):
            extra = {"known/advantage": np.array([True, False])} if step == 5 else {}
            recorder.step(np.zeros(2, np.int64), extra=extra)
        buffer.set_values("advantage", [2, 3], 1)
        buffer.set_values("known/advantage", [2, 3], True)
        buffer.commit()
        assert buffer["known/advantage"][:].tolist() == [False] * 2 + [True] * 2 + [False] * 6 + [True, False]
    schema = rs.Schema({**rs.Schema.from_env(envs).fields, "known/it": rs.Field("bool", (), "mask")})
    buffer = rs.create(tmp_path / f"fixed.{place}", schema)
    with buffer, pytest.raises(SchemaError, match="which the environment does not give"):
        RecordVector(envs, buffer)
