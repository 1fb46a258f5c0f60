"""Weights: how they are changed, kept, refreshed, and what makes up for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampled_buffers import Life, fill, schema
from test_live_sampling import KINDS, SCHEMA, Loop

import replaystore as rs
from replaystore.errors import ArgumentError, SchemaError
from replaystore.sampling.weights import from_text

pytest_plugins = ["sampled_buffers"]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 4096, 100_000])
def test_weights_can_be_changed(count: int) -> None:
    from replaystore.sampling.weights import WeightTree

    generator = np.random.default_rng(count)
    plain = generator.random(count) * (generator.random(count) < 0.5)
    plain[0] = 1
    tree = WeightTree(plain)
    for _ in range(5):
        at = generator.integers(0, count, 50)
        new = generator.random(50) * (generator.random(50) < 0.7)
        tree.update(at, new)
        for place, value in zip(at.tolist(), new.tolist(), strict=True):
            plain[place] = value
        plain[0] = 1
        tree.update(np.array([0]), np.array([1.0]))
        assert np.array_equal(tree.values, plain)
        assert tree.total == pytest.approx(plain.sum(), rel=1e-12)
        assert tree.smallest == plain[plain > 0].min()
        uniform = np.append(generator.random(200), [0.0, np.nextafter(1, 0)])
        found, weights = tree.draw(uniform)
        assert (weights > 0).all()
        assert np.array_equal(weights, plain[found])
        cumulated = np.cumsum(plain)
        target = uniform * cumulated[-1]
        slack = 1e-9 * cumulated[-1]
        assert (cumulated[found] >= target - slack).all()
        assert (cumulated[found] - plain[found] <= target + slack).all()


@pytest.mark.parametrize("count", [5, 5000, 70_000])
@pytest.mark.parametrize("at_once", [1, 40, 3000])
def test_the_smallest_weight_is_known_when_it_is_set_anew(count: int, at_once: int) -> None:
    from replaystore.sampling.weights import WeightTree

    generator = np.random.default_rng(count)
    plain = generator.integers(0, 4, count).astype(np.float64)
    shared = generator.integers(1, 3, count)
    tree, shares = WeightTree(plain), WeightTree(plain, shared)
    for turn in range(40):
        for _ in range(int(generator.integers(1, 4))):
            at = generator.integers(0, count, at_once)
            at[0] = np.argmin(np.where(plain > 0, plain, np.inf))  # one of the smallest, or the only one
            new = generator.integers(0, 5, at_once).astype(np.float64) * (turn % 7 + 1)
            for known in (tree, shares):
                known.update(at, new)
            for place, value in zip(at.tolist(), new.tolist(), strict=True):
                plain[place] = value
        there = plain > 0
        assert tree.smallest == plain[there].min(initial=np.inf)
        assert shares.smallest == (plain / shared)[there].min(initial=np.inf)
        assert tree.total == plain.sum()


def test_importance_weights_make_up_for_how_likely_steps_are(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    weights = np.random.default_rng(0).random(len(buffer)) + 0.01
    sampler = buffer.sampler(64, weights=weights, beta=0.7, seed=0)
    batch = sampler.sample()

    expected = (weights[batch["index"]] / weights.min()) ** -0.7
    assert batch["weight"] == pytest.approx(expected)
    sampler.update_weights(batch["index"], np.zeros(64))
    assert not set(sampler.sample()["index"]) & set(batch["index"])
    assert (sampler.weights[batch["index"]] == 0).all()


def test_weighted_sampling_goes_on_where_it_was(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    sampler = buffer.sampler(7, weights=np.ones(len(buffer)), seed=3)
    for _ in range(10):
        batch = sampler.sample()
        sampler.update_weights(batch["index"], batch["index"] % 5)
    again = buffer.sampler(7, weights=np.ones(len(buffer)))
    again.load_state_dict(sampler.state_dict())
    for _ in range(10):
        assert np.array_equal(again.sample()["index"], sampler.sample()["index"])


def test_weights_that_have_all_become_0_are_an_error(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    sampler = buffer.sampler(7, weights=np.ones(len(buffer)))
    sampler.update_weights(np.arange(len(buffer)), np.zeros(len(buffer)))
    joined = rs.concat([buffer]).sampler(7, weights=np.ones(len(buffer)))
    joined.update_weights(np.arange(len(buffer)), np.zeros(len(buffer)), np.zeros(len(buffer), int))
    trajectories = buffer.sampler(7, weights=np.ones(buffer.num_trajectories), per="trajectory")
    ids = buffer.trajectories["trajectory"]
    trajectories.update_weights(ids, np.zeros(len(ids)))
    for one in (sampler, joined, trajectories):
        with pytest.raises(SchemaError, match=r"all weights have become 0.*set some above 0") as told:
            one.sample()
        assert buffer.where in str(told.value)
    sampler.update_weights([3], [1.0])
    assert set(sampler.sample()["index"]) == {3}
    joined.update_weights([3], [1.0], [0])
    assert set(joined.sample()["index"]) == {3}
    trajectories.update_weights(ids[:1], [1.0])
    assert len(trajectories.sample()["index"]) == 7


def test_what_is_no_weight_is_refused_and_sets_none(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    prioritized = buffer.sampler(7, order="prioritized", alpha=2)
    weighted = buffer.sampler(7, weights=np.ones(len(buffer)))
    shapes = "flat arrays of one length"
    wrong: list[tuple[Any, Any, str]] = [
        ([3], [np.nan], "0 is nan"),
        ([3, 4], [1, -1], "1 is -1.0"),
        ([3], [np.inf], "0 is inf"),
        ([3], [1e300], "at most 1e\\+290"),  # sums of a few would be infinite
        (3, 1.0, shapes),
        ([3], 1.0, shapes),
        ([3, 4], [1.0], shapes),
        ([3.0], [1.0], shapes),
        ([[3]], [[1.0]], shapes),
        ([3], ["high"], "must be numbers"),
        ([-1], [1.0], "rows end before"),
        ([len(buffer)], [1.0], "rows end before"),
    ]
    for sampler, update in (
        (prioritized, prioritized.update_priorities),
        (weighted, weighted.update_weights),
    ):
        for index, values, message in wrong:
            with pytest.raises(ArgumentError, match=message):
                update(index, values)
        assert (sampler.weights[sampler.weights > 0] == 1).all()
        update([], [])
        update(np.array([3], "u1"), [5e-324])
        assert np.isfinite(sampler.sample()["weight"]).all()
    with pytest.raises(ArgumentError, match="divide priorities"):
        prioritized.update_priorities([3], [1e200])
    with pytest.raises(ArgumentError, match="no priorities"):
        weighted.update_priorities([3], [1.0])


def test_refreshing_gives_new_steps_the_largest_weight(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", schema()) as buffer:
        fill(buffer, [(0, 9, True, True)])
        sampler = buffer.sampler(4, weights=np.arange(9.0))
        trajectories = buffer.sampler(4, weights=np.array([3.0]), per="trajectory")
        fill(buffer, [(0, 5, True, True)])
        assert sampler.refresh()
        assert trajectories.refresh()
        assert sampler.weights.tolist() == [*range(9), *[8] * 5]
        assert trajectories.weights.tolist() == [3, 3]
        epoch = buffer.sampler(4, order="epoch")
        epoch.sample()
        fill(buffer, [(0, 5, True, True)])
        epoch.refresh()
        assert (epoch.epoch, sum(len(batch["action"]) for batch in epoch)) == (1, 19)


def numbered(buffer: rs.Buffer, count: int, *, ends: bool = True) -> None:
    """So many more steps, in trajectories of 10."""
    rows = np.arange(count)
    steps = {
        "observation": np.stack([rows, rows], 1).astype("i4"),
        "action": rows.astype("i2"),
        "reward": rows.astype("f4"),
        "terminated": np.zeros(count, np.bool_),
        "truncated": np.zeros(count, np.bool_),
    }
    buffer.append(steps, ends=[*range(9, count, 10)] if ends else [])


@pytest.mark.parametrize("capacity", [None, 200])
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("rounds", [1, 2])
def test_steps_that_a_rollback_gave_up_leave_no_weights(
    tmp_path: Path, capacity: int | None, live: bool, rounds: int
) -> None:
    with rs.create(tmp_path / "a.zarr", schema(), capacity=capacity) as writer:
        for count in (50, 40):
            numbered(writer, count)
            first = writer.commit()
        numbered(writer, 20)
        writer.commit()
        with rs.open(tmp_path / "a.zarr") as reader:
            buffer = writer if live else reader
            sampler = buffer.sampler(
                16, seed=0, order="prioritized", alpha=1.0, live=live, next_observation=False
            )
            sampler.sample()
            sampler.update_priorities(np.arange(110), np.arange(110) + 1.0)
            for number in range(rounds):
                writer.rollback(first)
                numbered(writer, 10 * (rounds - number))
                first = writer.commit()
                numbered(writer, 10)
                writer.commit()
            numbered(writer, 10)
            writer.commit()
            assert sampler.refresh()
            expected = np.full(sampler.num_items, 110.0)
            expected[:90] = np.arange(90) + 1.0
            assert sampler.weights.tolist() == expected.tolist()
            assert sampler.largest == 110


def test_trajectories_that_a_rollback_gave_up_leave_no_weights(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", schema()) as writer:
        numbered(writer, 45)
        first = writer.commit()
        numbered(writer, 35, ends=False)
        writer.commit()
        numbered(writer, 20)
        writer.commit()
        with rs.open(tmp_path / "a.zarr") as reader:
            count = reader.num_trajectories
            sampler = reader.sampler(
                16, weights=np.arange(count) + 1.0, per="trajectory", next_observation=False
            )
            sampler.sample()
            writer.rollback(first)
            numbered(writer, 15)
            numbered(writer, 30)
            writer.commit()
            assert sampler.refresh()
            weights = dict(
                zip(reader.trajectories["trajectory"].tolist(), sampler.weights.tolist(), strict=True)
            )
            assert weights == {number: number + 1.0 if number < 5 else count for number in weights}


def test_what_becomes_an_item_later_weighs_as_much_as_what_is_new(tmp_path: Path) -> None:
    """What could not be drawn weighed 0, which nobody gave it."""
    with rs.create(tmp_path / "a.zarr", schema()) as writer:
        numbered(writer, 23)
        writer.commit()
        with rs.open(tmp_path / "a.zarr") as reader:
            chosen: dict[str, Any] = {"fragment_length": 5, "next_observation": False, "seed": 0}
            sampler = reader.sampler(16, weights=[1.0, 2.0, 3.0], per="trajectory", **chosen)
            assert sampler.weights.tolist() == [1, 2, 0]
            steps = reader.sampler(16, weights=np.arange(23) + 1.0, **chosen)
            numbered(writer, 7)
            writer.commit()
            sampler.refresh()
            assert sampler.weights.tolist() == [1, 2, 3]
            commit = writer.commit_id
            writer.rollback(commit)
            numbered(writer, 10)
            writer.commit()
            assert steps.refresh()
            assert np.count_nonzero(steps.weights[20:26]) == 6


@pytest.mark.parametrize("count", [5000, 100_000])
def test_a_tree_is_the_same_whether_it_was_built_or_changed(count: int) -> None:
    """To the last bit: a sampler that goes on from a state draws what the other one would have drawn."""
    from replaystore.sampling.weights import WeightTree

    generator = np.random.default_rng(count)
    tree, plain = WeightTree(np.ones(count)), np.ones(count)
    for size in (1, 1, 2, 3, 17, 500, 5000, 1):
        at = generator.integers(0, count, size)
        plain[at] = generator.random(size)[np.unique(at, return_inverse=True)[1]]
        tree.update(at, plain[at])
        built = WeightTree(plain)
        assert tree.total == built.total
        for mine, theirs in zip(tree._sums, built._sums, strict=True):
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_a_priority_as_soon_as_it_is_recorded(
    tmp_path: Path, kind: str, committed: bool, joined: bool
) -> None:
    """With nothing asked for in between, staged or not; what is not recorded has none."""
    with rs.create(tmp_path / kind, SCHEMA, durability="none", **KINDS[kind]) as buffer:
        loop = Loop(buffer, often=0)
        for _ in range(3):
            loop.step()
        settings: dict[str, Any] = {"order": "prioritized", "alpha": 1.0, "live": True, "seed": 0}
        whole: Any = rs.concat([buffer]) if joined else buffer
        sampler, store = whole.sampler(8, **settings), ([[0, 0]] if joined else [])
        for turn in range(40):
            loop.step()
            if committed:
                buffer.commit()
            stop = buffer.rows_recorded
            with pytest.raises(ArgumentError, match=f"rows end before {stop}"):
                sampler.update_priorities([stop - 1, stop], [2.0, 2.0], *store)
            sampler.update_priorities([stop - 1, stop - 2], [turn + 5.0, turn + 4.0], *store)
            state = sampler.state_dict()["stores"][0] if joined else sampler.state_dict()
            assert from_text(state["weights"])[-2:].tolist() == [turn + 4.0, turn + 5.0]
            assert state["rows"][1] == stop
