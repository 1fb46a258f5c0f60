"""Recording after errors, in the middle, after ends: only true transitions are recorded."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import (
    MODES,
    Script,
    Scripted,
    buffer_for,
    policy,
    scripts,
    trails_of,
)

from replaystore.errors import ArgumentError
from replaystore.gymnasium import Record, RecordVector


class Failing(Scripted):
    """Raises in one step, after it has moved."""

    def __init__(self, index: int, script: Script, fails: int) -> None:
        super().__init__(index, script)
        self.fails, self.calls = fails, 0

    def step(self, action: int) -> Any:
        self.calls += 1
        result = super().step(action)
        if self.calls == self.fails:
            raise RuntimeError("a failure of the environment")
        return result


def test_a_path_instead_of_a_buffer_says_what_makes_one() -> None:
    given: Any = "runs/a.zarr"
    for record in (
        lambda: Record(gymnasium.make("CartPole-v1"), given),
        lambda: RecordVector(gymnasium.make_vec("CartPole-v1", 2), given),
    ):
        with pytest.raises(ArgumentError, match=r"replaystore\.create\(path, env\).*not 'runs/a.zarr'"):
            record()


@given(
    scripts=scripts,
    fails=st.integers(1, 8),
    mode=st.sampled_from(MODES),
    kind=st.sampled_from(["model", "real"]),
)
@settings(max_examples=60)
def test_after_an_error_of_the_environment_only_true_transitions_are_recorded(
    scripts: list[Script], fails: int, mode: AutoresetMode, kind: str
) -> None:
    makers = [
        partial(Failing, index, script, fails if index == len(scripts) - 1 else 0)
        for index, script in enumerate(scripts)
    ]
    env = SyncVectorEnv(makers, autoreset_mode=mode)
    buffer = buffer_for(env, kind)
    recorded = RecordVector(env, buffer)
    observation, _ = recorded.reset()
    terminated = truncated = ended = np.zeros(len(scripts), dtype=bool)
    for _ in range(10):
        if mode == AutoresetMode.DISABLED and ended.any():
            observation, _ = recorded.reset(options={"reset_mask": ended})
        try:
            observation, _, terminated, truncated, _ = recorded.step(policy(observation))
        except RuntimeError:
            continue
        except AssertionError:
            # The script ended in the step that failed, and the vector environment did not notice.
            observation, _ = recorded.reset()
            terminated = truncated = np.zeros(len(scripts), dtype=bool)
        ended = terminated | truncated
    recorded.close()

    for trails in trails_of(buffer).values():
        for trail in trails:
            places = [*(row["observation"] for row in trail.rows), trail.final["observation"]]
            first = places[0]
            assert places == [[first[0], first[1], first[2] + step] for step in range(len(places))]
            assert [row["info/t"] for row in trail.rows] == [place[2] for place in places[1:]]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_recording_goes_on_after_an_error(mode: AutoresetMode) -> None:
    env = SyncVectorEnv(
        [partial(Scripted, 0, [(9, "end")]), partial(Failing, 1, [(9, "end")], 3)], autoreset_mode=mode
    )
    buffer = buffer_for(env, "real")
    recorded = RecordVector(env, buffer)
    recorded.reset()
    for step in range(6):
        with pytest.raises(RuntimeError) if step == 2 else nullcontext():
            recorded.step(np.array([0, 0]))
    recorded.close()

    for trails in trails_of(buffer).values():
        assert [[row["observation"][2] for row in trail.rows] for trail in trails] == [[0, 1], [4, 5]]
        assert [trail.final["observation"][2] for trail in trails] == [2, 6]


def test_recording_may_begin_in_the_middle() -> None:
    env = Scripted(0, [(5, "end")])
    buffer = buffer_for(env)
    env.reset()
    recorded = Record(env, buffer)

    for _ in range(4):  # the first step comes from an observation that nobody saw
        recorded.step(1)
    recorded.close()

    (trail,) = trails_of(buffer)[0]
    assert [row["observation"][2] for row in trail.rows] == [1, 2, 3]
    assert trail.final == {"observation": [0, 0, 4]}
    assert trail.seed == -1


def test_a_step_may_be_skipped() -> None:
    env = SyncVectorEnv([partial(Scripted, place, [(9, "end")]) for place in range(2)])
    buffer = buffer_for(env)
    recorded = RecordVector(env, buffer)
    recorded.reset()
    for step in range(4):
        if step == 1:
            recorded.skip(np.array([False, True]))
        recorded.step(np.array([0, 0]))
    recorded.close()

    places = [
        [[row["observation"][2] for row in trail.rows] for trail in trails]
        for trails in trails_of(buffer).values()
    ]
    assert places == [[[0, 1, 2, 3]], [[0], [2, 3]]]


def test_steps_after_an_end_are_not_recorded_until_a_reset() -> None:
    class Lenient(Scripted):
        def step(self, action: int) -> Any:
            self.over = False
            observation, reward, *_, info = super().step(action)
            return observation, reward, self.t >= 2, False, info

    env = Lenient(0, [(9, "end")])
    buffer = buffer_for(env)
    recorded = Record(env, buffer)
    recorded.reset()
    for _ in range(5):
        recorded.step(0)
    recorded.close()

    assert [len(trail.rows) for trail in trails_of(buffer)[0]] == [2]


def test_a_second_reset_in_a_process_without_shared_memory_is_no_transition() -> None:
    # It forgets in reset that the episode had ended.
    env = AsyncVectorEnv([partial(Scripted, 0, [(2, "end")])], shared_memory=False)
    buffer = buffer_for(env)
    recorded = RecordVector(env, buffer)
    recorded.reset()
    for _ in range(2):
        recorded.step(np.array([1]))
    recorded.reset(seed=5)
    for _ in range(3):
        recorded.step(np.array([1]))
    recorded.close()

    for trail in trails_of(buffer)[0]:
        assert [row["observation"][2] for row in trail.rows] == [0, 1]
        assert trail.final["observation"][1:] == [trail.rows[0]["observation"][1], 2]
    assert len(trails_of(buffer)[0]) == 2
