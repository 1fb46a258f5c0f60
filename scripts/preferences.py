"""Learning a reward from preferences: a teacher that knows the true one, the answers it gave, and an ensemble
of reward models."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from replaystore.compat.active_rlhf import ReplayBufferBatch


@dataclass
class Answers:
    """Pairs of fragments and which of the two the teacher prefers."""

    first: list[Tensor] = field(default_factory=list)
    """Each (fragment_length, observation_size + action_size)."""
    second: list[Tensor] = field(default_factory=list)
    preferred: list[float] = field(default_factory=list)
    """1: the first, 0: the second, 0.5: neither."""

    def __len__(self) -> int:
        return len(self.preferred)


@dataclass(frozen=True)
class Session:
    """What was asked at once."""

    differences: NDArray[np.float64]
    """Return of the first fragment of each pair less that of the second."""
    equal: int
    """How many pairs the teacher took for equal."""


class Teacher:
    """Prefers the fragment with the larger true return; returns that differ by at most `threshold` are equal
    to it."""

    def __init__(self, threshold: float, generator: np.random.Generator) -> None:
        self._threshold, self._generator = threshold, generator

    def ask(self, fragments: ReplayBufferBatch, num_pairs: int, answers: Answers) -> Session:
        """Make pairs of these fragments at random, no fragment being in two of them as far as they go round,
        and add the answers."""
        count = len(fragments.obs)
        order = np.concatenate(
            [self._generator.permutation(count) for _ in range(-(-2 * num_pairs // count))]
        )
        first, second = torch.from_numpy(order[: 2 * num_pairs].reshape(2, num_pairs))
        returns = fragments.rews.sum(dim=(1, 2)).double().cpu()
        difference = returns[first] - returns[second]
        inputs = torch.cat([fragments.obs, fragments.acts], dim=-1).cpu()
        answers.first += list(inputs[first])
        answers.second += list(inputs[second])
        equal = difference.abs() <= self._threshold
        answers.preferred += torch.where(equal, 0.5, (difference > 0).double()).tolist()
        return Session(difference.numpy(), int(equal.sum()))


@dataclass(frozen=True)
class RewardSettings:
    """Of the ensemble; the names are those of the command line after `reward_net_`."""

    epochs: int
    lr: float
    weight_decay: float
    max_grad_norm: float
    batch_size: int
    minibatch_size: int
    ensemble_size: int
    hidden_dims: tuple[int, ...]
    dropout: float
    val_split: float


class RewardEnsemble(nn.Module):
    """Several networks that each give a step its reward. Each begins elsewhere and sees the answers in
    another order."""

    def __init__(self, input_size: int, settings: RewardSettings, device: torch.device) -> None:
        super().__init__()
        self._settings, self._device = settings, device
        self.members = nn.ModuleList(
            _network(input_size, settings.hidden_dims, settings.dropout)
            for _ in range(settings.ensemble_size)
        )
        self.to(device)
        self._optimizers = [
            torch.optim.AdamW(member.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
            for member in self.members
        ]

    @torch.no_grad()
    def rewards(self, obs: Tensor, actions: Tensor) -> Tensor:
        """The mean of the members' rewards; (..., size) each → (...)."""
        self.eval()
        inputs = torch.cat([obs, actions], dim=-1)
        return torch.stack([member(inputs).squeeze(-1) for member in self.members]).mean(dim=0)

    def learn(self, answers: Answers, generator: np.random.Generator) -> dict[str, float]:
        """Some epochs over all answers but every so-many-th, which are only judged: train_loss, val_loss,
        accuracy."""
        settings = self._settings
        first, second = (torch.stack(side).to(self._device) for side in (answers.first, answers.second))
        preferred = torch.tensor(answers.preferred, dtype=torch.float32, device=self._device)
        numbers = np.arange(len(answers))
        # An answer keeps its part for ever, or the networks would be judged by what they have learned from.
        judged = np.floor((numbers + 1) * settings.val_split) > np.floor(numbers * settings.val_split)
        learned, judged = numbers[~judged], numbers[judged]
        losses = []
        self.train()
        for member, optimizer in zip(self.members, self._optimizers, strict=True):
            for _ in range(settings.epochs):
                order = generator.permutation(learned)
                for start in range(0, len(order), settings.batch_size):
                    batch = order[start : start + settings.batch_size]
                    optimizer.zero_grad()
                    # a batch may be too large for the device.
                    for place in range(0, len(batch), settings.minibatch_size):
                        rows = torch.from_numpy(batch[place : place + settings.minibatch_size])
                        loss = _loss(member, first[rows], second[rows], preferred[rows])
                        (loss * (len(rows) / len(batch))).backward()  # type: ignore[no-untyped-call]
                        losses.append(loss.item())
                    nn.utils.clip_grad_norm_(member.parameters(), settings.max_grad_norm)
                    optimizer.step()
        result = {"train_loss": float(np.mean(losses)) if losses else float("nan")}
        return result | self._judge(first, second, preferred, torch.from_numpy(judged))

    @torch.no_grad()
    def _judge(self, first: Tensor, second: Tensor, preferred: Tensor, rows: Tensor) -> dict[str, float]:
        if not len(rows):
            return {}
        self.eval()
        losses = [_loss(member, first[rows], second[rows], preferred[rows]).item() for member in self.members]
        both = torch.cat([first[rows], second[rows]])
        one, other = (
            torch.stack([member(both).sum(dim=(1, 2)) for member in self.members]).mean(dim=0).chunk(2)
        )
        clear = preferred[rows] != 0.5
        right = (one > other) == (preferred[rows] > 0.5)
        return {
            "val_loss": float(np.mean(losses)),
            "accuracy": right[clear].float().mean().item() if clear.any() else float("nan"),
        }


def _network(inputs: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip([inputs, *hidden], hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear([inputs, *hidden][-1], 1))


def _loss(member: nn.Module, first: Tensor, second: Tensor, preferred: Tensor) -> Tensor:
    """Bradley and Terry: the probability of preferring a fragment grows with the sum of its rewards."""
    one, other = member(torch.cat([first, second])).sum(dim=(1, 2)).chunk(2)
    return binary_cross_entropy_with_logits(one - other, preferred)
