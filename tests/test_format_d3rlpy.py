"""d3rlpy's HDF5 files: episodes, and what d3rlpy itself loses."""

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


class TestD3rlpy(FormatSuite):
    name = "d3rlpy"
    filename = "dataset.h5"
    overhead = 4 << 20


@pytest.mark.parametrize("name", ["cartpole", "cartpole-mdpdataset", "dictobs-as-tuple", "cartpole-fifo40"])
def test_a_file_of_d3rlpy_is_what_was_played(tmp_path: Path, name: str) -> None:
    kind = name.partition("-")[0]
    truth, path = Truth(kind), sample("d3rlpy", f"{name}.h5")
    assert find(path) == "d3rlpy"

    buffer, report = imported(path, tmp_path)

    assert report.remarks == []
    first = 3 if name.endswith("fifo40") else 0
    assert buffer.trajectories.length.tolist() == truth.lengths[first:]
    keys = {"observation": "obs"}
    if kind == "dictobs":
        keys = {"observation/0": "obs.obs", "observation/1": "obs.time"}
        assert buffer.schema.tuples == {"observation"}
    for number in range(buffer.num_trajectories):
        one, true = buffer.trajectory(number), number + first
        for field, key in keys.items():
            assert np.array_equal(one[field], truth.observations(true, key)[:-1])
        assert np.array_equal(one["action"][:, 0], truth.steps(true, "act"))
        assert np.array_equal(one["reward"], truth.steps(true, "rew").astype(np.float32))
        assert np.array_equal(one["terminated"], truth.steps(true, "terminated"))


def written(folder: Path, **change: Any) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        file["columns"], file["num_episodes"] = ["observations", "actions", "rewards", "terminated"], 2
        for number in range(2):
            file[f"observations_{number}"] = np.zeros((3, 2), np.float32)
            file[f"actions_{number}"], file[f"rewards_{number}"] = np.zeros((3, 1)), np.ones((3, 1))
            file[f"terminated_{number}"] = number == 1
        file["version"] = "2.0"
        for name, value in change.items():
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value
    return str(folder / "a.h5")


def test_a_file_of_version_two_is_read(tmp_path: Path) -> None:
    buffer, _ = imported(written(tmp_path), tmp_path)

    assert buffer.trajectories.length.tolist() == [3, 3]
    assert buffer.trajectories.terminated.tolist() == [False, True]
    assert buffer["reward"][:].tolist() == [1] * 6


@pytest.mark.parametrize(
    "change",
    [
        {"num_episodes": 3},
        {"num_episodes": 10**9},
        {"num_episodes": 0},
        {"version": "9"},
        {"columns": ["observations"]},
        {"actions_1": np.zeros((2, 1))},
        {"actions_1": np.zeros((3, 2))},
        {"observations_1": np.zeros((3, 2))},
        {"observations_1": np.array(["a"] * 3, object)},
        {"rewards_1": None},
        {"terminated_1": None},
    ],
    ids=str,
)
def test_what_is_damaged_is_one_clear_error(tmp_path: Path, change: dict[str, Any]) -> None:
    path = written(tmp_path, **change)

    with pytest.raises(errors.FormatError, match=r"a\.h5"):
        rs.convert(path, tmp_path / "a.zarr", format="d3rlpy")
    assert not (tmp_path / "a.zarr").exists()


def test_what_was_dumped_again_is_read_as_it_is(tmp_path: Path) -> None:
    """What was kept is of other episodes then."""
    rs.convert(written(tmp_path), tmp_path / "a.zarr")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.h5", format="d3rlpy")
    with h5py.File(tmp_path / "b.h5", "a") as file:
        del file["num_episodes"]
        file["num_episodes"] = 1

    buffer, report = imported(str(tmp_path / "b.h5"), tmp_path)

    assert buffer.trajectories.length.tolist() == [3]
    assert "changed by other software" in report.remarks[0]
