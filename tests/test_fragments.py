"""Fragments that are longer than what a trajectory has: where they are padded, what the mask says, and stacks
of frames in them; checked by a plain loop over plain lists."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled_buffers import PLANS, STORES, Life, fill, schema
from stride_stores import record, steps_of
from stride_worlds import World, worlds

import replaystore as rs
from replaystore.errors import ArgumentError

numbers = itertools.count()
KINDS: list[dict[str, Any]] = [
    {},
    {"pad": "end"},
    {"pad": "start"},
    {"burn_in": 1},
    {"burn_in": 4},
    {"burn_in": 3, "pad": "end"},
]


def around(kind: dict[str, Any], length: int) -> tuple[int, int]:
    """The steps before an item's own and those from it on that are shown."""
    return (length - 1, 1) if kind.get("pad") == "start" else (kind.get("burn_in", 0), length)


def items_of(
    lives: list[Life], kind: dict[str, Any], length: int, depth: int, following: bool, kept: int = 0
) -> set[tuple[int, int]]:
    """Which steps are items: all that they show is there, or is padded."""
    before, after = around(kind, length)
    found = set()
    for life in lives:
        for at, row in enumerate(life.rows):
            oldest = life.rows[max(0, at - before - max(depth, 1) + 1)]
            last = at if kind.get("pad") == "end" else at + after - 1
            if row < kept or oldest < kept or last >= len(life.rows):
                continue
            if not following or life.following(last) is not None:
                found.add((life.number, at))
    return found


def check(
    lives: list[Life], item: dict[str, Any], kind: dict[str, Any], length: int, depth: int, following: bool
) -> tuple[int, int]:
    """Compare one fragment with the lists; which trajectory and step its own is."""
    before, after = around(kind, length)
    own = [life for life in lives if int(item["index"]) in life.rows]
    assert len(own) == 1
    life = own[0]
    at = life.rows.index(int(item["index"]))
    assert ("mask" in item) == bool(kind)
    for place in range(before + after):
        step = at - before + place
        there = 0 <= step < len(life.rows) and (not following or life.following(step) is not None)
        if kind:
            assert bool(item["mask"][place]) == there
        shown = [name for name in item if name not in ("index", "mask", "weight")]
        if not there:
            assert not any(item[name][place].any() for name in shown)
            continue
        stack = [life.observations[max(0, step - back)] for back in range(max(depth, 1) - 1, -1, -1)]
        assert np.array_equal(item["observation"][place], np.array(stack) if depth else stack[0])
        assert item["action"][place] == step
        assert item["reward"][place] == np.float32(life.rewards[step])
        assert bool(item["terminated"][place]) == life.terminated[step]
        assert bool(item["truncated"][place]) == life.truncated[step]
        assert ("next_observation" in item) == following
        if following:
            stack = [*stack[1:], life.following(step)]
            expected = np.array(stack) if depth else stack[0]
            assert np.array_equal(item["next_observation"][place], expected)
    return life.number, at


def drawn(sampler: Any, batches: int | None, *rest: Any) -> set[tuple[int, int]]:
    lives = rest[0]
    found = set()
    for batch in list(sampler) if batches is None else [sampler.sample() for _ in range(batches)]:
        for number in range(len(batch["index"])):
            item = {name: values[number] for name, values in batch.items()}
            found.add(check(lives, item, *rest[1:]))
    return found


@settings(max_examples=40, deadline=None)
@given(PLANS, st.sampled_from(list(STORES)), st.integers(1, 5), st.integers(0, 2**32), st.data())
def test_any_fragments_are_those_of_a_plain_loop(
    plan: Any, suffix: str, commit_every: int, seed: int, data: st.DataObject
) -> None:
    kind, order = (
        data.draw(st.sampled_from(KINDS)),
        data.draw(st.sampled_from(["uniform", "trajectory", "epoch", "prioritized"])),
    )
    following, depth = data.draw(st.booleans()), data.draw(st.integers(0, 3))
    length, size = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 20))
    with (
        tempfile.TemporaryDirectory() as folder,
        rs.create(f"{folder}/a{suffix.strip()}", schema(), **STORES[suffix]) as buffer,
    ):
        lives = fill(buffer, plan, commit_every=commit_every)
        chosen: dict[str, Any] = {
            "fragment_length": length,
            "frame_stack": depth or None,
            "next_observation": following,
            "order": order,
            "seed": seed,
            "prefetch": seed % 2 if order != "prioritized" else 0,
        } | kind
        expected = items_of(lives, kind, length, depth, following)
        if not expected:
            with pytest.raises(ArgumentError, match="no "):
                buffer.sampler(size, **chosen)
            return
        sampler = buffer.sampler(size, **chosen)
        assert sampler.num_items == len(expected)
        seen = drawn(sampler, None if order == "epoch" else 4, lives, kind, length, depth, following)
        sampler.close()
        assert seen == expected if order == "epoch" else seen <= expected


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("capacity", [40, 200])
def test_rings_pad_at_ends_of_trajectories_alone(
    tmp_path: Path, kind: dict[str, Any], capacity: int, depth: int
) -> None:
    plan = [(number % 3, 1 + number * 5 % 11, number % 4 == 3, True) for number in range(60)]
    with rs.create(tmp_path / "a.zarr", schema(), capacity=capacity) as buffer:
        lives = fill(buffer, plan)
        kept = sum(len(life.rows) for life in lives) - len(buffer)
        sampler = buffer.sampler(
            16, order="epoch", seed=0, fragment_length=6, frame_stack=depth or None, **kind
        )
        seen = drawn(sampler, None, lives, kind, 6, depth, True)
    assert kept > 0
    assert seen == items_of(lives, kind, 6, depth, True, kept)


