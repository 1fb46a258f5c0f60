"""Recordings of real environments: the recorded actions lead through the recorded trajectories."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import (
    MODES,
    Row,
    Trail,
    buffer_for,
    nested,
    trails_of,
)
from spies import VectorSpy

from replaystore.errors import ReplayStoreWarning
from replaystore.gymnasium import Record, RecordVector
from replaystore.schema.names import flatten

CHEETAH = pytest.param(
    "HalfCheetah-v5",
    12,
    {"max_episode_steps": 5},
    marks=pytest.mark.skipif(find_spec("mujoco") is None, reason="no mujoco"),
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its log into the current folder."""
    monkeypatch.chdir(tmp_path)


def replayed(make: Any, trails: Sequence[Trail]) -> list[Trail]:
    """The same actions in an environment of its own. The first trajectory has a seed, those after it go on
    with its random numbers."""
    env = make()
    again = []
    for trail in trails:
        observation, _ = env.reset(seed=None if trail.seed < 0 else trail.seed)
        rows: list[Row] = []
        for row in trail.rows:
            action = np.asarray(row["action"], env.action_space.dtype)
            observation_row = {
                name: np.asarray(leaf).tolist() for name, leaf in flatten(observation, "observation").items()
            }
            observation, reward, terminated, truncated, info = env.step(
                action if action.ndim else action.item()
            )
            infos = {
                name: np.asarray(value).tolist()
                for key, inner in info.items()
                for name, value in nested(f"info/{key}", inner)
            }
            values = {
                "action": row["action"],
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
            }
            rows.append(
                observation_row | values | {name: value for name, value in infos.items() if name in row}
            )
        final = {
            name: np.asarray(leaf).tolist() for name, leaf in flatten(observation, "observation").items()
        }
        again.append(Trail(trail.env, trail.seed, rows, final, terminated, truncated))
    env.close()
    return again


def wander(env: Any, steps: int, mode: AutoresetMode) -> None:
    env.reset(seed=11)
    env.action_space.seed(5)
    ended = np.zeros(env.num_envs, dtype=bool)
    for _ in range(steps):
        if mode == AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = terminated | truncated
    env.close()


@pytest.mark.parametrize("kind", ["model", "real"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("CartPole-v1", 120, {}),
        ("Pendulum-v1", 24, {"max_episode_steps": 10}),
        ("Blackjack-v1", 20, {"sab": True}),
        CHEETAH,
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_recorded_actions_lead_through_the_recorded_trajectories(
    name: str, steps: int, options: dict[str, Any], mode: AutoresetMode, kind: str
) -> None:
    env = gymnasium.make_vec(
        name, num_envs=3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options
    )
    buffer = buffer_for(env, kind)
    wander(RecordVector(env, buffer), steps, mode)

    recorded = trails_of(buffer)
    assert sum(len(trail.rows) for trails in recorded.values() for trail in trails) > steps
    for trails in recorded.values():
        assert len(trails) > 1
        assert replayed(partial(gymnasium.make, name, **options), trails) == trails
    if name == "HalfCheetah-v5":
        assert {"info/x_position", "info/reward_ctrl"} < recorded[0][0].rows[0].keys()


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        (name, 12, {"max_episode_steps": 12})
        for name in ("CartPole-v1", "Blackjack-v1", "FrozenLake-v1", "Pendulum-v1")
    ]
    + [CHEETAH],
)
@pytest.mark.usefixtures("elsewhere")
def test_single_environments_record_what_replays(name: str, steps: int, options: dict[str, Any]) -> None:
    make = partial(gymnasium.make, name, **options)
    env = Record(make(), buffer := buffer_for(make(), "real"))
    env.action_space.seed(5)
    env.reset(seed=11)
    for _ in range(3 * steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.close()

    trails = trails_of(buffer)[0]
    assert sum(len(trail.rows) for trail in trails) == 3 * steps
    assert replayed(make, trails) == trails


def test_a_natively_vectorised_environment_is_recorded_without_its_padding() -> None:
    env = VectorSpy(gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point"))
    recorded = RecordVector(env, buffer := buffer_for(env, "real"))
    observation, _ = recorded.reset(seed=3)
    recorded.action_space.seed(3)
    expected: dict[int, list[list[Any]]] = {place: [] for place in range(3)}
    ended = np.zeros(3, dtype=bool)
    for _ in range(80):
        actions = recorded.action_space.sample()
        following, reward, terminated, truncated, _ = recorded.step(actions)
        for place in np.flatnonzero(~ended).tolist():
            expected[place].append(
                [v[place].tolist() for v in (observation, actions, reward, terminated, truncated, following)]
            )
        observation, ended = following, terminated | truncated
    recorded.close()

    for place, trails in trails_of(buffer).items():
        steps: list[list[Any]] = []
        for trail in trails:
            after = [*(row["observation"] for row in trail.rows[1:]), trail.final["observation"]]
            values = [
                [row[name] for name in ("observation", "action", "reward", "terminated", "truncated")]
                for row in trail.rows
            ]
            steps += [[*value, then] for value, then in zip(values, after, strict=True)]
        assert steps == expected[place]
    assert buffer.schema.fields["reward"].dtype == np.float64  # the environment gives float32


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_infos_that_gymnasium_casts_to_those_of_a_reset_are_left_out(mode: AutoresetMode) -> None:
    make = partial(gymnasium.make, "FrozenLake-v1", max_episode_steps=6)
    env = SyncVectorEnv([make] * 3, autoreset_mode=mode)  # reset gives {"prob": 1}, step {"prob": 1/3}
    buffer = buffer_for(env)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wander(RecordVector(env, buffer), 40, mode)

    said = [str(warning.message) for warning in caught if issubclass(warning.category, ReplayStoreWarning)]
    assert len(said) == (mode != AutoresetMode.DISABLED)
    assert all("'prob'" in message for message in said)
    for trails in trails_of(buffer).values():
        assert replayed(make, trails) == trails  # where it is there it is right


@pytest.mark.parametrize(
    ("mode", "inner"),
    [(mode, inner) for mode in MODES for inner in (True, False) if inner or mode != AutoresetMode.DISABLED],
    # Gymnasium's own vector wrapper forgets all environments at each reset of some
)
def test_statistics_of_episodes_are_recorded_with_the_last_step(mode: AutoresetMode, inner: bool) -> None:
    single: Any = gymnasium.wrappers.RecordEpisodeStatistics
    make = partial(gymnasium.make, "CartPole-v1")
    env: Any = SyncVectorEnv([(lambda: single(make())) if inner else make] * 2, autoreset_mode=mode)
    env = env if inner else gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    buffer = buffer_for(env)
    wander(RecordVector(env, buffer, info=["episode/r", "episode/l"]), 60, mode)

    for trails in trails_of(buffer).values():
        for trail in trails:
            last = trail.rows[-1]
            if trail.terminated:
                assert (last["info/episode/r"], last["info/episode/l"]) == (len(trail.rows), len(trail.rows))
            assert not any("info/episode/r" in row for row in trail.rows[:-1])
    assert "info/episode/t" not in buffer.schema.fields
