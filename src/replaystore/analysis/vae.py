"""A variational autoencoder of fragments: (batch, steps, state) → a few numbers → (batch, steps, state).

Two convolutions over time, then linear layers, give the mean and the spread of the latent numbers; linear
layers lead back. Straight linear paths beside both halves make the model at least as good as principal
components from the start; what is nonlinear is learned on top. States come and go in their own units: the
model keeps the mean and the standard deviation of each dimension, and works with what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from replaystore.errors import ArgumentError

__all__ = ["FragmentVAE", "kl_divergence"]

CHANNELS = (128, 256)
LOG_VARIANCE = (-6.0, 3.0)
"""Beyond these, the spread of a latent number has no meaning, and its exponential would overflow."""


class FragmentVAE(nn.Module):
    """The model; `config` makes another of the same shape: `FragmentVAE(**model.config)`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        state_dim: int,
        fragment_length: int,
        latent_dim: int = 32,
        hidden_dims: Sequence[int] = (128, 64, 32),
        dropout: float = 0.1,
        kernel_size: int = 3,
        channels: Sequence[int] = CHANNELS,
    ) -> None:
        super().__init__()
        sizes = {
            "state_dim": state_dim,
            "fragment_length": fragment_length,
            "latent_dim": latent_dim,
            "kernel_size": kernel_size,
        }
        widths = [
            *(("hidden_dims", width) for width in hidden_dims),
            *(("channels", width) for width in channels),
        ]
        for name, value in [*sizes.items(), *widths]:
            if value < 1:
                raise ArgumentError(f"{name} must be positive, not {value}")
        if not hidden_dims or not 0 <= dropout < 1:
            raise ArgumentError(
                "hidden_dims needs at least one layer, and dropout lies in [0, 1): got "
                f"{list(hidden_dims)} and {dropout}"
            )
        if len(channels) != 2:
            raise ArgumentError(f"channels are those of two convolutions: got {list(channels)}")
        self.config: dict[str, Any] = {
            **sizes,
            "hidden_dims": list(hidden_dims),
            "dropout": dropout,
            "channels": list(channels),
        }
        self.register_buffer("mean", torch.zeros(state_dim))
        self.register_buffer("std", torch.ones(state_dim))
        flat = fragment_length * state_dim
        # So that even sizes keep the number of steps, too.
        around = ((kernel_size - 1) // 2, kernel_size // 2)
        self.convolutions = nn.Sequential(
            nn.ConstantPad1d(around, 0.0),
            nn.Conv1d(state_dim, channels[0], kernel_size),
            nn.ReLU(),
            nn.ConstantPad1d(around, 0.0),
            nn.Conv1d(channels[0], channels[1], kernel_size),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.encoder = _layers([channels[1] * fragment_length, *hidden_dims], dropout)
        self.latent = nn.Linear(hidden_dims[-1], 2 * latent_dim)
        self.straight_in = nn.Linear(flat, latent_dim, bias=False)
        self.decoder = _layers([latent_dim, *reversed(hidden_dims)], dropout)
        self.states = nn.Linear(hidden_dims[0], flat)
        self.straight_out = nn.Linear(latent_dim, flat, bias=False)

    def set_scale(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and standard deviation (state,) of the states; dimensions that never change keep their
        unit."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-8, std, torch.ones_like(std)))

    def standardised(self, fragments: Tensor) -> Tensor:
        """States less their mean, in standard deviations."""
        return (fragments - self.mean) / self.std

    def encode(self, fragments: Tensor) -> tuple[Tensor, Tensor]:
        """Fragments (n, steps, state) → mean and log-variance of their latent numbers, (n, latent) each."""
        inputs = self.standardised(fragments)
        mean, log_variance = self.latent(self.encoder(self.convolutions(inputs.transpose(1, 2)))).chunk(
            2, dim=-1
        )
        return mean + self.straight_in(inputs.flatten(1)), log_variance.clamp(*LOG_VARIANCE)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent numbers (n, latent) → fragments (n, steps, state)."""
        flat = self.states(self.decoder(latent)) + self.straight_out(latent)
        states: Tensor = flat.unflatten(1, (self.config["fragment_length"], self.config["state_dim"]))
        return states * self.std + self.mean

    def forward(self, fragments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstructions, and mean and log-variance of the latent numbers, which are drawn in training and
        the mean otherwise."""
        mean, log_variance = self.encode(fragments)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return self.decode(latent), mean, log_variance


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of each latent number from the standard normal distribution: (n, latent) → (n, latent), in nats."""
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp())


def _layers(widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
