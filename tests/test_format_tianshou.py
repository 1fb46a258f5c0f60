"""Tianshou's HDF5 files: rings, several environments, and nothing unpickled."""

from __future__ import annotations

import pickle
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


class TestTianshou(FormatSuite):
    name = "tianshou"
    filename = "buffer.hdf5"
    overhead = 4 << 20


@pytest.mark.parametrize("name", ["cartpole", "dictobs"])
def test_a_file_of_tianshou_is_what_was_played(tmp_path: Path, name: str) -> None:
    truth, path = Truth(name), sample("tianshou", f"{name}.hdf5")
    assert find(path) == "tianshou"

    buffer, report = imported(path, tmp_path)

    assert report.remarks == []
    assert report.rest["_random_state"].kind == "lost"
    assert report.fields["done"].kind == "derived"
    assert buffer.trajectories.length.tolist() == truth.lengths
    keys = {"observation": "obs"}
    if name == "dictobs":
        keys = {"observation/obs": "obs.obs", "observation/time": "obs.time"}
    for number in range(len(truth.lengths)):
        one = buffer.trajectory(number)
        for field, key in keys.items():
            seen = truth.observations(number, key)
            assert np.array_equal(one[field], seen[:-1])
            assert np.array_equal(buffer.final_observation(number)[field], seen[-1])
        for field, key in (("action", "act"), ("reward", "rew"), ("terminated",) * 2, ("truncated",) * 2):
            assert np.array_equal(one[field], truth.steps(number, key)), field


def test_a_ring_that_went_round_comes_in_order(tmp_path: Path) -> None:
    truth, path = Truth("cartpole"), sample("tianshou", "cartpole-wrapped.hdf5")

    buffer, report = imported(path, tmp_path)

    whole = np.concatenate([truth.observations(n)[:-1] for n in range(len(truth.lengths))])
    assert np.array_equal(buffer["observation"][:], whole[-50:])
    assert np.array_equal(buffer["truncated"][:], truth.arrays["truncated"][-50:])
    assert "went round" in report.remarks[0]


class _Harmful:
    """What nobody unpickles."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it was unpickled')",)


def written(folder: Path, **change: Any) -> str:
    """A VectorReplayBuffer of two environments, of room for five steps each: the first one is full, and went
    round by one; the second has three."""
    with h5py.File(folder / "a.hdf5", "w") as file:
        steps = np.array([15, 11, 12, 13, 14, 20, 21, 22, 0, 0])
        file["_meta/obs"], file["_meta/obs_next"] = steps[:, None] * 1.0, steps[:, None] + 1.0
        file["_meta/act"], file["_meta/rew"] = steps, steps * 1.0
        file["_meta/terminated"] = np.isin(steps, (12, 22))
        file["_meta/truncated"] = np.zeros(10, bool)
        file["_meta/done"] = np.isin(steps, (12, 22))
        file["_meta/info/t"] = steps
        file["_indices"] = np.arange(10)
        file["_offset"], file["_extend_offset"] = np.array([0, 5]), np.array([0, 5, 10])
        file["_lengths"], file["last_index"] = np.array([5, 3]), np.array([0, 7])
        file["buffers"] = np.frombuffer(pickle.dumps(_Harmful()), np.int8)
        file["buffers"].attrs["__data_type__"] = "pickled_ndarray"
        file.attrs.update({"maxsize": 10, "_size": 0, "_insertion_idx": 0, "stack_num": 1})
        for name, value in change.items():
            if name in file.attrs:
                file.attrs[name] = value
                continue
            if name in file:
                del file[name]
            file[name] = value
    return str(folder / "a.hdf5")


def test_several_environments_are_rings_of_their_own(tmp_path: Path) -> None:
    buffer, report = imported(written(tmp_path), tmp_path)

    assert buffer["action"][:].tolist() == [11, 12, 13, 14, 15, 20, 21, 22]
    assert buffer.trajectories.length.tolist() == [2, 3, 3]
    assert buffer.trajectories.env.tolist() == [0, 0, 1]
    assert buffer.trajectories.terminated.tolist() == [True, False, True]
    assert buffer.final_observation(1)["observation"].tolist() == [16]
    assert report.rest["open"].kind == "lost"
    assert report.rest["buffers"].kind == "lost"


def test_numbers_that_were_pickled_are_read_without_unpickling(tmp_path: Path) -> None:
    """As they are in what Tianshou saves after it has loaded it."""
    path = written(tmp_path)
    with h5py.File(path, "a") as file:
        for name in ("maxsize", "stack_num"):
            value = np.int64(file.attrs[name])
            del file.attrs[name]
            file[name] = np.frombuffer(pickle.dumps(value), np.int8)
            file[name].attrs["__data_type__"] = "int64"

    buffer, _ = imported(path, tmp_path)

    assert buffer["action"][:].tolist() == [11, 12, 13, 14, 15, 20, 21, 22]
    with h5py.File(path, "a") as file:
        del file["maxsize"]
        file["maxsize"] = np.frombuffer(pickle.dumps(_Harmful()), np.int8)
    with pytest.raises(errors.FormatError, match="nothing in it was run"):
        rs.convert(path, tmp_path / "b.zarr", format="tianshou")


def test_a_done_that_is_something_else_is_a_field(tmp_path: Path) -> None:
    buffer, _ = imported(written(tmp_path, **{"_meta/done": np.ones(10, bool)}), tmp_path)

    assert buffer["done"][:].all()
    assert buffer.num_trajectories == 8


@pytest.mark.parametrize(
    "change",
    [
        {"maxsize": -1},
        {"maxsize": 7},
        {"_lengths": np.array([6, 3])},
        {"_lengths": np.array([5])},
        {"last_index": np.array([7, 0])},
        {"_offset": np.array([0, 50])},
        {"_offset": np.array([0.0, 5.0])},
        {"_meta/act": np.zeros(9)},
        {"_meta/terminated": np.full(10, 0.5)},
        {"_meta/terminated": np.zeros((10, 2), bool)},
    ],
    ids=str,
)
def test_what_is_damaged_is_one_clear_error(tmp_path: Path, change: dict[str, Any]) -> None:
    path = written(tmp_path, **change)

    with pytest.raises(errors.FormatError, match=r"a\.hdf5"):
        rs.convert(path, tmp_path / "a.zarr", format="tianshou")
    assert not (tmp_path / "a.zarr").exists()


def test_what_was_saved_again_with_other_steps_is_read_as_it_is(tmp_path: Path) -> None:
    rs.convert(written(tmp_path), tmp_path / "a.zarr")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.hdf5", format="tianshou")
    with h5py.File(tmp_path / "b.hdf5", "a") as file:
        file["_meta/terminated"][0] = True
        file["_meta/done"][0] = True

    buffer, report = imported(str(tmp_path / "b.hdf5"), tmp_path)

    assert buffer.trajectories.length.tolist() == [1, 1, 3, 3]
    assert "was changed" in report.remarks[0]
