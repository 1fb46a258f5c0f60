"""Fields whose values are set later: what is shown, when, and to whom."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import replaystore as rs
from replaystore.arrays import changing
from replaystore.errors import (
    ArgumentError,
    ConflictError,
    CorruptError,
    EvictedError,
    SchemaError,
    UnknownFieldError,
    UnsupportedError,
)
from replaystore.schema import Field, Schema

SCHEMA = Schema(
    {
        "observation": Field("float32", (3,), "observation"),
        "reward": Field("float64", (), "reward", mutable=True),
        "info/advantage": Field("float32", (2,), "info", mutable=True),
        "action": Field("int64", (), "action"),
    }
)
PLACES = [("a.zarr", None), ("a.zarr", 300), ("a.h5", None), ("memory:mutable", None)]


def place_of(folder: Path, name: str) -> str:
    return name if name.startswith("memory:") else str(folder / name)


def steps(count: int, start: int = 0) -> dict[str, Any]:
    numbers = np.arange(start, start + count)
    return {
        "observation": np.repeat(numbers[:, None], 3, 1).astype(np.float32),
        "reward": numbers.astype(np.float64),
        "info/advantage": np.zeros((count, 2), np.float32),
        "action": numbers,
    }


@pytest.fixture(autouse=True)
def short_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changing, "DIGEST_ROWS", 150)


def pairs(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((count, 2), np.float32)


@pytest.mark.parametrize(("name", "capacity"), PLACES)
def test_values_are_seen_with_the_commit_and_by_readers(
    tmp_path: Path, name: str, capacity: int | None
) -> None:
    location = place_of(tmp_path, name)
    with rs.create(location, SCHEMA, capacity=capacity, overwrite=True) as buffer:
        buffer.append(steps(300))
        buffer.commit()
        reader = rs.open(location)
        before = reader.sampler(32, seed=0)
        values = pairs(300)
        buffer["info/advantage"][:] = values
        assert not buffer["info/advantage"][:].any()
        buffer.commit()
        assert np.array_equal(buffer["info/advantage"][:], values)
        assert not reader["info/advantage"][:].any()
        assert not before.sample()["info/advantage"].any()
        old = reader.commit_id
        assert reader.refresh()
        assert np.array_equal(reader["info/advantage"][:], values)
        batch = reader.sampler(32, seed=0, next_observation=False).sample()
        found = batch["action"].astype(np.int64)
        assert np.array_equal(batch["info/advantage"], values[found])
        assert not before.sample()["info/advantage"].any()
        with rs.open(location, commit=old) as older:
            assert not older["info/advantage"][:].any()
        buffer["info/advantage"][[3, 5, 3]] = values[:3]
        buffer.commit()
        assert np.array_equal(buffer["info/advantage"][[3, 5]], values[[2, 1]])
        buffer.rollback(old)
        assert not buffer["info/advantage"][:].any()
        reader.close()


@pytest.mark.parametrize(("name", "capacity"), PLACES)
def test_who_has_seen_a_commit_goes_on_seeing_its_values(
    tmp_path: Path, name: str, capacity: int | None
) -> None:
    """Whatever is set, and appended, beside a row that was set before."""
    location, chance = place_of(tmp_path, name), np.random.default_rng(0)
    rewards, held = np.zeros(0), []
    with (
        rs.create(location, SCHEMA, capacity=capacity, overwrite=True) as buffer,
        rs.open(location) as reader,
    ):
        for _ in range(30):
            count = int(chance.integers(1, 9))
            buffer.append(steps(count, len(rewards)))
            rewards = np.append(rewards, np.arange(len(rewards), len(rewards) + count))
            chosen = chance.integers(0, len(rewards), 3)
            rewards[chosen] = -1.0 - chance.random(3)
            buffer.set_values("reward", chosen, rewards[chosen])
            buffer.commit()
            reader.refresh()
            assert np.array_equal(buffer["reward"][:], rewards)
            assert np.array_equal(reader["reward"][:], rewards)
            sampler = reader.sampler(64, order="epoch", next_observation=False)
            held.append((sampler, rewards.copy()))
        for sampler, expected in held:
            batches = list(sampler)
            found = np.concatenate([batch["reward"] for batch in batches])
            numbers = np.concatenate([batch["index"] for batch in batches])
            assert np.array_equal(found[np.argsort(numbers)], expected)


@pytest.mark.parametrize(("name", "capacity"), PLACES)
def test_a_field_is_added_and_set_in_one_commit(tmp_path: Path, name: str, capacity: int | None) -> None:
    location = place_of(tmp_path, name)
    with rs.create(location, SCHEMA, capacity=capacity, overwrite=True) as buffer:
        buffer.append(steps(1000))
        buffer.commit()
        buffer.add_field("late", rs.Field("float64", (), "extra", mutable=True), fill=3)
        buffer.append(steps(10, 1000) | {"late": np.zeros(10)})
        buffer.set_values("late", range(1003, 1010), np.arange(7.0))
        buffer.set_values("late", [1001], 8.0)
    with rs.open(location) as reader:
        expected = np.full(len(reader), 3.0)
        expected[-10:] = [0, 8, 0, *range(7)]
        assert np.array_equal(reader["late"][:], expected)
    if not name.startswith("memory:"):
        assert not rs.verify(location).problems


@pytest.mark.parametrize(("name", "capacity"), PLACES)
def test_steps_that_are_not_committed_are_written_over(
    tmp_path: Path, name: str, capacity: int | None
) -> None:
    location = place_of(tmp_path, name)
    settings = {"reward": {"chunk_rows": 512}}
    with rs.create(location, SCHEMA, capacity=capacity, overwrite=True, storage=settings) as buffer:
        for number in range(6):
            buffer.append(steps(700, 700 * number))
            begin, stop = 700 * number, buffer.rows_recorded
            buffer.set_values("reward", range(begin, stop), -np.arange(700.0))
            buffer.set_values("reward", range(stop - 3, stop), 7.5)
            buffer.set_values("reward", [begin], 1.0)
            kept = np.arange(buffer.first_row, stop)
            buffer.set_values("reward", kept[(kept - buffer.first_row) % 5 == 4], 0)
            buffer.commit()
    with rs.open(location) as buffer:
        rewards = buffer["reward"][:]
        expected = np.tile(-np.arange(700.0), 6)
        expected[np.arange(6) * 700] = 1.0
        expected.reshape(6, 700)[:, -3:] = 7.5
        numbers = np.arange(4200)
        if capacity is None:
            expected[numbers % 5 == 4] = 0
            assert np.array_equal(rewards, expected)
        else:
            assert np.array_equal(rewards[rewards != 0], expected[-300:][rewards != 0])
    if not name.startswith("memory:"):
        assert not rs.verify(location).problems


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_all_that_reads_steps_reads_what_was_set(tmp_path: Path, name: str) -> None:
    location, target = tmp_path / name, tmp_path / "b.zarr"
    values = pairs(1000)
    with rs.create(location, SCHEMA) as buffer:
        buffer.append(steps(1000))
        buffer.commit()
        for start in range(0, 1000, 50):
            buffer["info/advantage"][start : start + 50] = values[start : start + 50]
            buffer["reward"][start] = -1
            buffer.commit()
        assert buffer.describe().to_json()["fields"][1]["mutable"] is True
    for layout, container in itertools.product(("live", "archive"), ("b.zarr", "b.h5")):
        target = tmp_path / layout / container
        target.parent.mkdir(exist_ok=True)
        rs.convert(location, target, layout=layout)
        for place in (location, target):
            with rs.open(place) as view:
                assert np.array_equal(view["info/advantage"][:], values)
                assert np.array_equal(view.read(slice(7, 9))["info/advantage"], values[7:9])
                assert np.array_equal(view.read([999, 0])["info/advantage"], values[[999, 0]])
                assert view.statistics(["reward"])["reward"].min == -1
                assert np.array_equal(view.trajectory(0)["info/advantage"], values)
                group = zarr.open_group(view.zarr_store(), mode="r")
                assert np.array_equal(group["steps/info/advantage"][:], values)
                assert "changes" not in group
                sampler = view.sampler(16, seed=1, fragment_length=4, next_observation=False)
                batch = sampler.sample()
                assert np.array_equal(batch["info/advantage"], values[batch["action"]])
        assert not rs.verify(target).problems
    with rs.open(target, "r") as view, pytest.raises(ConflictError, match="open for reading"):
        view["reward"][:] = 0


def test_what_cannot_be_set_is_refused(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(10))
        buffer.commit()
        column = buffer["info/advantage"]
        with pytest.raises(UnsupportedError, match=r"mutable=True.*add_field"):
            buffer["action"][:] = np.zeros(10, np.int64)
        for rows, values, message in (
            (slice(0, 3), np.zeros((3, 2)), "expected dtype float32, came float64"),
            (slice(0, 3), np.zeros((4, 2), np.float32), "for 3 steps"),
            (slice(0, 3), "x", "info/advantage"),
            (slice(0, 3), None, "info/advantage"),
            (slice(0, 3), 1j, "info/advantage"),
        ):
            with pytest.raises(SchemaError, match=message):
                column[rows] = values
        for rows in ([10], [-11], 10, [0, 1, 99]):
            with pytest.raises(IndexError, match="there are 10 steps"):
                column[rows] = 0.0
        for rows in ([0.5], np.zeros((2, 2), np.int64), "x", (0, 1)):
            with pytest.raises((SchemaError, IndexError)):
                column[rows] = 0.0
        with pytest.raises(SchemaError, match="a mutable field is raw"):
            buffer.add_field("x", Field("float32", (), "extra", mutable=True), storage={"codec": "zstd:1"})
        assert not buffer._recorder.waiting
        column[3] = 0.5
        column[[]] = 0.5
        column[5:2] = 0.5
        buffer.append(steps(5))
        with pytest.raises(SchemaError, match=r"for 10 steps \(5 more are not.*range\(10, 15\)"):
            column[:] = pairs(15)
        buffer.commit()
        assert column[3].tolist() == [0.5, 0.5]
    for role in ("observation", "terminated"):
        with pytest.raises(SchemaError, match="mutable"):
            Field("bool", (), role, mutable=True)  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="mutable is True or False"):
        Field("bool", (), "extra", mutable=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_digests_leave_out_what_is_known(tmp_path: Path, name: str) -> None:
    with rs.create(tmp_path / name, SCHEMA) as buffer:
        buffer.append(steps(200))
        buffer.commit()
        reader = rs.open(tmp_path / name)
        model = np.zeros((200, 2), np.float32)
        generator = np.random.default_rng(0)
        history = {}
        for _ in range(100):
            rows = generator.integers(0, 200, 30)
            model[rows] = value = generator.random(2, np.float32)
            buffer["info/advantage"][rows] = value
            history[buffer.commit()] = model.copy()
            if generator.random() < 0.3:
                reader.refresh()
                assert np.array_equal(reader["info/advantage"][:], model)
            with rs.open(tmp_path / name) as fresh:
                assert np.array_equal(fresh["info/advantage"][:], model)
        begin, end = buffer.store.state.extra["changes"]["steps/info/advantage"]
        assert 0 < end - begin <= 200
        assert buffer.store.rows("changes/info/advantage/step") - begin < 200 + 2 * 200 + 30
        for commit, known in history.items():
            with rs.open(tmp_path / name, commit=commit) as older:
                assert np.array_equal(older["info/advantage"][:], known)
        reader.close()


def test_a_ring_gives_back_what_was_changed_long_ago(tmp_path: Path) -> None:
    generator, model = np.random.default_rng(0), np.zeros((20_000, 2), np.float32)
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=300) as buffer:
        named = np.zeros(0)
        for number in range(400):
            buffer.append(steps(40, 40 * number))
            buffer.commit()
            rows = generator.integers(0, len(buffer), 200)
            model[buffer.first_row + rows] = value = generator.random(2, np.float32)
            buffer["info/advantage"][rows] = value
            shown = model[buffer.first_row : buffer.first_row + len(buffer)]
            if number == 250:
                buffer.commit("named")
                named = shown.copy()
            buffer.commit()
            assert np.array_equal(buffer["info/advantage"][:], shown)
            if number >= 250 and number % 10 == 0:
                with rs.open(tmp_path / "a.zarr", commit="named") as older:
                    assert np.array_equal(older["info/advantage"][:], named)
        group = "changes/info/advantage"
        assert buffer.store.state.first[group] > 50_000
        assert buffer.store.state.lengths[group] - buffer.store.state.first[group] < 1500
        with rs.open(tmp_path / "a.zarr") as reader:
            assert np.array_equal(reader["info/advantage"][:], shown)
    assert not rs.verify(tmp_path / "a.zarr").problems


def test_changes_of_steps_that_there_are_not_are_told(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(10))
        buffer.commit()
        buffer["reward"][3] = 1.0
        buffer.commit()
        buffer.store.append(
            {"changes/reward/step": np.array([10], np.int64), "changes/reward/value": np.zeros(1)}
        )
        buffer._recorder.add_fields(SCHEMA)  # so that something waits
        buffer.commit()
        with pytest.raises(CorruptError, match="has steps from 3 to 10, where there are 10"):
            buffer["reward"][:]
    assert "where there are 10" in str(rs.verify(tmp_path / "a.zarr").problems[0])


@pytest.mark.parametrize(("name", "capacity"), [("a.zarr", None), ("a.zarr", 40), ("a.h5", None)])
def test_steps_are_read_and_set_by_the_numbers_that_are_theirs_for_ever(
    tmp_path: Path, name: str, capacity: int | None
) -> None:
    schema = rs.Schema(
        {"reward": Field("i8", (), "reward"), "value": Field("f4", (2,), "extra", mutable=True)}
    )

    def add(buffer: rs.Buffer, count: int) -> None:
        start = buffer.rows_recorded
        buffer.append({"reward": np.arange(start, start + count), "value": np.zeros((count, 2), "f4")})

    with rs.create(tmp_path / name, schema, capacity=capacity) as buffer:
        add(buffer, 60)
        buffer.commit()
        batch = buffer.sampler(50, seed=0, next_observation=False).sample()
        add(buffer, 25)
        buffer.commit()
        add(buffer, 5)  # committed by nobody yet
        first, index = buffer.first_row, np.unique(batch["index"])
        there = index[index >= first]
        assert 0 < len(there) < len(index) or capacity is None
        wanted = np.stack([index, index + 0.5], 1).astype("f4")
        assert buffer.set_values("value", index, wanted) == len(index) - len(there)
        assert buffer.set_values("value", [first, 89], [1.0, 2.0]) == 0
        assert buffer.set_values("value", [], np.zeros((0, 2), "f4")) == 0
        buffer.commit()
        first = buffer.first_row
        there = there[there > first]
        read = buffer.read(index=there)
        assert (read["reward"] == there).all()
        assert (read["value"] == np.stack([there, there + 0.5], 1)).all()
        assert buffer.read(index=[89], fields="value")["value"].tolist() == [[1.0, 2.0]]
        untouched = np.setdiff1d(np.arange(first, 90), [*index, 50, 89, 0])
        assert not buffer.read(index=untouched)["value"].any()
        if capacity is not None:
            with pytest.raises(EvictedError, match=f"before {first}"):
                buffer.read(index=[first, first - 1])
        for wrong in ([90], [-1]):
            with pytest.raises(IndexError, match="rows end before 90"):
                buffer.read(index=wrong)
            with pytest.raises(IndexError, match="rows end before 90"):
                buffer.set_values("value", wrong, [0.0, 0.0])
        for odd in ([1.5], 3, [[3]], np.ones(len(buffer), bool)):
            with pytest.raises(ArgumentError, match="flat array of integers"):
                buffer.read(index=odd)
        for given in ({}, {"rows": [0], "index": [first]}):
            with pytest.raises(ArgumentError, match="one of the two"):
                buffer.read(**given)
        add(buffer, 3)
        with pytest.raises(ArgumentError, match=f"each of {len(buffer)} steps, not {len(buffer) + 3}"):
            buffer["value"][np.ones(len(buffer) + 3, bool)] = 0.0
        with pytest.raises(UnsupportedError, match="mutable=True"):
            buffer.set_values("reward", [89], [1])
        with pytest.raises(UnknownFieldError, match="no field 'nope'"):
            buffer.set_values("nope", [89], [1])
        with pytest.raises(ArgumentError, match="takes the name of a field"):
            buffer.set_values(["value"], [89], [1])  # type: ignore[arg-type]
        with pytest.raises(IndexError, match="read after the next commit"):
            buffer.read(index=[buffer.rows_recorded - 1])
