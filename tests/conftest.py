"""Settings of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The workers of pytest use the cores. Threads of theirs would wait for each other: small tensors are computed
# ten times as fast by one. Torch looks when it is loaded, and so do processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SUPPORT = {path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("test_")}
"""The files here that hold no tests, but what several files of tests share. A file of tests that uses
fixtures of one of them names it in its `pytest_plugins`."""

# So that what they assert is told as fully as what tests assert.
pytest.register_assert_rewrite(*sorted(SUPPORT - {"conftest"}))

# No deadline: how long an example takes says more about a busy machine than about the code.
settings.register_profile("replaystore", deadline=None)
# Pytest --hypothesis-profile=thorough.
settings.register_profile("thorough", deadline=None, max_examples=5000)
settings.load_profile("replaystore")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-points", type=int, default=200, help="kills per backend in tests/test_crash.py")
    parser.addoption("--crash-seed", type=int, default=0, help="another seed gives other kills")
    parser.addoption(
        "--power-cuts",
        type=int,
        default=24,
        help=("power cuts per workload in tests/test_power_loss.py, besides those at syncs"),
    )
    parser.addoption("--power-seed", type=int, default=0, help="another seed leaves other things on the disk")
    parser.addoption(
        "--damage-cases", type=int, default=500, help=("damages of each store in tests/test_damage.py")
    )
    parser.addoption(
        "--campaign-share", type=float, default=1.0, help=("how many of the tries in tests/test_campaigns.py")
    )
    parser.addoption("--campaign-seed", type=int, default=0, help="another seed tries other things")
