"""Proximal policy optimisation for continuous actions: the agent, rollouts, advantages and updates.

A row of a rollout holds an observation, the action taken in it, its reward, and `done`: whether the observation is the last one of an
episode. Gymnasium's vector environments then ignore the action of that row and reset (autoreset mode NEXT_STEP), so such rows are recorded,
but nothing is learned from their actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

EPISODE_KEYS = ("r", "l")


class Agent(nn.Module):
    """A Gaussian policy whose spread does not depend on the observation, and a value function."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.policy = _network(observation_size, action_size, last_gain=0.01)
        self.log_std = nn.Parameter(torch.zeros(1, action_size))
        self.critic = _network(observation_size, 1, last_gain=1.0)

    def get_value(self, obs: Tensor) -> Tensor:
        """(n, observation_size) → (n,)"""
        value: Tensor = self.critic(obs)
        return value.squeeze(-1)

    def get_action_and_value(self, obs: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Actions (n, action_size), drawn if not given, their log-probabilities (n,), the policy's entropy (n,), values (n,)."""
        policy = Normal(self.policy(obs), self.log_std.exp())
        if action is None:
            action = policy.sample()
        return action, policy.log_prob(action).sum(-1), policy.entropy().sum(-1).expand(len(obs)), self.get_value(obs)


def _network(inputs: int, outputs: int, *, last_gain: float) -> nn.Sequential:
    sizes, layers = [inputs, 64, 64, outputs], []
    for number, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, last_gain if number == len(sizes) - 2 else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def make_envs(env_id: str, num_envs: int, gamma: float, video_folder: str | None = None) -> gymnasium.vector.SyncVectorEnv:
    """Environments with flat, normalised and clipped observations and rewards. gymnasium.error.Error: there is no such environment."""

    def make(number: int) -> Callable[[], gymnasium.Env[Any, Any]]:
        def one() -> gymnasium.Env[Any, Any]:
            healthy = ("Ant", "Hopper", "Walker2D", "Walker2d", "Humanoid", "Inverted")
            options: dict[str, Any] = {"terminate_when_unhealthy": False} if _has_health(env_id, healthy) else {}
            if video_folder is not None and number == 0:
                env = gymnasium.wrappers.RecordVideo(gymnasium.make(env_id, render_mode="rgb_array", **options), video_folder)
            else:
                env = gymnasium.make(env_id, **options)
            env = gymnasium.wrappers.FlattenObservation(env)
            env = gymnasium.wrappers.RecordEpisodeStatistics(env)
            env = gymnasium.wrappers.ClipAction(env)
            env = gymnasium.wrappers.NormalizeObservation(env)
            env = gymnasium.wrappers.TransformObservation(env, lambda obs: np.clip(obs, -10, 10), env.observation_space)
            env = gymnasium.wrappers.NormalizeReward(env, gamma=gamma)
            return gymnasium.wrappers.TransformReward(env, lambda reward: np.clip(reward, -10, 10))

        return one

    return gymnasium.vector.SyncVectorEnv([make(number) for number in range(num_envs)])
