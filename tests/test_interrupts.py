"""An interrupt at any moment leaves a store that is whole; `replaystore.testing.campaigns.interrupts` says
what is tried.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator

import pytest

from replaystore.testing.campaigns import CAMPAIGNS
from replaystore.testing.campaigns.interrupts import control, run

COUNT = 36


@pytest.fixture
def folder() -> Iterator[str]:
    """In memory, where files are made most quickly."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as path:
        yield path


def test_interrupts_are_a_campaign() -> None:
    assert importlib.import_module(CAMPAIGNS["interrupts"]).run is run


@pytest.mark.timeout(600)
def test_an_interrupted_operation_happens_or_does_not(request: pytest.FixtureRequest, folder: str) -> None:
    tally = run(folder, count=COUNT, seed=request.config.getoption("--crash-seed"))

    assert (tally.failures, tally.tried) == ([], COUNT)


@pytest.mark.timeout(600)
def test_an_operation_that_happens_by_halves_is_found(folder: str) -> None:
    assert control(folder, seed=0).failures
