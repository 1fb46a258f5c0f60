"""Buffers to be sampled whose steps say where they are from, and their trajectories in plain lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import replaystore as rs
from replaystore.schema.fields import Field

FLAG = Field("?", (), "terminated")


def schema(shape: tuple[int, ...] = (2,)) -> rs.Schema:
    """The observation of a step says which trajectory and which step it is."""
    return rs.Schema(
        {
            "observation": Field("i4", shape, "observation"),
            "action": Field("i2", (), "action"),
            "reward": Field("f4", (), "reward"),
            "terminated": FLAG,
            "truncated": Field("?", (), "truncated"),
        }
    )


@dataclass
class Life:
    """A trajectory in plain lists."""

    number: int
    observations: list[np.ndarray[Any, Any]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    after: np.ndarray[Any, Any] | None = None
    rows: list[int] = field(default_factory=list)
    split: str = ""

    def following(self, at: int) -> np.ndarray[Any, Any] | None:
        return self.observations[at + 1] if at + 1 < len(self.observations) else self.after


def observation(shape: tuple[int, ...], trajectory: int, step: int) -> np.ndarray[Any, Any]:
    values = np.zeros(shape, "i4")
    values.reshape(-1)[:2] = trajectory, step
    return values


def fill(buffer: rs.Buffer, plan: list[tuple[int, int, bool, bool]], *, commit_every: int = 1) -> list[Life]:
    """Pieces of trajectories: (environment, steps, whether it ends, whether what follows is known); the
    trajectories in plain lists."""
    shape = buffer.schema.fields["observation"].shape
    lives: list[Life] = []
    opened: dict[int, Life] = {}
    row = 0
    for number, (env, count, ends, known) in enumerate(plan):
        life = opened.get(env)
        if life is None:
            life = opened[env] = Life(len(lives), split=f"s{env % 2}")
            lives.append(life)
        begin = len(life.rows)
        rows = [observation(shape, life.number, begin + step) for step in range(count)]
        terminated = [ends and step == count - 1 and number % 3 != 1 for step in range(count)]
        truncated = [ends and step == count - 1 and number % 3 != 0 for step in range(count)]
        rewards = [float((life.number * 7 + begin + step) % 11) for step in range(count)]
        after = observation(shape, life.number, begin + count)
        followed = known or not ends
        buffer.append(
            {
                "observation": np.array(rows, "i4"),
                "action": np.arange(begin, begin + count).astype("i2"),
                "reward": np.array(rewards, "f4"),
                "terminated": np.array(terminated),
                "truncated": np.array(truncated),
            },
            env=env,
            final_observation=after if followed else None,
            split=life.split,
        )
        life.observations += rows
        life.rewards += rewards
        life.terminated += terminated
        life.truncated += truncated
        life.rows += range(row, row + count)
        life.after = after if followed else None
        row += count
        if ends:
            del opened[env]
        if number % commit_every == commit_every - 1:
            buffer.commit()
    buffer.commit()
    return lives


PLANS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=14
)
STORES = {
    ".zarr": {},
    ".h5": {},
    ".zarr ": {
        "storage": {
            "observation": {"codec": "zstd:1", "chunk_rows": 4},
            "action": {"codec": "zstd:1", "chunk_rows": 8},
        }
    },
    ".h5 ": {
        "storage": {
            "observation": {"codec": "gzip:1", "chunk_rows": 4},
            "reward": {"codec": "zstd:1", "chunk_rows": 4},
        }
    },
}


@pytest.fixture
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[rs.Buffer, list[Life]]]:
    """A buffer with trajectories of many lengths, in parts, some open; and the plain lists."""
    plan = [
        (0, 9, True, True),
        (1, 3, False, True),
        (0, 4, False, True),
        (1, 5, True, True),
        (2, 1, True, True),
        (0, 30, True, True),
    ]
    plan += [(2, 12, False, True), (1, 7, True, True), (0, 2, False, True), (2, 8, False, True)]
    suffix = getattr(request, "param", ".zarr")
    with rs.create(tmp_path / f"a{suffix.strip()}", schema(), **STORES[suffix]) as buffer:
        lives = fill(buffer, plan)
    with rs.open(tmp_path / f"a{suffix.strip()}") as buffer:
        yield buffer, lives


every_store = pytest.mark.parametrize("stored", STORES, indirect=True)


def place_of(lives: list[Life], shown: np.ndarray[Any, Any]) -> tuple[Life, int]:
    trajectory, step = shown.reshape(-1)[:2].tolist()
    return lives[trajectory], step
