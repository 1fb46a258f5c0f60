"""Rows of a column by number: negative ones, those that there are not, and those that left a ring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import replaystore as rs

SCHEMA = rs.Schema({"observation": rs.Field("float32", (3,), "observation")})


@pytest.fixture(params=["whole", "ring"])
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> rs.Buffer:
    capacity = {"whole": None, "ring": 3000}[request.param]
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=capacity) as writer:
        for start in range(0, 9000, 1000):
            rows = np.arange(start, start + 1000, dtype=np.float32)
            writer.append({"observation": np.repeat(rows[:, None], 3, axis=1)})
            writer.commit()
    return rs.open(tmp_path / "a.zarr")


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_numbers_count_from_the_oldest_step_and_from_the_end(buffer: rs.Buffer, dtype: type) -> None:
    first, count = 9000 - len(buffer), len(buffer)
    column = buffer["observation"]
    wanted = np.array([0, 7, 7, 3], dtype)

    assert column[wanted][:, 0].tolist() == (wanted.astype(int) + first).tolist()
    assert column[np.array([-1, -count, 5])][:, 0].tolist() == [8999, first, first + 5]
    assert column[np.array([], dtype)].shape == (0, 3)


@pytest.mark.parametrize("beyond", [0, 5])
def test_numbers_that_there_are_not_are_refused(buffer: rs.Buffer, beyond: int) -> None:
    column, count = buffer["observation"], len(buffer)

    for wrong in (count + beyond, -count - 1 - beyond):
        with pytest.raises(IndexError, match=f"there are {count} steps"):
            column[np.array([1, wrong])]


def test_a_held_column_goes_on_with_the_buffer(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as writer:
        column = writer["observation"]
        for count in (1, 2, 3):
            writer.append({"observation": np.full((1, 3), count, np.float32)})
            assert len(column) == count - 1
            writer.commit()
            assert column[np.arange(count)][:, 0].tolist() == list(range(1, count + 1))
        first = writer.commit_id
        writer.append({"observation": np.full((1, 3), 9, np.float32)})
        writer.commit()
        writer.rollback(first)
        writer.append({"observation": np.full((1, 3), 7, np.float32)})
        writer.commit()
        assert column[np.array([2, 3])][:, 0].tolist() == [3, 7]
