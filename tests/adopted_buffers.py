"""Buffers of both projects, in memory and in stores, and a class of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rlhf_buffers import NAMES, filled

from replaystore.compat import velora
from replaystore.compat.active_rlhf import (
    ReplayBuffer,
)

VELORA_FIELDS = ("states", "actions", "rewards", "next_states", "dones", "hiddens")


def velora_buffer(capacity: int = 20, count: int = 5) -> velora.ReplayBuffer:
    buffer = velora.ReplayBuffer(capacity, 3, 1, 2)
    numbers = torch.arange(3.0 * count).reshape(count, 3)
    buffer.add_multi(
        numbers, torch.ones(count), torch.ones(count), numbers + 1, torch.zeros(count), torch.ones(count, 2)
    )
    return buffer


def of_both(folder: Path, suffix: str, mode: Any = "r") -> list[tuple[Any, tuple[str, ...], Any]]:
    """Functions that load a saved buffer of each project, the names of its fields, and the buffer in
    memory."""
    one, other = velora_buffer(), filled(10, 4)
    one.save(folder / f"v{suffix}")
    other.save(folder / f"a{suffix}")
    return [
        (lambda: velora.ReplayBuffer.load(folder / f"v{suffix}", mode=mode), VELORA_FIELDS, one),
        (lambda: ReplayBuffer.load(folder / f"a{suffix}", device="cpu", mode=mode), NAMES, other),
    ]


class Prioritized(velora.BufferBase):
    """As a user would write one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.alpha = 0.5

    def sample(self, count: int) -> torch.Tensor:
        return torch.as_tensor(self.states[torch.arange(count)])
