"""The rollouts that the sample files hold, and a look at what a format makes of such a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.formats.report import Report

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"


def sample(*parts: str) -> str:
    """A sample file; the test is skipped without it."""
    path = SAMPLES.joinpath(*parts)
    if not path.exists():
        pytest.skip("the sample files of other libraries are not here")
    return str(path)


class Truth:
    """The trajectories of an environment as they were played."""

    def __init__(self, name: str) -> None:
        with np.load(sample("truth", f"{name}.npz")) as file:
            self.arrays = {key: file[key] for key in file.files}
        self.lengths = self.arrays["ep_len"].tolist()

    def observations(self, number: int, key: str = "obs") -> Any:
        """Of a trajectory, the final one included."""
        begin = sum(self.lengths[:number]) + number
        return self.arrays[key][begin : begin + self.lengths[number] + 1]

    def steps(self, number: int, key: str) -> Any:
        """Values of steps of a trajectory."""
        begin = sum(self.lengths[:number])
        return self.arrays[key][begin : begin + self.lengths[number]]


def imported(path: str, folder: Path, **options: Any) -> tuple[rs.Buffer, Report]:
    """A file as a buffer, verified, and what was said of it."""
    report = rs.convert(path, folder / "imported.zarr", **options)
    assert rs.verify(folder / "imported.zarr").problems == []
    return rs.open(folder / "imported.zarr"), report
