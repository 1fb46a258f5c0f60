"""What we write is what robomimic's own reader reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs

pytest.importorskip("robomimic", reason="robomimic is not installed: ./scripts/test --peers")


@pytest.fixture
def store(tmp_path: Path) -> str:
    schema = rs.Schema(
        {
            "observation/a": rs.Field("float32", (3,), "observation"),
            "observation/b": rs.Field("float64", (2,), "observation"),
            "action": rs.Field("float32", (2,), "action"),
            "reward": rs.Field("float64", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
            "truncated": rs.Field("bool", (), "truncated"),
        }
    )
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        for number in range(4):
            steps = 5 + number
            generator = np.random.default_rng(number)
            values: dict[str, Any] = {
                name: generator.normal(size=(steps, *declared.shape)).astype(declared.dtype)
                for name, declared in schema.fields.items()
                if declared.dtype != bool
            }
            values["terminated"] = np.arange(steps) == steps - 1
            values["truncated"] = np.zeros(steps, bool)
            final = {"observation/a": np.full(3, number, np.float32), "observation/b": np.zeros(2)}
            buffer.append(
                values, ends=[steps - 1], final_observation=final, split="train" if number % 2 else "valid"
            )
    return str(tmp_path / "a.zarr")


@pytest.mark.filterwarnings("ignore")
def test_sequence_dataset_reads_all_steps(store: str, tmp_path: Path) -> None:
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    rs.convert(store, tmp_path / "b.hdf5", format="robomimic")
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["a", "b"]}})

    def opened(**options: Any) -> Any:
        return SequenceDataset(
            hdf5_path=str(tmp_path / "b.hdf5"),
            obs_keys=("a", "b"),
            dataset_keys=("actions", "rewards", "dones"),
            load_next_obs=True,
            **options,
        )

    found, buffer = opened(), rs.open(store)
    assert len(found) == len(buffer) == 26
    row = 0
    for number in range(4):
        one = buffer.trajectory(number)
        final = buffer.final_observation(number)["observation/a"]
        for step in range(len(one["action"])):
            item = found[row]
            assert np.array_equal(item["actions"][0], one["action"][step])
            assert item["rewards"][0] == one["reward"][step]
            assert np.array_equal(item["obs"]["a"][0], one["observation/a"][step])
            last = step == len(one["action"]) - 1
            following = final if last else one["observation/a"][step + 1]
            assert np.array_equal(item["next_obs"]["a"][0], following)
            assert item["dones"][0] == last
            row += 1
    assert len(opened(filter_by_attribute="train")) == 6 + 8
    assert len(opened(filter_by_attribute="valid")) == 5 + 7
