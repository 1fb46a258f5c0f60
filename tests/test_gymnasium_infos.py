"""Infos of any kind are recorded or left out, and never end a training."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import (
    ENDINGS,
    MODES,
    Scripted,
    buffer_for,
    trails_of,
)

import replaystore as rs
from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium import Record, RecordVector


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
