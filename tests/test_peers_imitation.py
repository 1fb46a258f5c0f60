"""What imitation saves is read, and is what imitation itself loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs

REASON = "imitation is only compared with where it is installed"
types = pytest.importorskip("imitation.data.types", reason=REASON)
serialize = pytest.importorskip("imitation.data.serialize", reason=REASON)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def trajectory(length: int, seed: int, *, rewards: bool) -> Any:
    generator = np.random.default_rng(seed)
    given: dict[str, Any] = {
        "obs": generator.normal(size=(length + 1, 2, 2)).astype(np.float32),
        "acts": generator.normal(size=(length, 3)).astype(np.float32),
        "infos": np.array([{"t": at, "array": np.arange(at), "x": np.float64(at)} for at in range(length)]),
        "terminal": bool(seed % 2),
    }
    if rewards:
        return types.TrajectoryWithRew(rews=generator.normal(size=length), **given)
    return types.Trajectory(**given)


@pytest.mark.parametrize("rewards", [True, False])
def test_what_is_saved_is_read(rewards: bool, tmp_path: Path) -> None:
    given = [trajectory(length, seed, rewards=rewards) for seed, length in enumerate([4, 1, 12])]
    serialize.save(tmp_path / "saved", given)
    loaded = serialize.load(tmp_path / "saved")
    rs.convert(tmp_path / "saved", tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert buffer.trajectories["terminal"].tolist() == [False, True, False]
        for number, (one, again) in enumerate(zip(given, loaded, strict=True)):
            found = buffer.trajectory(number)
            assert (found.columns["observation"] == one.obs[:-1]).all()
            assert (found.final_observation == one.obs[-1]).all()
            assert (found.columns["action"] == one.acts).all()
            assert found.columns["action"].dtype == np.float32
            assert (found.columns["observation"] == again.obs[:-1]).all()
            assert found.columns["info/t"].tolist() == list(range(len(one)))
            assert all("array" in text for text in found.columns["infos"])
            if rewards:
                assert (found.columns["reward"] == one.rews).all()
