"""The steps of a buffer that grows, which are followed, against plain loops, and against tables that are made
of the whole buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from growing_steps import Growing
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.sampling.following import Follower
from replaystore.sampling.orders import Counts, TrajectoryOrder, UniformOrder
from replaystore.sampling.steps import PENDING, Drawn, Steps
from replaystore.sampling.weighted_order import StepWeights

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("all"), st.integers(1, 6), st.booleans()),
        st.tuples(st.just("some"), st.sets(st.integers(0, 3), min_size=1), st.booleans()),
        st.tuples(st.just("alone"), st.integers(0, 3), st.integers(1, 5)),
        st.tuples(st.just("end"), st.integers(0, 3), st.booleans()),
        st.just(("evict",)),
        st.just(("look",)),
    ),
    max_size=40,
)


def act(growing: Growing, action: tuple[Any, ...]) -> None:
    kind = action[0]
    if kind == "all":
        for _ in range(action[1]):
            growing.step(list(range(growing.envs)), followed=action[2])
    elif kind == "some":
        growing.step([env for env in sorted(action[1]) if env < growing.envs], followed=action[2])
    elif kind == "alone":
        for _ in range(action[2]):
            growing.step([min(action[1], growing.envs - 1)], stride=1)
    elif kind == "end":
        growing.end(min(action[1], growing.envs - 1), known=action[2])
    elif kind == "evict":
        growing.evict()


def check_rows(growing: Growing, steps: Steps, recipe: dict[str, Any]) -> None:
    """Everything that steps say, of every item."""
    items = growing.items(**recipe)
    assert steps.total == len(items)
    assert steps.item_rows().tolist() == sorted(items)
    rows = np.arange(growing.first, growing.stop)
    part, there = steps.where(rows)
    assert rows[there].tolist() == sorted(items)
    drawn = steps.at(np.arange(steps.total))
    assert sorted(drawn.rows.tolist()) == sorted(items)
    assert (steps.where(drawn.rows)[0] == drawn.part).all()
    assert steps.left_out == sum(len(growing.kept(number)) for number in range(len(growing.lives))) - len(
        items
    )
    drawn = Drawn(rows[there], part[there])
    kept = {number: growing.kept(number) for number in range(len(growing.lives))}
    lives = [items[row] for row in drawn.rows.tolist()]
    assert steps.trajectory_of(drawn.part).tolist() == [number for number, _ in lives]
    usable = [
        len(kept[number]) - (recipe["following"] and not growing.known[number]) - place
        for number, place in lives
    ]
    for most in (1, 3, 100):
        assert steps.left(drawn, most).tolist() == [min(most, left) for left in usable]
    for by in range(recipe["span"]):
        later, _ = steps.advance(drawn.rows, drawn.part, by)
        assert later.tolist() == [kept[number][place + by] for number, place in lives]
    for by in range(recipe["history"] + 1):
        earlier = steps.back(drawn.rows, drawn.part, by)
        assert earlier.tolist() == [kept[number][max(0, place - by)] for number, place in lives]
    following, final = steps.after(drawn.rows, drawn.part)
    known = steps.next_of(drawn.rows, drawn.part, steps.placed(drawn.rows)[2])  # as batches are made
    unknown = steps.next_of(drawn.rows, drawn.part)
    assert all(map(np.array_equal, known, unknown))
    for row, (number, place), after, number_of_final in zip(
        drawn.rows.tolist(), lives, following.tolist(), final.tolist(), strict=True
    ):
        if place + 1 < len(kept[number]):
            assert (after, number_of_final) == (kept[number][place + 1], -1)
        elif not growing.known[number]:
            assert (after, number_of_final) == (row, -1)
        elif number in growing.open:
            assert after == row
            assert number_of_final == PENDING + sorted(growing.open).index(number)
        else:
            assert growing.final_rows("", np.array([number_of_final])).tolist() == [row + 0.5]
    ids, lasts, counts = steps.trajectories()
    plain: dict[int, list[int]] = {}
    for row in sorted(items):
        plain.setdefault(items[row][0], []).append(row)
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == {
        number: len(rows) for number, rows in plain.items()
    }
    for number, last in zip(ids.tolist(), lasts.tolist(), strict=True):
        count = len(plain[number])
        assert steps.nth(np.full(count, last), np.arange(count)).rows.tolist() == plain[number]


@settings(max_examples=150, deadline=None)
@given(
    actions=ACTIONS,
    envs=st.integers(1, 4),
    capacity=st.sampled_from([None, 1, 5, 23]),
    recipe=st.fixed_dictionaries(
        {"span": st.sampled_from([1, 1, 3]), "history": st.sampled_from([0, 2]), "following": st.booleans()}
    ),
)
def test_what_grows_is_followed_as_plain_loops_say(
    actions: list[tuple[Any, ...]], envs: int, capacity: int | None, recipe: dict[str, Any]
) -> None:
    growing = Growing(envs, capacity)
    steps = Steps(**recipe)
    follower = Follower(growing, steps)
    orders = [UniformOrder(steps, 0), TrajectoryOrder(steps, 0)]
    weighted = StepWeights(steps, 0, None, capacity=capacity, beta=0.5)
    steps.take_changes()
    for order in orders:
        order.go_on(None)
    for action in [*actions, ("look",)]:
        act(growing, action)
        if action[0] not in ("look", "evict"):
            continue
        follower.go_on()
        change = steps.take_changes()
        for order in (*orders, weighted):
            order.go_on(change)
        check_rows(growing, steps, recipe)
        fresh = Steps(**recipe)
        Follower(growing, fresh)
        check_rows(growing, fresh, recipe)
        items = sorted(growing.items(**recipe))
        at = np.array(items, np.int64) - growing.first
        expected = np.zeros(growing.stop - growing.first)
        expected[at] = 1
        assert weighted.values.tolist() == expected.tolist()
        if not items:
            continue
        others = [
            UniformOrder(fresh, 0),
            TrajectoryOrder(fresh, 0),
            StepWeights(fresh, 0, None, capacity=capacity, beta=0.5),
        ]
        for order, other in zip((*orders, weighted), others, strict=True):
            rows = order.draw(0, 40, 60).rows
            assert rows.tolist() == other.draw(0, 40, 60).rows.tolist()
            assert set(rows.tolist()) <= set(items)


def test_what_has_left_a_ring_is_let_go_of() -> None:
    growing = Growing(3, 50)
    steps = Steps(span=2, history=1, following=True)
    follower = Follower(growing, steps)
    counts = Counts(steps, lambda steps, parts: steps.items[parts])
    weighted = StepWeights(steps, 0, None, capacity=50, beta=0.5)
    largest = 0
    random = np.random.default_rng(0)
    for number in range(12_000):
        growing.step([0, 1, 2])
        for env in np.flatnonzero(random.random(3) < 0.5).tolist():
            growing.end(env)
        growing.evict()
        follower.go_on()
        change = steps.take_changes()
        counts.go_on(change)
        weighted.go_on(change)
        largest = max(largest, len(steps))
        if number % 1000 == 999:
            growing.parts[:] = growing.parts  # all of them are still told, if anybody asks
            check_rows_quickly(growing, steps)
            assert counts.total == steps.total
            assert (np.flatnonzero(weighted.values) + steps.first_row).tolist() == steps.item_rows().tolist()
    assert largest < 3000
    assert steps.version > 3


@pytest.mark.parametrize("envs", [0, 1, 3])
def test_where_nothing_is_new_nothing_has_changed(envs: int) -> None:
    growing = Growing(max(envs, 1))
    steps = Steps()
    follower = Follower(growing, steps)
    growing.step(list(range(growing.envs)))
    if not envs:
        growing.end(0)
    follower.go_on()
    assert steps.take_changes() is not None
    follower.go_on()
    assert not steps.changes


def check_rows_quickly(growing: Growing, steps: Steps) -> None:
    recent = [number for number, rows in enumerate(growing.lives) if rows[-1] >= growing.first]
    kept = {number: growing.kept(number) for number in recent}
    expected = sum(
        max(0, len(rows) - 1 - (len(rows) < len(growing.lives[number]))) for number, rows in kept.items()
    )
    assert steps.total == expected


@pytest.mark.parametrize("envs", [1, 8])
def test_a_rollback_begins_anew(envs: int) -> None:
    growing = Growing(envs)
    steps = Steps(following=True)
    follower = Follower(growing, steps)
    for _ in range(5):
        growing.step(list(range(envs)))
    follower.go_on()
    other = Growing(envs, generation=1)
    for _ in range(3):
        other.step(list(range(envs)))
    other.end(0)
    follower.growth = other
    follower.go_on()
    check_rows(other, steps, {"span": 1, "history": 0, "following": True})
