"""Readers beside a busy writer; `replaystore.testing.campaigns.concurrency` says what they do and what they
may see.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator

import pytest

from replaystore.testing.campaigns import CAMPAIGNS
from replaystore.testing.campaigns.concurrency import control, run

ROWS = 120_000


@pytest.fixture
def folder() -> Iterator[str]:
    """In memory, where files are made most quickly."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as path:
        yield path


def test_concurrency_is_a_campaign() -> None:
    assert importlib.import_module(CAMPAIGNS["concurrency"]).run is run


@pytest.mark.timeout(600)
def test_a_read_beside_a_writer_shows_one_history(request: pytest.FixtureRequest, folder: str) -> None:
    tally = run(folder, count=ROWS, seed=request.config.getoption("--crash-seed"))

    assert tally.failures == []
    assert tally.tried >= ROWS


@pytest.mark.timeout(600)
def test_going_back_over_what_readers_have_open_is_found(folder: str) -> None:
    assert control(folder, seed=0).failures
