"""Which commit a sampler shows, of a store that grows, is closed, or goes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampled_buffers import every_store, fill, observation, schema

import replaystore as rs
from replaystore.errors import ConflictError

pytest_plugins = ["sampled_buffers"]


@every_store
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_sampler_shows_one_commit_until_it_is_refreshed(
    tmp_path: Path, stored: Any, prefetch: int, request: pytest.FixtureRequest
) -> None:
    suffix = request.node.callspec.params["stored"].strip()
    name = tmp_path / f"a{suffix}"
    reader, _ = stored
    sampler = reader.sampler(64, seed=1, prefetch=prefetch)
    before = {tuple(row) for _ in range(30) for row in sampler.sample()["observation"].tolist()}
    with rs.open(name, "r+") as writer:
        writer.append(
            {
                "observation": np.array([observation((2,), 1000, step) for step in range(90)]),
                "action": np.zeros(90, "i2"),
                "reward": np.zeros(90, "f4"),
                "terminated": np.arange(90) == 89,
                "truncated": np.zeros(90, bool),
            },
            env=77,
            final_observation=observation((2,), 1000, 90),
        )
        writer.commit()
        assert not {1000} & {row[0] for _ in range(10) for row in sampler.sample()["observation"].tolist()}
        state = sampler.state_dict()
        assert sampler.refresh()
        assert not sampler.refresh()
        assert {1000} & {row[0] for _ in range(10) for row in sampler.sample()["observation"].tolist()}
        with pytest.raises(ConflictError, match="commit="):
            sampler.load_state_dict(state)
    assert len(before) > 60


def test_a_closed_buffer_gives_no_more_batches(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", schema()) as buffer:
        fill(buffer, [(0, 9, True, True)])
        sampler = buffer.sampler(4)
    with pytest.raises(ConflictError, match="closed"):
        sampler.sample()


def test_a_writer_that_went_back_is_noticed(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", schema()) as buffer:
        fill(buffer, [(0, 9, True, True)])
        commit = buffer.commit_id
        fill(buffer, [(0, 9, True, True)])
        sampler = buffer.sampler(4)
        buffer.rollback(commit)
        with pytest.raises(ConflictError, match="refresh"):
            sampler.sample()
        assert sampler.refresh()
        assert sampler.num_items == 9
        sampler.sample()
