"""Every backend passes the public suite; what only one of them can be asked is asked here."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from replaystore.testing import BackendSuite

LOCATIONS = {"zarr": "{tmp}/buffer.zarr", "hdf5": "{tmp}/buffer.h5", "memory": "memory:test-{number}"}
numbers = itertools.count()


class TestBackends(BackendSuite):
    @pytest.fixture(params=LOCATIONS)
    def location(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        return LOCATIONS[request.param].format(tmp=tmp_path, number=next(numbers))
