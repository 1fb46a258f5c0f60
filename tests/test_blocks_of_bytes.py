"""Blocks of steps of bounded size: all steps once, in order."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import replaystore as rs
from replaystore.views import blocks
from replaystore.views.blocks import chosen_of_bytes, rows_of_bytes

SCHEMA = rs.Schema(
    {
        "action": rs.Field("int16", (None, 3), "action"),
        "info": rs.Field.of_text("info"),
        "reward": rs.Field("float32", (), "reward"),
    }
)


class View:
    """Spans of these lengths, without a store; values of 6 bytes and of 1."""

    schema = SCHEMA

    def __init__(self, lengths: list[int]) -> None:
        ends = np.cumsum(lengths, dtype=np.int64)
        self.spans = np.stack([ends - np.array(lengths, np.int64), ends], axis=1)

    def __len__(self) -> int:
        return len(self.spans)

    def rows(self, name: str, rows: slice) -> np.ndarray:
        assert name != "reward"
        return self.spans[rows]


@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 5, 100, 10_000]), max_size=40),
    most=st.integers(1, 2000),
    known=st.integers(1, 9),
    stride=st.integers(1, 4),
    start=st.integers(0, 10),
    names=st.sets(st.sampled_from(sorted(SCHEMA.fields)), min_size=1),
)
def test_they_are_bounded_and_hold_all_steps(
    lengths: list[int], most: int, known: int, stride: int, start: int, names: set[str]
) -> None:
    sizes = 4 * ("reward" in names) + np.array(lengths, np.int64) * 0
    for name, width in (("action", 6), ("info", 1)):
        if name in names:
            sizes = sizes + 16 + width * np.array(lengths, np.int64)
    with patch.object(blocks, "SPANS", known):
        found = list(rows_of_bytes(View(lengths), names, most, start, None, stride))

    steps = [range(low, high, stride) for low, high in found]
    assert [row for block in steps for row in block] == list(range(start, len(lengths), stride))
    assert all(high <= len(lengths) for _, high in found)
    assert all(int(sizes[block].sum()) <= most or len(block) == 1 for block in steps)


@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 5, 100, 10_000]), min_size=1, max_size=20),
    most=st.integers(1, 2000),
    count=st.integers(1, 9),
    data=st.data(),
)
def test_of_chosen_steps_too(lengths: list[int], most: int, count: int, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1))), np.int64)
    found = list(chosen_of_bytes(View(lengths), ["action", "reward"], most, rows, count))

    sizes = 20 + 6 * np.array(lengths, np.int64)
    assert [row for block in found for row in block] == rows.tolist()
    assert all(len(block) <= count for block in found)
    assert all(int(sizes[block].sum()) <= most or len(block) == 1 for block in found)


def test_as_many_as_fit() -> None:
    names = ["action"]
    assert list(rows_of_bytes(View([1, 1, 1, 30, 0, 0, 1]), names, 80)) == [(0, 3), (3, 4), (4, 5), (5, 7)]
    assert list(rows_of_bytes(View([0] * 7), ["reward"], 12)) == [(0, 3), (3, 6), (6, 7)]
