"""Gathering rows by number, of any size."""

from __future__ import annotations

import numpy as np
import pytest

from replaystore.columns.taking import LONG, taker


@pytest.mark.parametrize("size", [1, LONG - 1, LONG, LONG + 1, 7056])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_rows_are_those_that_numpy_takes(size: int, count: int) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (20, size), np.uint8)
    rows.flags.writeable = False
    items, places = (
        rows.view(np.dtype((np.void, size))).reshape(-1),
        np.random.default_rng(1).integers(0, 20, count),
    )
    assert (taker(items, items)(places).view(np.uint8).reshape(count, size) == rows[places]).all()
    out = np.zeros(count, items.dtype)
    assert taker(items, items)(places, None, out, "clip") is out
    assert (out.view(np.uint8).reshape(count, size) == rows[places]).all()


def test_of_no_rows_none_are_taken() -> None:
    items = np.empty(0, "V300")
    assert len(taker(items, items)(np.empty(0, np.int64))) == 0


def test_a_row_that_is_not_there_is_an_error() -> None:
    items = np.empty(3, "V300")
    with pytest.raises(IndexError):
        taker(items, items)(np.array([3]))
