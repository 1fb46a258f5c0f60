"""Buffers of Stable-Baselines3 become trajectories: of each environment, in the order of time, with the
observation after each end, and how it ended."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sb3_pickles import BUFFERS, SAMPLES, dumped, rows_in_time, samples, state_of, truth

import replaystore as rs
from replaystore.formats import find, named


def opened(folder: Path, data: bytes) -> rs.Buffer:
    """A store of what a pickle holds."""
    (folder / "a.pkl").write_bytes(data)
    rs.convert(folder / "a.pkl", folder / "a.zarr")
    return rs.open(folder / "a.zarr")


def sha(array: NDArray[Any]) -> str:
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.dtype.str}|{array.shape}|".encode() + array.tobytes()).hexdigest()


# --- the samples


@pytest.mark.parametrize(("file", "facts"), list(samples()))
def test_samples_are_recognised_and_read(tmp_path: Path, file: Path, facts: dict[str, Any]) -> None:
    assert find(file) == "sb3"
    report = rs.convert(file, tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as buffer:
        dense = facts.get("optimize_memory_usage", "next_observations" not in str(facts["arrays"]))
        rows = facts["size"] - (dense and facts["full"])
        assert len(buffer) == report.steps == rows * facts["n_envs"]
        assert buffer.environment is None or buffer.environment["num_envs"] == facts["n_envs"]
        if facts["full"] or facts["n_envs"] > 1:
            return
        for theirs, mine in (("rewards", "reward"), ("actions", "action")):
            whole = np.zeros(facts["arrays"][theirs]["shape"], facts["arrays"][theirs]["dtype"])
            rows_of = buffer[mine][:]
            whole.reshape(-1)[: len(rows_of)] = rows_of.reshape(-1)
            assert sha(whole) == facts["arrays"][theirs]["sha256"]


@pytest.mark.skipif(not SAMPLES.exists(), reason="the samples are not beside this checkout")
@pytest.mark.parametrize("name", ["cartpole", "dictobs"])
def test_the_truth_comes_out(tmp_path: Path, name: str) -> None:
    rs.convert(SAMPLES / f"stable-baselines3-{name}" / "replay.pkl", tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as buffer:
        episodes = truth(name)
        assert buffer.num_trajectories == len(episodes)
        for number, episode in enumerate(episodes):
            read = buffer.trajectory(number)
            for key, values in episode.items():
                if not key.startswith("obs"):
                    continue
                field = "observation" + key[3:].replace(".", "/")
                final = read.final_observation
                last = final[field] if isinstance(final, dict) and field in final else final
                last = last[key[4:]] if isinstance(last, dict) else last
                np.testing.assert_array_equal(np.concatenate([read.columns[field], last[None]]), values)
            np.testing.assert_array_equal(read.columns["action"], episode["act"])
            np.testing.assert_array_equal(read.columns["reward"], episode["rew"].astype(np.float32))
            both = episode["terminated"] & episode["truncated"]
            np.testing.assert_array_equal(read.columns["terminated"], episode["terminated"])
            np.testing.assert_array_equal(read.columns["truncated"], episode["truncated"] & ~both)


@pytest.mark.skipif(not SAMPLES.exists(), reason="the samples are not beside this checkout")
def test_environments_in_a_ring_are_told_apart(tmp_path: Path) -> None:
    rs.convert(SAMPLES / "stable-baselines3-cartpole" / "replay-2envs.pkl", tmp_path / "a.zarr")

    episodes = truth("cartpole")
    with rs.open(tmp_path / "a.zarr") as buffer:
        for env in range(2):
            told = [n for n in range(buffer.num_trajectories) if buffer.trajectories["env"][n] == env]
            actions = np.concatenate([buffer.trajectory(n).columns["action"] for n in told])
            dealt = np.concatenate([episode["act"] for episode in episodes[env::2]])
            stop = min(sum(len(e["act"]) for e in episodes[e0::2]) for e0 in range(2))
            np.testing.assert_array_equal(actions, dealt[stop - 25 : stop])


# --- what files may hold


@pytest.mark.parametrize("full", [False, True])
def test_rows_come_in_the_order_of_time(tmp_path: Path, full: bool) -> None:
    state = state_of(full=full)
    with opened(tmp_path, dumped(BUFFERS, "ReplayBuffer", state)) as buffer:
        for env in range(2):
            (number,) = [n for n in range(buffer.num_trajectories) if buffer.trajectories["env"][n] == env]
            read = buffer.trajectory(number)
            rows = rows_in_time(state["observations"], full, 4)[:, env]
            np.testing.assert_array_equal(read.columns["observation"], rows)
            np.testing.assert_array_equal(
                read.final_observation, rows_in_time(state["next_observations"], full, 4)[-1, env]
            )
            assert (buffer.trajectories["terminated"] | buffer.trajectories["truncated"]).sum() == 0


def test_an_environment_that_was_reset_without_a_flag_begins_a_trajectory(tmp_path: Path) -> None:
    state = state_of(envs=1, position=6, full=True)
    state["next_observations"][2] += 1
    state["pos"] = 0
    with opened(tmp_path, dumped(BUFFERS, "ReplayBuffer", state)) as buffer:
        assert buffer.trajectories["length"].tolist() == [3, 3]
        assert not buffer.trajectories["terminated"].any()
        np.testing.assert_array_equal(
            buffer.trajectory(0).final_observation, state["next_observations"][2, 0]
        )


def test_blocks_do_not_depend_on_how_much_is_read_at_once(tmp_path: Path) -> None:
    state = state_of(rows=50, envs=3, full=True, position=13)
    generator = np.random.default_rng(1)
    state["dones"][:] = generator.random((50, 3)) < 0.2
    state["timeouts"][:] = state["dones"] * (generator.random((50, 3)) < 0.5)
    state["next_observations"][generator.random((50, 3)) < 0.1] += 1
    (tmp_path / "a.pkl").write_bytes(dumped(BUFFERS, "ReplayBuffer", state))

    def told(most: int) -> list[Any]:
        ended, parts = [], dict[int, list[Any]]()
        with named("sb3").read(str(tmp_path / "a.pkl")) as source:
            for block in source.blocks(most):
                parts.setdefault(block.env, []).append(block.columns["observation"])
                if block.ends:
                    rows = np.concatenate(parts.pop(block.env))
                    flags = bool(block.columns["terminated"][-1]), bool(block.columns["truncated"][-1])
                    ended.append((block.env, rows.tobytes(), flags, block.final["observation"].tobytes()))
        assert not parts
        return sorted(ended)

    whole = told(1 << 20)
    assert told(1) == told(300) == whole
    flags = state["dones"] + (rows_in_time(state["next_observations"], True, 13) * 0)[..., 0]
    assert len(whole) > flags.sum()


def test_without_next_observations_they_are_those_of_the_next_rows(tmp_path: Path) -> None:
    state = state_of(envs=1, full=True, optimize_memory_usage=True, handle_timeout_termination=False)
    del state["next_observations"]
    state["dones"][1] = 1
    with opened(tmp_path, dumped(BUFFERS, "ReplayBuffer", state)) as buffer:
        assert buffer.trajectories["length"].tolist() == [3, 2]  # rows 5 0 1, then 2 3; 4 is overwritten
        assert buffer.trajectories["terminated"].tolist() == [True, False]
        assert buffer.trajectory(0).final_observation is None
        np.testing.assert_array_equal(buffer.trajectory(1).final_observation, state["observations"][4, 0])


def test_of_a_rollout_what_was_learned_with_is_kept(tmp_path: Path) -> None:
    state = state_of(rows=5, full=True, position=5)
    for name in ("next_observations", "dones", "timeouts", "handle_timeout_termination"):
        del state[name]
    generator = np.random.default_rng(2)
    more = ("values", "log_probs", "advantages", "returns")
    state |= {name: generator.normal(size=(5, 2)).astype(np.float32) for name in more}
    state["episode_starts"] = np.array([[1, 1], [0, 0], [1, 0], [0, 0], [0, 1]], np.float32)
    plain = opened(tmp_path, dumped(BUFFERS, "RolloutBuffer", state))
    flat = dict(state)
    for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
        rows = state[name] if state[name].ndim > 2 else state[name][..., None]
        flat[name] = rows.swapaxes(0, 1).reshape(10, *rows.shape[2:])
    (tmp_path / "more").mkdir()
    learned = opened(tmp_path / "more", dumped(BUFFERS, "RolloutBuffer", flat))

    for buffer in (plain, learned):
        with buffer:
            assert sorted(buffer.trajectories["length"].tolist()) == [1, 2, 3, 4]
            for name in (*more, "episode_starts"):
                rows = {env: [] for env in range(2)}
                for number in range(4):
                    rows[int(buffer.trajectories["env"][number])].append(
                        buffer.trajectory(number).columns[name]
                    )
                for env in range(2):
                    np.testing.assert_array_equal(np.concatenate(rows[env]), state[name][:, env])
            assert "terminated" not in buffer.schema.fields
            assert buffer.trajectory(0).final_observation is None


def test_infos_of_hindsight_are_fields_where_all_steps_have_them(tmp_path: Path) -> None:
    infos = np.empty((6, 1), object)
    for row in range(6):
        infos[row, 0] = {"is_success": np.float64(row), "n": row, "at": np.full(2, row, "f4"), "odd": "text"}
        if row == 3:
            infos[row, 0]["sometimes"] = 1
    state = state_of(envs=1, full=True, position=0, infos=infos, ep_length=np.ones((6, 1), np.int64))
    (tmp_path / "a.pkl").write_bytes(
        dumped("stable_baselines3.her.her_replay_buffer", "HerReplayBuffer", state)
    )
    report = rs.convert(tmp_path / "a.pkl", tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert buffer["info/is_success"][:].tolist() == [0, 1, 2, 3, 4, 5]
        assert buffer["info/n"][:].dtype == np.int64
        assert buffer["info/at"][:].shape == (6, 2)
        assert {"info/odd", "info/sometimes"} & buffer.schema.fields.keys() == set()
    assert report.fields["info/odd"].kind == report.fields["info/sometimes"].kind == "lost"
    assert report.fields["ep_length"].kind == "derived"


def test_numbers_of_the_buffers_own_are_extra_fields(tmp_path: Path) -> None:
    priorities = np.arange(12, dtype=np.float64).reshape(6, 2)
    state = state_of(full=True, position=0, priorities=priorities, anything={"a": [1, None]}, n_steps=3)
    with opened(tmp_path, dumped(BUFFERS, "NStepReplayBuffer", state)) as buffer:
        assert sorted(buffer["priorities"][:].tolist()) == priorities.reshape(-1).tolist()
        assert buffer.provenance["source"]["n_steps"] == 3


def test_little_is_in_memory(tmp_path: Path) -> None:
    state = state_of(rows=20_000, envs=2, full=True, position=7)
    state["observations"] = state["next_observations"] = np.zeros((20_000, 2, 100), np.float32)
    (tmp_path / "a.pkl").write_bytes(dumped(BUFFERS, "ReplayBuffer", state))

    with named("sb3").read(str(tmp_path / "a.pkl")) as source:
        tracemalloc.start()
        try:
            steps = sum(map(len, source.blocks(1 << 18)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert steps == 40_000
    assert peak < 12 << 18
