"""Recorded environments: actions, rewards, observations and infos of all kinds, and what does not fit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from scripted import (
    ENDINGS,
    MODES,
    Model,
    Row,
    Scripted,
    buffer_for,
    trails_of,
)

from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium import Record, RecordVector
from replaystore.schema import Field

if TYPE_CHECKING:
    from replaystore.buffer import Buffer

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
