"""Archives, and the buffers that they were made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import replaystore as rs
from replaystore.testing import Contents, samples

MANIFEST = "journal/log/manifest-sha256.txt"


def live(location: str) -> Contents:
    """A buffer with open trajectories whose next observations are large, and chunks that are not full."""
    schema = rs.Schema(
        {
            "observation": rs.Field("u1", (50, 50), "observation"),
            "reward": rs.Field("f8", (), "reward"),
            "terminated": rs.Field("?", (), "terminated"),
            "truncated": rs.Field("?", (), "truncated"),
        }
    )
    with rs.create(location, schema) as buffer:
        for env in range(3):
            columns = samples.columns(schema, 41, env, ends=0.05)
            finals = samples.columns(schema.select(["observation"]), 99, env + 9)["observation"]
            touched = int((columns["terminated"] | columns["truncated"]).sum()) + (
                not (columns["terminated"] | columns["truncated"])[-1]
            )
            buffer.append(columns, env=env, final_observation=finals[:touched])
            buffer.commit()
        return Contents.of(buffer)


def contents(location: str) -> Contents:
    with rs.open(location) as buffer:
        return Contents.of(buffer)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    live(str(tmp_path / "live.zarr"))
    rs.convert(tmp_path / "live.zarr", tmp_path / "a.zarr", layout="archive")
    shutil.rmtree(tmp_path / "live.zarr")
    return tmp_path / "a.zarr"
