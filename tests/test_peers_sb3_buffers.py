"""Buffers for Stable-Baselines3 that lie in a store, in the place of its own: the same batches and weights,
and nothing that was there is ever lost."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import replaystore as rs
from replaystore import errors

sb3 = pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")

from stable_baselines3.common import buffers as theirs  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402

from replaystore.sb3 import DictReplayBuffer, ReplayBuffer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
BOX = spaces.Box(-np.inf, np.inf, (4,), np.float32)
DICT = spaces.Dict(a=BOX, b=spaces.Discrete(9), c=spaces.Box(0, 255, (5, 5, 1), np.uint8))
CONTINUOUS = spaces.Box(-1, 1, (2,), np.float64)


def mine(place: Path, size: int = 60, envs: int = 1, observation: Any = BOX, **more: Any) -> Any:
    kind = DictReplayBuffer if isinstance(observation, spaces.Dict) else ReplayBuffer
    action = more.pop("action", spaces.Discrete(3))
    return kind(size, observation, action, device="cpu", n_envs=envs, location=place, **more)


class Steps:
    """The same random steps for several buffers: episodes end, by time limits too, and environments are reset
    without a flag now and then."""

    def __init__(self, envs: int = 1, observation: Any = BOX, action: Any = None, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.envs, self.space, self.action = envs, observation, action or spaces.Discrete(3)
        self.now = self.observed()

    def observed(self) -> Any:
        found = {
            "a": self.generator.normal(size=(self.envs, 4)).astype(np.float32),
            "b": self.generator.integers(0, 9, self.envs),
            "c": self.generator.integers(0, 255, (self.envs, 5, 5, 1)).astype(np.uint8),
        }
        return found if isinstance(self.space, spaces.Dict) else found["a"]

    def play(self, count: int, *buffers: Any) -> None:
        for _ in range(count):
            after, done = self.observed(), self.generator.random(self.envs) < 0.1
            late = done & (self.generator.random(self.envs) < 0.5)
            if isinstance(self.action, spaces.Discrete):
                action = self.generator.integers(0, 3, self.envs)
            else:
                action = self.generator.normal(size=(self.envs, *self.action.shape))
            reward = self.generator.normal(size=self.envs).astype(np.float32)
            infos = [{"TimeLimit.truncated": bool(one)} for one in late]
            for buffer in buffers:
                pair = [dict(one) if isinstance(one, dict) else one for one in (self.now, after)]
                buffer.add(*pair, action, reward, done, infos)
            self.go_on(after, done | (self.generator.random(self.envs) < 0.02))

    def go_on(self, after: Any, again: Any) -> None:
        new = self.observed()
        if not isinstance(after, dict):
            self.now = after.copy()
            self.now[again] = new[again]
            return
        self.now = {key: rows.copy() for key, rows in after.items()}
        for key, rows in self.now.items():
            rows[again] = new[key][again]


def drawn(buffer: Any, seed: int, count: int = 24, env: Any = None) -> dict[str, Any]:
    np.random.seed(seed)
    batch = buffer.sample(count, env)._asdict()
    flat = {name: value for name, value in batch.items() if not isinstance(value, dict)}
    for name, value in batch.items():
        flat |= {f"{name}/{key}": rows for key, rows in value.items()} if isinstance(value, dict) else {}
    return {name: value.numpy() for name, value in flat.items() if value is not None}


def same(one: Any, other: Any, seed: int = 0, env: Any = None) -> None:
    """Both draw the same batch."""
    first, second = drawn(one, seed, env=env), drawn(other, seed, env=env)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    assert (one.pos, one.full, one.size()) == (other.pos, other.full, other.size())


# --- batches


@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("observation", [BOX, DICT], ids=["box", "dict"])
@pytest.mark.parametrize("action", [spaces.Discrete(3), CONTINUOUS], ids=["discrete", "continuous"])
def test_batches_are_the_same(tmp_path: Path, envs: int, observation: Any, action: Any) -> None:
    kind = theirs.DictReplayBuffer if isinstance(observation, spaces.Dict) else theirs.ReplayBuffer
    more: dict[str, Any] = {"handle_timeout_termination": envs == 1}
    own = kind(61, observation, action, device="cpu", n_envs=envs, **more)
    buffer = mine(tmp_path / "a.zarr", 61, envs, observation, action=action, **more)
    steps = Steps(envs, observation, action)
    for number in range(60):
        steps.play(1 + number % 4, own, buffer)
        same(own, buffer, number)
        if number % 17 == 0:
            buffer.commit()


def test_batches_are_normalised_the_same_way(tmp_path: Path) -> None:
    env = sb3.common.vec_env.VecNormalize(make_vec_env("CartPole-v1", 1))
    env.obs_rms.mean[:], env.ret_rms.var = 2.0, 5.0
    own = theirs.ReplayBuffer(50, BOX, spaces.Discrete(3), device="cpu")
    buffer = mine(tmp_path / "a.zarr", 50)
    Steps().play(70, own, buffer)
    same(own, buffer, env=env)


# --- learning


def model(kind: str, envs: int = 1, **more: Any) -> Any:
    """An agent; seeded, so that two are the same."""
    settings: dict[str, Any] = {"learning_starts": 20, "batch_size": 16, "seed": 1, "device": "cpu"}
    settings |= {"buffer_size": 70, "train_freq": 1, "gradient_steps": 1}
    settings |= {"target_update_interval": 10} if kind == "DQN" else {}
    name = "CartPole-v1" if kind == "DQN" else "Pendulum-v1"
    policy = {"net_arch": [16]}
    env = make_vec_env(name, envs, seed=2)
    return getattr(sb3, kind)("MlpPolicy", env, policy_kwargs=policy, **settings | more)


def stored(place: Path, **more: Any) -> dict[str, Any]:
    return {"replay_buffer_class": ReplayBuffer, "replay_buffer_kwargs": {"location": place, **more}}


def weights(agent: Any) -> list[Any]:
    return [value.numpy() for value in agent.policy.state_dict().values()]


@pytest.mark.parametrize("envs", [1, 2])
@pytest.mark.parametrize("kind", ["SAC", "DQN"])
def test_agents_learn_the_same(tmp_path: Path, kind: str, envs: int) -> None:
    own, agent = (model(kind, envs, **more).learn(80) for more in ({}, stored(tmp_path / "a.zarr")))
    for first, second in zip(weights(own), weights(agent), strict=True):
        np.testing.assert_array_equal(first, second)
    same(own.replay_buffer, agent.replay_buffer)


@pytest.mark.parametrize("kind", ["SAC", "DQN"])
def test_saved_and_loaded(tmp_path: Path, kind: str) -> None:
    agent = model(kind, 2, **stored(tmp_path / "a.zarr"))
    agent.learn(80)
    before = drawn(agent.replay_buffer, 5)
    agent.save(tmp_path / "model.zip")
    agent.save_replay_buffer(tmp_path / "buffer.pkl")
    bytes_ = io.BytesIO()
    agent.save_replay_buffer(bytes_)
    agent.learn(40, reset_num_timesteps=False)
    assert (tmp_path / "buffer.pkl").stat().st_size < 10_000

    again = getattr(sb3, kind).load(tmp_path / "model.zip", env=agent.env)
    assert again.replay_buffer.size() == agent.replay_buffer.size(), "what is there is shown"
    bytes_.seek(0)
    for source in (tmp_path / "buffer.pkl", bytes_):
        again.load_replay_buffer(source)
        for name, values in drawn(again.replay_buffer, 5).items():
            np.testing.assert_array_equal(values, before[name])
    again.learn(20, reset_num_timesteps=False)
    agent.replay_buffer.sample(3)
    with pytest.raises(errors.ConflictError, match="another buffer"):
        agent.learn(20, reset_num_timesteps=False)


def test_a_killed_run_is_gone_on_with(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        import numpy as np
        from gymnasium import spaces
        from replaystore.sb3 import ReplayBuffer
        box = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        place = {str(tmp_path / "a.zarr")!r}
        buffer = ReplayBuffer(60, box, spaces.Discrete(3), device="cpu", location=place)
        for step in range(100):
            row = np.full((1, 4), step, np.float32)
            buffer.add(row, row + 1, np.zeros(1, int), np.full(1, step, "f4"), np.zeros(1, bool), [{{}}])
            if step == 80:
                buffer.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL

    buffer = mine(tmp_path / "a.zarr")
    assert (buffer.pos, buffer.full) == (81 % 60, True)
    rewards = drawn(buffer, 0, 500)["rewards"]
    assert (rewards.min(), rewards.max()) == (21, 80)
    row = np.full((1, 4), 500, np.float32)
    buffer.add(row, row + 1, np.zeros(1, int), np.full(1, 500, "f4"), np.zeros(1, bool), [{}])
    batch = drawn(buffer, 0, 2000)
    assert set(batch["rewards"].reshape(-1).tolist()) == {500.0, *map(float, range(22, 81))}
    at = batch["rewards"].reshape(-1) == 80
    assert (batch["next_observations"][at] == 81).all(), "the environment was reset in between"


def test_what_was_added_after_a_save_is_there_until_something_else_is_added(tmp_path: Path) -> None:
    buffer = mine(tmp_path / "a.zarr", 1000)
    steps = Steps()
    own = theirs.ReplayBuffer(1000, BOX, spaces.Discrete(3), device="cpu")
    steps.play(40, buffer, own)
    kept = io.BytesIO()
    sb3.common.save_util.save_to_pkl(kept, buffer)
    steps.play(30, buffer)
    buffer.close()
    kept.seek(0)
    again = sb3.common.save_util.load_from_pkl(kept)

    same(own, again)
    assert len(rs.open(tmp_path / "a.zarr")) == 70
    steps.play(10, again, own)
    same(own, again)
    again.close()
    assert len(rs.open(tmp_path / "a.zarr")) == 50


# --- what is there, and does not fit


def test_a_store_of_this_package_is_gone_on_with(tmp_path: Path) -> None:
    own = theirs.ReplayBuffer(60, BOX, spaces.Discrete(3), device="cpu")
    steps = Steps()
    steps.play(90, own)
    sb3.common.save_util.save_to_pkl(tmp_path / "a.pkl", own)
    rs.convert(tmp_path / "a.pkl", tmp_path / "a.zarr")

    buffer = mine(tmp_path / "a.zarr", 60)
    first = {name: np.sort(values, axis=0) for name, values in drawn(buffer, 0, 5000).items()}
    second = {name: np.sort(values, axis=0) for name, values in drawn(own, 0, 5000).items()}
    assert first["rewards"].min() == second["rewards"].min()
    steps.play(5, buffer)
    assert buffer.full
    assert buffer.pos == 5


def test_what_does_not_fit_is_refused_and_left_alone(tmp_path: Path) -> None:
    buffer = mine(tmp_path / "a.zarr", 60, 2)
    Steps(2).play(10, buffer)
    buffer.close()

    with pytest.raises(errors.SchemaError, match="in turn"):
        mine(tmp_path / "a.zarr", 60, 3)
    with pytest.raises(errors.SchemaError, match="buffer_size=60"):
        mine(tmp_path / "a.zarr", 80, 2)
    with pytest.raises(errors.SchemaError, match="observation"):
        mine(tmp_path / "a.zarr", 60, 2, spaces.Box(-1, 1, (3,), np.float32))
    with pytest.raises(errors.SchemaError, match="space of action"):
        mine(tmp_path / "a.zarr", 60, 2, action=spaces.Discrete(4))
    assert mine(tmp_path / "a.zarr", 60, 2).size() == 10


def test_what_it_does_not_do_is_refused_in_words(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    with pytest.raises(errors.UnsupportedError, match="once anyway"):
        mine(place, optimize_memory_usage=True)
    with pytest.raises(errors.UnsupportedError, match="n_step"):
        mine(place, n_steps=3, gamma=0.99)
    with pytest.raises(errors.ArgumentError, match="location"):
        ReplayBuffer(10, BOX, spaces.Discrete(3))
    with pytest.raises(errors.ArgumentError, match="DictReplayBuffer"):
        ReplayBuffer(10, DICT, spaces.Discrete(3), location=place)
    with pytest.raises(errors.UnsupportedError, match="ring"):
        Steps().play(1, mine(tmp_path / "a.h5"))
    with pytest.raises(errors.UnsupportedError, match="emptied"):
        mine(place).reset()
    assert not place.exists()


def test_all_steps_of_a_run_are_kept_if_wanted(tmp_path: Path) -> None:
    own = theirs.ReplayBuffer(60, BOX, spaces.Discrete(3), device="cpu", n_envs=2)
    for name in ("a.zarr", "a.h5"):
        buffer = mine(tmp_path / name, 60, 2, keep_all=True)
        Steps(2).play(90, buffer, *([own] if name == "a.zarr" else []))
        same(own, buffer)
        buffer.close()
        with rs.open(tmp_path / name) as found:
            assert len(found) == 180
            rows = found.trajectories["length"]
            assert rows.sum() == 180
        assert rs.verify(tmp_path / name).problems == []


def test_a_run_is_converted_to_a_pickle_of_its_own(tmp_path: Path) -> None:
    agent = model("DQN", 2, **stored(tmp_path / "a.zarr"))
    agent.learn(60)
    agent.replay_buffer.close()
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.sb3.pkl")
    own = model("DQN", 2)
    own.learn(60)
    found = sb3.common.save_util.load_from_pkl(tmp_path / "b.sb3.pkl")
    assert found.n_envs == 2
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(found, name)[:30], getattr(own.replay_buffer, name)[:30])


def test_a_pickle_that_names_a_store_says_so(tmp_path: Path) -> None:
    buffer = mine(tmp_path / "a.zarr")
    Steps().play(3, buffer)
    sb3.common.save_util.save_to_pkl(tmp_path / "a.pkl", buffer)
    with pytest.raises(errors.FormatError, match=r"names the store that has them: convert '.*a\.zarr'"):
        rs.convert(tmp_path / "a.pkl", tmp_path / "b.zarr")


def test_a_closed_one_is_not_used_any_more(tmp_path: Path) -> None:
    buffer = mine(tmp_path / "a.zarr")
    Steps().play(3, buffer)
    buffer.close()
    for use in (lambda: buffer.sample(2), lambda: Steps().play(1, buffer)):
        with pytest.raises(errors.ConflictError, match="closed"):
            use()


def test_a_program_that_just_ends_has_lost_nothing(tmp_path: Path) -> None:
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_peers_sb3_buffers import Steps, mine
        buffer = mine(Path({str(tmp_path / "a.zarr")!r}))
        Steps().play(33, buffer)
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], check=True)
    assert len(rs.open(tmp_path / "a.zarr")) == 33


def test_environments_of_gymnasium_need_no_more(tmp_path: Path) -> None:
    gymnasium.make("CartPole-v1")
    agent = sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=100, **stored(tmp_path / "a.zarr"))
    agent.learn(30)
    assert agent.replay_buffer.location == str(tmp_path / "a.zarr")
