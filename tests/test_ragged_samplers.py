"""Samplers show values of any length wherever they show the plain numbers beside them: in all shapes of
items and orders, both containers, rings, older commits, and while a buffer grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_values import BESIDE, OBSERVED, PLAIN, SCHEMA, Numbered, check, observations, value

import replaystore as rs
from replaystore.errors import ArgumentError
from replaystore.schema.ragged import Ragged
from replaystore.testing.crashes import tiny

ORDERS: list[dict[str, Any]] = [
    {"order": "uniform"},
    {"order": "trajectory"},
    {"order": "epoch"},
    {"order": "prioritized", "beta": 0.4},
]
SHAPES: list[dict[str, Any]] = [
    {},
    {"next_observation": False},
    {"fragment_length": 3},
    {"fragment_length": 3, "pad": "end"},
    {"fragment_length": 4, "pad": "start"},
    {"fragment_length": 3, "burn_in": 2},
    {"fragment_length": 3, "frame_stack": 2, "pad": "end"},
    {"frame_stack": 3},
    {"n_step": 3},
    {"n_step": 3, "frame_stack": 2},
]
named = pytest.mark.parametrize


@pytest.fixture(params=["zarr", "h5", "ring", "archive", "memory"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Numbered]]:
    """Makes a store of each kind; files are small."""

    def make(seed: int = 0) -> Numbered:
        kind = request.param
        if kind == "memory":
            return Numbered(f"memory:numbered-{seed}", seed, overwrite=True)
        options: dict[str, Any] = {"capacity": 64} if kind == "ring" else {}
        if kind == "archive":
            options["layout"] = "archive"
        return Numbered(tmp_path / f"{seed}.{'h5' if kind == 'h5' else 'zarr'}", seed, **options)

    with tiny():
        yield make


def rows_are_those_of_the_lists(world: Numbered, batch: dict[str, Any]) -> None:
    for at, row in enumerate(batch["index"].tolist()):
        assert batch["observation/id"][at] == world.ids[row]
        assert batch["action/id"][at] == row + 1
        assert batch["next_observation/id"][at] == world.after[row]


@named("order", ORDERS, ids=lambda order: order["order"])
def test_transitions_have_their_values(made: Callable[..., Numbered], order: dict[str, Any]) -> None:
    world = made()
    with world.buffer as buffer:
        world.fill(30)
        sampler = buffer.sampler(20, seed=1, **order)
        seen = set[int]()
        for batch in islice(sampler, 12):
            check(batch)
            rows_are_those_of_the_lists(world, batch)
            seen |= set(batch["index"].tolist())
        assert len(seen) > 30
        if order["order"] == "epoch":
            assert len(seen) == len(buffer)
        assert {type(batch[name]) for name in BESIDE} == {Ragged}
        assert {name for name in batch if name.startswith("next_")} == {f"next_{name}" for name in OBSERVED}


@named("shape", SHAPES, ids=str)
def test_all_shapes_of_items_have_their_values(made: Callable[..., Numbered], shape: dict[str, Any]) -> None:
    world = made()
    with world.buffer as buffer:
        world.fill(30)
        for order in ORDERS[:: 2 if "n_step" in shape else 3]:
            plain = buffer.sampler(20, seed=1, fields=PLAIN, **shape, **order)
            sampler = buffer.sampler(20, seed=1, **shape, **order)
            for batch, beside in islice(zip(sampler, plain, strict=False), 3):
                check(batch)
                for name, numbers in beside.items():
                    assert np.array_equal(batch[name], numbers)


def test_padding_is_empty(made: Callable[..., Numbered]) -> None:
    world = made()
    with world.buffer as buffer:
        world.fill(20, most=4)
        batch = buffer.sampler(50, seed=3, fragment_length=5, pad="end").sample()
        assert not batch["mask"].all()
        for name in BESIDE:
            assert not batch[name].lengths[~batch["mask"]].any()
        assert batch["observation/tokens"].lengths[batch["mask"]].any()


@named("shape", [{}, {"fragment_length": 2}, {"frame_stack": 2}], ids=str)
def test_a_sampler_goes_on_to_newer_commits(made: Callable[..., Numbered], shape: dict[str, Any]) -> None:
    world = made()
    with world.buffer as buffer:
        world.fill(5)
        if world.buffer.layout == "archive":
            return
        with rs.open(buffer.location) as reader:
            sampler = reader.sampler(30, seed=2, **shape)
            for _ in range(12):
                check(sampler.sample())
                world.fill(3)
                assert sampler.refresh()
                batch = sampler.sample()
                check(batch)
                assert batch["index"].min() >= len(world.ids) - 64 or buffer.capacity is None


@named("shape", SHAPES, ids=str)
def test_a_live_sampler_shows_what_no_commit_has(
    made: Callable[..., Numbered], shape: dict[str, Any]
) -> None:
    world = made()
    with world.buffer as buffer:
        if buffer.layout == "archive":
            return
        world.append(9)
        sampler = buffer.sampler(30, seed=2, live=True, **shape)
        newest = 0
        for _ in range(25):
            world.append(int(world.random.integers(1, 7)), ends=world.random.random() < 0.5)
            batch = sampler.sample()
            check(batch)
            newest = max(newest, int(batch["index"].max()))
            if world.random.random() < 0.2:
                buffer.commit()
        assert newest > 40


@named("shape", [{}, {"fragment_length": 2}, {"frame_stack": 2}], ids=str)
def test_a_live_sampler_shows_what_a_writer_has_staged(
    made: Callable[..., Numbered], shape: dict[str, Any]
) -> None:
    world = made()
    with world.buffer as buffer:
        if buffer.layout == "archive":
            return
        sampler, writer = None, buffer.writer(2)
        writer.reset(_nested([1, 2]))
        for number in range(3, 160, 2):
            actions = [number, number + 1]
            writer.step(
                {"id": np.array(actions), "moves": [value("action/moves", one) for one in actions]},
                np.zeros(2),
                np.array([number % 9 == 0, number % 15 == 0]),
                np.zeros(2, bool),
                _nested(actions),
                info={"info/wide": [value("info/wide", one) for one in actions]},
            )
            if number < 20:
                continue
            sampler = sampler or buffer.sampler(20, seed=number, live=True, **shape)
            batch = sampler.sample()
            check(batch)
            if "next_observation/id" in batch and not shape:
                assert np.array_equal(batch["next_observation/id"], batch["action/id"])
            if number % 11 == 0:
                buffer.commit()


def _nested(ids: list[int]) -> dict[str, Any]:
    return {name.partition("/")[2]: values for name, values in observations(ids).items()}


def test_after_a_rollback_a_live_sampler_goes_on(made: Callable[..., Numbered]) -> None:
    world = made()
    with world.buffer as buffer:
        if buffer.layout == "archive":
            return
        world.fill(6)
        sampler = buffer.sampler(30, seed=2, live=True)
        check(sampler.sample())
        known = buffer.commit_id
        rows = len(world.ids)
        world.append(9)
        check(sampler.sample())
        buffer.commit()
        buffer.rollback(known)
        sampler.refresh()
        world.newest += 1000  # other values in the same places
        del world.ids[rows:], world.after[rows:]
        world._following = None
        for _ in range(5):
            world.append(9)
            batch = sampler.sample()
            check(batch)


def test_what_cannot_be_with_values_of_any_length_is_refused(tmp_path: Path) -> None:
    world = Numbered(tmp_path / "one.zarr")
    with world.buffer as buffer:
        world.fill(5)
        sampler = buffer.sampler(4)
        with pytest.raises(ArgumentError, match=r"leave out `out`, or name the other fields"):
            sampler.sample(out=sampler.sample())
        plain = buffer.sampler(4, fields=PLAIN)
        plain.sample(out=plain.sample())
        assert "observation/text, its values: raw, mapped" in sampler.explain()


def test_goals_of_any_length_are_not_relabelled(tmp_path: Path) -> None:
    goal = rs.Field("float32", (None,), "observation")
    fields = {"observation/achieved_goal": goal, "observation/desired_goal": goal}
    plain = {name: SCHEMA.fields[name] for name in ("action/id", "reward", "terminated", "truncated")}
    with (
        rs.create(tmp_path / "goals.zarr", rs.Schema(fields | plain)) as buffer,
        pytest.raises(ArgumentError, match="of any length, and such goals cannot be relabelled"),
    ):
        buffer.sampler(4, relabel="future", reward=lambda *_: 0)


@named("shape", [{}, {"fragment_length": 3, "pad": "end"}, {"frame_stack": 2}], ids=str)
def test_stores_that_are_sampled_as_one_have_their_values(
    made: Callable[..., Numbered], shape: dict[str, Any]
) -> None:
    worlds = [made(0), made(1)]
    for world in worlds:
        world.fill(9)
    buffers = [world.buffer for world in worlds]
    for order in ORDERS:
        sampler = rs.concat(buffers).sampler(24, seed=3, **order, **shape)
        for batch in islice(sampler, 3):
            check(batch)
            assert set(batch["store"].tolist()) == {0, 1}
            if not shape:
                for at, (store, row) in enumerate(zip(batch["store"], batch["index"], strict=True)):
                    assert batch["next_observation/id"][at] == worlds[store].after[row]
    for buffer in buffers:
        buffer.close()


def test_other_dtypes_are_those_of_the_values(tmp_path: Path) -> None:
    world = Numbered(tmp_path / "one.zarr")
    with world.buffer as buffer:
        world.fill(5)
        plain = buffer.sampler(9, seed=1).sample()
        batch = buffer.sampler(9, seed=1, dtype="float64").sample()
        assert batch["action/moves"].dtype == np.float64
        assert batch["action/moves"] == plain["action/moves"].astype(np.float64)
        assert batch["observation/text"] == plain["observation/text"]
        batch = buffer.sampler(9, seed=1, dtype={"observation/tokens": "int64"}).sample()
        assert batch["next_observation/tokens"] == plain["next_observation/tokens"].astype(np.int64)
        with pytest.raises(ArgumentError, match="texts have no other dtype"):
            buffer.sampler(9, dtype={"observation/text": "float32"})
