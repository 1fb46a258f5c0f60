"""Environments that give what they are told to."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scripted import (
    Row,
    buffer_for,
    trails_of,
)

from replaystore.gymnasium import Record


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
