"""Values are recorded exactly as they are given, or refused before the environment steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from given_values import BOX, Batch, Given, one_step
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import (
    MODES,
    buffer_for,
    trails_of,
)
from tensors import torch

import replaystore as rs
from replaystore.errors import SchemaError
from replaystore.gymnasium import Record, RecordVector
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import flatten
from replaystore.testing.contents import final_by_field

TENSORS: list[tuple[Any, Any, Any]] = []
WRONG_TENSORS: list[tuple[Any, Any, str]] = []
"""With what an error says of them."""
META = ["reward: a tensor on the device 'meta'"] if torch is not None else []
if torch is not None:
    TENSORS += [
        (BOX, torch.tensor([0.5, 0.25], requires_grad=True), [0.5, 0.25]),
        (BOX, torch.tensor([0.5, 0.25], dtype=torch.bfloat16, requires_grad=True) * 2, [1, 0.5]),
        (BOX, torch.tensor([0.5, 0.25], dtype=torch.float64), [0.5, 0.25]),
        (BOX, torch.arange(4.0).reshape(2, 2).T[0], [0, 2]),
        (BOX, torch.tensor([1j, 2j]).conj().imag, [-1, -2]),
        (BOX, [torch.tensor(0.5, requires_grad=True), torch.tensor(0.25)], [0.5, 0.25]),
        (BOX, (torch.tensor(0.5, dtype=torch.bfloat16), 1), [0.5, 1]),
        (spaces.Discrete(5), torch.tensor(3, dtype=torch.uint8), 3),
    ]
    WRONG_TENSORS += [
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
                r".*numpy.asarray\(action, 'float32'\)"
            ),
        ),
    ]


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
        *TENSORS,
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
                r".*numpy.asarray\(action, 'int64'\)"
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
        (BOX, np.array([0.1, 0]), r"came float64 of shape \(2,\): .*numpy.asarray\(action, 'float32'\)"),
        (BOX, np.array([2**24 + 1, 0]), "came int64"),
        (BOX, [1e300, 0], r"came float64 of shape \(2,\): .*numpy.asarray"),
        (BOX, [0.1], r"came float64 of shape \(1,\): nothing is squeezed"),
        (BOX, [[0.1], [0.1, 0.2]], "came a list of unequal lengths"),
        (BOX, "left", "came <U4 of shape .*give numbers"),
        (BOX, object(), "came a object: give numbers"),
        (
            BOX,
            np.ma.masked_array([0.0, 1.0], [True, False]),
            "action: expected a plain NumPy array, came a masked one",
        ),
        *WRONG_TENSORS,
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
        2**60,
        *([torch.tensor(0.5, requires_grad=True)] if torch is not None else []),
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
        *((torch.tensor(0.5, device="meta"), None, said) for said in META),
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
    (advice,) = re.findall(r"Schema\(\{.*schema.graphs\)", str(caught.value))

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
    [
        *(True, 1, np.bool_(True), np.array(True), np.array([True])),
        *((torch.tensor(True), torch.tensor([1.0])) if torch is not None else ()),
    ],
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


@pytest.mark.parametrize("kind", ["model", "real"])
def test_observations_may_have_keys_with_the_names_of_fields(kind: str) -> None:
    space = spaces.Dict({"reward": BOX, "action": spaces.Discrete(3)})
    env = Given(spaces.Discrete(3), 2.0, {"reward": np.ones(2, np.float32), "action": np.int64(2)})
    env.observation_space = space  # type: ignore[assignment]
    env.reset = lambda **_: ({"reward": np.zeros(2, np.float32), "action": np.int64(0)}, {})  # type: ignore[method-assign]
    buffer = buffer_for(env, kind)

    recorded = Record(env, buffer)
    recorded.reset()
    recorded.step(1)
    recorded.close()

    (trail,) = trails_of(buffer)[0]
    assert trail.rows[0]["observation/reward"] == [0.0, 0.0]
    assert (trail.rows[0]["reward"], trail.rows[0]["action"]) == (2.0, 1)
    assert trail.final == {"observation/reward": [1.0, 1.0], "observation/action": 2}
