"""Fields that are added with values: arrays and functions, raw and coded, of rings too; nothing is half
made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import replaystore as rs
from replaystore.buffers import late_fields
from replaystore.errors import ArgumentError, ConflictError, SchemaError, UnknownFieldError
from replaystore.gymnasium import Record
from replaystore.schema import Field, Schema

SCHEMA = Schema(
    {"reward": Field("float64", (), "reward"), "observation": Field("float32", (3,), "observation")}
)
EXTRA = Field("float64", (), "extra")
PAIR = Field("float32", (2,), "extra")
PLACES = [("a.zarr", None), ("a.zarr", 300), ("a.h5", None), ("memory:late", None)]
SETTINGS: list[dict[str, Any]] = [{}, {"codec": "gzip:1", "chunk_rows": 7}, {"chunk_rows": 512}]


def place_of(folder: Path, name: str) -> str:
    return name if name.startswith("memory:") else str(folder / name)


def steps(count: int, start: int = 0) -> dict[str, Any]:
    rewards = np.arange(start, start + count, dtype=np.float64)
    return {"reward": rewards, "observation": np.repeat(rewards[:, None], 3, 1).astype(np.float32)}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_fields, "BLOCK_ROWS", 64)


@pytest.mark.parametrize("storage", SETTINGS)
@pytest.mark.parametrize(("name", "capacity"), PLACES)
def test_values_are_those_of_an_array_and_of_a_function(
    tmp_path: Path, name: str, capacity: int | None, storage: dict[str, Any]
) -> None:
    location, blocks = place_of(tmp_path, name), list[tuple[int, int]]()

    def doubled(block: Any) -> Any:
        blocks.append((block.start, block.stop))
        assert len(block) == block.stop - block.start
        assert "reward" in block
        assert "other" not in block
        return block["reward"] * 2

    with rs.create(location, SCHEMA, capacity=capacity, overwrite=True) as buffer:
        buffer.append(steps(1000))
        kept = capacity or 1000
        pairs = np.random.default_rng(0).random((kept, 2), np.float32)
        buffer.add_fields(
            {"extra/a": EXTRA, "extra/b": PAIR, "extra/c": EXTRA},
            values={"extra/a": doubled, "extra/b": pairs},
            fill={"extra/c": 0.5},
            storage={"extra/a": storage, "extra/b": storage},
        )
        assert blocks == [(start, min(kept, start + 64)) for start in range(0, kept, 64)]
        more = steps(10, 1000)
        more |= {"extra/a": more["reward"] * 2, "extra/b": np.ones((10, 2), np.float32)}
        buffer.append(more | {"extra/c": np.zeros(10)})
    with rs.open(location) as buffer:
        assert np.array_equal(buffer["extra/a"][:], buffer["reward"][:] * 2)
        there = pairs if capacity is None else pairs[10:]
        assert np.array_equal(buffer["extra/b"][:], np.concatenate([there, np.ones((10, 2), np.float32)]))
        assert buffer["extra/c"][:].tolist() == [0.5] * (len(buffer) - 10) + [0.0] * 10
    if not name.startswith("memory:"):
        assert not rs.verify(location).problems


@pytest.mark.parametrize("storage", SETTINGS)
@pytest.mark.parametrize(("name", "capacity"), PLACES)
def test_a_field_whose_values_fail_is_not_there(
    tmp_path: Path, name: str, capacity: int | None, storage: dict[str, Any]
) -> None:
    location = place_of(tmp_path, name)

    def failing(block: Any) -> Any:
        return np.zeros(len(block)) if block.start < 100 else list[Any]().pop()

    def late(block: Any) -> Any:
        return np.ones(len(block)) if block.start < 100 else np.ones(len(block), np.float32)

    with rs.create(location, SCHEMA, capacity=capacity, overwrite=True) as buffer:
        buffer.append(steps(1000))
        wrong: list[tuple[Any, type[Exception], str]] = [
            (failing, IndexError, "pop from empty list"),
            (late, SchemaError, "expected dtype float64, came float32"),
            (lambda _: np.ones(3), SchemaError, "came 3 values for"),
            (lambda block: np.ones((len(block), 2)), SchemaError, "expected shape"),
            (lambda _: None, SchemaError, "expected"),
            (lambda block: block["nothing"], UnknownFieldError, "nothing"),
            (np.ones(7), SchemaError, "expected values of shape"),
            (np.ones(len(buffer), np.float32)[:0], SchemaError, "one for each of the"),
            ("x", SchemaError, "values of shape"),
            (lambda _: buffer.append(steps(1)), ConflictError, "only reads"),
            (lambda _: buffer.commit(), ConflictError, "only reads"),
        ]
        for values, kind, message in wrong:
            with pytest.raises(kind, match=message):
                buffer.add_field("extra/a", EXTRA, values=values, storage=storage)
            assert list(buffer.schema.fields) == ["reward", "observation"]
        buffer.append(steps(10, 1000))
        buffer.commit()
        buffer.add_field("extra/a", EXTRA, values=lambda block: block["reward"], storage=storage)
    with rs.open(location) as buffer:
        assert np.array_equal(buffer["extra/a"][:], buffer["reward"][:])
        assert buffer["reward"][-1] == 1009
    if not name.startswith("memory:"):
        assert not rs.verify(location).problems


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_a_writer_is_asked_for_what_it_has_and_refused_meanwhile(tmp_path: Path, name: str) -> None:
    seen, reward = np.ones((2, 3), np.float32), np.ones(2)
    with rs.create(tmp_path / name, SCHEMA) as buffer:
        writer = buffer.writer(2)
        writer.reset(seen)
        for _ in range(3):
            writer.step(reward=reward, observation=seen)
        for _ in range(2):  # none of what was recorded meanwhile is lost
            with pytest.raises(ConflictError):
                buffer.add_field(
                    "extra/a",
                    EXTRA,
                    values=lambda block: writer.step(reward=reward, observation=seen) or np.ones(len(block)),
                )
        buffer.add_field("extra/a", EXTRA, values=np.arange(float(buffer.rows_recorded)))
        writer.step(reward=reward, observation=seen, info={"extra/a": np.array([-1.0, -2.0])})
        buffer.commit()
        assert buffer["extra/a"][:].tolist() == [*range(10), -1, -2]


def test_a_column_of_another_buffer_is_read_in_blocks(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as one, rs.create(tmp_path / "b.h5", SCHEMA) as other:
        for buffer in (one, other):
            buffer.append(steps(500))
            buffer.commit()
        one.add_field("extra/again", EXTRA, values=other["reward"])
        assert np.array_equal(one["extra/again"][:], one["reward"][:])


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(3))
        with pytest.raises(ArgumentError, match="values names 'b', which is none of"):
            buffer.add_fields({"a": EXTRA}, values={"b": np.ones(3)})
        with pytest.raises(ArgumentError, match="values and a fill: leave one"):
            buffer.add_fields({"a": EXTRA}, values={"a": np.ones(3)}, fill={"a": 1})
        with pytest.raises(ArgumentError, match="values must be a dict from names, not function"):
            buffer.add_fields({"a": EXTRA}, values=lambda _: 1)  # type: ignore[arg-type]
        assert list(buffer.schema.fields) == ["reward", "observation"]


@pytest.mark.parametrize("fill", [1, -1, 2.5, np.float32(3), np.nan, np.inf, 0.1])
def test_a_fill_is_a_number(tmp_path: Path, fill: Any) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(3))
        buffer.add_field("a", PAIR, fill=fill)
        buffer.commit()
        assert np.array_equal(buffer["a"][:], np.full((3, 2), fill, np.float32), equal_nan=True)


def test_advantages_of_recorded_steps(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    with rs.create(tmp_path / "a.zarr", env) as buffer:
        envs = Record(env, buffer)
        envs.reset(seed=0)
        for _ in range(5):
            envs.step(0)
        buffer.add_field("advantage", Field("float32", (), "extra"), values=np.ones(5, np.float32))
        buffer.commit()
        assert buffer["advantage"][:].tolist() == [1.0] * 5
