"""What was acknowledged survives power cuts, whatever they leave of the rest; `replaystore.testing.power` says how that is tested."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from replaystore.testing.disks import Disk
from replaystore.testing.power import COMMIT, PowerCuts

WORKLOADS = {"zarr": ("zarr", None), "ring": ("zarr", 40), "hdf5": ("hdf5", None)}


@pytest.fixture(scope="module", params=WORKLOADS)
def cuts(request: pytest.FixtureRequest) -> Iterator[PowerCuts]:
    """A workload that has been recorded; in memory, where files are made most quickly."""
    backend, capacity = WORKLOADS[request.param]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield PowerCuts(backend, folder, capacity=capacity)


def options(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.config.getoption("--power-cuts"), request.config.getoption("--power-seed")


@pytest.mark.timeout(3600)
def test_no_power_cut_loses_what_was_acknowledged(request: pytest.FixtureRequest, cuts: PowerCuts) -> None:
    assert cuts.run(*options(request)) == []


@pytest.mark.timeout(3600)
def test_nor_does_one_after_a_writer_that_went_on_where_another_was_stopped(request: pytest.FixtureRequest, cuts: PowerCuts) -> None:
    assert cuts.run_twice(*options(request)) == []


def test_every_operation_of_a_store_is_recorded(cuts: PowerCuts) -> None:
    disk = Disk()
    for operation in cuts.operations:
        if operation.kind != COMMIT:
            disk.do(operation)

    assert disk.everything() == cuts.live()
    assert {operation.kind for operation in cuts.operations} >= {"create", "write", "resize", "sync_file", "sync_folder", "rename"}
