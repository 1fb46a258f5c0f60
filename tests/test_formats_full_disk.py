"""HDF5 files for other software on a full disk: one error, no crash of the library, and nothing is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore import Field, Schema

COMMAND = """
import resource, sys
from replaystore.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
main()
"""
"""The command line, whose files cannot have more than so many bytes, as on a disk that is full then."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of many short trajectories."""
    path = tmp_path_factory.mktemp("source") / "a.zarr"
    schema = Schema(
        {
            "observation": Field("float32", (4,), "observation"),
            "action": Field("int64", (), "action"),
            "reward": Field("float64", (), "reward"),
            "terminated": Field("bool", (), "terminated"),
        }
    )
    count = 2000
    steps = {name: np.ones((count, *field.shape), field.dtype) for name, field in schema.fields.items()}
    steps["observation"][:] = np.random.default_rng(0).normal(size=(count, 4))
    steps["terminated"][:] = np.arange(count) % 10 == 9
    with rs.create(path, schema) as buffer:
        buffer.append(steps)
    return path


@pytest.mark.parametrize("name", ["d3rlpy", "d4rl", "minari", "robomimic", "tianshou"])
def test_a_full_disk_is_one_error(source: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "40000", "convert", str(source), str(target), "--to", name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert done.stderr.count("\n") == 1
    assert "cannot be written: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
