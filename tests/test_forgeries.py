"""What is not in its place is reported; `replaystore.testing.campaigns.forgeries` says what is forged, and what cannot
be known.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator

import pytest

from replaystore.testing.campaigns import CAMPAIGNS
from replaystore.testing.campaigns.forgeries import control, run

COUNT = 180


@pytest.fixture
def folder() -> Iterator[str]:
    """In memory, where files are made most quickly."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as path:
        yield path


def test_forgeries_are_a_campaign() -> None:
    assert importlib.import_module(CAMPAIGNS["forgeries"]).run is run


@pytest.mark.timeout(600)
def test_a_forged_store_does_not_verify(request: pytest.FixtureRequest, folder: str) -> None:
    tally = run(folder, count=COUNT, seed=request.config.getoption("--crash-seed"))

    assert (tally.failures, tally.tried) == ([], COUNT)


@pytest.mark.timeout(600)
def test_a_verify_that_does_not_compare_rows_is_found(folder: str) -> None:
    assert control(folder, seed=0).failures