@settings(max_examples=40, deadline=None)
@given(worlds(), st.sampled_from(KINDS), st.integers(1, 9), st.integers(0, 3), st.booleans())
def test_fragments_of_environments_that_took_turns(
    world: World, kind: dict[str, Any], length: int, depth: int, following: bool
) -> None:
    with record(f"memory:fragments-{next(numbers)}", world) as buffer:
        columns, finals = steps_of(world)
        before, after = around(kind, length)
        chosen: dict[str, Any] = {
            "fragment_length": length,
            "frame_stack": depth or None,
            "next_observation": following,
            "order": "epoch",
        } | kind
        of = {row: (number, at) for number, rows in world.rows.items() for at, row in enumerate(rows)}
        try:
            sampler = buffer.sampler(7, seed=0, prefetch=0, **chosen)
        except ArgumentError:
            return
        for batch in sampler:
            for number, row in enumerate(batch["index"].tolist()):
                trajectory, at = of[row]
                rows = world.rows[trajectory]
                for place in range(before + after):
                    step = at - before + place
                    known = trajectory in world.finals
                    there = 0 <= step < len(rows) and (not following or step + 1 < len(rows) or known)
                    if kind:
                        assert batch["mask"][number, place] == there
                    if not there:
                        assert not batch["reward"][number, place].any()
                        continue
                    assert batch["reward"][number, place] == columns["reward"][rows[step]]
                    for name, final in finals.items():
                        every = [*columns[name][rows], final[world.finals[trajectory]]] if known else []
                        every = every or list(columns[name][rows])
                        stack = [every[max(0, step - back)] for back in range(max(depth, 1) - 1, -1, -1)]
                        shown = batch[name][number, place]
                        assert shown.tobytes() == np.array(stack if depth else stack[0]).tobytes()
                        if following:
                            stack = [*stack[1:], every[step + 1]]
                            shown = batch[f"next_{name}"][number, place]
                            assert shown.tobytes() == np.array(stack if depth else stack[0]).tobytes()


@pytest.mark.parametrize("kind", [{}, {"pad": "end"}])
def test_frames_of_stacks_are_stored_once_where_none_is_padded(kind: dict[str, Any]) -> None:
    with rs.create(f"memory:fragments-{next(numbers)}", schema()) as buffer:
        fill(buffer, [(0, 50, True, True)])
        batch = buffer.sampler(8, fragment_length=10, frame_stack=4, where="length > 1", **kind).sample()
    shared = np.shares_memory(batch["observation"], batch["next_observation"])
    assert batch["observation"].shape == batch["next_observation"].shape == (8, 10, 4, 2)
    assert shared == (not kind or bool(batch["mask"].all()))
    assert not shared or batch["observation"].base is not None


def test_a_field_of_the_name_of_the_mask_is_refused() -> None:
    named = rs.Schema({**schema().fields, "mask": rs.Field("?", (), "extra")})
    with (
        rs.create(f"memory:fragments-{next(numbers)}", named) as buffer,
        pytest.raises(ArgumentError, match="'mask'"),
    ):
        buffer.sampler(4, fragment_length=2, pad="end")


@pytest.mark.parametrize("kind", KINDS[1:], ids=str)
def test_it_says_where_it_pads(kind: dict[str, Any]) -> None:
    with rs.create(f"memory:fragments-{next(numbers)}", schema()) as buffer:
        fill(buffer, [(0, 50, True, True)])
        told = buffer.sampler(8, fragment_length=10, **kind).explain()
    line = next(line for line in told.splitlines() if line.startswith("fragments: "))
    assert ("at the start" in line) == ("burn_in" in kind or kind.get("pad") == "start")
    assert ("at the end" in line) == (kind.get("pad") == "end")


@pytest.mark.parametrize("order", ["uniform", "epoch"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_fragments_are_the_same_where_little_memory_is_for_chunks(kind: dict[str, Any], order: str) -> None:
    found = []
    for storage in (STORES[".zarr"], STORES[".zarr "]):
        with rs.create(f"memory:fragments-{next(numbers)}", schema(), **storage) as buffer:
            fill(buffer, [(number % 2, 30 + number, number % 3 == 2, True) for number in range(20)])
            chosen: dict[str, Any] = {"order": order, "fragment_length": 9, "frame_stack": 2} | kind
            with warnings.catch_warnings(action="ignore"):
                sampler = buffer.sampler(8, seed=3, slab_bytes=200, prefetch=0, **chosen)
                found.append([sampler.sample() for _ in range(20)])
    if order == "uniform":
        for one, other in zip(*found, strict=True):
            assert all(np.array_equal(other[name], values) for name, values in one.items())
    for batch in itertools.chain(*found):
        mask = batch.get("mask", np.ones(batch["action"].shape, np.bool_))
        assert (batch["observation"][:, :, -1, 1][mask] == batch["action"][mask]).all()
