"""Recorded environments: actions, rewards, observations and infos of all kinds, and what does not fit."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import gymnasium
import numpy as np
import pytest
import torch
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

import replaystore as rs
from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium import Record, RecordVector
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import flatten
from replaystore.testing.contents import final_by_field

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

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
        (BOX, np.array([0.5, 2.0**100]), [0.5, 2.0**100]),
        (BOX, np.array([2**40, 0]), [2.0**40, 0]),
        (BOX, np.arange(4, dtype=np.float32)[::-2], [3, 1]),
        (BOX, torch.tensor([0.5, 0.25], requires_grad=True), [0.5, 0.25]),
        (BOX, torch.tensor([0.5, 0.25], dtype=torch.bfloat16, requires_grad=True) * 2, [1, 0.5]),
        (BOX, torch.tensor([0.5, 0.25], dtype=torch.float64), [0.5, 0.25]),
        (BOX, torch.arange(4.0).reshape(2, 2).T[0], [0, 2]),
        (BOX, torch.tensor([1j, 2j]).conj().imag, [-1, -2]),
        (BOX, [torch.tensor(0.5, requires_grad=True), torch.tensor(0.25)], [0.5, 0.25]),
        (BOX, (torch.tensor(0.5, dtype=torch.bfloat16), 1), [0.5, 1]),
        (spaces.Discrete(5), torch.tensor(3, dtype=torch.uint8), 3),
        (
            spaces.Box(-1, 1, (2,), np.float64),
            np.array([0.1, 1], np.float32),
            np.array([0.1, 1], np.float32).tolist(),
        ),
    ],
)
def test_actions_are_stored_in_the_dtype_of_their_space_if_that_is_exact(
    space: Any, action: Any, stored: Any
) -> None:
    assert one_step(Given(space), action)["action"] == stored


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (
            spaces.Discrete(5),
            1.0,
            (
                r"action: expected int64 of shape \(\), came float64 of shape \(\): "
                r".*action.astype\('int64'\)"
            ),
        ),
        (spaces.Discrete(5, dtype=np.int8), 300, "expected int8 of shape .*came int64"),
        (
            spaces.Discrete(5),
            np.array([1]),
            (
                r"expected int64 of shape \(\), came int64 of shape \(1,\): "
                r"nothing is squeezed"
            ),
        ),
        (BOX, np.array([0.1, 0]), r"came float64 of shape \(2,\): .*action.astype\('float32'\)"),
        (BOX, np.array([2**24 + 1, 0]), "came int64"),
        (BOX, [1e300, 0], r"came float64 of shape \(2,\): .*action.astype"),
        (BOX, [0.1], r"came float64 of shape \(1,\): nothing is squeezed"),
        (BOX, [[0.1], [0.1, 0.2]], "came a list of unequal lengths"),
        (BOX, "left", "came <U4 of shape .*give numbers"),
        (BOX, object(), "came a object: give numbers"),
        (
            BOX,
            np.ma.masked_array([0.0, 1.0], [True, False]),
            "action: expected a plain NumPy array, came a masked one",
        ),
        (
            BOX,
            torch.zeros(2, device="meta"),
            "action: a tensor on the device 'meta' has a shape, and no numbers",
        ),
        (
            BOX,
            torch.zeros(2).to_sparse(),
            (
                r"action: expected a dense tensor, came a sparse_coo one: pass "
                r"tensor.to_dense\(\)"
            ),
        ),
        (
            BOX,
            torch.tensor([0.1, 0.2], dtype=torch.float64),
            (
                r"came float64 of shape \(2,\): "
                r".*action.astype\('float32'\)"
            ),
        ),
        (spaces.Dict(left=BOX), {"right": np.zeros(2, np.float32)}, "action: 'action/left' is missing"),
        (spaces.Tuple([BOX]), (np.zeros(2, np.float32),) * 2, "action: 'action/1' is not in the schema"),
    ],
)
def test_other_actions_are_refused_before_the_environment_steps(
    space: Any, action: Any, message: str
) -> None:
    env = Given(space)

    with pytest.raises(SchemaError, match=message):
        one_step(env, action)

    assert env.steps == 0


@pytest.mark.parametrize(
    "reward",
    [
        1.5,
        2,
        np.float32(1.5),
        np.int64(2),
        np.float64(0.5),
        True,
        np.array(0.5),
        torch.tensor(0.5, requires_grad=True),
        2**60,
    ],
)
def test_rewards_are_stored_if_that_is_exact(reward: Any) -> None:
    assert one_step(Given(BOX, reward), BOX.sample())["reward"] == reward


@pytest.mark.parametrize(
    ("reward", "observation", "message"),
    [
        (2**53 + 1, None, "reward: expected float64 of shape .*came int64"),
        (np.zeros(1), None, r"reward: .*of shape \(1,\): nothing is squeezed"),
        (1j, None, "reward: .*came complex128 .*reward_dtype='complex128'"),
        (torch.tensor(0.5, device="meta"), None, "reward: a tensor on the device 'meta'"),
        (
            0.0,
            np.full(2, 0.1),
            "observation: expected float32 .*came float64 .*convert it in a wrapper inside",
        ),
        (0.0, np.zeros(3, np.float32), r"observation: .*of shape \(3,\)"),
    ],
)
def test_what_would_have_to_be_changed_is_refused_and_leaves_the_buffer_consistent(
    reward: Any, observation: Any, message: str
) -> None:
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


class Doubles(gymnasium.Env[Any, Any]):
    """Says float32, and gives float64, as many environments do."""

    def __init__(self, space: spaces.Space[Any], make: Any) -> None:
        self.observation_space, self.action_space, self.make = space, spaces.Discrete(2), make
        self.t = 0

    def reset(self, **_: Any) -> Any:
        return self.make(0.1), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.make(self.t + 0.1), 0.0, False, False, {}


DOUBLES = {
    "flat": (BOX, lambda x: np.full(2, x)),
    "dict": (spaces.Dict(a=BOX, b=spaces.Discrete(3)), lambda x: {"a": np.full(2, x), "b": 1}),
    "tuple": (spaces.Tuple([BOX, spaces.Discrete(3)]), lambda x: (np.full(2, x), 1)),
    "integers": (spaces.Box(0, 255, (2,), np.uint8), lambda x: np.full(2, int(x) + 1000)),
}


@pytest.mark.parametrize("case", DOUBLES)
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_the_advice_on_an_observation_of_another_dtype_can_be_followed(
    tmp_path: Path, suffix: str, case: str
) -> None:
    space, make = DOUBLES[case]
    env = Doubles(space, make)
    with (
        rs.create(tmp_path / f"a.{suffix}", env) as buffer,
        pytest.raises(SchemaError, match="nothing is rounded") as caught,
    ):
        Record(env, buffer).reset()
    (advice,) = re.findall(r"Schema\(\{.*schema.tuples\)", str(caught.value))

    # What a reader of it would do.
    schema = eval(advice, {"Schema": Schema, "Field": Field, "schema": Schema.from_env(env)})
    with rs.create(tmp_path / f"b.{suffix}", schema) as buffer:
        recorded = Record(env, buffer)
        recorded.reset()
        seen = [recorded.step(0)[0] for _ in range(3)]
        recorded.close()
        final = final_by_field(buffer.trajectory(0))

    assert final is not None
    for name, value in flatten(seen[-1], "observation").items():
        assert np.array_equal(final[name], value)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_vectors_keep_what_their_observations_are_exactly(mode: AutoresetMode) -> None:
    """Also the final ones, which would be cast to the dtype of the observations beside them."""

    class Ending(Given):
        def step(self, action: Any) -> Any:
            return np.full(2, 0.1), 0.0, True, False, {}

    env = SyncVectorEnv([lambda: Ending(spaces.Discrete(2))], autoreset_mode=mode)
    recorded = RecordVector(env, buffer_for(env))
    recorded.reset()
    if mode == AutoresetMode.SAME_STEP:
        with pytest.raises(
            SchemaError,
            match=(
                r"final observation: expected float32 .*came float64 "
                r".*nothing is rounded"
            ),
        ):
            recorded.step(np.zeros(1, int))
    else:  # Gymnasium itself has put them into an array of float32
        recorded.step(np.zeros(1, int))


def test_a_final_observation_has_all_parts() -> None:
    env = Batch(AutoresetMode.SAME_STEP, lambda final, _: {"x": final})
    recorded = RecordVector(env, buffer_for(env))
    recorded.reset()

    with pytest.raises(SchemaError, match="observation: 'observation' is missing"):
        recorded.step(np.zeros(2, np.int64))
    env = Batch(AutoresetMode.SAME_STEP, lambda final, _: final[:1])
    recorded = RecordVector(env, buffer_for(env))
    recorded.reset()
    with pytest.raises(
        SchemaError,
        match=(
            r"final observation: its shape \(1, 1\) does not begin with the "
            r"number of environments, 2"
        ),
    ):
        recorded.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(
    "flag",
    [True, 1, np.bool_(True), np.array(True), np.array([True]), torch.tensor(True), torch.tensor([1.0])],
)
def test_a_flag_is_whatever_is_true(flag: Any) -> None:
    class Ending(Given):
        def step(self, action: Any) -> Any:
            return np.zeros(2, np.float32), 0.0, flag, False, {}

    recorded = Record(Ending(BOX), buffer := buffer_for(Given(BOX)))
    recorded.reset()
    recorded.step(np.zeros(2, np.float32))
    recorded.close()

    assert trails_of(buffer)[0][0].terminated


@pytest.mark.parametrize("flag", [np.zeros(2, bool), "yes", [True, False]])
def test_what_is_no_flag_is_refused(flag: Any) -> None:
    class Ending(Given):
        def step(self, action: Any) -> Any:
            return np.zeros(2, np.float32), 0.0, False, flag, {}

    recorded = Record(Ending(BOX), buffer_for(Given(BOX)))
    recorded.reset()
    with pytest.raises(SchemaError, match=r"truncated: expected bool of shape \(\), came "):
        recorded.step(np.zeros(2, np.float32))


# --- infos of any kind


class Changing(gymnasium.Env[Any, Any]):
    """The values under the key "x" are of another kind in each step; those under "t" count the steps."""

    observation_space, action_space = spaces.Box(-9, 9, (1,), np.float32), spaces.Discrete(2)
    VALUES: ClassVar[list[Any]] = [
        0, 1, 0.5, False, 2, 2**40, np.float32(0.1), 1j, np.int8(3), "text", None, np.zeros(2), np.ones(3),
        {"y": 1}, {"y": "text"}, 4, 5,
    ]  # fmt: skip

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        return np.zeros(1, np.float32), {"x": "reset"}

    def step(self, action: Any) -> Any:
        self.t += 1
        return (
            np.full(1, self.t, np.float32),
            1.0,
            self.t == len(self.VALUES),
            False,
            {"x": self.VALUES[self.t - 1], "t": self.t},
        )


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
@pytest.mark.parametrize("mode", [None, *MODES], ids=str)
def test_no_info_ends_a_training(tmp_path: Path, suffix: str, mode: AutoresetMode | None) -> None:
    steps = len(Changing.VALUES)
    env: Any = Changing() if mode is None else SyncVectorEnv([Changing, Changing], autoreset_mode=mode)
    with rs.create(tmp_path / f"a.{suffix}", env) as buffer, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorded: Any = Record(env, buffer) if mode is None else RecordVector(env, buffer)
        recorded.reset()
        for _ in range(steps):
            recorded.step(0 if mode is None else np.zeros(2, int))
        left_out = recorded.left_out
        recorded.close()

    assert len([one for one in caught if issubclass(one.category, ReplayStoreWarning)]) == 1
    with rs.open(tmp_path / f"a.{suffix}") as buffer:
        trajectories = [buffer.trajectory(number) for number in range(buffer.num_trajectories)]
    trajectories = [one for one in trajectories if len(one) == steps]
    assert len(trajectories) == (1 if mode is None else 2)
    missing = 0
    for trajectory in trajectories:
        assert trajectory["info/t"].tolist() == list(range(1, steps + 1))
        for value, there, given in zip(
            trajectory["info/x"], trajectory["info/_x"], Changing.VALUES, strict=True
        ):
            # What Gymnasium may have cast to the dtype of the first environment is not known of the others.
            assert there == (
                type(given) is int or (type(given) in (bool, np.int8) and trajectory.info["env"] == 0)
            )
            assert value == given if there else value == 0
            missing += not there and given is not None
    assert left_out == {"x": missing}


class Nested(gymnasium.Env[Any, Any]):
    """Observations and actions of several parts."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (2, 2), np.uint8),
            "joints": spaces.Tuple([spaces.Discrete(99), spaces.Box(-1, 1, (2,), np.float32)]),
        }
    )
    action_space = spaces.Tuple([spaces.Dict(go=spaces.Discrete(3)), spaces.Box(-1, 1, (2,), np.float32)])

    def observe(self) -> Any:
        return {
            "camera": np.full((2, 2), self.t, np.uint8),
            "joints": (self.t, np.full(2, self.t, np.float32)),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observe(), float(action[0]["go"]), self.t == 3, False, {}


@pytest.mark.parametrize("kind", ["model", "real"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_nested_observations_and_actions_are_recorded_alike_in_single_environments_and_vectors(
    mode: AutoresetMode, kind: str
) -> None:
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
    assert first.final == {
        "observation/camera": [[3, 3]] * 2,
        "observation/joints/0": 3,
        "observation/joints/1": [3, 3],
    }
    assert [row["action/0/go"] for row in first.rows] == [2, 1, 0]
    assert trails_of(vector) == {0: [first, second]}


# --- what does not fit


def test_the_buffer_must_have_the_fields_of_the_environment() -> None:
    env = gymnasium.make("CartPole-v1")
    extra = {"value": Field(np.dtype(float), (), "extra")}

    with pytest.raises(
        SchemaError,
        match=(
            r"field 'observation' has the shape \(3,\) in the buffer and "
            r"\(4,\) in the environment"
        ),
    ):
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
        self.single_observation_space, self.single_action_space = (
            spaces.Box(-9, 9, (1,), np.float64),
            spaces.Discrete(2),
        )
        self.observation_space, self.action_space = (
            spaces.Box(-9, 9, (2, 1), np.float64),
            spaces.MultiDiscrete([2, 2]),
        )
        self.final = final

    def reset(self, **_: Any) -> Any:
        self.t = np.array([0, 1])
        return self.t[:, None].astype(float), {}

    def step(self, actions: Any) -> Any:
        reached = self.t + 1
        ended = reached == 2
        self.t = np.where(ended, 0, reached)
        infos = (
            {}
            if self.final is None or not ended.any()
            else {"final_obs": self.final(reached[:, None].astype(float), ended)}
        )
        return self.t[:, None].astype(float), np.zeros(2, np.float32), ended, ended & False, infos


def objects(final: NDArray[Any], ended: NDArray[np.bool_]) -> NDArray[Any]:
    items = np.full(2, None, dtype=object)
    for place in np.flatnonzero(ended):
        items[place] = final[place]
    return items


@pytest.mark.parametrize(
    "final", [lambda final, _: final, objects, lambda final, ended: list(objects(final, ended))]
)
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

    with pytest.raises(
        SchemaError,
        match=(
            r"environment 1 ended, but infos\['final_obs'\] does not have its "
            r"final observation"
        ),
    ):
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
    with pytest.warns(ReplayStoreWarning, match="infos came as a list: put the recorder inside"):
        inside.step(np.array([0]))
    assert inside.left_out == {"*": 1}

    same = SyncVectorEnv([partial(Scripted, 0, ENDINGS[0])], autoreset_mode=AutoresetMode.SAME_STEP)
    lists = RecordVector(gymnasium.wrappers.vector.DictInfoToList(same), buffer_for(same))
    lists.reset()
    # Final observations are among them.
    with pytest.raises(SchemaError, match="infos came as a list: put the recorder inside"):
        lists.step(np.array([0]))

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
