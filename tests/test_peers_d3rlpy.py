"""What we write is what d3rlpy itself loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_stores import small_store

import replaystore as rs

pytest.importorskip("d3rlpy", reason="d3rlpy is not installed: ./scripts/test --peers")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("several", [False, True])
def test_replay_buffer_loads_all_episodes(tmp_path: Path, several: bool) -> None:
    from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer

    store = small_store(tmp_path / "a.zarr", several=several)
    rs.convert(store, tmp_path / "b.h5", format="d3rlpy")

    with open(tmp_path / "b.h5", "rb") as file:
        found = ReplayBuffer.load(file, InfiniteBuffer())

    buffer = rs.open(store)
    assert len(found.episodes) == buffer.num_trajectories
    for number, episode in enumerate(found.episodes):
        one = buffer.trajectory(number)
        seen = episode.observations
        if several:
            assert np.array_equal(seen[0], one["observation/a"])
            assert np.array_equal(seen[1], one["observation/b"])
        else:
            assert np.array_equal(seen, one["observation"])
        assert np.array_equal(episode.actions, one["action"])
        assert np.array_equal(episode.rewards[:, 0], one["reward"])
        assert bool(episode.terminated) == bool(one["terminated"][-1])
    with open(tmp_path / "again.h5", "w+b") as file:
        found.dump(file)
    rs.convert(tmp_path / "again.h5", tmp_path / "c.zarr")
    again = rs.open(tmp_path / "c.zarr")
    assert again.trajectories.length.tolist() == buffer.trajectories.length.tolist()
    assert again.trajectories.terminated.tolist() == buffer.trajectories.terminated.tolist()
