"""robomimic's HDF5 files: demonstrations, masks, and what follows the last step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from flat_truth import Truth, imported, sample

import replaystore as rs
from replaystore import errors
from replaystore.formats.finding import find
from replaystore.testing.formats import FormatSuite


class TestRobomimic(FormatSuite):
    name = "robomimic"
    filename = "demo.hdf5"
    overhead = 4 << 20


@pytest.mark.parametrize("name", ["cartpole", "dictobs"])
def test_a_file_of_robomimic_is_what_was_played(tmp_path: Path, name: str) -> None:
    truth, path = Truth(name), sample("robomimic", f"{name}.hdf5")
    assert find(path) == "robomimic"

    buffer, report = imported(path, tmp_path)

    assert report.remarks == []
    assert buffer.trajectories.length.tolist() == truth.lengths
    keys = {"flat": "obs"} if name == "cartpole" else {"obs": "obs.obs", "time": "obs.time"}
    for number in range(len(truth.lengths)):
        one = buffer.trajectory(number)
        for key, true in keys.items():
            seen = truth.observations(number, true)
            assert np.array_equal(one[f"observation/{key}"], seen[:-1])
            if name == "cartpole":
                assert np.array_equal(buffer.final_observation(number)[f"observation/{key}"], seen[-1])
        assert np.array_equal(one["reward"], truth.steps(number, "rew"))
        assert np.array_equal(one["action"][:, 0], truth.steps(number, "act"))
        assert one["dones"].dtype == np.int64
    masks = {"cartpole": "tvvtvt", "dictobs": "tvttt"}
    splits = buffer.trajectories.split.tolist()
    assert {split[0] for split in splits} == {"t", "v"}
    assert len(splits) == len(masks[name])
    assert buffer.environment["id"] == name
    assert buffer.metadata["env_args"]["env_name"] == name


def written(folder: Path, count: int = 12, **more: Any) -> str:
    """Demonstrations of three steps."""
    with h5py.File(folder / "a.hdf5", "w") as file:
        data = file.create_group("data")
        for number in range(count):
            demo = data.create_group(f"demo_{number}")
            seen = np.full((4, 2), number) + np.arange(4)[:, None]
            demo["obs/a"], demo["next_obs/a"] = seen[:-1], seen[1:] * more.get("next", 1)
            demo["actions"] = np.zeros((3, 1), np.float32)
            demo.attrs["num_samples"], demo.attrs["score"], demo.attrs["model"] = 3, number / 2, "<xml/>"
        for name, members in more.get("masks", {}).items():
            file[f"mask/{name}"] = np.array([f"demo_{n}" for n in members], "S")
    return str(folder / "a.hdf5")


def test_demonstrations_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    masks = {"train": range(8), "valid": range(8, 12), "20_percent": (0, 9)}

    buffer, report = imported(written(tmp_path, masks=masks), tmp_path)

    assert buffer["observation/a"][::3, 0].tolist() == list(range(12))
    assert buffer.trajectories.split.tolist() == ["train"] * 8 + ["valid"] * 4
    assert np.flatnonzero(buffer.trajectories["mask_20_percent"]).tolist() == [0, 9]
    assert buffer.trajectories["score"].tolist() == [n / 2 for n in range(12)]
    assert buffer.metadata == {"demo/model": "<xml/>"}
    assert buffer.final_observation(3)["observation/a"].tolist() == [6, 6]
    assert report.remarks == []


def test_a_file_of_no_demonstrations_is_known(tmp_path: Path) -> None:
    schema = rs.Schema({"observation": rs.Field("float32", (2,), "observation")})
    rs.create(tmp_path / "a.zarr", schema).close()
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.hdf5", format="robomimic")

    assert find(str(tmp_path / "b.hdf5")) == "robomimic"


def test_next_observations_that_are_something_else_are_a_field(tmp_path: Path) -> None:
    buffer, report = imported(written(tmp_path, next=2), tmp_path)

    assert buffer["next_obs/a"][:3, 0].tolist() == [2, 4, 6]
    assert "a field of its own" in report.remarks[0]


def test_a_mask_that_was_added_to_what_we_wrote_is_the_split(tmp_path: Path) -> None:
    rs.convert(written(tmp_path), tmp_path / "a.zarr")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.hdf5", format="robomimic")
    with h5py.File(tmp_path / "b.hdf5", "a") as file:
        file["mask/train"] = np.array([b"demo_0", b"demo_11"])

    buffer, _ = imported(str(tmp_path / "b.hdf5"), tmp_path)

    assert np.flatnonzero(buffer.trajectories.split == "train").tolist() == [0, 11]
    assert buffer.trajectories["score"].tolist() == [n / 2 for n in range(12)]


@pytest.mark.parametrize("what", ["no steps", "other length", "no group", "nothing"])
def test_what_is_no_demonstration_is_one_clear_error(tmp_path: Path, what: str) -> None:
    path = written(tmp_path)
    with h5py.File(path, "a") as file:
        if what == "nothing":
            del file["data"]
            file.create_group("data")
        elif what == "no steps":
            del file["data/demo_3/actions"]
        elif what == "no group":
            del file["data/demo_3"]
            file["data/demo_3"] = np.zeros(3)
        else:
            del file["data/demo_3/obs/a"]
            file["data/demo_3/obs/a"] = np.zeros((2, 2), np.int64)

    with pytest.raises(errors.FormatError, match=r"a\.hdf5"):
        rs.convert(path, tmp_path / "a.zarr", format="robomimic")
    assert not (tmp_path / "a.zarr").exists()
