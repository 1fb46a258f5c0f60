"""Datasets of Minari in HDF5, written and read."""

from __future__ import annotations

from typing import Any, ClassVar

from replaystore.testing import FormatSuite
from replaystore.testing.formats import EVERYTHING, NESTED, PLAIN, RAGGED, UNFLAGGED

MADE_UP = frozenset({"final_observation"})
"""Minari has an observation after each trajectory, even where nobody knows it."""


class TestMinari(FormatSuite):
    """What every format does."""

    name = "minari"
    filename = "made-v0"
    keeps = EVERYTHING - MADE_UP
    schemas: ClassVar[dict[str, Any]] = {"plain": PLAIN, "nested": NESTED}


class TestMinariRagged(FormatSuite):
    """With texts and other values of any length."""

    name = "minari"
    filename = "made-v0"
    keeps = EVERYTHING - MADE_UP
    schemas: ClassVar[dict[str, Any]] = {"ragged": RAGGED}
    test_blocks_are_as_small_as_they_are_asked_to_be = None  # type: ignore[assignment]  # as in TestMinari


class TestMinariWithoutRewards(FormatSuite):
    """Minari needs rewards, which are made up."""

    name = "minari"
    filename = "made-v0"
    keeps = EVERYTHING - MADE_UP
    keeps_fields = False
    schemas: ClassVar[dict[str, Any]] = {"unflagged": UNFLAGGED}


class TestMinariArrow(TestMinari):
    """In files of Arrow."""

    name = "minari_arrow"
    schemas: ClassVar[dict[str, Any]] = {"nested": NESTED, "ragged": RAGGED}
    memory = 24 * 8  # a trajectory is in memory as a whole


class TestMinariParquet(TestMinariArrow):
    """In files of Parquet."""

    name = "minari_parquet"
