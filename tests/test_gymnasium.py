"""Recorded environments: the trajectories of a hand-written loop in every autoreset mode, and a caller who notices nothing.

Recordings go into a model of a buffer, written for clarity, and into real buffers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import replaystore as rs
from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium import Record, RecordVector
from replaystore.names import flatten
from replaystore.schema import Field, Schema

if TYPE_CHECKING:
    from replaystore.buffer import Buffer

MODES = list(AutoresetMode)
Row = dict[str, Any]


@dataclass
class Trail:
    """One trajectory. Rows have a value for each field, as nested lists; info keys that are missing in a step are not in its row."""

    env: int
    seed: int = -1
    rows: list[Row] = field(default_factory=list)
    final: Row = field(default_factory=dict)
    terminated: bool = False
    truncated: bool = False
    split: str = ""


# --- a model of the buffer


class Model:
    """What the recorders need of a buffer, done literally."""

    closed = False

    def __init__(self, env: Any, extra: Mapping[str, Field] | None = None) -> None:
        self.schema = Schema.from_env(env, extra=extra)
        self.trails: list[Trail] = []
        self.commits: list[int] = []

    @property
    def rows_recorded(self) -> int:
        return sum(len(trail.rows) for trail in self.trails)

    def writer(self, num_envs: int, *, split: str = "") -> ModelWriter:
        return ModelWriter(self, num_envs, split)

    def add_field(self, name: str, declared: Field, *, fill: int = 0) -> None:
        self.schema = self.schema.with_field(name, declared)
        for trail in self.trails:
            for row in trail.rows:
                row[name] = np.full(declared.shape, fill, declared.dtype).tolist()

    def commit(self) -> int:
        self.commits.append(self.rows_recorded)
        return len(self.commits)


class ModelWriter:
    def __init__(self, buffer: Model, num_envs: int, split: str) -> None:
        self.buffer, self.num_envs, self.split = buffer, num_envs, split
        self.open: dict[int, Trail] = {}
        self.seen: dict[int, Row] = {}
        self.is_closed = False

    def reset(self, observation: Any, *, seed: Sequence[int | None] | None = None, mask: NDArray[np.bool_] | None = None) -> None:
        leaves = flatten(observation, "observation")
        assert self.buffer.schema.select(["observation"]).check(leaves) == self.num_envs
        for env in range(self.num_envs):
            if mask is None or mask[env]:
                if env in self.open:
                    self.open[env].final = self.seen[env]
                self.seen[env] = row_of(leaves, env)
                given = None if seed is None else seed[env]
                self.open[env] = Trail(env, -1 if given is None else given, split=self.split)
                self.buffer.trails.append(self.open[env])

    def step(
        self,
        action: Any,
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        observation: Any,
        info: Mapping[str, NDArray[Any]],
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        leaves = flatten(observation, "observation")
        others = {"reward": reward, "terminated": terminated, "truncated": truncated, **flatten(action, "action"), **info}
        assert self.buffer.schema.check({**leaves, **others}) == self.num_envs
        for env in range(self.num_envs):
            if mask is None or mask[env]:
                trail = self.open[env]
                trail.rows.append(self.seen[env] | row_of(others, env))
                self.seen[env] = row_of(leaves, env)
                if terminated[env] or truncated[env]:
                    trail.terminated, trail.truncated = bool(terminated[env]), bool(truncated[env])
                    trail.final = self.seen[env]
                    del self.open[env]

    def close(self) -> None:
        for env, trail in self.open.items():
            trail.final = self.seen[env]
        self.open = {}


def row_of(columns: Mapping[str, NDArray[Any]], place: int) -> Row:
    return {name: values[place].tolist() for name, values in columns.items()}


places = cycle(f"memory:recorded-{number}" for number in range(4))
buffers: dict[str, Buffer] = {}


def buffer_for(env: Any, kind: str = "model") -> Buffer:
    """An empty buffer; of the real ones only the last four are kept."""
    if kind == "model":
        return cast("Buffer", Model(env))
    place = next(places)
    if place in buffers:
        buffers[place].close()
    buffers[place] = rs.create(place, env, overwrite=True)
    return buffers[place]


def trails_of(buffer: Any) -> dict[int, list[Trail]]:
    """The trajectories of each environment, in order; without those that have no steps, which a buffer does not keep."""
    if isinstance(buffer, Model):
        trails = [replace(trail, rows=[dict(row) for row in trail.rows]) for trail in buffer.trails if trail.rows]
    else:
        trails = []
        for trajectory in buffer:
            rows = [row_of(trajectory.columns, place) for place in range(len(trajectory))]
            assert trajectory.final_observation is not None
            final = {name: value.tolist() for name, value in trajectory.final_observation.items()}
            info = trajectory.info
            trails.append(Trail(info["env"], info["seed"], rows, final, bool(info["terminated"]), bool(info["truncated"]), info["split"]))
    masks = {name: name.replace("/_", "/") for name, declared in buffer.schema.fields.items() if declared.role == "mask"}
    missing = dict.fromkeys(masks, False)
    for trail in trails:
        for row in trail.rows:
            for mask, name in masks.items():
                if not row.pop(mask):
                    missing[mask] = True
                    assert not np.any(row.pop(name))
    assert all(missing.values()), "masks are for keys that are missing somewhere"
    return {env: [trail for trail in trails if trail.env == env] for env in {trail.env for trail in trails}}


# --- an environment that follows a script

Script = Sequence[tuple[int, str]]
"""For each episode its length, and what ends it."""


class Scripted(gymnasium.Env[NDArray[np.float64], int]):
    """Observations say where they are: environment, episode, steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space: spaces.Space[Any] = spaces.Discrete(5)

    def __init__(self, index: int, script: Script) -> None:
        self.index, self.script = index, script
        self.episode, self.t, self.over = -1, 0, True

    def observe(self) -> NDArray[np.float64]:
        return np.array([self.index, self.episode, self.t], dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        self.episode, self.t, self.over = self.episode + 1, 0, False
        return self.observe(), {"t": -1, "speed": -1.0, "bit": np.bool_(True), "fresh": 1}

    def step(self, action: int) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        assert not self.over
        length, ending = self.script[self.episode % len(self.script)]
        self.t += 1
        self.over = self.t == length
        info: dict[str, Any] = {"t": self.t, "speed": self.t / 2, "bit": np.bool_(self.t % 2), "n": {"v": np.full(2, action, np.int16)}}
        if self.over:
            info["episode"] = {"l": self.t}
        return self.observe(), 10.0 * self.episode + self.t, self.over and ending != "cut", self.over and ending != "end", info


def policy(observation: NDArray[np.float64]) -> Any:
    return (observation.sum(axis=-1) % 5).astype(np.int64)


Resets = Mapping[int, tuple[int | None, set[int]]]
"""Resets by the user, before some turns: the seed given and the environments."""


def by_hand(index: int, script: Script, mode: AutoresetMode, turns: int, resets: Resets) -> list[Trail]:
    """The plain loop over one environment, which is reset when the mode says so: at an end, or in the next turn, with a step or without."""
    env = Scripted(index, script)
    observation, _ = env.reset()
    trails = [Trail(index, 100 + index)]
    ended = False
    for turn in range(turns):
        seed, members = resets.get(turn, (None, set()))
        if index in members:
            observation, _ = env.reset()
            trails.append(Trail(index, -1 if seed is None else seed + index))
        elif ended and mode != AutoresetMode.SAME_STEP:
            observation, _ = env.reset()
            trails.append(Trail(index))
            if mode == AutoresetMode.NEXT_STEP:
                ended = False
                continue
        action = policy(observation)
        following, reward, terminated, truncated, info = env.step(action)
        info = {name: np.asarray(value).tolist() for key, inner in info.items() for name, value in nested(f"info/{key}", inner)}
        values = {"observation": observation.tolist(), "action": int(action), "reward": reward}
        trails[-1].rows.append({**values, "terminated": terminated, "truncated": truncated, **info})
        trails[-1].terminated, trails[-1].truncated, trails[-1].final = terminated, truncated, {"observation": following.tolist()}
        observation = following
        ended = terminated or truncated
        if ended and mode == AutoresetMode.SAME_STEP:
            observation, _ = env.reset()
            trails.append(Trail(index))
    return [trail for trail in trails if trail.rows]


def nested(name: str, value: Any) -> list[tuple[str, Any]]:
    return [(f"{name}/{key}", inner) for key, inner in value.items()] if isinstance(value, dict) else [(name, value)]


def record_vector(env: Any, buffer: Buffer, mode: AutoresetMode, turns: int, resets: Resets, **options: Any) -> None:
    recorded = RecordVector(env, buffer, **options)
    everyone = set(range(env.num_envs))
    observation, _ = recorded.reset(seed=100)
    ended = np.zeros(env.num_envs, dtype=bool)
    for turn in range(turns):
        seed, members = resets.get(turn, (None, set()))
        members &= everyone
        if members:
            mask = np.array([place in members for place in range(env.num_envs)])
            observation, _ = recorded.reset(seed=seed, options=None if members == everyone else {"reset_mask": mask})
            ended &= ~mask
        if mode == AutoresetMode.DISABLED and ended.any():
            observation, _ = recorded.reset(options={"reset_mask": ended})
        observation, _, terminated, truncated, _ = recorded.step(policy(observation))
        ended = terminated | truncated
    recorded.close()


episodes = st.tuples(st.integers(1, 4), st.sampled_from(["end", "cut", "both"]))
scripts = st.lists(st.lists(episodes, min_size=1, max_size=3), min_size=1, max_size=4)
members = st.sets(st.integers(0, 3), min_size=1)
user_resets = st.dictionaries(st.integers(0, 12), st.tuples(st.none() | st.integers(0, 99), members), max_size=2)
ENDINGS: list[Script] = [[(1, "end"), (3, "cut")], [(2, "both"), (1, "cut")], [(5, "end")]]


def trails_by_hand(scripts: Sequence[Script], mode: AutoresetMode, turns: int, resets: Resets) -> dict[int, list[Trail]]:
    trails = {index: by_hand(index, script, mode, turns, resets) for index, script in enumerate(scripts)}
    return {index: some for index, some in trails.items() if some}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", ["model", "real"])
@given(scripts=scripts, turns=st.integers(0, 14), resets=user_resets, commit_every=st.none() | st.integers(1, 5))
@example(scripts=ENDINGS, turns=14, resets={}, commit_every=None)
@example(scripts=[[(2, "end"), (3, "end")], [(9, "end")]], turns=8, resets={3: (7, {0})}, commit_every=None)  # right after an automatic one
@example(scripts=[[(9, "end")], [(2, "end"), (3, "cut")]], turns=6, resets={2: (7, {0})}, commit_every=None)  # of one, while another waits
@settings(max_examples=60)
def test_every_autoreset_mode_records_the_trajectories_of_a_plain_loop(
    mode: AutoresetMode, kind: str, scripts: list[Script], turns: int, resets: Resets, commit_every: int | None
) -> None:
    env = SyncVectorEnv([partial(Scripted, index, script) for index, script in enumerate(scripts)], autoreset_mode=mode)
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
    assert trails_of(buffer) == {index: [replace(trail, split="train") for trail in trails] for index, trails in expected.items()}


# --- one environment


@pytest.mark.parametrize("kind", ["model", "real"])
@given(script=scripts.map(lambda some: some[0]), turns=st.integers(0, 14), resets=user_resets)
@settings(max_examples=30)
def test_one_environment_records_the_trajectories_of_a_plain_loop(kind: str, script: Script, turns: int, resets: Resets) -> None:
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
    many = VectorSpy(SyncVectorEnv([partial(Scripted, place, script) for place, script in enumerate(ENDINGS)], autoreset_mode="SameStep"))
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


@given(scripts=scripts, fails=st.integers(1, 8), mode=st.sampled_from(MODES), kind=st.sampled_from(["model", "real"]))
@settings(max_examples=60)
def test_after_an_error_of_the_environment_only_true_transitions_are_recorded(
    scripts: list[Script], fails: int, mode: AutoresetMode, kind: str
) -> None:
    makers = [partial(Failing, index, script, fails if index == len(scripts) - 1 else 0) for index, script in enumerate(scripts)]
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
        except AssertionError:  # the script ended in the step that failed, and the vector environment did not notice
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
    env = SyncVectorEnv([partial(Scripted, 0, [(9, "end")]), partial(Failing, 1, [(9, "end")], 3)], autoreset_mode=mode)
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

    places = [[[row["observation"][2] for row in trail.rows] for trail in trails] for trails in trails_of(buffer).values()]
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
    env = AsyncVectorEnv([partial(Scripted, 0, [(2, "end")])], shared_memory=False)  # it forgets in reset that the episode had ended
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


# --- values


def one_step(env: Any, action: Any, buffer: Any = None) -> Row:
    buffer = buffer_for(env) if buffer is None else buffer
    recorded = Record(env, buffer)
    recorded.reset()
    recorded.step(action)
    recorded.close()
    return trails_of(buffer)[0][0].rows[0]


class Given(gymnasium.Env[Any, Any]):
    """Takes any action and gives what it was told to."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, action_space: spaces.Space[Any], reward: Any = 0.0, observation: Any = None) -> None:
        self.action_space, self.reward = action_space, reward
        self.observation = np.zeros(2, np.float32) if observation is None else observation
        self.steps = 0

    def reset(self, **_: Any) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observation, self.reward, False, False, {}


BOX = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "action", "stored"),
    [
        (spaces.Discrete(5), 3, 3),
        (spaces.Discrete(5), np.int32(3), 3),
        (spaces.Discrete(5), np.array(3), 3),
        (spaces.Discrete(5, dtype=np.int32), 3, 3),
        (spaces.MultiBinary(2), np.array([0, 1]), [0, 1]),
        (spaces.MultiBinary(2), np.array([True, False]), [1, 0]),
        (BOX, np.array([0.25, 2], np.float32), [0.25, 2]),
        (BOX, [0.1, 1], np.array([0.1, 1], np.float32).tolist()),
        (BOX, np.array([1, 0]), [1, 0]),
        (spaces.Box(-1, 1, (2,), np.float64), np.array([0.1, 1], np.float32), np.array([0.1, 1], np.float32).tolist()),
    ],
)
def test_actions_are_stored_in_the_dtype_of_their_space_if_that_is_exact(space: Any, action: Any, stored: Any) -> None:
    assert one_step(Given(space), action)["action"] == stored


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(5), 1.0, r"action: expected int64 of shape \(\), came float64 of shape \(\): .*action.astype\('int64'\)"),
        (spaces.Discrete(5, dtype=np.int8), 300, "expected int8 of shape .*came int64"),
        (spaces.Discrete(5), np.array([1]), r"expected int64 of shape \(\), came int64 of shape \(1,\): nothing is squeezed"),
        (BOX, np.zeros(2), r"came float64 of shape \(2,\): .*action.astype\('float32'\)"),
        (BOX, np.array([2**24 + 1, 0]), "came int64"),
        (BOX, [0.1], r"came float64 of shape \(1,\): nothing is squeezed"),
        (BOX, [[0.1], [0.1, 0.2]], "came a list of unequal lengths"),
        (BOX, "left", "came <U4"),
        (spaces.Dict(left=BOX), {"right": np.zeros(2, np.float32)}, "action: 'action/left' is missing"),
        (spaces.Tuple([BOX]), (np.zeros(2, np.float32),) * 2, "action: 'action/1' is not in the schema"),
    ],
)
def test_other_actions_are_refused_before_the_environment_steps(space: Any, action: Any, message: str) -> None:
    env = Given(space)

    with pytest.raises(SchemaError, match=message):
        one_step(env, action)

    assert env.steps == 0


@pytest.mark.parametrize("reward", [1.5, 2, np.float32(1.5), np.int64(2), np.float64(0.5), True])
def test_rewards_are_stored_if_that_is_exact(reward: Any) -> None:
    assert one_step(Given(BOX, reward), BOX.sample())["reward"] == reward


@pytest.mark.parametrize(
    ("reward", "observation", "message"),
    [
        (2**53 + 1, None, "reward: expected float64 of shape .*came int64"),
        (np.zeros(1), None, r"reward: .*of shape \(1,\): nothing is squeezed"),
        (0.0, np.zeros(2), "observation: expected float32 .*came float64 .*convert it in a wrapper inside"),
        (0.0, np.zeros(3, np.float32), r"observation: .*of shape \(3,\)"),
    ],
)
def test_what_would_have_to_be_changed_is_refused_and_leaves_the_buffer_consistent(reward: Any, observation: Any, message: str) -> None:
    env = Given(BOX, reward, observation)
    buffer = buffer_for(env, "real")
    recorded = Record(env, buffer)
    recorded.reset()
    with pytest.raises(SchemaError, match=message):
        recorded.step(np.zeros(2, np.float32))

    env.reward, env.observation = 1.0, np.ones(2, np.float32)
    recorded.step(np.zeros(2, np.float32))  # from an observation that was not recorded
    recorded.step(np.zeros(2, np.float32))
    recorded.close()

    (trail,) = trails_of(buffer)[0]
    assert [row["observation"] for row in trail.rows] == [[1, 1]]


class Nested(gymnasium.Env[Any, Any]):
    """Observations and actions of several parts."""

    observation_space = spaces.Dict(
        {"camera": spaces.Box(0, 255, (2, 2), np.uint8), "joints": spaces.Tuple([spaces.Discrete(99), spaces.Box(-1, 1, (2,), np.float32)])}
    )
    action_space = spaces.Tuple([spaces.Dict(go=spaces.Discrete(3)), spaces.Box(-1, 1, (2,), np.float32)])

    def observe(self) -> Any:
        return {"camera": np.full((2, 2), self.t, np.uint8), "joints": (self.t, np.full(2, self.t, np.float32))}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observe(), float(action[0]["go"]), self.t == 3, False, {}


@pytest.mark.parametrize("kind", ["model", "real"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_nested_observations_and_actions_are_recorded_alike_in_single_environments_and_vectors(mode: AutoresetMode, kind: str) -> None:
    one = Record(Nested(), single := buffer_for(Nested(), kind))
    one.reset(seed=100)
    for go in (2, 1, 0):
        one.step(({"go": go}, [go, 0.5]))
    one.reset()
    one.step(({"go": 1}, np.zeros(2, np.float32)))
    one.close()

    env = SyncVectorEnv([Nested], autoreset_mode=mode)
    many = RecordVector(env, vector := buffer_for(env, kind))
    many.reset(seed=100)
    for go in (2, 1, 0):
        many.step(({"go": np.array([go])}, np.array([[go, 0.5]], np.float32)))
    if mode == AutoresetMode.DISABLED:
        many.reset(options={"reset_mask": np.array([True])})
    for _ in range(2 if mode == AutoresetMode.NEXT_STEP else 1):
        many.step(({"go": np.array([1])}, np.zeros((1, 2), np.float32)))
    many.close()

    first, second = trails_of(single)[0]
    assert first.final == {"observation/camera": [[3, 3]] * 2, "observation/joints/0": 3, "observation/joints/1": [3, 3]}
    assert [row["action/0/go"] for row in first.rows] == [2, 1, 0]
    assert trails_of(vector) == {0: [first, second]}


# --- what does not fit


def test_the_buffer_must_have_the_fields_of_the_environment() -> None:
    env = gymnasium.make("CartPole-v1")
    extra = {"value": Field(np.dtype(float), (), "extra")}

    with pytest.raises(SchemaError, match=r"field 'observation' has the shape \(3,\) in the buffer and \(4,\) in the environment"):
        Record(env, buffer_for(gymnasium.make("Pendulum-v1")))
    with pytest.raises(SchemaError, match=r"field 'action' has the space .*'n': 5"):
        Record(Given(spaces.Discrete(4)), buffer_for(Given(spaces.Discrete(5))))
    with pytest.raises(SchemaError, match="no field 'action/go'"):
        Record(Given(spaces.Dict(go=BOX)), buffer_for(Given(BOX)))
    with pytest.raises(SchemaError, match="has a field 'value', which the environment does not give"):
        Record(env, cast("Buffer", Model(env, extra)))
    with pytest.raises(SchemaError, match="'action' is a tuple in only one"):
        Record(Given(spaces.Tuple([BOX])), buffer_for(Given(spaces.Dict({"0": BOX}))))


class Batch(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """A vector environment of its own kind, in SAME_STEP, whose episodes end after two steps."""

    def __init__(self, mode: Any, final: Any = None) -> None:
        self.num_envs = 2
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = spaces.Box(-9, 9, (1,), np.float64), spaces.Discrete(2)
        self.observation_space, self.action_space = spaces.Box(-9, 9, (2, 1), np.float64), spaces.MultiDiscrete([2, 2])
        self.final = final

    def reset(self, **_: Any) -> Any:
        self.t = np.array([0, 1])
        return self.t[:, None].astype(float), {}

    def step(self, actions: Any) -> Any:
        reached = self.t + 1
        ended = reached == 2
        self.t = np.where(ended, 0, reached)
        infos = {} if self.final is None or not ended.any() else {"final_obs": self.final(reached[:, None].astype(float), ended)}
        return self.t[:, None].astype(float), np.zeros(2, np.float32), ended, ended & False, infos


def objects(final: NDArray[Any], ended: NDArray[np.bool_]) -> NDArray[Any]:
    items = np.full(2, None, dtype=object)
    for place in np.flatnonzero(ended):
        items[place] = final[place]
    return items


@pytest.mark.parametrize("final", [lambda final, _: final, objects, lambda final, ended: list(objects(final, ended))])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, "SameStep"])
def test_final_observations_may_be_given_for_all_or_one_by_one(final: Any, mode: Any) -> None:
    env = Batch(mode, final)
    recorded = RecordVector(env, buffer := buffer_for(env))
    recorded.reset()
    for _ in range(4):
        recorded.step([0, 1])
    recorded.close()

    for trails in trails_of(buffer).values():
        assert all(trail.final == {"observation": [trail.rows[-1]["observation"][0] + 1]} for trail in trails)
    assert [len(trail.rows) for trail in trails_of(buffer)[0]] == [2, 2]
    assert [len(trail.rows) for trail in trails_of(buffer)[1]] == [1, 2, 1]


@pytest.mark.parametrize("final", [None, lambda final, ended: objects(final, ~ended)])
def test_same_step_without_final_observations_is_refused(final: Any) -> None:
    env = Batch("SameStep", final)
    recorded = RecordVector(env, buffer_for(env))
    recorded.reset()

    with pytest.raises(SchemaError, match=r"environment 1 ended, but infos\['final_obs'\] does not have its final observation"):
        recorded.step(np.zeros(2, np.int64))


def test_an_environment_that_does_not_say_its_mode_may_be_told_it() -> None:
    env = Batch(None, objects)

    with pytest.warns(ReplayStoreWarning, match="NEXT_STEP is assumed"):
        RecordVector(env, buffer_for(env))
    RecordVector(env, buffer_for(env), autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(SchemaError, match="no autoreset mode 'Never'"):
        RecordVector(env, buffer_for(env), autoreset_mode="Never")


def test_infos_that_are_lists_belong_outside() -> None:
    env = SyncVectorEnv([partial(Scripted, 0, ENDINGS[0])])
    inside = RecordVector(gymnasium.wrappers.vector.DictInfoToList(env), buffer_for(env))
    inside.reset()
    with pytest.raises(SchemaError, match="infos came as a list: put the recorder inside"):
        inside.step(np.array([0]))

    outside = gymnasium.wrappers.vector.DictInfoToList(RecordVector(env, buffer_for(env)))
    outside.reset()
    assert outside.step(np.array([0]))[-1][0]["t"] == 1


def test_left_out_counts_the_infos_that_were_not_recorded() -> None:
    class Talking(Scripted):
        def step(self, action: int) -> Any:
            *result, info = super().step(action)
            return *result, info | {"words": "text"}

    env = Talking(0, [(9, "end")])
    one, many = Record(env, buffer_for(env)), RecordVector(SyncVectorEnv([lambda: env]), buffer_for(env))
    one.reset()
    with pytest.warns(ReplayStoreWarning, match="'words' is not recorded"):
        one.step(0)
    one.step(0)
    many.reset()
    with pytest.warns(ReplayStoreWarning, match="'words' is not recorded"):
        many.step(np.array([0]))

    assert (one.left_out, many.left_out) == ({"words": 2}, {"words": 1})


# --- real environments

CHEETAH = pytest.param(
    "HalfCheetah-v5", 12, {"max_episode_steps": 5}, marks=pytest.mark.skipif(find_spec("mujoco") is None, reason="no mujoco")
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its log into the current folder."""
    monkeypatch.chdir(tmp_path)


def replayed(make: Any, trails: Sequence[Trail]) -> list[Trail]:
    """The same actions in an environment of its own. The first trajectory has a seed, those after it go on with its random numbers."""
    env = make()
    again = []
    for trail in trails:
        observation, _ = env.reset(seed=None if trail.seed < 0 else trail.seed)
        rows: list[Row] = []
        for row in trail.rows:
            action = np.asarray(row["action"], env.action_space.dtype)
            observation_row = {name: np.asarray(leaf).tolist() for name, leaf in flatten(observation, "observation").items()}
            observation, reward, terminated, truncated, info = env.step(action if action.ndim else action.item())
            infos = {name: np.asarray(value).tolist() for key, inner in info.items() for name, value in nested(f"info/{key}", inner)}
            values = {"action": row["action"], "reward": reward, "terminated": terminated, "truncated": truncated}
            rows.append(observation_row | values | {name: value for name, value in infos.items() if name in row})
        final = {name: np.asarray(leaf).tolist() for name, leaf in flatten(observation, "observation").items()}
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
    env = gymnasium.make_vec(name, num_envs=3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options)
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
    [(name, 12, {"max_episode_steps": 12}) for name in ("CartPole-v1", "Blackjack-v1", "FrozenLake-v1", "Pendulum-v1")] + [CHEETAH],
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
            expected[place].append([v[place].tolist() for v in (observation, actions, reward, terminated, truncated, following)])
        observation, ended = following, terminated | truncated
    recorded.close()

    for place, trails in trails_of(buffer).items():
        steps: list[list[Any]] = []
        for trail in trails:
            after = [*(row["observation"] for row in trail.rows[1:]), trail.final["observation"]]
            values = [[row[name] for name in ("observation", "action", "reward", "terminated", "truncated")] for row in trail.rows]
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
