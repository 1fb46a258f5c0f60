"""What an agent does between two updates of its policy: the buffer for it of `active_rlhf.data.buffers`,
which stays in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from replaystore.compat.checks import checked_device, positive, refuse_any_length
from replaystore.errors import SchemaError

__all__ = ["RolloutBuffer", "RolloutBufferBatch"]


@dataclass
class RolloutBufferBatch:
    """Steps (num_steps, num_envs, …), or (num_steps · num_envs, …) if they are flat; all fields but `obs` and
    `actions` are one number a step."""

    obs: torch.Tensor
    actions: torch.Tensor
    logprobs: torch.Tensor
    ground_truth_rewards: torch.Tensor
    dones: torch.Tensor
    values: torch.Tensor


class RolloutBuffer:
    """`num_steps` steps of `num_envs` environments, float32 tensors of shape (num_steps, num_envs, …) on
    `device`, zeros at first.

    SchemaError: numbers that are not positive, or spaces without a shape. UnsupportedError: no such
    device."""

    def __init__(self, num_steps: int, num_envs: int, envs: Any, device: torch.device | str = "cpu") -> None:
        steps = (positive("num_steps", num_steps), positive("num_envs", num_envs))
        where = checked_device(device)
        self.envs = envs
        self._shapes = {"obs": _shape_of(envs, "observation"), "actions": _shape_of(envs, "action")}
        self.obs = torch.zeros((*steps, *self._shapes["obs"]), device=where)
        self.actions = torch.zeros((*steps, *self._shapes["actions"]), device=where)
        self.logprobs = torch.zeros(steps, device=where)
        self.ground_truth_rewards = torch.zeros(steps, device=where)
        self.dones = torch.zeros(steps, device=where)
        self.values = torch.zeros(steps, device=where)

    def store(
        self,
        step: int,
        obs: torch.Tensor,
        action: torch.Tensor,
        logprob: torch.Tensor,
        ground_truth_reward: torch.Tensor,
        done: torch.Tensor,
        value: torch.Tensor,
    ) -> None:
        """Set a step of all environments; torch's errors for what does not broadcast to its row."""
        self.obs[step] = obs
        self.actions[step] = action
        self.logprobs[step] = logprob
        self.ground_truth_rewards[step] = ground_truth_reward
        self.dones[step] = done
        self.values[step] = value

    def get_batch(self) -> RolloutBufferBatch:
        """The tensors themselves."""
        return RolloutBufferBatch(
            self.obs, self.actions, self.logprobs, self.ground_truth_rewards, self.dones, self.values
        )

    def get_flattened_batch(self) -> RolloutBufferBatch:
        """The same numbers, in which the steps of the environments take turns."""
        flat = {
            name: tensor.reshape(-1, *self._shapes.get(name, ()))
            for name, tensor in vars(self.get_batch()).items()
        }
        return RolloutBufferBatch(**flat)


def _shape_of(envs: Any, role: str) -> tuple[int, ...]:
    space: Any = getattr(envs, f"single_{role}_space", None)
    shape = getattr(space, "shape", None)
    if shape is None:
        refuse_any_length(space, role)
        raise SchemaError(
            f"envs must be a vector environment whose {role} space has a shape: pass "
            "gym.vector.SyncVectorEnv([...])"
        )
    return tuple(shape)
