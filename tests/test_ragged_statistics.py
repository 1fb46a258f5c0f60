"""Statistics of fields of any length: what NumPy says of all lengths and of all values at once, however
blocks are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import replaystore as rs
from replaystore.columns.values import Values
from replaystore.errors import UnknownFieldError
from replaystore.views import statistics
from replaystore.views.statistics import RaggedStatistics, Statistics

pytest_plugins = ["ragged_kinds"]


def agrees(found: Statistics | None, rows: np.ndarray[Any, Any]) -> None:
    assert found is not None
    assert found.count == len(rows)
    assert found.mean.shape == found.std.shape == rows.shape[1:]
    if not len(rows):
        assert np.isnan(found.mean).all()
        assert np.isnan(found.std).all()
        assert found.min is found.max is None
        return
    exact = rows.astype(np.complex128 if rows.dtype.kind == "c" else np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.std, exact.std(axis=0), rtol=1e-9, atol=1e-9)
    if rows.dtype.kind != "c":
        assert found.min is not None
        assert found.max is not None
        assert found.min.dtype == found.max.dtype == rows.dtype
        np.testing.assert_array_equal(found.min, rows.min(axis=0))
        np.testing.assert_array_equal(found.max, rows.max(axis=0))


def test_they_are_those_of_all_values(ragged_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with rs.open(ragged_store) as buffer:
        for block in (7, 200, 4 << 20):
            monkeypatch.setattr(statistics, "BLOCK_BYTES", block)
            monkeypatch.setattr(statistics, "FAR_BLOCK_BYTES", max(block, 200))
            _are_of_all_values(buffer)


def _are_of_all_values(buffer: rs.Buffer) -> None:
    found = buffer.statistics()
    assert list(found) == list(buffer.schema.fields)
    for name, declared in buffer.schema.fields.items():
        rows, known = buffer[name][:], found[name]
        if not declared.ragged:
            agrees(known, rows)
            continue
        assert known.count == len(buffer) == len(rows)
        agrees(known.lengths, rows.lengths)
        if declared.text:
            assert known.values is None
        else:
            agrees(known.values, rows.values)
            assert f"values <Statistics of {len(rows.values)} rows" in repr(known)
    with pytest.raises(UnknownFieldError, match="observation/text"):
        found["observation"]


@given(parts=st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=5))
def test_merged_parts_have_the_values_of_all(parts: list[list[int]]) -> None:
    random = np.random.default_rng(len(parts))
    total, values = RaggedStatistics.nothing((2,), text=False), [np.empty((0, 2))]
    for lengths in parts:
        part = random.normal(len(lengths), 3, (sum(lengths), 2))
        of = Statistics.of(np.array(lengths, np.int64))
        total = total.merged(RaggedStatistics(len(lengths), of, Statistics.of(part)))
        values.append(part)

    assert total.count == sum(map(len, parts))
    agrees(total.lengths, np.array([n for lengths in parts for n in lengths], np.int64))
    agrees(total.values, np.concatenate(values))


def test_one_value_is_not_read_at_once_if_it_is_longer_than_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 1 << 12)
    sizes, read, take = list[int](), Values.read, Values.take

    def reading(values: Values, begin: int, end: int) -> Any:
        sizes.append((end - begin) * values.column.row_bytes)
        return read(values, begin, end)

    def taking(values: Values, spans: Any, **options: Any) -> Any:
        sizes.append(int((spans[:, 1] - spans[:, 0]).sum()) * values.column.row_bytes)
        return take(values, spans, **options)

    monkeypatch.setattr(Values, "read", reading)
    monkeypatch.setattr(Values, "take", taking)
    long = np.arange(100_000, dtype=np.int16)
    schema = rs.Schema({"action": rs.Field("int16", (None,), "action")})
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append({"action": [long[:3], long, long[5:9]]})
        buffer.commit()
        found = buffer.statistics()["action"].values
    agrees(found, np.concatenate([long[:3], long, long[5:9]]))
    assert max(sizes) <= 1 << 12
    assert sum(sizes) == 2 * found.count


def test_no_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("read", "take"):
        monkeypatch.setattr(Values, name, None)
    with rs.create(tmp_path / "a.zarr", rs.Schema({"info": rs.Field.of_text("info")})) as buffer:
        buffer.append({"info": ["é語", "", "abc"]})
        buffer.commit()
        found = buffer.statistics()["info"]
    agrees(found.lengths, np.array([5, 0, 3]))
    assert (found.count, found.values) == (3, None)


def test_an_empty_buffer_has_none(tmp_path: Path) -> None:
    schema = rs.Schema({"action": rs.Field("int32", (None, 2), "action"), "info": rs.Field.of_text("info")})
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        found = buffer.statistics()
    agrees(found["action"].lengths, np.empty(0, np.int64))
    agrees(found["action"].values, np.empty((0, 2), np.int32))
    assert (found["info"].count, found["info"].values) == (0, None)
