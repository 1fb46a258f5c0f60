"""Statistics of columns: blocks that are merged give what NumPy says of all rows at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import replaystore as rs
from replaystore.schema.fields import Field, Schema
from replaystore.views.statistics import Statistics


def rows_of(dtype: str, count: int) -> np.ndarray[Any, Any]:
    """Rows that differ much from block to block, so that a block of the wrong weight shows."""
    numbers = np.random.default_rng(count).normal(size=(count, 2)) * 3 + np.arange(count)[:, None] ** 1.5 - 20
    kind = np.dtype(dtype).kind
    if kind == "b":
        return numbers > 0
    if kind == "c":
        numbers = numbers + 1j * numbers[::-1]
    return (np.abs(numbers) if kind == "u" else numbers).astype(dtype)


def merged(blocks: list[np.ndarray[Any, Any]], shape: tuple[int, ...] = (2,)) -> Statistics:
    total = Statistics.nothing(shape)
    for block in blocks:
        total = total.merged(Statistics.of(block))
    return total


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "uint8", "bool", "complex64"])
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5))
def test_merged_blocks_have_the_values_of_all_rows(dtype: str, lengths: list[int]) -> None:
    rows = rows_of(dtype, sum(lengths))

    found = merged(np.split(rows, np.cumsum(lengths)[:-1]))

    assert found.count == len(rows)
    if not len(rows):
        assert np.isnan(found.mean).all()
        assert np.isnan(found.std).all()
        return
    exact = rows.astype(np.complex128 if rows.dtype.kind == "c" else np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, exact.std(axis=0), rtol=1e-9, atol=1e-9)
    if rows.dtype.kind == "c":
        assert found.min is found.max is None
    else:
        np.testing.assert_array_equal(found.min, rows.min(axis=0))
        np.testing.assert_array_equal(found.max, rows.max(axis=0))
        assert found.min is not None
        assert found.min.dtype == rows.dtype


def test_one_value_far_from_many_keeps_its_weight() -> None:
    """By hand: nine rows of 0 and one of 10 have the mean 1 and the variance 9, whichever comes first."""
    many, one = Statistics.of(np.zeros((9, 1))), Statistics.of(np.full((1, 1), 10.0))

    for found in (many.merged(one), one.merged(many)):
        assert found.count == 10
        assert (found.mean.item(), found.squares.item(), found.std.item()) == (1.0, 90.0, 3.0)


def test_a_buffer_of_several_blocks_says_what_its_rows_are(tmp_path: Path) -> None:
    width = 1 << 17  # of which a block of 4 MiB has four rows
    grows = np.arange(1, 11)[:, None]
    rows = np.random.default_rng(0).normal(size=(10, width)) * grows + grows
    schema = Schema({"info/wide": Field(np.dtype("float64"), (width,), "info")})
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append({"info/wide": rows})
        buffer.commit()
        found = buffer.statistics()["info/wide"]

    assert found.count == 10
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.min, rows.min(axis=0))
    np.testing.assert_array_equal(found.max, rows.max(axis=0))
