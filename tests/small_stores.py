"""A store of a few trajectories that end in each way, for tests against other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import replaystore as rs


def small_store(path: Path, *, several: bool = False, actions: int = 2) -> str:
    """Four trajectories: terminated, truncated, both, cut off. `several`: a Dict of observations; `actions`:
    how long a vector, or 0 for numbers of one."""
    names = ("observation/a", "observation/b") if several else ("observation",)
    schema = rs.Schema(
        {
            **{name: rs.Field("float32", (3,), "observation") for name in names},
            "action": rs.Field("float32", (actions,), "action")
            if actions
            else rs.Field("int64", (), "action"),
            "reward": rs.Field("float64", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
            "truncated": rs.Field("bool", (), "truncated"),
            "info/speed": rs.Field("float32", (2,), "info"),
            "logprob": rs.Field("float64", (), "extra"),
        }
    )
    with rs.create(path, schema) as buffer:
        for number in range(4):
            steps, generator = 5 + number, np.random.default_rng(number)
            last = np.arange(steps) == steps - 1
            values: dict[str, Any] = {
                name: (generator.normal(size=(steps, *declared.shape)) * 9).astype(declared.dtype)
                for name, declared in schema.fields.items()
                if declared.dtype != bool
            }
            values["terminated"] = last & (number in (0, 2))
            values["truncated"] = last & (number in (1, 2))
            final = {name: np.full(3, number, np.float32) for name in names}
            buffer.append(
                values, ends=[steps - 1], final_observation=final, split="train" if number % 2 else "test"
            )
    return str(path)
