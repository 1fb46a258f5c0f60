"""Recorded environments: the trajectories of a hand-written loop in every autoreset mode, and a caller who
notices nothing.

Recordings go into a model of a buffer, written for clarity, and into real buffers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    Model,
    Resets,
    Row,
    Script,
    Scripted,
    Trail,
    buffer_for,
    nested,
    policy,
    record_vector,
    scripts,
    trails_by_hand,
    trails_of,
    user_resets,
)

import replaystore as rs
from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium import Record, RecordVector
from replaystore.schema.names import flatten

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer


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


class Spy(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps what was returned last."""

    def reset(self, **options: Any) -> Any:
        self.returned: Any = self.env.reset(**options)
        return self.returned

    def step(self, action: Any) -> Any:
        self.returned = self.env.step(action)
        self.action = action
        return self.returned


class VectorSpy(gymnasium.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Keeps what was returned last."""

    def reset(self, **options: Any) -> Any:
        self.returned: Any = self.env.reset(**options)
        self.options = options
        return self.returned

    def step(self, actions: Any) -> Any:
        self.returned = self.env.step(actions)
        self.action = actions
        return self.returned


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


# --- errors, and what cannot be known


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


# --- seeds, commits, closing


def seeds_of(buffer: Buffer) -> dict[int, list[int]]:
    return {env: [trail.seed for trail in trails] for env, trails in trails_of(buffer).items()}


def test_each_environment_keeps_the_seed_that_gymnasium_gave_it() -> None:
    env = SyncVectorEnv([partial(Scripted, place, [(2, "end")]) for place in range(2)])
    buffer = buffer_for(env)
    recorded = RecordVector(env, buffer)
    for seed in (7, [30, None], None, np.array([1, 2]).tolist()):
        recorded.reset(seed=seed)
        for _ in range(5):
            recorded.step(np.array([1, 1]))
    recorded.close()

    assert seeds_of(buffer) == {0: [7, -1, 30, -1, -1, -1, 1, -1], 1: [8, -1, -1, -1, -1, -1, 2, -1]}


def test_environments_that_share_one_seed_keep_that_seed() -> None:
    env = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    buffer = buffer_for(env)
    recorded = RecordVector(env, buffer)
    recorded.reset(seed=7)
    recorded.step(np.array([1, 1]))
    recorded.close()

    assert seeds_of(buffer) == {0: [7], 1: [7]}


def test_a_seed_of_more_than_63_bits_is_unknown() -> None:
    env = Scripted(0, ENDINGS[0])
    buffer = buffer_for(env)
    recorded = Record(env, buffer)
    with pytest.warns(ReplayStoreWarning, match="does not fit 63 bits"):
        recorded.reset(seed=2**63)
    recorded.step(0)
    recorded.close()

    assert seeds_of(buffer) == {0: [-1]}


def test_steps_are_committed_as_often_as_wished_and_when_the_environment_is_closed() -> None:
    env = Scripted(0, [(20, "end")])
    buffer = Model(env)
    recorded = Record(env, cast("Buffer", buffer), commit_every=3)
    recorded.reset()
    for _ in range(7):
        recorded.step(0)
    assert buffer.commits == [3, 6]

    recorded.close()
    recorded.close()
    assert buffer.commits == [3, 6, 7]
    with pytest.raises(SchemaError, match="commit_every must be at least 1, not 0"):
        Record(env, cast("Buffer", buffer), commit_every=0)


def test_the_buffer_may_be_closed_before_the_environment() -> None:
    env = gymnasium.make("CartPole-v1")
    with rs.create("memory:closed-first", env) as buffer:
        recorded = Record(env, buffer)
        recorded.reset(seed=1)
        recorded.step(0)
    recorded.close()

    with rs.open("memory:closed-first") as buffer:
        assert [len(trail.rows) for trail in trails_of(buffer)[0]] == [1]


def test_closing_the_environment_leaves_the_buffer_open_for_another() -> None:
    buffer = buffer_for(Scripted(0, ENDINGS[0]), "real")
    for split in ("train", "val"):
        recorded = Record(Scripted(0, ENDINGS[0]), buffer, split=split)
        recorded.reset()
        recorded.step(0)
        recorded.close()

    assert [trail.split for trail in trails_of(buffer)[0]] == ["train", "val"]


# --- real environments

CHEETAH = pytest.param(
    "HalfCheetah-v5",
    12,
    {"max_episode_steps": 5},
    marks=pytest.mark.skipif(find_spec("mujoco") is None, reason="no mujoco"),
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its log into the current folder."""
    monkeypatch.chdir(tmp_path)


def replayed(make: Any, trails: Sequence[Trail]) -> list[Trail]:
    """The same actions in an environment of its own. The first trajectory has a seed, those after it go on
    with its random numbers."""
    env = make()
    again = []
    for trail in trails:
        observation, _ = env.reset(seed=None if trail.seed < 0 else trail.seed)
        rows: list[Row] = []
        for row in trail.rows:
            action = np.asarray(row["action"], env.action_space.dtype)
            observation_row = {
                name: np.asarray(leaf).tolist() for name, leaf in flatten(observation, "observation").items()
            }
            observation, reward, terminated, truncated, info = env.step(
                action if action.ndim else action.item()
            )
            infos = {
                name: np.asarray(value).tolist()
                for key, inner in info.items()
                for name, value in nested(f"info/{key}", inner)
            }
            values = {
                "action": row["action"],
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
            }
            rows.append(
                observation_row | values | {name: value for name, value in infos.items() if name in row}
            )
        final = {
            name: np.asarray(leaf).tolist() for name, leaf in flatten(observation, "observation").items()
        }
        again.append(Trail(trail.env, trail.seed, rows, final, terminated, truncated))
    env.close()
    return again


def wander(env: Any, steps: int, mode: AutoresetMode) -> None:
    env.reset(seed=11)
    env.action_space.seed(5)
    ended = np.zeros(env.num_envs, dtype=bool)
    for _ in range(steps):
        if mode == AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = terminated | truncated
    env.close()


@pytest.mark.parametrize("kind", ["model", "real"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("CartPole-v1", 120, {}),
        ("Pendulum-v1", 24, {"max_episode_steps": 10}),
        ("Blackjack-v1", 20, {"sab": True}),
        CHEETAH,
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_recorded_actions_lead_through_the_recorded_trajectories(
    name: str, steps: int, options: dict[str, Any], mode: AutoresetMode, kind: str
) -> None:
    env = gymnasium.make_vec(
        name, num_envs=3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options
    )
    buffer = buffer_for(env, kind)
    wander(RecordVector(env, buffer), steps, mode)

    recorded = trails_of(buffer)
    assert sum(len(trail.rows) for trails in recorded.values() for trail in trails) > steps
    for trails in recorded.values():
        assert len(trails) > 1
        assert replayed(partial(gymnasium.make, name, **options), trails) == trails
    if name == "HalfCheetah-v5":
        assert {"info/x_position", "info/reward_ctrl"} < recorded[0][0].rows[0].keys()


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        (name, 12, {"max_episode_steps": 12})
        for name in ("CartPole-v1", "Blackjack-v1", "FrozenLake-v1", "Pendulum-v1")
    ]
    + [CHEETAH],
)
@pytest.mark.usefixtures("elsewhere")
def test_single_environments_record_what_replays(name: str, steps: int, options: dict[str, Any]) -> None:
    make = partial(gymnasium.make, name, **options)
    env = Record(make(), buffer := buffer_for(make(), "real"))
    env.action_space.seed(5)
    env.reset(seed=11)
    for _ in range(3 * steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.close()

    trails = trails_of(buffer)[0]
    assert sum(len(trail.rows) for trail in trails) == 3 * steps
    assert replayed(make, trails) == trails


def test_a_natively_vectorised_environment_is_recorded_without_its_padding() -> None:
    env = VectorSpy(gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point"))
    recorded = RecordVector(env, buffer := buffer_for(env, "real"))
    observation, _ = recorded.reset(seed=3)
    recorded.action_space.seed(3)
    expected: dict[int, list[list[Any]]] = {place: [] for place in range(3)}
    ended = np.zeros(3, dtype=bool)
    for _ in range(80):
        actions = recorded.action_space.sample()
        following, reward, terminated, truncated, _ = recorded.step(actions)
        for place in np.flatnonzero(~ended).tolist():
            expected[place].append(
                [v[place].tolist() for v in (observation, actions, reward, terminated, truncated, following)]
            )
        observation, ended = following, terminated | truncated
    recorded.close()

    for place, trails in trails_of(buffer).items():
        steps: list[list[Any]] = []
        for trail in trails:
            after = [*(row["observation"] for row in trail.rows[1:]), trail.final["observation"]]
            values = [
                [row[name] for name in ("observation", "action", "reward", "terminated", "truncated")]
                for row in trail.rows
            ]
            steps += [[*value, then] for value, then in zip(values, after, strict=True)]
        assert steps == expected[place]
    assert buffer.schema.fields["reward"].dtype == np.float64  # the environment gives float32


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_infos_that_gymnasium_casts_to_those_of_a_reset_are_left_out(mode: AutoresetMode) -> None:
    make = partial(gymnasium.make, "FrozenLake-v1", max_episode_steps=6)
    env = SyncVectorEnv([make] * 3, autoreset_mode=mode)  # reset gives {"prob": 1}, step {"prob": 1/3}
    buffer = buffer_for(env)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wander(RecordVector(env, buffer), 40, mode)

    said = [str(warning.message) for warning in caught if issubclass(warning.category, ReplayStoreWarning)]
    assert len(said) == (mode != AutoresetMode.DISABLED)
    assert all("'prob'" in message for message in said)
    for trails in trails_of(buffer).values():
        assert replayed(make, trails) == trails  # where it is there it is right


@pytest.mark.parametrize(
    ("mode", "inner"),
    [(mode, inner) for mode in MODES for inner in (True, False) if inner or mode != AutoresetMode.DISABLED],
    # Gymnasium's own vector wrapper forgets all environments at each reset of some
)
def test_statistics_of_episodes_are_recorded_with_the_last_step(mode: AutoresetMode, inner: bool) -> None:
    single: Any = gymnasium.wrappers.RecordEpisodeStatistics
    make = partial(gymnasium.make, "CartPole-v1")
    env: Any = SyncVectorEnv([(lambda: single(make())) if inner else make] * 2, autoreset_mode=mode)
    env = env if inner else gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    buffer = buffer_for(env)
    wander(RecordVector(env, buffer, info=["episode/r", "episode/l"]), 60, mode)

    for trails in trails_of(buffer).values():
        for trail in trails:
            last = trail.rows[-1]
            if trail.terminated:
                assert (last["info/episode/r"], last["info/episode/l"]) == (len(trail.rows), len(trail.rows))
            assert not any("info/episode/r" in row for row in trail.rows[:-1])
    assert "info/episode/t" not in buffer.schema.fields
