"""Values of any length of stores that are far away: how many rounds of requests a batch of them takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.testing.crashes import tiny
from replaystore.testing.far import Asked, far_disk

STEPS, BATCHES = 600, 24
SCHEMA = rs.Schema(
    {
        "observation": rs.Field.of_text("observation"),
        "tokens": rs.Field("int32", (None,), "extra"),
        "logprob": rs.Field("float32", (None,), "extra"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
    }
)
CODED = {name: {"codec": "gzip:1", "chunk_rows": 512} for name in SCHEMA.ragged}


@pytest.fixture(params=["raw", "coded", "ring", "archive"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Values of 0 to 4 kB, so that few of them are neighbours."""
    lengths = np.random.default_rng(0).integers(0, 1000, STEPS).tolist()
    steps: dict[str, Any] = {
        "observation": [f"{step}" * (length // 4) for step, length in enumerate(lengths)],
        "tokens": [np.arange(length, dtype=np.int32) + step for step, length in enumerate(lengths)],
        "logprob": [np.full(length, -step, np.float32) for step, length in enumerate(lengths)],
        "reward": np.arange(STEPS, dtype=np.float32),
        "terminated": np.arange(STEPS) % 40 == 39,
    }
    kind = request.param
    settings: dict[str, Any] = {"coded": {"storage": CODED}, "ring": {"capacity": 400}}.get(kind, {})
    with tiny():
        finals = [f"after {number}" for number in range(STEPS // 40)]
        with rs.create(tmp_path / "a.zarr", SCHEMA, **settings) as buffer:
            buffer.append(steps, final_observation=finals)
        if kind == "archive":
            rs.convert(tmp_path / "a.zarr", tmp_path / "b.zarr", layout="archive")
        yield tmp_path / ("b.zarr" if kind == "archive" else "a.zarr")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        values == other[name] if isinstance(values, rs.Ragged) else values.tobytes() == other[name].tobytes()
        for name, values in one.items()
    )


def cost(asked: Asked, sampler: Any, other: Any) -> float:
    """Rounds of a batch, of many; each is what is sampled near."""
    assert same(sampler.sample(), other.sample())  # which finds out where chunks lie
    asked.rounds = 0
    for _ in range(BATCHES):
        assert same(sampler.sample(), other.sample())
    return asked.rounds / BATCHES


def test_the_values_of_all_fields_of_a_batch_are_asked_for_together(store: Path) -> None:
    """A round for where they lie, and one for them; each asks once more whether the store has gone back."""
    with rs.open(store) as near, far_disk() as asked, rs.open(store) as far:
        for settings in ({}, {"next_observation": False}, {"fields": ["tokens"]}, {"pad_values": "end"}):
            found = cost(
                asked, far.sampler(16, seed=1, prefetch=0, **settings), near.sampler(16, seed=1, **settings)
            )
            assert found <= 4, settings


def test_where_the_values_of_batches_ahead_lie_is_asked_for_together(store: Path) -> None:
    with rs.open(store) as near, far_disk() as asked, rs.open(store) as far:
        ahead = far.sampler(16, seed=2, prefetch=8)
        assert cost(asked, ahead, near.sampler(16, seed=2)) <= 3.2
        ahead.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"order": "epoch"},
        {"order": "trajectory"},
        {"fragment_length": 5, "pad": "end"},
        {"frame_stack": 3},
        {"order": "prioritized"},
    ],
)
def test_every_way_of_sampling_gives_what_it_gives_near(store: Path, settings: dict[str, Any]) -> None:
    with rs.open(store) as near, far_disk(), rs.open(store) as far:
        one, other = (buffer.sampler(32, seed=3, **settings) for buffer in (near, far))
        for _ in range(8):
            assert same(one.sample(), other.sample())
        other.close()


def test_a_store_that_went_back_gives_no_values_of_another_history(tmp_path: Path) -> None:
    def rows(text: str) -> dict[str, Any]:
        return {
            "observation": [text * (number % 7 + 1) for number in range(64)],
            "tokens": [np.full(number % 5 + 9, ord(text), np.int32) for number in range(64)],
            "logprob": [np.zeros(number % 3, np.float32) for number in range(64)],
            "reward": np.zeros(64, np.float32),
            "terminated": np.arange(64) % 8 == 7,
        }

    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(rows("a"))
        buffer.commit()
        buffer.append(rows("b"))
        buffer.commit()
        with far_disk(), rs.open(tmp_path / "a.zarr") as far:
            sampler = far.sampler(32, seed=0, prefetch=0)
            sampler.sample()
            buffer.rollback(1)
            buffer.append(rows("c"))
            buffer.commit()
            with pytest.raises(rs.errors.ConflictError):
                sampler.sample()
            assert sampler.refresh()
            assert {"a", "c"} == set("".join("".join(sampler.sample()["observation"]) for _ in range(4)))
