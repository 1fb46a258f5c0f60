"""What samplers draw, checked by a plain loop over plain lists, and how often they draw it."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled_buffers import PLANS, STORES, Life, every_store, fill, place_of, schema

import replaystore as rs
from replaystore.errors import SchemaError

pytest_plugins = ["sampled_buffers"]

# --- what is drawn, and what it shows


@settings(max_examples=60, deadline=None)
@given(PLANS, st.sampled_from(list(STORES)), st.integers(1, 5), st.integers(0, 2**32), st.data())
def test_any_buffer_is_sampled_as_a_plain_loop_says(
    plan: Any, suffix: str, commit_every: int, seed: int, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["transitions", "fragments", "stacks", "n_step", "stacked n_step"]))
    order = data.draw(st.sampled_from(["uniform", "trajectory", "epoch", "weights", "trajectory weights"]))
    split = data.draw(st.sampled_from([None, "s0", "s1"]))
    following = data.draw(st.booleans())
    depth, size = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    with (
        tempfile.TemporaryDirectory() as folder,
        rs.create(f"{folder}/a{suffix.strip()}", schema(), **STORES[suffix]) as buffer,
    ):
        lives = fill(buffer, plan, commit_every=commit_every)
        chosen: dict[str, Any] = {"next_observation": following, "split": split, "seed": seed, "prefetch": 0}
        span = 1
        if kind == "fragments":
            chosen["fragment_length"] = span = depth
        if "stack" in kind:
            chosen["frame_stack"] = depth
        if "n_step" in kind:
            chosen |= {"n_step": depth, "gamma": 0.5}
        items = [
            (life, at)
            for life in lives
            if split is None or life.split == split
            for at in range(len(life.rows) - span + 1)
            if not following or life.following(at + span - 1) is not None
        ]
        if order.endswith("weights"):
            count = buffer.num_trajectories if "trajectory" in order else len(buffer)
            chosen["weights"] = np.random.default_rng(seed).random(count) + 0.1
            chosen["per"] = "trajectory" if "trajectory" in order else "step"
        else:
            chosen["order"] = order
        if not items:
            with pytest.raises(SchemaError, match="no "):
                buffer.sampler(size, **chosen)
            return
        sampler = buffer.sampler(size, **chosen)
        assert sampler.num_items == len(items)
        seen: Counter[tuple[int, int]] = Counter()
        for batch in list(sampler) if order == "epoch" else [sampler.sample() for _ in range(4)]:
            for number in range(len(batch["action"])):
                seen[
                    check(
                        lives,
                        {name: values[number] for name, values in batch.items()},
                        kind,
                        depth,
                        following,
                    )
                ] += 1
        assert seen.keys() <= {(life.number, at) for life, at in items}
        if order == "epoch":
            assert seen == Counter((life.number, at) for life, at in items)


def check(lives: list[Life], item: dict[str, Any], kind: str, depth: int, following: bool) -> tuple[int, int]:
    """Compare one item of a batch with the lists; which trajectory and step it is."""
    if kind == "fragments":
        life, at = place_of(lives, item["observation"][0])
        for step in range(depth):
            assert np.array_equal(item["observation"][step], life.observations[at + step])
            assert item["action"][step] == at + step
            assert item["reward"][step] == life.rewards[at + step]
            assert (item["terminated"][step], item["truncated"][step]) == (
                life.terminated[at + step],
                life.truncated[at + step],
            )
            if following:
                assert np.array_equal(item["next_observation"][step], life.following(at + step))
        return life.number, at
    stacked = "stack" in kind
    life, at = place_of(lives, item["observation"][-1] if stacked else item["observation"])
    assert item["action"] == at
    last = at
    if "n_step" in kind and depth > 1:
        known = len(life.rows) - (following and life.after is None)
        last = min(at + depth, known) - 1
        expected = sum(0.5 ** (step - at) * life.rewards[step] for step in range(at, last + 1))
        assert item["reward"] == np.float32(expected)
        assert item["discount"] == (0 if life.terminated[last] else 0.5 ** (last + 1 - at))
    else:
        assert item["reward"] == life.rewards[at]
    assert (item["terminated"], item["truncated"]) == (life.terminated[last], life.truncated[last])
    if stacked:
        for back in range(depth):
            assert np.array_equal(item["observation"][depth - 1 - back], life.observations[max(0, at - back)])
    else:
        assert np.array_equal(item["observation"], life.observations[at])
    if following:
        shown = item["next_observation"]
        assert np.array_equal(shown[-1] if stacked else shown, life.following(last))
        for back in range(1, depth if stacked else 0):
            assert np.array_equal(shown[depth - 1 - back], life.observations[max(0, last + 1 - back)])
    return life.number, at


@pytest.mark.parametrize("capacity", [40, 64])
@pytest.mark.parametrize("kind", ["transitions", "fragments", "stacks", "n_step"])
def test_rings_show_only_what_is_left(tmp_path: Path, capacity: int, kind: str) -> None:
    depth = 4
    chosen: dict[str, Any] = {
        "fragments": {"fragment_length": depth},
        "stacks": {"frame_stack": depth},
        "n_step": {"n_step": depth, "gamma": 0.5},
    }
    plan = [(number % 3, 1 + number * 5 % 11, number % 4 == 3, True) for number in range(60)]
    with rs.create(tmp_path / "a.zarr", schema(), capacity=capacity) as buffer:
        lives = fill(buffer, plan)
        assert sum(len(life.rows) for life in lives) > len(buffer) >= capacity
        kept = sum(len(life.rows) for life in lives) - len(buffer)
        sampler = buffer.sampler(16, order="epoch", seed=0, **chosen.get(kind, {}))
        seen = set()
        for batch in sampler:
            for number in range(len(batch["action"])):
                seen.add(
                    check(lives, {name: values[number] for name, values in batch.items()}, kind, depth, True)
                )
    expected = set()
    for life in lives:
        for at, row in enumerate(life.rows):
            first = at - depth + 1 if kind == "stacks" else at
            shown = life.rows[max(first, 0)] >= kept
            known = life.following(at + (depth - 1 if kind == "fragments" else 0)) is not None
            if row >= kept and shown and known and (kind != "fragments" or at + depth <= len(life.rows)):
                expected.add((life.number, at))
    assert seen == expected


# --- how often


def chi_square(counts: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Standard deviations from what is expected of a sum of squares with so many degrees of freedom."""
    degrees = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


