"""A share of every campaign: what is promised holds, and each campaign sees it when it is broken on purpose.

`./scripts/campaign` tries the same any number of times; `--campaign-share` is the number of tries here, as a
part of SHARES.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import replaystore
from replaystore.testing.campaigns import CAMPAIGNS, Tally

SHARES = {
    "kills": 32,
    "random_kills": 12,
    "errno": 32,
    "power_model": 24,
    "power_real": 10,
    "interrupts": 36,
    "concurrency": 10_000,  # rows
    "corruptions": 60,
    "fuzz": 60,
    "forgeries": 180,
    "servers": 300,  # faults
    "digests": 2000,
}
"""Tries of a campaign."""
ELSEWHERE = {"matrix", "foreign"}
"""Campaigns of which a share is in tests of their own (test_matrix.py, test_spoilt_files.py)."""
HERE = [name for name in CAMPAIGNS if name not in ELSEWHERE]


pytestmark = pytest.mark.torch  # they also kill, cut and interrupt what saves the drop-in buffers


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as made:
        yield made


def campaign(name: str) -> Any:
    return importlib.import_module(CAMPAIGNS[name])


def tried(tally: Tally) -> Tally:
    if tally.skipped:
        pytest.skip(tally.skipped)
    assert tally.tried
    return tally


@pytest.mark.parametrize("name", HERE)
@pytest.mark.timeout(3600)
def test_what_is_promised_holds(request: pytest.FixtureRequest, folder: str, name: str) -> None:
    share, seed = request.config.getoption("--campaign-share"), request.config.getoption("--campaign-seed")

    tally = tried(campaign(name).run(folder, count=max(1, round(share * SHARES[name])), seed=seed))

    assert tally.failures == []


@pytest.mark.parametrize("name", HERE)
@pytest.mark.timeout(3600)
def test_a_campaign_sees_what_is_broken_on_purpose(folder: str, name: str) -> None:
    tally = campaign(name).control(folder, seed=0)
    if tally.skipped:
        pytest.skip(tally.skipped)

    assert tally.failures


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(replaystore.__file__).parents[1])}
    command = [sys.executable, "-m", "replaystore.testing.campaigns", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.timeout(900)
def test_campaigns_print_one_table() -> None:
    done = run("random_kills", "--minutes", "0.05")

    assert done.stderr == ""
    assert done.stdout.splitlines()[0].split() == ["campaign", "promise", "tried", "failed"]
    assert done.stdout.splitlines()[1].startswith("random_kills")
    assert done.returncode == 0


def test_a_campaign_that_there_is_not_is_named() -> None:
    done = run("--only", "nothing")

    assert "there is no campaign 'nothing': there are kills, " in done.stderr
    assert done.returncode == 2
