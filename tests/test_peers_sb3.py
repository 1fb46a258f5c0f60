"""What is written for Stable-Baselines3 opens in it, and what it has written is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import replaystore as rs
from replaystore.gymnasium import Record

sb3 = pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")

from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer  # noqa: E402
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")


def recorded(place: Path, episodes: int = 6) -> None:
    """CartPole, cut short after some steps."""
    plain = gymnasium.make("CartPole-v1", max_episode_steps=12)
    buffer = rs.create(place, plain)
    env = Record(plain, buffer)
    for seed in range(episodes):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        over = False
        while not over:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
    buffer.close()


def check(buffer: rs.Buffer, found: Any) -> None:
    """A buffer of Stable-Baselines3 has the same transitions, in the order of trajectories."""
    at = 0
    for number in range(buffer.num_trajectories):
        read = buffer.trajectory(number)
        stop = at + len(read.columns["reward"])
        seen = np.concatenate([read.columns["observation"], read.final_observation[None]])
        np.testing.assert_array_equal(found.observations[at:stop, 0], seen[:-1])
        np.testing.assert_array_equal(found.next_observations[at:stop, 0], seen[1:])
        np.testing.assert_array_equal(found.actions[at:stop, 0, 0], read.columns["action"])
        np.testing.assert_array_equal(found.rewards[at:stop, 0], read.columns["reward"].astype("f4"))
        done = read.columns["terminated"] | read.columns["truncated"]
        np.testing.assert_array_equal(found.dones[at:stop, 0], done.astype("f4"))
        late = read.columns["truncated"] & ~read.columns["terminated"]
        np.testing.assert_array_equal(found.timeouts[at:stop, 0], late.astype("f4"))
        at = stop
    assert at == found.size()


def test_a_recording_is_loaded_and_learned_from(tmp_path: Path) -> None:
    recorded(tmp_path / "a.zarr")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.sb3.pkl")

    model = sb3.DQN("MlpPolicy", "CartPole-v1", learning_starts=0, buffer_size=1000)
    model.load_replay_buffer(tmp_path / "b.sb3.pkl")
    found = model.replay_buffer
    assert type(found) is ReplayBuffer
    with rs.open(tmp_path / "a.zarr") as buffer:
        check(buffer, found)
    assert found.observation_space == gymnasium.make("CartPole-v1").observation_space
    assert found.action_space == gymnasium.spaces.Discrete(2)
    model.learn(40)
    model.train(gradient_steps=2, batch_size=16)


def test_what_was_gone_on_with_is_read_as_it_is_then(tmp_path: Path) -> None:
    recorded(tmp_path / "a.zarr")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.sb3.pkl")
    found = load_from_pkl(tmp_path / "b.sb3.pkl")
    added = np.full((1, 4), 7, np.float32)
    found.add(added, added + 1, np.array([1]), np.array([2.0]), np.array([True]), [{}])
    save_to_pkl(tmp_path / "c.pkl", found)

    rs.convert(tmp_path / "c.pkl", tmp_path / "c.zarr")
    with rs.open(tmp_path / "c.zarr") as buffer:
        assert len(buffer) == found.size()
        rows = buffer["observation"][:]
        assert (rows == 7).all(axis=1).sum() == 1
        assert set(buffer.trajectories["seed"].tolist()) == {-1}


@pytest.mark.parametrize("envs", [1, 2])
@pytest.mark.parametrize("steps", [30, 90])
def test_its_own_come_back_as_they_were(tmp_path: Path, envs: int, steps: int) -> None:
    model = sb3.DQN(
        "MlpPolicy",
        sb3.common.env_util.make_vec_env("CartPole-v1", envs, seed=3),
        buffer_size=100,
        learning_starts=1000,
        seed=1,
    )
    model.learn(steps * envs)
    model.save_replay_buffer(tmp_path / "a.pkl")
    rs.convert(tmp_path / "a.pkl", tmp_path / "a.zarr")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.sb3.pkl")

    found = load_from_pkl(tmp_path / "b.sb3.pkl")
    mine = model.replay_buffer
    assert (found.pos, found.full, found.buffer_size, found.n_envs) == (
        mine.pos,
        mine.full,
        mine.buffer_size,
        envs,
    )
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(mine, name), err_msg=name)
    batches = []
    for one in (found, mine):
        np.random.seed(0)  # what Stable-Baselines3 draws from
        batches.append(one.sample(16))
    for one, other in zip(*batches, strict=True):
        assert one is other is None or bool((one == other).all())


def test_a_dict_of_observations_and_float64(tmp_path: Path) -> None:
    spaces = gymnasium.spaces
    schema = rs.Schema.from_spaces(
        spaces.Dict(
            a=spaces.Box(-1, 1, (2,), np.float64),
            b=spaces.Discrete(5),
            c=spaces.Box(0, 255, (8, 8, 3), np.uint8),
        ),
        spaces.Box(-2, 2, (2,), np.float64),
    )
    generator = np.random.default_rng(0)
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        rows = {
            name: generator.integers(0, 5, (20, *field.shape)).astype(field.dtype)
            for name, field in schema.fields.items()
        }
        rows["terminated"] = rows["truncated"] = np.arange(20) % 7 == 6
        buffer.append(rows)
    report = rs.convert(tmp_path / "a.zarr", tmp_path / "b.sb3.pkl")

    found = load_from_pkl(tmp_path / "b.sb3.pkl")
    assert type(found) is DictReplayBuffer
    assert found.observations["a"].dtype == np.float64
    assert found.actions.dtype == np.float32
    assert found.observations["b"].shape == (20, 1, 1)
    assert found.timeouts.sum() == 0
    assert "scaled" in " ".join(report.notes)
    batch = found.sample(8)
    assert batch.observations["c"].shape == (8, 8, 8, 3)
    found.add(
        {key: values[0] for key, values in found.observations.items()},
        {key: values[0] for key, values in found.observations.items()},
        np.zeros((1, 2)),
        np.zeros(1),
        np.zeros(1, bool),
        [{}],
    )
