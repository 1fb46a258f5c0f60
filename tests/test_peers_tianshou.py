"""What we write is what Tianshou itself loads, and what it saves is what we read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_stores import small_store

import replaystore as rs

pytest.importorskip("tianshou", reason="Tianshou is not installed: ./scripts/test --peers")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("several", [False, True])
def test_replay_buffer_loads_all_steps(tmp_path: Path, several: bool) -> None:
    from tianshou.data import Batch, ReplayBuffer

    store = small_store(tmp_path / "a.zarr", several=several)
    rs.convert(store, tmp_path / "b.hdf5", format="tianshou")

    found, buffer = ReplayBuffer.load_hdf5(str(tmp_path / "b.hdf5")), rs.open(store)

    assert len(found) == len(buffer) == found.maxsize
    batch: Any = found[np.arange(len(found))]
    following = []
    for number in range(4):
        one, final = buffer.trajectory(number), buffer.final_observation(number)
        name = "observation/a" if several else "observation"
        following.append(np.concatenate([one[name][1:], final[name][None]]))
    seen, after = (batch.obs.a, batch.obs_next.a) if several else (batch.obs, batch.obs_next)
    assert np.array_equal(seen, buffer["observation/a" if several else "observation"][:])
    assert np.array_equal(after, np.concatenate(following))
    assert np.array_equal(batch.act, buffer["action"][:])
    assert np.array_equal(batch.rew, buffer["reward"][:])
    assert np.array_equal(batch.terminated, buffer["terminated"][:])
    assert np.array_equal(batch.info.speed, buffer["info/speed"][:])
    assert np.flatnonzero(batch.done).tolist() == [4, 10, 17, 25]
    assert found.next(np.array([4, 5])).tolist() == [4, 6]
    assert found.sample(8)[0].obs is not None
    rest = {name: batch[name][0] for name in batch.get_keys() if name not in ("done", "policy")}
    found.add(Batch(**rest))
    assert len(found) == found.maxsize
    found.save_hdf5(str(tmp_path / "c.hdf5"))
    rs.convert(tmp_path / "c.hdf5", tmp_path / "c.zarr")
    assert rs.verify(tmp_path / "c.zarr").problems == []
    assert np.array_equal(rs.open(tmp_path / "c.zarr")["action"][-1], batch.act[0])


def test_a_vector_replay_buffer_is_read(tmp_path: Path) -> None:
    from tianshou.data import Batch, VectorReplayBuffer

    found = VectorReplayBuffer(20, 2)
    for step in range(14):
        ends = np.array([step % 4 == 3, step % 5 == 4])
        found.add(
            Batch(
                obs=np.array([[step], [100 + step]]) * 1.0,
                act=np.array([step, 100 + step]),
                rew=np.array([1.0, 2.0]),
                terminated=ends,
                truncated=np.zeros(2, bool),
                obs_next=np.array([[step + 1], [101 + step]]) * 1.0,
                info=Batch(t=np.array([step, step])),
            )
        )
    found.save_hdf5(str(tmp_path / "a.hdf5"))

    rs.convert(tmp_path / "a.hdf5", tmp_path / "a.zarr")

    buffer = rs.open(tmp_path / "a.zarr")
    assert buffer["action"][:].tolist() == [*range(4, 14), *range(104, 114)]
    assert buffer.trajectories.length.tolist() == [4, 4, 2, 1, 5, 4]
    assert buffer.trajectories.env.tolist() == [0, 0, 0, 1, 1, 1]
