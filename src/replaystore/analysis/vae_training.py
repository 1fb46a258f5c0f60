"""Training a `FragmentVAE`: epochs over all fragments, a KL weight that rises, data that are unlocked, a stop
when nothing is gained.

Errors are in standard deviations: 1 is what predicting the mean of each state dimension gives. What is
minimised is the mean squared error of a state plus `kl_weight` times the KL divergence of a fragment, divided
among its states; with weight 1 it is, but for a factor, the evidence lower bound of a normal distribution
with variance 1/2 around the reconstruction. So the weight means the same for all fragments.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from replaystore.analysis.fragments import Fragments, TrajectoryBuffer, statistics
from replaystore.analysis.vae import FragmentVAE, kl_divergence
from replaystore.errors import ArgumentError

__all__ = ["Losses", "Result", "Settings", "Unlocking", "mean_error", "train"]

SCHEDULES = ("linear", "exponential", "step")
MAX_VALIDATION = 4096
"""Fragments that an epoch is judged by at most."""


@dataclass(frozen=True)
class Unlocking:
    """Begin with the oldest part of the trajectories and go on to more: `initial` to `final` of them over the
    epochs."""

    initial: float = 0.1
    final: float = 1.0
    schedule: str = "linear"
    steps: int = 10
    """Of the schedule "step"."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ArgumentError(
                f"the unlock schedule is one of {', '.join(SCHEDULES)}, not {self.schedule!r}"
            )
        if not 0 < self.initial <= self.final <= 1 or self.steps < 1:
            given = f"{self.initial}, {self.final} and {self.steps}"
            raise ArgumentError(
                "unlocking needs 0 < initial fraction <= final fraction <= 1 and at least "
                f"one step, not {given}"
            )

    def fraction(self, epoch: int, epochs: int) -> float:
        """The part that an epoch uses; the last one uses `final`."""
        progress = epoch / max(1, epochs - 1)
        if self.schedule == "exponential":
            progress = 2**progress - 1
        elif self.schedule == "step":
            progress = int(progress * self.steps) / self.steps
        return self.initial + (self.final - self.initial) * progress


@dataclass(frozen=True)
class Settings:
    """How to train."""

    epochs: int = 50
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-4
    kl_weight: float = 1.0
    kl_warmup_epochs: int = 10
    """The KL weight rises from 0 over so many epochs."""
    patience: int = 10
    """Stop after so many epochs without a gain, once the KL weight and the data are what they stay; 0 never
    stops."""
    unlocking: Unlocking | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.lr <= 0:
            raise ArgumentError(
                f"epochs, batch_size and lr must be positive, not {self.epochs}, "
                f"{self.batch_size} and {self.lr}"
            )
        if min(self.weight_decay, self.kl_weight, self.kl_warmup_epochs, self.patience) < 0:
            raise ArgumentError("weight_decay, kl_weight, kl_warmup_epochs and patience must not be negative")


@dataclass(frozen=True)
class Losses:
    """Means over fragments."""

    recon: float
    """Squared error of a state, in variances."""
    kl: float
    """KL divergence of a fragment, in nats."""
    total: float


@dataclass(frozen=True)
class Result:
    """What came of it. The model is left as it was after the best epoch."""

    epochs: int
    best_epoch: int
    recon: float
    """Validation error of the best epoch."""
    mean_recon: float
    """Validation error of predicting the mean."""


