"""Environments that took turns: written to any format and read again, their trajectories are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tried_formats import TRIED

import replaystore as rs
from replaystore.formats.report import KEPT, after, rest_after
from replaystore.testing.matrix import ways
from replaystore.testing.promises import Things, untrue

SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (3,), "observation"),
        "action": rs.Field("float32", (2,), "action"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)


def recorded(path: Path, length: int, *, envs: int = 3, rounds: int = 2) -> Path:
    """Trajectories of which one step is recorded at a time, in turn; those of the second environment are two
    steps longer."""
    random = np.random.default_rng(0)
    with rs.create(path, SCHEMA) as buffer:
        for at in range(rounds * (length + 2)):
            for env in range(envs):
                steps = length + 2 * (env == 1)
                if at >= rounds * steps:
                    continue
                ends = np.array([(at + 1) % steps == 0])
                columns = {
                    "observation": random.random((1, 3), np.float32),
                    "action": random.random((1, 2), np.float32),
                    "reward": random.random(1, np.float32),
                    "terminated": ends,
                    "truncated": np.zeros(1, np.bool_),
                }
                seen = random.random((1, 3), np.float32) if ends[0] else None
                buffer.append(columns, env=env, final_observation=seen)
    return path


def things(path: Path) -> Things:
    with rs.open(path) as buffer:
        return Things.of(buffer)


@pytest.mark.parametrize("name", TRIED)
def test_trajectories_are_whole(tmp_path: Path, name: str) -> None:
    if name not in ways()[1]:
        pytest.skip(f"what {name} needs is not installed")
    store, path = recorded(tmp_path / "a.zarr", 12), tmp_path / "data"

    planned = rs.convert(store, path, target_format=name, dry_run=True)
    there = rs.convert(store, path, target_format=name)
    back = rs.convert(path, tmp_path / "b.zarr", source_format=name)

    assert planned.rest == there.rest
    mine, theirs = things(store), things(tmp_path / "b.zarr")
    fields, rest = after(there.fields, back.fields), rest_after(there.rest, back.rest)
    assert untrue(mine, theirs, fields, rest) == []
    if "trajectories" not in rest or name == "velora":
        assert sorted(mine.lengths.tolist()) == sorted(theirs.lengths.tolist())


def test_velora_has_them_one_after_another_and_that_is_proved(tmp_path: Path) -> None:
    report = rs.convert(recorded(tmp_path / "a.zarr", 12), tmp_path / "b_state.safetensors")
    rs.convert(tmp_path / "b_state.safetensors", tmp_path / "b.zarr")

    assert report.proof is not None
    assert set(report.proof.fields) == {"observation", "action", "reward"}
    assert "final_observation" in report.proof.rest
    mine, theirs = rs.digest(tmp_path / "a.zarr"), rs.digest(tmp_path / "b.zarr")
    assert {name: mine.fields[name] for name in report.proof.fields} == {
        name: theirs.fields[name] for name in report.proof.fields
    }
    assert mine.rest["final_observation"] == theirs.rest["final_observation"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_velora_says_that_short_ones_are_lost(tmp_path: Path, dry_run: bool) -> None:
    store, path = recorded(tmp_path / "a.zarr", 4, rounds=4), tmp_path / "b_state.safetensors"

    report = rs.convert(store, path, dry_run=dry_run)

    assert report.rest["trajectories"].kind == "lost"
    assert "too short to be told from chance" in report.rest["trajectories"].how
    assert report.fields.get("observation", KEPT).kind == "kept"
    if not dry_run:
        assert report.proof is not None
        assert report.proof.fields == []
        rs.convert(path, tmp_path / "b.zarr")
        with rs.open(tmp_path / "b.zarr") as buffer:
            assert buffer.num_trajectories == 0
            assert len(buffer) == report.steps
