"""Drop-in buffers that hold one value, to be saved where another is."""

from __future__ import annotations

from pathlib import Path

import torch

from replaystore.compat.active_rlhf import ReplayBuffer as ActiveBuffer
from replaystore.compat.velora import ReplayBuffer as VeloraBuffer


def velora(value: float) -> VeloraBuffer:
    """Its position, which is in the other file, says what its tensors hold."""
    buffer, count = VeloraBuffer(capacity=50, state_dim=4, action_dim=2, hidden_dim=3), int(value) * 5

    def full(*shape: int) -> torch.Tensor:
        return torch.full(shape, float(value))

    buffer.add_multi(
        full(count, 4), full(count, 2), full(count), full(count, 4), torch.zeros(count), full(count, 3)
    )
    return buffer


def of_velora(path: Path) -> float:
    loaded = VeloraBuffer.load(path / "buffer_state" if path.suffix == ".folder" else path)
    value = loaded.position / 5
    for name in ("states", "actions", "rewards", "next_states", "hiddens"):
        rows = loaded.state_dict()[name].cpu()[: loaded.size]
        assert (rows == value).all(), (name, value, torch.unique(rows))
    if isinstance(loaded.states, torch.Tensor):
        return value
    loaded.close()
    return value


def active(value: float) -> ActiveBuffer:
    class Envs:
        single_observation_space = single_action_space = type("Space", (), {"shape": (2,)})

    buffer = ActiveBuffer(Envs(), 20, 2, "cpu")
    buffer.obs[:] = value
    buffer.acts[:] = value
    return buffer


def of_active(path: Path) -> float:
    loaded = ActiveBuffer.load(path)
    found = torch.unique(torch.cat([loaded.obs.flatten(), loaded.acts.flatten()])).tolist()
    assert len(found) == 1
    return float(found[0])
