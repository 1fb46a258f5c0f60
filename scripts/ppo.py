"""Proximal policy optimisation for continuous actions: the agent, rollouts, advantages and updates.

A row of a rollout holds an observation, the action taken in it, its reward, and `done`: whether the
observation is the last one of an episode. Gymnasium's vector environments then ignore the action of that row
and reset (autoreset mode NEXT_STEP), so such rows are recorded, but nothing is learned from their actions.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

HEALTHY = ("Ant", "Hopper", "Humanoid", "Walker2d")
"""Robots whose episodes would end when they fall, which tells the agent about the reward that it is to learn
from preferences."""


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

    def get_action_and_value(
        self, obs: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Actions (n, action_size), drawn if not given, their log-probabilities (n,), the policy's entropy
        (n,), values (n,)."""
        policy: Any = Normal(self.policy(obs), self.log_std.exp())
        if action is None:
            action = policy.sample()
        return (
            action,
            policy.log_prob(action).sum(-1),
            policy.entropy().sum(-1).expand(len(obs)),
            self.get_value(obs),
        )


def _network(inputs: int, outputs: int, *, last_gain: float) -> nn.Sequential:
    sizes = [inputs, 64, 64, outputs]
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(sizes)):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, last_gain if number == len(sizes) - 2 else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def make_envs(
    env_id: str, num_envs: int, gamma: float, video_folder: str | None = None
) -> gymnasium.vector.SyncVectorEnv:
    """Environments with flat, normalised and clipped observations and rewards. gymnasium.error.Error: there
    is no such environment."""
    if importlib.util.find_spec("mujoco") is not None:
        import mujoco  # type: ignore[import-untyped]

        # MuJoCo 4 finds fault with Gymnasium's models, once for each environment.
        mujoco.set_mju_user_warning(lambda _: None)
    spec = copy.deepcopy(gymnasium.spec(env_id))
    if spec.id.split("-")[0] in HEALTHY:
        spec.kwargs["terminate_when_unhealthy"] = False

    def make(number: int) -> Callable[[], gymnasium.Env[Any, Any]]:
        def one() -> gymnasium.Env[Any, Any]:
            env: gymnasium.Env[Any, Any]
            wrappers = gymnasium.wrappers
            if video_folder is not None and number == 0:
                env = wrappers.RecordVideo(gymnasium.make(spec, render_mode="rgb_array"), video_folder)
            else:
                env = gymnasium.make(spec)
            env = wrappers.RecordEpisodeStatistics(wrappers.FlattenObservation(env))
            # The script says what is wrong with others.
            if isinstance(env.action_space, gymnasium.spaces.Box):
                env = wrappers.ClipAction(env)
            env = wrappers.NormalizeObservation(env)
            env = wrappers.TransformObservation(env, lambda obs: np.clip(obs, -10, 10), env.observation_space)
            env = wrappers.NormalizeReward(env, gamma=gamma)
            return wrappers.TransformReward(env, lambda reward: float(np.clip(float(reward), -10, 10)))

        return one

    return gymnasium.vector.SyncVectorEnv([make(number) for number in range(num_envs)])


@dataclass
class Rollout:
    """`num_steps` steps of each environment; the first two dimensions are (num_steps, num_envs)."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    """The environment's own."""
    dones: Tensor
    """Whether the observation is the last one of its episode; bool."""
    log_probs: Tensor
    values: Tensor
    next_obs: Tensor
    """After the last step, (num_envs, observation_size)."""
    next_done: Tensor
    episodes: list[tuple[float, int]]
    """Returns, before they were normalised, and lengths of the episodes that ended."""


