"""Buffers of active_rlhf to be analysed, whose observations say in which row they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Run:
    start_pos: int
    length: int
    split: str = "train"
    on_policiness_score: float = 0.0


class Counting:
    """A tensor that knows how many rows were read of it at most at once."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.shape, self.most = rows, rows.shape, 0

    def __getitem__(self, places: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, places.numel())
        return self.rows[places]


class Ring:
    """A buffer whose observations say in which row they are."""

    def __init__(
        self, capacity: int, trajectories: list[Run], size: int | None = None, width: int = 2
    ) -> None:
        self.capacity, self.trajectories, self.size = (
            capacity,
            trajectories,
            capacity if size is None else size,
        )
        numbers = torch.arange(capacity, dtype=torch.float32)
        self.obs: Any = Counting(torch.stack([numbers * (place + 1) for place in range(width)], dim=1))
        self.acts: Any = torch.zeros(capacity, 1)
        self.rews: Any = Counting(numbers[:, None] / 7)
        self.dones: Any = Counting(numbers[:, None] % 25 == 24)
