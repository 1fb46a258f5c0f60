"""What a sampler says once, whatever its order, and however it comes to what it is about: made, refreshed,
live, or of several stores."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ReplayStoreWarning
from replaystore.sampling import cautions

LEFT_OUT, TOO_LARGE = "steps cannot be drawn", "more than slab_bytes"
SCHEMA = rs.Schema({"observation": rs.Field("float32", (50,), "observation")})
ORDERS: list[dict[str, Any]] = [
    {},
    {"order": "trajectory"},
    {"order": "epoch"},
    {"order": "prioritized"},
    {"weights": True},
    {"weights": True, "per": "trajectory"},
]


@pytest.fixture(autouse=True)
def _told() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def fill(buffer: rs.Buffer, trajectories: int, length: int = 20) -> None:
    rows = trajectories * length
    values = np.random.default_rng(rows).normal(size=(rows, 50)).astype(np.float32)
    buffer.append({"observation": values}, ends=[*range(length - 1, rows, length)])
    buffer.commit()


def new(place: Path, codec: str = "raw") -> rs.Buffer:
    return rs.create(place, SCHEMA, storage={"observation": {"codec": codec}}, durability="none")


def weighing(how: dict[str, Any], *buffers: rs.Buffer) -> dict[str, Any]:
    if "weights" not in how:
        return how
    counts = [len(b) if how.get("per") is None else b.num_trajectories for b in buffers]
    return how | {"weights": np.ones(sum(counts))}


def told(found: Any, what: str) -> int:
    """How many of these warnings say so; each names a line of this file."""
    mine = [one for one in found if issubclass(one.category, ReplayStoreWarning)]
    assert all(one.filename == __file__ for one in mine)
    return sum(what in str(one.message) for one in mine)


@pytest.mark.parametrize("how", ORDERS)
@pytest.mark.parametrize("stores", [1, 3])
def test_that_most_steps_are_left_out_is_said_once(tmp_path: Path, how: dict[str, Any], stores: int) -> None:
    buffers = [new(tmp_path / f"{number}.zarr") for number in range(stores)]
    for buffer in buffers:
        fill(buffer, 100)
    source = buffers[0] if stores == 1 else rs.concat(buffers)
    with warnings.catch_warnings(record=True) as found:
        sampler = source.sampler(8, fragment_length=12, next_observation=False, **weighing(how, *buffers))
        assert told(found, LEFT_OUT) == 1
        if stores > 1:
            assert "2 more of these stores" in str(found[-1].message)
        for buffer in buffers:
            fill(buffer, 3)
        sampler.refresh()
        for _ in range(3):
            sampler.sample()
        assert told(found, LEFT_OUT) == 1
        source.sampler(8, fragment_length=9, next_observation=False).sample()
        assert told(found, LEFT_OUT) == 1


@pytest.mark.parametrize("how", [order for order in ORDERS if "per" not in order])
@pytest.mark.parametrize("stores", [1, 2])
def test_it_is_said_when_it_comes_true(tmp_path: Path, how: dict[str, Any], stores: int) -> None:
    buffers = [new(tmp_path / f"{number}.zarr") for number in range(stores)]
    for buffer in buffers:
        fill(buffer, 1, 1000)
    source = buffers[0] if stores == 1 else rs.concat(buffers)
    with warnings.catch_warnings(record=True) as found:
        sampler = source.sampler(8, fragment_length=12, next_observation=False, **weighing(how, *buffers))
        sampler.refresh()
        assert told(found, LEFT_OUT) == 0
        for _ in range(2):
            fill(buffers[-1], 400, 10)
            sampler.refresh()
            assert told(found, LEFT_OUT) == 1


@pytest.mark.parametrize("stores", [1, 2])
@pytest.mark.parametrize("how", [{}, {"order": "trajectory"}, {"order": "prioritized"}])
def test_a_live_sampler_says_so_as_it_grows(
    tmp_path: Path, stores: int, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replaystore.sampling.sampler.LOOK", 4)
    monkeypatch.setattr("replaystore.sampling.concat.LOOK", 4)
    buffers = [new(tmp_path / f"{number}.zarr", "zstd:1") for number in range(stores)]
    source = buffers[0] if stores == 1 else rs.concat(buffers)
    for buffer in buffers:
        fill(buffer, 10, 100)
    with warnings.catch_warnings(record=True) as found:
        sampler = source.sampler(
            8, live=True, fragment_length=12, next_observation=False, slab_bytes=400_000, **how
        )
        for number in range(16):
            sampler.sample()
            if number == 8:
                assert (told(found, LEFT_OUT), told(found, TOO_LARGE)) == (0, 0)
                for buffer in buffers:
                    fill(buffer, 500, 10)
        assert (told(found, LEFT_OUT), told(found, TOO_LARGE)) == (1, 1)
        sampler.refresh()
        assert (told(found, LEFT_OUT), told(found, TOO_LARGE)) == (1, 1)


@pytest.mark.parametrize("how", ORDERS)
@pytest.mark.parametrize("stores", [1, 2])
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_that_memory_is_small_is_said_once_where_it_matters(
    tmp_path: Path, how: dict[str, Any], stores: int, suffix: str
) -> None:
    buffers = [new(tmp_path / f"{number}.{suffix}", "zstd:1") for number in range(stores)]
    for buffer in buffers:
        fill(buffer, 60, 30)
    source = buffers[0] if stores == 1 else rs.concat(buffers)
    with warnings.catch_warnings(record=True) as found:
        sampler = source.sampler(8, slab_bytes=20_000, **weighing(how, *buffers))
        expected = 0 if how.get("order") == "epoch" else 1
        for _ in range(6):
            sampler.sample()
        fill(buffers[0], 3)
        sampler.refresh()
        sampler.sample()
        assert told(found, TOO_LARGE) == expected
        source.sampler(8, slab_bytes=1 << 30).sample()
        assert told(found, TOO_LARGE) == expected


def test_few_steps_are_not_worth_saying(tmp_path: Path) -> None:
    with new(tmp_path / "a.zarr") as buffer, warnings.catch_warnings(record=True) as found:
        fill(buffer, cautions.WORTH_SAYING // 20)
        buffer.sampler(8, fragment_length=20, next_observation=False).sample()
        assert told(found, LEFT_OUT) == 0