class Collector:
    """Steps environments with an agent, from where the last rollout stopped."""

    def __init__(self, envs: gymnasium.vector.SyncVectorEnv, device: torch.device, seed: int) -> None:
        self._envs, self._device = envs, device
        self._obs = self._tensor(envs.reset(seed=seed)[0])
        self._done = torch.zeros(envs.num_envs, dtype=torch.bool, device=device)

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=self._device)

    @torch.no_grad()
    def collect(self, agent: Agent, num_steps: int) -> Rollout:
        """The next rollout."""
        steps: list[tuple[Tensor, ...]] = []
        episodes = []
        for _ in range(num_steps):
            action, log_prob, _, value = agent.get_action_and_value(self._obs)
            after, reward, terminated, truncated, infos = self._envs.step(action.cpu().numpy())
            steps.append((self._obs, action, self._tensor(reward), self._done, log_prob, value))
            self._obs = self._tensor(after)
            self._done = torch.as_tensor(terminated | truncated, device=self._device)
            if "episode" in infos:
                ended = np.flatnonzero(infos["_episode"])
                episodes += [
                    (float(infos["episode"]["r"][env]), int(infos["episode"]["l"][env])) for env in ended
                ]
        obs, actions, rewards, dones, log_probs, values = (
            torch.stack(column) for column in zip(*steps, strict=True)
        )
        return Rollout(obs, actions, rewards, dones, log_probs, values, self._obs, self._done, episodes)


@torch.no_grad()
def advantages(rollout: Rollout, rewards: Tensor, agent: Agent, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates (num_steps, num_envs) of the actions under rewards (num_steps,
    num_envs)."""
    next_value = agent.get_value(rollout.next_obs)
    values = torch.cat([rollout.values, next_value[None]])
    going_on = 1.0 - torch.cat([rollout.dones, rollout.next_done[None]]).float()
    found = torch.zeros_like(rewards)
    last = torch.zeros_like(next_value)
    for step in reversed(range(len(rewards))):
        delta = rewards[step] + gamma * values[step + 1] * going_on[step + 1] - values[step]
        last = delta + gamma * gae_lambda * going_on[step + 1] * last
        found[step] = last
    return found


@dataclass(frozen=True)
class Settings:
    """Of updates; the names are those of the command line."""

    update_epochs: int
    num_minibatches: int
    clip_coef: float
    clip_vloss: bool
    norm_adv: bool
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    target_kl: float | None


def update(
    agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, advantage: Tensor, settings: Settings
) -> dict[str, float]:
    """Improve the agent by a rollout; what was measured in the last minibatch, by name."""
    learned = ~rollout.dones.flatten()  # the actions of the other rows were ignored
    obs, actions = (values.flatten(0, 1)[learned] for values in (rollout.obs, rollout.actions))
    old_log_probs, old_values, gains = (
        values.flatten()[learned] for values in (rollout.log_probs, rollout.values, advantage)
    )
    returns = gains + old_values
    measured: dict[str, float] = {}
    clipped: list[float] = []
    for _ in range(settings.update_epochs):
        for rows in _minibatches(len(obs), settings.num_minibatches):
            _, log_probs, entropy, values = agent.get_action_and_value(obs[rows], actions[rows])
            log_ratio = log_probs - old_log_probs[rows]
            ratio = log_ratio.exp()
            gain = gains[rows]
            if settings.norm_adv and len(gain) > 1:
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            policy_loss = -torch.min(
                gain * ratio, gain * ratio.clamp(1 - settings.clip_coef, 1 + settings.clip_coef)
            ).mean()
            error = (values - returns[rows]) ** 2
            if settings.clip_vloss:
                near = old_values[rows] + (values - old_values[rows]).clamp(
                    -settings.clip_coef, settings.clip_coef
                )
                error = torch.max(error, (near - returns[rows]) ** 2)
            value_loss = 0.5 * error.mean()
            loss = policy_loss - settings.ent_coef * entropy.mean() + settings.vf_coef * value_loss
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(agent.parameters(), settings.max_grad_norm)
            optimizer.step()
            clipped.append(((ratio - 1).abs() > settings.clip_coef).float().mean().item())
            measured = {
                "value_loss": value_loss.item(),
                "policy_loss": policy_loss.item(),
                "entropy": entropy.mean().item(),
                "old_approx_kl": -log_ratio.mean().item(),
                "approx_kl": (ratio - 1 - log_ratio).mean().item(),
            }
        if settings.target_kl is not None and measured["approx_kl"] > settings.target_kl:
            break
    spread = returns.var(correction=0).item()
    unexplained = (returns - old_values).var(correction=0).item()
    return measured | {
        "clipfrac": float(np.mean(clipped)),
        "explained_variance": 1 - unexplained / spread if spread else float("nan"),
    }


def _minibatches(rows: int, count: int) -> Iterator[Tensor]:
    return (part for part in torch.randperm(rows).chunk(count) if len(part))
