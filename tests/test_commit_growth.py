"""Samplers that go on from commit to commit give what samplers give that are made then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_steps import FIELDS
from sampled_buffers import fill, schema

import replaystore as rs
from replaystore.arrays.differences import difference
from replaystore.containers.records import whole_records
from replaystore.errors import CorruptError
from replaystore.schema.fields import Field
from replaystore.testing.crafting_log import packed, records
from replaystore.trajectories.opened import COLUMNS

RECIPES: list[dict[str, Any]] = [
    {},
    {"next_observation": False},
    {"fragment_length": 3},
    {"frame_stack": 3},
    {"n_step": 3, "trajectory": True},
    {"order": "trajectory"},
    {"order": "epoch"},
    {"split": "s1"},
    {"order": "prioritized", "beta": 0.5},
    {"per": "trajectory", "weights": "ones"},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize(("name", "capacity"), [("a.zarr", None), ("a.zarr", 30), ("a.h5", None)])
def test_going_on_gives_what_beginning_gives(
    tmp_path: Path, name: str, capacity: int | None, recipe: dict[str, Any]
) -> None:
    random = np.random.default_rng(0)
    with rs.create(tmp_path / name, schema(), capacity=capacity) as writer:
        fill(writer, [(0, 9, True, True), (1, 5, False, True), (2, 3, True, False)])
        with rs.open(tmp_path / name) as reader:
            chosen = dict(recipe)
            if chosen.get("weights") == "ones":
                chosen["weights"] = np.ones(reader.num_trajectories)
            sampler = reader.sampler(16, seed=3, **chosen)
            for _ in range(12):
                plan = [
                    (int(random.integers(3)), int(random.integers(1, 6)), bool(random.random() < 0.4), True)
                    for _ in range(3)
                ]
                fill(writer, plan, commit_every=int(random.integers(1, 4)))
                assert sampler.refresh()
                if "weights" in chosen:
                    chosen["weights"] = np.ones(reader.num_trajectories)
                with rs.open(tmp_path / name) as anew:
                    other = anew.sampler(16, seed=3, **chosen)
                    other.load_state_dict(sampler.state_dict())
                    for _ in range(2):
                        found, expected = sampler.sample(), other.sample()
                        assert found.keys() == expected.keys()
                        for field, values in expected.items():
                            assert np.array_equal(found[field], values), field


def test_a_reader_that_follows_a_writer_sees_strides(tmp_path: Path) -> None:
    vector = {"observation": Field("i8", (2,), "observation")}
    with rs.create(tmp_path / "a.zarr", rs.Schema(FIELDS | vector), durability="none") as buffer:
        writer = buffer.writer(4)
        clock = np.zeros(4, "i8")
        writer.reset(np.stack([np.arange(4), clock], axis=1))
        random, sampler, seen = np.random.default_rng(0), None, 0
        for step in range(60):
            clock += 1
            ends = random.random(4) < 0.2
            observation = np.stack([np.arange(4), clock], axis=1)
            writer.step(np.zeros(4, "i8"), None, ends, None, observation)
            buffer.commit()
            if sampler is None:
                reader = rs.open(tmp_path / "a.zarr")
                sampler = reader.sampler(32, seed=0)
            elif step % 3:
                sampler.refresh()
                batch = sampler.sample()
                before, after = batch["observation"], batch["next_observation"]
                assert (before[:, 0] == after[:, 0]).all()
                assert (before[:, 1] + 1 == after[:, 1]).all()
                seen += 1
        assert seen > 30
        reader.close()


@pytest.mark.parametrize("rows", [4, len(COLUMNS), len(COLUMNS) + 1, len(COLUMNS) + 3])
def test_a_refresh_refuses_open_trajectories_that_have_lost_numbers(tmp_path: Path, rows: int) -> None:
    """However much of them is as it was."""
    vector = {"observation": Field("i8", (2,), "observation")}
    buffer = rs.create(tmp_path / "a.zarr", rs.Schema(FIELDS | vector), durability="none")
    writer, observed = buffer.writer(2), np.zeros((2, 2), "i8")

    def step() -> None:
        writer.step(np.zeros(2, "i8"), None, np.zeros(2, bool), None, observed)
        buffer.commit()

    writer.reset(observed)
    step()
    reader = rs.open(tmp_path / "a.zarr")
    sampler = reader.sampler(4, seed=0)
    step()
    assert sampler.refresh()  # the quick way is there
    known = reader.store.state.extra["open"]
    step()
    now = buffer.store.state.extra["open"]
    buffer.abandon()
    lost = np.zeros((rows, now.shape[1]), np.int64)
    lost[: len(now)] = now[:rows]

    log = tmp_path / "a.zarr" / "journal" / "log" / "0"
    data = log.read_bytes()
    meta, blobs = records(data)[-1]
    (kept,) = (blob for blob in blobs if blob[0] == "int:open")
    crafted = difference(lost, known)
    kept[1:] = len(crafted), crafted
    end = [end for _, end in whole_records(data)][-2]
    log.write_bytes(data[:end] + packed(meta, blobs))

    with pytest.raises(CorruptError, match="numbers of an open trajectory"):
        sampler.refresh()
    reader.close()
