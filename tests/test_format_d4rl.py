"""Flat HDF5 files as D4RL has them: the boundaries are the right ones, whatever there is to find them by."""

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


class TestD4rl(FormatSuite):
    name = "d4rl"
    filename = "data.hdf5"
    overhead = 6 << 20


@pytest.mark.parametrize("name", ["cartpole", "cartpole-v2nextobs"])
def test_a_file_of_d4rl_is_what_was_played(tmp_path: Path, name: str) -> None:
    truth, path = Truth("cartpole"), sample("d4rl-format", f"{name}.hdf5")
    assert find(path) == "d4rl"

    buffer, report = imported(path, tmp_path)

    assert report.remarks == []
    assert buffer.trajectories.length.tolist() == truth.lengths
    for number in range(len(truth.lengths)):
        one = buffer.trajectory(number)
        seen = truth.observations(number)
        assert np.array_equal(one["observation"], seen[:-1])
        terminated, truncated = (truth.steps(number, key) for key in ("terminated", "truncated"))
        assert np.array_equal(one["terminated"], terminated)
        assert np.array_equal(one["truncated"], truncated & ~terminated)  # as D4RL's recorders have it
        assert np.array_equal(one["reward"], truth.steps(number, "rew").astype(one["reward"].dtype))
        assert one["info/qpos"].shape == (len(seen) - 1, 2)
        if name != "cartpole":
            assert np.array_equal(buffer.final_observation(number)["observation"], seen[-1])
    if name != "cartpole":
        assert buffer.metadata["metadata/algorithm"]


def arrays(*, count: int = 40, every: int = 10) -> dict[str, Any]:
    """Steps of trajectories of ten."""
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(count // every, every + 1, 3)).astype(np.float32)
    ends = np.arange(1, count + 1) % every == 0
    return {
        "observations": seen[:, :-1].reshape(count, 3),
        "next_observations": seen[:, 1:].reshape(count, 3),
        "actions": generator.normal(size=(count, 2)),
        "rewards": np.arange(count, dtype=np.float32),
        "terminals": ends & (np.arange(count) < 20),
        "timeouts": ends & (np.arange(count) >= 20),
    }


def written(folder: Path, given: dict[str, Any]) -> str:
    with h5py.File(folder / "a.hdf5", "w") as file:
        for name, values in given.items():
            file[name] = values
    return str(folder / "a.hdf5")


def test_boundaries_come_from_next_observations_where_there_are_no_timeouts(tmp_path: Path) -> None:
    given = arrays()
    del given["timeouts"]

    buffer, report = imported(written(tmp_path, given), tmp_path)

    assert buffer.trajectories.length.tolist() == [10] * 4
    assert buffer.trajectories.terminated.tolist() == [True, True, False, False]
    assert report.remarks[0].startswith("no flag says so where 1 trajectories end")
    for number in range(4):
        final = buffer.final_observation(number)["observation"]
        assert np.array_equal(final, given["next_observations"][10 * number + 9])


def test_without_either_it_is_said_that_nobody_knows(tmp_path: Path) -> None:
    given = arrays()
    del given["timeouts"], given["next_observations"]

    buffer, report = imported(written(tmp_path, given), tmp_path)

    assert buffer.trajectories.length.tolist() == [10, 10, 20]
    assert "time limit" in report.remarks[0]


def test_next_observations_that_are_something_else_are_a_field(tmp_path: Path) -> None:
    given = arrays()
    given["next_observations"] = given["next_observations"] * 2

    buffer, report = imported(written(tmp_path, given), tmp_path)

    assert np.array_equal(buffer["next_observations"][:], given["next_observations"])
    assert buffer.trajectories.length.tolist() == [10] * 4
    assert "a field of their own" in report.remarks[0]


def test_flags_that_are_numbers_and_rewards_in_columns_are_read(tmp_path: Path) -> None:
    given = arrays()
    given["terminals"] = given["terminals"].astype(np.float32)[:, None]
    given["rewards"] = given["rewards"][:, None]

    buffer, _ = imported(written(tmp_path, given), tmp_path)

    assert buffer.schema.fields["terminated"].dtype == bool
    assert buffer["reward"][:].tolist() == list(range(40))


def test_arrays_without_rewards_or_flags_are_read_too(tmp_path: Path) -> None:
    given = {name: values for name, values in arrays().items() if name in ("observations", "actions")}

    buffer, report = imported(written(tmp_path, given), tmp_path)

    assert (len(buffer), buffer.num_trajectories) == (40, 1)
    assert "all steps are taken for one" in report.remarks[0]


def test_what_we_write_has_the_boundaries_that_d4rl_looks_for(tmp_path: Path) -> None:
    """And the true next observation of each row."""
    given = arrays()
    path = written(tmp_path, given)
    rs.convert(path, tmp_path / "a.zarr")

    report = rs.convert(tmp_path / "a.zarr", tmp_path / "b.hdf5", format="d4rl")

    assert report.exact
    with h5py.File(tmp_path / "b.hdf5") as file:
        for name, values in given.items():
            assert file[name].dtype == values.dtype
            assert np.array_equal(file[name][:], values), name


def test_what_others_changed_is_read_as_theirs(tmp_path: Path) -> None:
    rs.convert(written(tmp_path, arrays()), tmp_path / "a.zarr")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.hdf5", format="d4rl")
    with h5py.File(tmp_path / "b.hdf5", "a") as file:
        for name in arrays():
            half = file[name][20:]
            del file[name]
            file[name] = half

    buffer, report = imported(str(tmp_path / "b.hdf5"), tmp_path)

    assert buffer.trajectories.length.tolist() == [10, 10]
    assert "changed by other software" in str(report.remarks)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"terminals": np.full(40, 0.5)}, "not 0 or 1"),
        ({"rewards": np.zeros(39)}, "39 rows"),
        ({"observations": np.array(["a"] * 40, object)}, "has no observations"),
    ],
)
def test_what_cannot_be_steps_is_one_clear_error(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = written(tmp_path, {**arrays(), **change} if "observations" not in change else change)

    with pytest.raises(errors.FormatError, match=says):
        rs.convert(path, tmp_path / "a.zarr", format="d4rl")
    assert not (tmp_path / "a.zarr").exists()
