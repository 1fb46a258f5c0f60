"""Pickles of dicts of arrays: read without unpickling, written so that pickle reads them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flat_truth import imported

import replaystore as rs
from replaystore import errors
from replaystore.formats.finding import find
from replaystore.testing.formats import FormatSuite


class TestPickledDict(FormatSuite):
    name = "pickled_dict"
    filename = "data.dict.pkl"
    overhead = 4 << 20


def trajectory(number: int, **more: Any) -> dict[str, Any]:
    """One as Decision Transformer has them."""
    steps, generator = 5 + number, np.random.default_rng(number)
    seen = generator.normal(size=(steps + 1, 3)).astype(np.float32)
    return {
        "observations": seen[:-1],
        "next_observations": seen[1:],
        "actions": generator.normal(size=(steps, 2)).astype(np.float32),
        "rewards": generator.normal(size=steps),
        "terminals": np.arange(steps) == (steps - 1 if number % 2 else -1),
        **more,
    }


def pickled(folder: Path, value: Any, protocol: int = 4) -> str:
    (folder / "a.pkl").write_bytes(pickle.dumps(value, protocol))
    return str(folder / "a.pkl")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_list_of_trajectories_is_read(tmp_path: Path, protocol: int) -> None:
    given = [trajectory(number) for number in range(4)]
    path = pickled(tmp_path, given, protocol)
    assert find(path) == "pickled_dict"

    buffer, report = imported(path, tmp_path)

    assert report.remarks == []
    assert buffer.trajectories.length.tolist() == [5, 6, 7, 8]
    assert buffer.trajectories.terminated.tolist() == [False, True, False, True]
    for number, one in enumerate(given):
        found = buffer.trajectory(number)
        assert np.array_equal(found["observation"], one["observations"])
        assert np.array_equal(found["action"], one["actions"])
        assert np.array_equal(found["reward"], one["rewards"])
        assert np.array_equal(buffer.final_observation(number)["observation"], one["next_observations"][-1])


def test_a_flat_dict_with_dicts_in_it_and_lists_of_numbers(tmp_path: Path) -> None:
    count = 20
    given = {
        "obs": {"a": np.asfortranarray(np.arange(60.0).reshape(20, 3)), "b": np.arange(20, dtype=">i4")},
        "actions": list(range(count)),
        "rewards": [0.5] * count,
        "dones": np.arange(1, 21) % 5 == 0,
        "env": "Hopper-v4",
        "names": [object],
    }
    given["names"] = ["a", "b"]

    buffer, report = imported(pickled(tmp_path, given), tmp_path)

    assert buffer.trajectories.length.tolist() == [5] * 4
    assert np.array_equal(buffer["observation/a"][:], given["obs"]["a"])
    assert buffer["observation/b"][:].tolist() == list(range(20))
    assert buffer["action"][:].tolist() == list(range(20))
    assert buffer.metadata == {"env": "Hopper-v4"}
    assert report.fields["names"].kind == "lost"
    assert "does not say whether" in report.remarks[0]


def test_observations_of_one_row_more_hold_the_final_one(tmp_path: Path) -> None:
    given = [{"obs": np.arange(6.0) + number, "acts": np.arange(5)} for number in range(3)]

    buffer, _ = imported(pickled(tmp_path, given), tmp_path)

    assert buffer.trajectories.length.tolist() == [5, 5, 5]
    assert [float(buffer.final_observation(n)["observation"]) for n in range(3)] == [5, 6, 7]


def test_what_we_write_is_what_pickle_loads(tmp_path: Path) -> None:
    given = [trajectory(number) for number in range(4)]
    rs.convert(pickled(tmp_path, given), tmp_path / "a.zarr")

    assert rs.convert(tmp_path / "a.zarr", tmp_path / "b.dict.pkl").exact

    found = pickle.loads((tmp_path / "b.dict.pkl").read_bytes())
    for name in ("observations", "next_observations", "actions", "rewards", "terminals"):
        whole = np.concatenate([one[name] for one in given])
        assert found[name].dtype == whole.dtype
        assert np.array_equal(found[name], whole), name
    assert np.flatnonzero(found["terminals"] | found["timeouts"]).tolist() == [4, 10, 17, 25]


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it was run')",)


HOSTILE = {
    "code": {**trajectory(0), "more": _Harmful()},
    "a list of other things": [trajectory(0), 3],
    "a number": 7,
    "no actions": {"obs": np.zeros(3)},
    "rows that differ": {**trajectory(0), "rewards": np.zeros(3)},
    "other arrays": [trajectory(0), trajectory(1, more=np.zeros(6))],
    "another dtype": [trajectory(0), trajectory(1, rewards=np.zeros(6, np.int8))],
    "keys that are no names": {1: np.zeros(3), "obs": np.zeros(3), "acts": np.zeros(3)},
    "nothing": {},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_something_else_is_one_clear_error(tmp_path: Path, what: str) -> None:
    path = pickled(tmp_path, HOSTILE[what])

    with pytest.raises(errors.ReplayStoreError, match=r"a\.pkl"):
        rs.convert(path, tmp_path / "a.zarr", format="pickled_dict")
    assert not (tmp_path / "a.zarr").exists()


def test_a_dict_that_holds_itself_ends(tmp_path: Path) -> None:
    given: dict[str, Any] = trajectory(0)
    given["more"] = given

    with pytest.raises(errors.ReplayStoreError):
        rs.convert(pickled(tmp_path, given), tmp_path / "a.zarr", format="pickled_dict")
