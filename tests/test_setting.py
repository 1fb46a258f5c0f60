"""Setting by position: `buffer[name][rows] = values` sets what `buffer[name][rows]` reads, whatever is not
committed yet; in-place operators are right, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_mutable_fields import PLACES, SCHEMA, place_of, steps

import replaystore as rs
from replaystore.errors import ConflictError

KEYS: list[Any] = [
    slice(-2, None),
    slice(None, None, -1),
    slice(1, 300, 7),
    np.array([-1, 0, 5, -3]),
    [3, -2],
    4,
    -1,
    np.int64(-2),
    slice(None),
    "mask",
]


@pytest.mark.parametrize(("name", "capacity"), PLACES)
@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_steps_are_set_as_they_are_read_while_others_are_not_committed(
    tmp_path: Path, name: str, capacity: int | None, key: Any
) -> None:
    with rs.create(place_of(tmp_path, name), SCHEMA, capacity=capacity, overwrite=True) as buffer:
        buffer.append(steps(390))
        buffer.commit()
        buffer.append(steps(10, 390))
        writer, seen = buffer.writer(1), np.ones((1, 3), np.float32)
        writer.reset(seen)
        for _ in range(3):  # staged
            writer.step(
                np.ones(1, np.int64),
                np.full(1, 7.0),
                observation=seen,
                info={"info/advantage": np.zeros((1, 2), np.float32)},
            )
        first, shown = buffer.first_row, buffer["reward"][:]
        key = shown % 3 == 1 if isinstance(key, str) else key
        expected = shown.copy()
        expected[key] *= 10
        buffer["reward"][key] *= 10
        buffer.commit()
        found = buffer.read(index=np.arange(buffer.first_row, 403))["reward"]
        expected = np.concatenate([expected, np.arange(390.0, 400), [7.0] * 3])
        assert np.array_equal(found, expected[buffer.first_row - first :])


@pytest.mark.parametrize(("name", "capacity"), PLACES)
@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_values_that_wait_for_a_commit_are_not_changed_in_place(
    tmp_path: Path, name: str, capacity: int | None, key: Any
) -> None:
    with rs.create(place_of(tmp_path, name), SCHEMA, capacity=capacity, overwrite=True) as buffer:
        buffer.append(steps(300))
        buffer.commit()
        key = np.arange(300) % 3 == 1 if isinstance(key, str) else key
        for _ in range(2):  # also when there are changes of commits before
            buffer["reward"][key] += 1
            with pytest.raises(ConflictError, match=r"set since the last commit.*commit\(\) first"):
                buffer["reward"][key] += 1
            buffer["reward"][key] = buffer["reward"][key] + 1  # says itself what it reads
            buffer["info/advantage"][key] += 1  # another field
            buffer.commit()
        expected = np.arange(300.0)
        expected[key] += 2
        assert np.array_equal(buffer["reward"][:], expected)
        buffer["reward"][[2, 5]] += 1
        buffer["reward"][[3, 6]] += 1  # other rows
        buffer.commit()
        expected[[2, 3, 5, 6]] += 1
        assert np.array_equal(buffer["reward"][:], expected)


def test_a_rollout_gets_its_advantages_before_it_is_committed(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        writer, seen = buffer.writer(4), np.ones((4, 3), np.float32)
        writer.reset(seen)
        for rollout in range(8):
            for _ in range(16):
                writer.step(
                    np.ones(4, np.int64),
                    np.ones(4),
                    observation=seen,
                    info={"info/advantage": np.zeros((4, 2), np.float32)},
                )
            begin, stop = 64 * rollout, buffer.rows_recorded
            buffer.set_values("info/advantage", range(begin, stop), np.full((64, 2), rollout, np.float32))
            buffer.commit()
        assert np.array_equal(buffer["info/advantage"][:, 0], np.repeat(np.arange(8), 64))
        assert "changes/info/advantage/step" not in buffer.store.state.arrays
