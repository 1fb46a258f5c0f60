"""Names of commits outlive kills, power cuts and refused calls, while segments of the log are removed: a
share of those campaigns, in their scenarios of names alone."""

from __future__ import annotations

import importlib
import tempfile

import pytest

from replaystore.testing.campaigns import CAMPAIGNS

SHARES = {"kills": 12, "power_model": 24, "errno": 12}
"""Tries: so many cuts see a named commit's record that is not synced."""
NAMES = {
    "kills": ["names", "names-hdf5", "names-ring"],
    "power_model": ["names", "names-hdf5", "names-ring"],
    "errno": ["names", "names-hdf5"],
}


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.timeout(900)
def test_names_outlive(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tally = importlib.import_module(CAMPAIGNS[name]).run(
            folder, count=SHARES[name], seed=3, names=NAMES[name]
        )

    if tally.skipped:
        pytest.skip(tally.skipped)
    assert tally.tried == SHARES[name]
    assert tally.failures == []
