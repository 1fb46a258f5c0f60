"""Buffers that never were a pickle of active_rlhf are written as one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlhf_rings import OBS, load
from rlhf_samples import episodes

import replaystore as rs
from replaystore import errors

pytestmark = pytest.mark.torch  # whose pickles are what is read and written


def test_any_buffer_is_written_with_rows_for_the_last_observations(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"))
    report = rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl")

    content = load(tmp_path / "b.pkl")
    obs = np.frombuffer(content["obs"][2], "f4").reshape(11, OBS)
    dones = np.frombuffer(content["dones"][2], bool)
    assert [info[:3] for info in content["trajectories"]] == [(0, 5, "train"), (5, 4, "val"), (9, 2, "train")]
    assert np.flatnonzero(dones).tolist() == [4, 8]
    assert (obs[4] == -1).all()
    assert (obs[8] == -2).all()
    assert np.frombuffer(content["rews"][2], "f8").tolist() == [
        0.5,
        1.5,
        2.5,
        3.5,
        0,
        0.5,
        1.5,
        2.5,
        0,
        0.5,
        1.5,
    ]
    assert (content["size"], content["pos"], content["capacity"], content["global_step"]) == (11, 0, 11, 11)
    assert [info[4] for info in content["trajectories"]] == [0, 5, 9]
    notes = " ".join(report.notes)
    for said in (
        "capacity 11",
        "made up, 2 rows",
        "terminated, truncated: told apart no more",
        "on_policiness_score",
    ):
        assert said in notes


def test_without_last_observations_no_row_is_made_up(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"), finals=False, capacity=50)
    report = rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl")

    content = load(tmp_path / "b.pkl")
    assert (content["size"], content["capacity"], content["pos"]) == (9, 50, 9)
    assert not any(content["dones"][2])
    assert "2 episodes that ended" in " ".join(report.notes)


def test_some_trajectories_are_written(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"), finals=False)
    rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl", split="train")

    assert [info[:3] for info in load(tmp_path / "b.pkl")["trajectories"]] == [
        (0, 4, "train"),
        (4, 2, "train"),
    ]


def test_what_was_recorded_by_several_environments_in_turn_is_put_in_order(tmp_path: Path) -> None:
    schema = rs.Schema(
        {
            "observation/x": rs.Field("f8", (), "observation"),
            "observation/y": rs.Field("u1", (2, 2), "observation"),
            "action": rs.Field("i8", (), "action"),
            "reward": rs.Field("f4", (), "reward"),
            "terminated": rs.Field("?", (), "terminated"),
            "truncated": rs.Field("?", (), "truncated"),
            "info/k": rs.Field("f4", (), "info"),
        }
    )
    with rs.create(str(tmp_path / "a.h5"), schema, metadata={"a": 1}) as buffer:
        writer = buffer.writer(2)
        no = np.zeros(2, bool)

        def seen(step: int) -> dict[str, Any]:
            return {"x": np.array([step, 10 + step], "f8"), "y": np.full((2, 2, 2), step, "u1")}

        writer.reset(seen(0), seed=[5, 6])
        for step in range(6):
            writer.step(
                np.array([step, -step]),
                np.ones(2, "f4"),
                no,
                no,
                seen(step + 1),
                {"info/k": np.zeros(2, "f4")},
            )
            if step == 2:
                buffer.commit()
    report = rs.convert(str(tmp_path / "a.h5"), tmp_path / "b.pkl")

    content = load(tmp_path / "b.pkl")
    assert content["obs"][:2] == ("torch.float32", (12, 5))
    assert np.frombuffer(content["obs"][2], "f4").reshape(12, 5)[:, 0].tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        10,
        11,
        12,
        13,
        14,
        15,
    ]
    assert [info[:2] for info in content["trajectories"]] == [(0, 6), (6, 6)]
    notes = " ".join(report.notes)
    for said in (
        "order: one trajectory after another",
        "they became one tensor",
        "int64 became float32",
        "info/k",
        "seed",
        "metadata",
        "flat",
    ):
        assert said in notes, said


def test_strict_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"))

    with pytest.raises(errors.UnsupportedError, match=r"would not be exact .*made up, 2 rows"):
        rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl", strict=True)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr"]


def test_a_buffer_without_actions_is_refused(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"))

    with pytest.raises(errors.UnsupportedError, match="observations and actions"):
        rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl", fields=["observation", "reward"])
