"""What a conversion would do, said before a byte is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run

import replaystore as rs
from replaystore.errors import AlreadyExistsError, SchemaError, UnsupportedError

pytest_plugins = ["commands"]

STEPS = 12


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Three trajectories, of which the last is open, of two splits and with seeds."""
    where = str(tmp_path / "store.zarr")
    fields = {
        "observation": rs.Field("float64", (2,), "observation"),
        "action": rs.Field("float32", (1,), "action"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
    with rs.create(where, rs.Schema(fields)) as buffer:
        buffer.append(
            {
                "observation": np.random.default_rng(0).random((STEPS, 2)),
                "action": np.ones((STEPS, 1), np.float32),
                "reward": np.ones(STEPS, np.float32),
                "terminated": np.arange(STEPS) % 5 == 4,
                "truncated": np.zeros(STEPS, bool),
            }
        )
    return where


def test_from_store_to_store_nothing_is_made(store: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))

    report = rs.convert(store, tmp_path / "b.h5", fields=["observation"], dry_run=True)

    assert sorted(tmp_path.rglob("*")) == before
    assert report.dry_run
    assert (report.steps, report.trajectories) == (STEPS, 3)
    assert report.fields["reward"].kind == "lost"
    assert report.to_json()["dry_run"] is True


def test_what_would_be_refused_is_refused(store: str, tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"x")
    rs.convert(store, tmp_path / "b.zarr")

    with pytest.raises(AlreadyExistsError, match=r"b\.zarr exists"):
        rs.convert(store, tmp_path / "b.zarr", dry_run=True)
    with pytest.raises(AlreadyExistsError, match=r"there\.safetensors"):
        rs.convert(store, tmp_path / "there.safetensors", dry_run=True)
    with pytest.raises(SchemaError, match="layout"):
        rs.convert(store, tmp_path / "c.zarr", layout="archive", codec="raw", dry_run=True)
    with pytest.raises(UnsupportedError, match="would not be exact"):
        rs.convert(store, tmp_path / "b.safetensors", strict=True, dry_run=True)


def test_from_one_file_to_another(store: str, tmp_path: Path) -> None:
    first = tmp_path / "a_state.safetensors"
    rs.convert(store, first)
    before = sorted(tmp_path.rglob("*"))

    report = rs.convert(first, tmp_path / "b.pkl", dry_run=True)

    assert sorted(tmp_path.rglob("*")) == before
    done = rs.convert(first, tmp_path / "b.pkl")
    assert (report.steps, report.fields, report.rest) == (done.steps, done.fields, done.rest)


def test_the_command_line_says_it(store: str, tmp_path: Path, run: Run, facts: Callable[..., Any]) -> None:
    target = tmp_path / "b.pkl"

    code, told, _ = run("convert", store, target, "--dry-run")
    as_json = facts("convert", store, target, "--dry-run")

    assert not target.exists()
    assert code == 0
    assert "dry run: nothing was made" in told
    assert as_json["dry_run"] is True
    assert as_json["fields"]["observation"]["kind"] == "kept"
