"""Pairs of fragments with preferences, which teach a reward model: those of `active_rlhf.data.buffers`.

They are never saved by that project, and stay in memory. Beside the original, a part of a batch of
preferences keeps its preferences, and what does not fit together is refused before anything is added.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import torch

from replaystore.compat.checks import positive
from replaystore.errors import SchemaError

__all__ = ["PreferenceBuffer", "PreferenceBufferBatch", "TrajectoryPairBatch"]


@dataclass
class TrajectoryPairBatch:
    """n pairs of fragments of L steps: observations (n, L, O), actions (n, L, A), rewards (n, L, 1) and dones
    (n, L, 1) of each side."""

    first_obs: torch.Tensor
    first_acts: torch.Tensor
    first_rews: torch.Tensor
    first_dones: torch.Tensor
    second_obs: torch.Tensor
    second_acts: torch.Tensor
    second_rews: torch.Tensor
    second_dones: torch.Tensor

    def __len__(self) -> int:
        return len(self.first_obs)

    def __getitem__(self, index: Any) -> Self:
        """Some of the pairs, by whatever indexes a tensor."""
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass
class PreferenceBufferBatch(TrajectoryPairBatch):
    """The same, with what was preferred: (n, 2), the probability of either side."""

    prefs: torch.Tensor


COLUMNS = tuple(field.name for field in fields(PreferenceBufferBatch))


class PreferenceBuffer(torch.utils.data.Dataset[PreferenceBufferBatch]):
    """The newest `capacity` pairs, as a data set: each field is a list of tensors (`first_obs`, …, `prefs`),
    in which a new pair takes the place `pos` of the oldest one when all are in use. SchemaError: a capacity
    that is no number of pairs."""

    first_obs: list[torch.Tensor]
    first_acts: list[torch.Tensor]
    first_rews: list[torch.Tensor]
    first_dones: list[torch.Tensor]
    second_obs: list[torch.Tensor]
    second_acts: list[torch.Tensor]
    second_rews: list[torch.Tensor]
    second_dones: list[torch.Tensor]
    prefs: list[torch.Tensor]

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity = positive("capacity", capacity) if capacity != 0 else 0
        self.size = 0
        self.pos = 0
        for name in COLUMNS:
            setattr(self, name, [])

    def add(self, batch: PreferenceBufferBatch) -> None:
        """Add pairs. SchemaError: fields of different lengths, or a buffer of capacity 0; nothing is added
        then."""
        lengths = {name: len(getattr(batch, name)) for name in COLUMNS}
        count = lengths["first_obs"]
        if any(length != count for length in lengths.values()):
            raise SchemaError(f"the fields of a batch have different numbers of pairs: {lengths}")
        if count and not self.capacity:
            raise SchemaError(
                f"{count} pairs do not fit into a buffer of capacity 0: make it with a larger capacity"
            )
        room = self.capacity - self.size
        for name in COLUMNS:
            kept, new = getattr(self, name), getattr(batch, name)
            kept.extend(new[:room])
            for number in range(room, count):
                kept[(self.pos + number - room) % self.capacity] = new[number]
        self.size += min(count, room)
        if count > room:
            self.pos = (self.pos + count - room) % self.capacity

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> PreferenceBufferBatch:
        """One pair."""
        return PreferenceBufferBatch(**{name: getattr(self, name)[index] for name in COLUMNS})
