"""Steps that say their number in every field, and batches that show some of them."""

from __future__ import annotations

from typing import Any

import numpy as np

import replaystore as rs
from replaystore.schema.fields import Field

FIELDS = {
    "observation": Field("i8", (3,), "observation"),
    "action": Field("i8", (), "action"),
    "terminated": Field("?", (), "terminated"),
}


def append(buffer: rs.Buffer, count: int) -> None:
    """Steps that say their number in every field; trajectories of 10."""
    first = buffer.rows_recorded
    numbers = np.arange(first, first + count)
    observations = np.repeat(numbers[:, None], *buffer.schema.fields["observation"].shape, axis=1)
    ends = numbers % 10 == 9
    finals = observations[np.append(np.flatnonzero(ends), [] if ends[-1] else count - 1).astype(int)] + 1
    buffer.append(
        {"observation": observations, "action": numbers, "terminated": ends}, final_observation=finals
    )
    buffer.commit()


def check(batch: dict[str, Any], low: int, high: int) -> None:
    rows = batch["action"]
    assert low <= rows.min() <= rows.max() < high
    assert (batch["observation"] == rows.reshape(-1, 1)).all()
    assert (batch["next_observation"] == rows.reshape(-1, 1) + 1).all()
    assert (batch["terminated"] == (rows % 10 == 9)).all()
