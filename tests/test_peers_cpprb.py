"""Files of the real cpprb: plain, of `next_of` and `stack_compress`, of n steps, full rings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs

cpprb = pytest.importorskip("cpprb", reason="cpprb is only compared with where it is installed")


def played(buffer: Any, lengths: list[int], *, explicit: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Fill a buffer; what was put into it."""
    generator, rows = np.random.default_rng(0), dict[str, list[Any]]()
    for length in lengths:
        seen = generator.normal(size=(length + 1, 4)).astype("f4")
        for at in range(length):
            step = {
                "obs": seen[at],
                "act": generator.integers(0, 5),
                "rew": generator.normal(),
                "done": float(at == length - 1),
                "next_obs": seen[at + 1],
            }
            buffer.add(**step)
            for name, value in step.items():
                rows.setdefault(name, []).append(value)
        buffer.on_episode_end()
    assert explicit or len(rows["obs"]) == sum(lengths)
    return {name: np.array(values) for name, values in rows.items()}


FIELDS = {"obs": {"shape": (4,)}, "act": {"dtype": np.int64}, "rew": {"dtype": np.float64}, "done": {}}


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("next_of", [None, "obs"])
@pytest.mark.parametrize("size", [64, 20])
def test_what_is_saved_is_read(tmp_path: Path, safe: bool, next_of: str | None, size: int) -> None:
    fields = FIELDS if next_of else {**FIELDS, "next_obs": {"shape": (4,)}}
    buffer = cpprb.ReplayBuffer(size, fields, next_of=next_of)
    lengths = [5, 9, 1, 12, 6]
    given = played(buffer, lengths, explicit=next_of is None)
    buffer.save_transitions(str(tmp_path / "a.npz"), safe=safe)
    rs.convert(tmp_path / "a.npz", tmp_path / "a.zarr")

    kept = {name: rows[-size:] for name, rows in given.items()}
    with rs.open(tmp_path / "a.zarr") as found:
        assert len(found) == min(size, sum(lengths))
        order = [int(np.flatnonzero((kept["obs"] == row).all(1))[0]) for row in found["observation"][:]]
        assert sorted(order) == list(range(len(found)))
        assert (found["action"][:] == kept["act"][order]).all()
        assert (found["reward"][:] == kept["rew"][order]).all()
        ends = np.cumsum(found.trajectories["length"]) - 1
        assert (found["done"][:][ends] == 1).all()
        for number, end in enumerate(ends):
            assert (found.trajectory(number).final_observation == kept["next_obs"][order[end]]).all()
        if size == 64:
            assert order == list(range(len(found)))


def test_a_buffer_of_n_steps(tmp_path: Path) -> None:
    step = {"size": 3, "gamma": 0.9, "rew": "rew", "next": "next_obs"}
    buffer = cpprb.ReplayBuffer(64, {**FIELDS, "next_obs": {"shape": (4,)}}, Nstep=step)
    played(buffer, [5, 9], explicit=True)
    buffer.save_transitions(str(tmp_path / "a.npz"))
    rs.convert(tmp_path / "a.npz", tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as found:
        whole = buffer.get_all_transitions()
        assert (found["rew"][:] == whole["rew"][:, 0]).all()
        assert (found["next_obs"][:] == whole["next_obs"]).all()


def test_frames_that_are_stacked(tmp_path: Path) -> None:
    fields = {
        "obs": {"shape": (6, 6, 4), "dtype": np.uint8},
        "next_obs": {"shape": (6, 6, 4), "dtype": np.uint8},
    }
    for number, options in enumerate([{}, {"stack_compress": ["obs", "next_obs"]}]):
        buffer = cpprb.ReplayBuffer(64, {**fields, "rew": {}, "done": {}}, **options)
        frames = np.random.default_rng(0).integers(0, 256, (24, 6, 6), np.uint8)
        for at in range(16):
            seen, after = (np.stack(list(frames[k : k + 4]), axis=2) for k in (at, at + 1))
            buffer.add(obs=seen, next_obs=after, rew=at, done=at in (7, 15))
            if at in (7, 15):
                buffer.on_episode_end()
        buffer.save_transitions(str(tmp_path / f"{number}.npz"), safe=False)
        rs.convert(tmp_path / f"{number}.npz", tmp_path / f"{number}.zarr")
        with rs.open(tmp_path / f"{number}.zarr") as found:
            for at in range(16):
                stacked = np.stack(list(frames[at : at + 4]), axis=2)
                assert (found["observation"][at] == stacked).all(), (options, at)
