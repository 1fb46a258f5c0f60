"""Writers that are killed at any moment lose nothing that they had acknowledged;
`replaystore.testing.crashes` says how that is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import replaystore

PARTS = 2
"""So that the tests of a backend can run side by side."""


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_when_a_writer_is_killed(
    request: pytest.FixtureRequest, backend: str, part: int
) -> None:
    points = -(-request.config.getoption("--crash-points") // PARTS)
    seed = request.config.getoption("--crash-seed") * PARTS + part
    command = [
        sys.executable,
        "-m",
        "replaystore.testing.crashes",
        backend,
        f"--points={points}",
        f"--seed={seed}",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(replaystore.__file__).parents[1])}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr, done.returncode) == (
        f"{points} of {points} crashes were survived\n",
        "",
        0,
    )
