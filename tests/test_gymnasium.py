"""Recorders record the trajectories of a plain loop, and the caller sees nothing of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scripted import (
    ENDINGS,
    MODES,
    Resets,
    Script,
    Scripted,
    buffer_for,
    policy,
    record_vector,
    scripts,
    trails_by_hand,
    trails_of,
    user_resets,
)
from spies import Spy, VectorSpy

from replaystore.gymnasium import Record, RecordVector


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", ["model", "real"])
@given(
    scripts=scripts, turns=st.integers(0, 14), resets=user_resets, commit_every=st.none() | st.integers(1, 5)
)
@example(scripts=ENDINGS, turns=14, resets={}, commit_every=None)
# Right after an automatic one.
@example(scripts=[[(2, "end"), (3, "end")], [(9, "end")]], turns=8, resets={3: (7, {0})}, commit_every=None)
# Of one, while another waits.
@example(scripts=[[(9, "end")], [(2, "end"), (3, "cut")]], turns=6, resets={2: (7, {0})}, commit_every=None)
@settings(max_examples=60)
def test_every_autoreset_mode_records_the_trajectories_of_a_plain_loop(
    mode: AutoresetMode,
    kind: str,
    scripts: list[Script],
    turns: int,
    resets: Resets,
    commit_every: int | None,
) -> None:
    env = SyncVectorEnv(
        [partial(Scripted, index, script) for index, script in enumerate(scripts)], autoreset_mode=mode
    )
    buffer = buffer_for(env, kind)

    record_vector(env, buffer, mode, turns, resets, commit_every=commit_every)

    assert trails_of(buffer) == trails_by_hand(scripts, mode, turns, resets)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_processes_record_the_trajectories_of_a_plain_loop(mode: AutoresetMode) -> None:
    makers = [partial(Scripted, index, script) for index, script in enumerate(ENDINGS)]
    env = AsyncVectorEnv(makers, autoreset_mode=mode)
    buffer = buffer_for(env)

    record_vector(env, buffer, mode, 12, {5: (7, {0, 1, 2})}, split="train")

    expected = trails_by_hand(ENDINGS, mode, 12, {5: (7, {0, 1, 2})})
    assert trails_of(buffer) == {
        index: [replace(trail, split="train") for trail in trails] for index, trails in expected.items()
    }


# --- one environment


@pytest.mark.parametrize("kind", ["model", "real"])
@given(script=scripts.map(lambda some: some[0]), turns=st.integers(0, 14), resets=user_resets)
@settings(max_examples=30)
def test_one_environment_records_the_trajectories_of_a_plain_loop(
    kind: str, script: Script, turns: int, resets: Resets
) -> None:
    buffer = buffer_for(Scripted(0, script), kind)
    env = Record(Scripted(0, script), buffer)

    observation, _ = env.reset(seed=100)
    ended = False
    for turn in range(turns):
        seed, members = resets.get(turn, (None, set()))
        if ended or 0 in members:
            observation, _ = env.reset(seed=seed if 0 in members else None)
        observation, _, terminated, truncated, _ = env.step(int(policy(observation)))
        ended = terminated or truncated
    env.close()

    assert trails_of(buffer) == trails_by_hand([script], AutoresetMode.DISABLED, turns, resets)


def test_the_autoreset_wrapper_may_be_inside() -> None:
    buffer = buffer_for(Scripted(0, ENDINGS[0]))
    env = Record(gymnasium.wrappers.Autoreset(Scripted(0, ENDINGS[0])), buffer)

    observation, _ = env.reset(seed=100)
    for _ in range(12):
        observation, *_ = env.step(int(policy(observation)))
    env.close()

    assert trails_of(buffer) == trails_by_hand(ENDINGS[:1], AutoresetMode.NEXT_STEP, 12, {})


def test_the_action_that_an_automatic_reset_ignores_may_be_anything() -> None:
    buffer = buffer_for(Scripted(0, [(1, "end")]))
    env = Record(gymnasium.wrappers.Autoreset(Scripted(0, [(1, "end")])), buffer)
    env.reset()
    for action in (1, None, 2):
        env.step(action)
    env.close()

    assert [[row["action"] for row in trail.rows] for trail in trails_of(buffer)[0]] == [[1], [2]]


# --- the caller


def test_the_caller_gets_the_very_objects_that_the_environment_returns() -> None:
    one = Spy(Scripted(0, ENDINGS[0]))
    many = VectorSpy(
        SyncVectorEnv(
            [partial(Scripted, place, script) for place, script in enumerate(ENDINGS)],
            autoreset_mode="SameStep",
        )
    )
    recorders: list[tuple[Any, Any, Any]] = [
        (one, Record(one, buffer_for(one)), 3),
        (many, RecordVector(many, buffer_for(many)), np.arange(3)),
    ]

    for spy, env, action in recorders:
        assert env.reset(seed=3) is spy.returned
        assert env.step(action) is spy.returned
        assert spy.action is action
        assert env.reset(options={"a": 1}) is spy.returned
    assert many.options == {"seed": None, "options": {"a": 1}}


def test_nothing_that_the_caller_changes_afterwards_is_recorded() -> None:
    class Careless(Scripted):
        """Returns its own state, which changes."""

        state: NDArray[np.float64] | None = None

        def observe(self) -> NDArray[np.float64]:
            self.state = super().observe() if self.state is None else self.state
            self.state[:] = super().observe()
            return self.state

    class Many(SyncVectorEnv):
        """Changes the actions that it is given."""

        def step(self, actions: Any) -> Any:
            result = super().step(actions)
            actions[:] = 0
            return result

    env = Many([partial(Careless, place, script) for place, script in enumerate(ENDINGS)], copy=False)
    buffer = buffer_for(env, "real")
    record_vector(env, buffer, AutoresetMode.NEXT_STEP, 12, {})

    assert trails_of(buffer) == trails_by_hand(ENDINGS, AutoresetMode.NEXT_STEP, 12, {})