def train(
    model: FragmentVAE,
    buffer: TrajectoryBuffer,
    train_data: Fragments,
    val_data: Fragments,
    settings: Settings,
    report: Callable[[int, Mapping[str, float]], None],
) -> Result:
    """Train `model`, whose scale is set first. `report(epoch, values)` is called after each epoch. An
    exception, of `report` or Ctrl-C, leaves the model as it was after the best epoch so far.

    The same seed, data and device give the same model (but for what the device itself leaves to chance)."""
    torch.manual_seed(settings.seed)
    generator = np.random.default_rng(settings.seed)
    device = model.mean.device
    scale = statistics(buffer, "obs", train_data.trajectories)
    if not np.isfinite(scale.mean).all():
        raise ArgumentError(
            "some observations to learn from are not finite: leave out the trajectories that have them"
        )
    model.set_scale(
        torch.as_tensor(scale.mean, dtype=torch.float32), torch.as_tensor(scale.std, dtype=torch.float32)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    best, best_epoch, best_recon, waited, epoch = float("inf"), 0, float("nan"), 0, 0
    best_state = copy.deepcopy(model.state_dict())
    unlocked, last_count = train_data, len(train_data.trajectories)
    try:
        for epoch in range(settings.epochs):
            values: dict[str, float] = {}
            if settings.unlocking is not None:
                fraction = settings.unlocking.fraction(epoch, settings.epochs)
                last_count = max(1, int(len(train_data.trajectories) * settings.unlocking.final))
                count = max(1, int(len(train_data.trajectories) * fraction))
                unlocked = Fragments(buffer, train_data.trajectories[:count], train_data.length)
                values |= {"data_fraction": fraction, "train_trajectories_used": count}
                values |= {"val_trajectories_used": len(val_data.trajectories)}
            share = min(1.0, (epoch + 1) / (settings.kl_warmup_epochs + 1))
            learned = _epoch(
                model,
                optimizer,
                unlocked.epoch(settings.batch_size, generator),
                settings.kl_weight * share,
                device,
            )
            judged = evaluate(model, val_data, settings)
            values |= {f"train_{name}_loss": value for name, value in vars(learned).items()}
            values |= {f"val_{name}_loss": value for name, value in vars(judged).items()}
            if judged.total < best:
                best, best_epoch, best_recon, waited = judged.total, epoch, judged.recon, 0
                best_state = copy.deepcopy(model.state_dict())
            elif share == 1.0 and len(unlocked.trajectories) == last_count:
                waited += 1
            report(epoch, values)
            if settings.patience and waited >= settings.patience:
                break
    finally:  # an interrupted training leaves what it has, too
        model.load_state_dict(best_state)
    return Result(epoch + 1, best_epoch, best_recon, mean_error(model, val_data, settings.batch_size))


def _epoch(
    model: FragmentVAE,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Tensor],
    kl_weight: float,
    device: torch.device,
) -> Losses:
    model.train()
    rows = []
    for batch in batches:
        fragments = batch.to(device)
        recon, kl = _losses(model, fragments)
        loss = recon + kl_weight * kl / fragments[0].numel()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rows.append((len(batch), recon.item(), kl.item(), loss.item()))
    return _mean(rows)


@torch.no_grad()
def evaluate(model: FragmentVAE, data: Fragments, settings: Settings) -> Losses:
    """The losses at the full KL weight, without chance."""
    model.eval()
    rows = []
    for batch in data.in_order(settings.batch_size, MAX_VALIDATION):
        fragments = batch.to(model.mean.device)
        recon, kl = _losses(model, fragments)
        rows.append(
            (
                len(batch),
                recon.item(),
                kl.item(),
                (recon + settings.kl_weight * kl / fragments[0].numel()).item(),
            )
        )
    return _mean(rows)


@torch.no_grad()
def mean_error(model: FragmentVAE, data: Fragments, batch_size: int) -> float:
    """The reconstruction error of predicting the mean of each state dimension."""
    batches = data.in_order(batch_size, MAX_VALIDATION)
    return _mean(
        [
            (len(batch), (model.standardised(batch.to(model.mean.device)) ** 2).mean().item(), 0.0, 0.0)
            for batch in batches
        ]
    ).recon


def _losses(model: FragmentVAE, fragments: Tensor) -> tuple[Tensor, Tensor]:
    reconstructed, mean, log_variance = model(fragments)
    error = (model.standardised(reconstructed) - model.standardised(fragments)) ** 2
    return error.mean(), kl_divergence(mean, log_variance).sum(dim=-1).mean()


def _mean(rows: Iterable[tuple[int, float, float, float]]) -> Losses:
    table = np.array(list(rows))
    return Losses(*(float(value) for value in np.average(table[:, 1:], axis=0, weights=table[:, 0])))