def drawn(buffer: rs.Buffer, batches: int, **settings: Any) -> np.ndarray[Any, Any]:
    """How often each row was drawn."""
    sampler = buffer.sampler(512, fields=["observation", "action"], seed=5, **settings)
    where = {tuple(row): number for number, row in enumerate(buffer["observation"][:].tolist())}
    counts = np.zeros(len(buffer))
    for _ in range(batches):
        rows = [where[tuple(row)] for row in sampler.sample()["observation"].tolist()]
        counts += np.bincount(rows, minlength=len(buffer))
    return counts


@every_store
def test_uniform_draws_are_uniform_over_steps(stored: tuple[rs.Buffer, list[Life]]) -> None:
    counts = drawn(stored[0], 40)

    assert abs(chi_square(counts, np.full(len(counts), counts.mean()))) < 5


def test_trajectories_are_drawn_alike_whatever_their_lengths(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, lives = stored
    counts = drawn(buffer, 40, order="trajectory")
    of = np.array([counts[life.rows].sum() for life in lives])

    assert abs(chi_square(of, np.full(len(of), of.mean()))) < 5
    longest = max(lives, key=lambda life: len(life.rows))
    inside = counts[longest.rows]
    assert abs(chi_square(inside, np.full(len(inside), inside.mean()))) < 5


def test_weighted_draws_are_in_proportion(stored: tuple[rs.Buffer, list[Life]]) -> None:
    weights = np.random.default_rng(0).random(len(stored[0]))
    weights[[3, 17]] = 0
    counts = drawn(stored[0], 60, weights=weights)

    assert counts[[3, 17]].tolist() == [0, 0]
    some = weights > 0
    assert abs(chi_square(counts[some], counts.sum() * weights[some] / weights.sum())) < 5


def test_weights_of_trajectories_are_in_proportion(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, lives = stored
    weights = np.arange(buffer.num_trajectories, dtype=float)
    counts = drawn(buffer, 60, weights=weights, per="trajectory")
    of = np.array([counts[lives[number].rows].sum() for number in buffer.trajectories["trajectory"].tolist()])

    assert of[0] == 0
    assert abs(chi_square(of[1:], of.sum() * weights[1:] / weights.sum())) < 5
