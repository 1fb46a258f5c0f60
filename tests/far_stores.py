"""Stores for tests of reading from far away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import replaystore as rs
from replaystore.testing.far import Asked, FarFiles

__all__ = ["CODED", "SCHEMA", "STEPS", "before_request", "make", "since", "steps"]

FIELDS = {
    "observation": ("float32", (17,)),
    "action": ("float32", (6,)),
    "reward": ("float32", ()),
    "terminated": ("bool", ()),
    "truncated": ("bool", ()),
}
SCHEMA = rs.Schema({name: rs.Field(dtype, shape, name) for name, (dtype, shape) in FIELDS.items()})
STEPS = 20_000
CODED = {name: {"codec": "zstd:1", "chunk_rows": 256} for name in FIELDS}


def steps(count: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    found = {
        name: rng.integers(0, 100, (count, *shape)).astype(dtype) for name, (dtype, shape) in FIELDS.items()
    }
    found["terminated"][:] = False
    found["truncated"][:] = False
    found["truncated"][999::1000] = True
    return found


def make(place: Path, count: int = STEPS, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    columns = steps(count)
    with rs.create(place, SCHEMA, **options) as buffer:
        finals = np.zeros((int(columns["truncated"].sum()), 17), np.float32)
        buffer.append(columns, final_observation=finals)
    return columns


def since(asked: Asked) -> None:
    """Count anew."""
    asked.rounds = asked.requests = asked.bytes = 0
    asked.names.clear()


@contextmanager
def before_request(number: int, action: Callable[[], None]) -> Iterator[list[str]]:
    """Do that before so many requests, counted from 0; what was asked."""
    real, asked = FarFiles._fetch, []

    def fetch(self: FarFiles, name: str, offset: int, length: int | None) -> bytes:
        if len(asked) == number:
            action()
        asked.append(name)
        return real(self, name, offset, length)

    with patch.object(FarFiles, "_fetch", fetch):
        yield asked
