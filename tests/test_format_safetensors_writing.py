"""Buffers that never were velora's are written as its files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from rlhf_rings import Ring, rows
from safetensors.numpy import load_file
from velora_rings import Replay, files, sample, walk

import replaystore as rs


def episodes(location: str, *, finals: bool) -> None:
    fields = {"observation": rs.Field("f8", (3,), "observation"), "action": rs.Field("i8", (), "action")}
    flags = {name: rs.Field("?", (), name) for name in ("terminated", "truncated")}
    with rs.create(
        location, rs.Schema({**fields, "reward": rs.Field("f4", (), "reward"), **flags})
    ) as buffer:
        for env, count in enumerate([4, 3, 2]):
            flag = np.zeros(count, bool)
            flag[-1] = env < 2
            values = np.arange(count * 3, dtype="f8").reshape(count, 3) + 100 * env
            columns = {"observation": values, "action": np.arange(count), "reward": np.ones(count, "f4")}
            columns |= {"terminated": flag & (env == 0), "truncated": flag & (env == 1)}
            buffer.append(columns, env=env, final_observation=np.full((1, 3), -1.0 - env) if finals else None)


def test_any_buffer_is_written_as_transitions(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.h5"), finals=True)
    target = tmp_path / "y" / "buffer_state.safetensors"
    report = rs.convert(str(tmp_path / "a.h5"), target)

    found = load_file(target)
    assert found["next_states"][:, 0].tolist() == [3, 6, 9, -1, 103, 106, -2, 203, -3]
    assert found["states"][:, 0].tolist() == [0, 3, 6, 9, 100, 103, 106, 200, 203]
    assert found["dones"][:, 0].tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 0]
    assert found["actions"][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert found["hiddens"].shape == (9, 1)
    expected = {
        "capacity": 9,
        "state_dim": 3,
        "action_dim": 1,
        "hidden_dim": 1,
        "position": 0,
        "size": 9,
        "device": "cpu",
    }
    assert json.loads(files(target)[1]) == expected
    notes = " ".join(report.notes)
    for said in (
        "hiddens: made up",
        "next_states: from the observations that follow",
        "float64 became float32",
        "capacity 9",
        "told apart no more in dones",
    ):
        assert said in notes


def test_steps_whose_next_observation_is_unknown_are_left_out(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"), finals=False)
    report = rs.convert(str(tmp_path / "a.zarr"), tmp_path / "buffer_state.safetensors")

    assert load_file(tmp_path / "buffer_state.safetensors")["states"][:, 0].tolist() == [
        0,
        3,
        6,
        100,
        103,
        200,
    ]
    assert "3 of them, after which nothing was observed" in " ".join(report.notes)
    assert report.steps == 6


def test_some_trajectories_are_written(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"), finals=True)
    rs.convert(str(tmp_path / "a.zarr"), tmp_path / "buffer_state.safetensors", where="length == 3")

    assert load_file(tmp_path / "buffer_state.safetensors")["states"][:, 0].tolist() == [100, 103, 106]


@pytest.mark.torch
def test_a_pickle_becomes_a_velora_buffer_whose_dones_are_at_the_last_steps(tmp_path: Path) -> None:
    ring = Ring(40)
    added = rows(30, 0)
    added["dones"][:] = False
    added["dones"][[0, 7, 20]] = True  # rows 0, 7 and 20 are no steps
    ring.add(added, "train")
    ring.save(tmp_path / "a.pkl")
    report = rs.convert(tmp_path / "a.pkl", tmp_path / "buffer_state.safetensors")

    found = load_file(tmp_path / "buffer_state.safetensors")
    kept = [row for row in range(29) if row not in (0, 7, 20)]  # what follows row 29 is not known
    assert json.loads(files(tmp_path / "buffer_state.safetensors")[1])["size"] == len(kept)
    assert found["states"][: len(kept)].tobytes() == added["obs"][kept].tobytes()
    assert found["next_states"][: len(kept)].tobytes() == added["obs"][np.array(kept) + 1].tobytes()
    assert [kept[place] for place in np.flatnonzero(found["dones"])] == [6, 19]
    assert "dones: moved" in " ".join(report.notes)
    assert sorted(os.listdir(tmp_path)) == ["a.pkl", "buffer_metadata.json", "buffer_state.safetensors"]


@pytest.mark.torch
def test_a_velora_buffer_becomes_a_pickle(tmp_path: Path) -> None:
    from rlhf_rings import load

    replay = Replay(100)
    steps = walk(60, 1, done=0)
    steps["dones"][[19, 49]] = 1
    replay.add(steps)
    rs.convert(replay.save(tmp_path / "x"), tmp_path / "a.pkl")

    content = load(tmp_path / "a.pkl")
    assert [info[:2] for info in content["trajectories"]] == [(0, 21), (21, 31), (52, 10)]
    assert np.flatnonzero(np.frombuffer(content["dones"][2], bool)).tolist() == [20, 51]
    obs = np.frombuffer(content["obs"][2], "f4").reshape(-1, 3)
    assert obs[20].tolist() == steps["next_states"][19].tolist()


@pytest.mark.torch
def test_rows_of_no_trajectory_become_rows_of_no_trajectory_in_a_pickle(tmp_path: Path) -> None:
    from rlhf_rings import load

    report = rs.convert(sample("cartpole_partial"), tmp_path / "a.pkl")

    content = load(tmp_path / "a.pkl")
    assert (content["size"], content["trajectories"]) == (110, [])
    assert "hiddens" in " ".join(report.notes)
