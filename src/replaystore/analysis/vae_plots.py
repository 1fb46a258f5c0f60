"""Five pictures of what a `FragmentVAE` makes of some fragments: latent numbers, reconstructions and their
errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replaystore.analysis.figures import MAX_LINES, figure, histogram, line_style, save, whole_numbers
from replaystore.analysis.vae import FragmentVAE, kl_divergence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_all"]

SHOWN = 5
"""Fragments whose reconstructions are drawn."""
BINS = 50


@torch.no_grad()
def draw_all(model: FragmentVAE, fragments: Tensor, folder: str | os.PathLike[str], title: str) -> list[Path]:
    """Draw all pictures of fragments (n, steps, state) into a folder, which is made; their paths. `title`
    says whose they are."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    model.eval()
    batches = (
        fragments[start : start + 256].to(model.mean.device) for start in range(0, len(fragments), 256)
    )
    found = zip(*(model(batch) for batch in batches), strict=True)
    reconstructed, mean, log_variance = (torch.cat(parts).cpu() for parts in found)
    kl = kl_divergence(mean, log_variance).mean(dim=0).numpy()
    center, scale = model.mean.cpu(), model.std.cpu()
    pictures = {
        "latent_space_2d": _scatter(mean.numpy()),
        "latent_space_heatmap": _heatmap(mean.numpy()),
        "reconstructions": _reconstructions(fragments.cpu(), reconstructed, center, scale),
        "reconstruction_errors": _errors(((fragments.cpu() - reconstructed).abs() / scale).numpy()),
        "kl_per_dimension": _kl(kl),
    }
    for name, made in pictures.items():
        made.suptitle(title, fontsize=11, color="#444444")
        save(made, place / f"{name}.png")
    return [place / f"{name}.png" for name in pictures]


def _scatter(mean: NDArray[Any]) -> Any:
    made, axes = figure(10, 8)
    only = axes[0, 0]
    second = mean[:, 1] if mean.shape[1] > 1 else np.zeros(len(mean))
    only.scatter(mean[:, 0], second, s=50, alpha=0.6, color="#2f6db3", edgecolor="none")
    only.set(
        xlabel="latent dimension 0",
        ylabel="latent dimension 1",
        title=(f"VAE Latent Space (First 2 Dimensions)\n{len(mean)} samples"),
    )
    only.grid(alpha=0.3)
    return made


def _heatmap(mean: NDArray[Any]) -> Any:
    made, axes = figure(12, 8)
    only = axes[0, 0]
    image = only.imshow(mean.T, aspect="auto", cmap="viridis", interpolation="nearest")
    made.colorbar(image, ax=only, label="Latent Value")
    only.set(xlabel="Sample Index", ylabel="Latent Dimension", title=f"Latent Means of {len(mean)} Fragments")
    whole_numbers(only.yaxis)
    return made


def _reconstructions(original: Tensor, reconstructed: Tensor, center: Tensor, scale: Tensor) -> Any:
    """States over time as lines; of more dimensions than lines can be told apart, as an image."""
    count, _, width = original[:SHOWN].shape
    made, axes = figure(12, 3 * count, count, 2, sharex=True, sharey="row")
    image = None
    for row in range(count):
        for place, states, what in zip(
            axes[row], (original[row], reconstructed[row]), ("Original", "Reconstruction"), strict=True
        ):
            if width <= MAX_LINES:
                _states(place, states.numpy())
            else:
                image = _image(place, ((states - center) / scale).numpy())
            place.set_title(f"{what} {row + 1}", fontsize=11)
        axes[row, 0].set_ylabel("state" if width <= MAX_LINES else "dimension")
    for place in axes[-1]:
        place.set_xlabel("step")
        whole_numbers(place.xaxis)
    if image is None:
        lines = axes[0, 0].get_lines()
        names = [str(number) for number in range(width)]
        made.legend(lines, names, title="dimension", loc="outside right upper", fontsize=9, handlelength=3)
    else:
        made.colorbar(image, ax=axes, label="state, in standard deviations of its dimension", aspect=60)
    return made


def _states(axes: Axes, states: NDArray[Any]) -> None:
    for number in range(states.shape[1]):
        axes.plot(states[:, number], linewidth=1.1, **line_style(number))
    axes.grid(alpha=0.2)


def _image(axes: Axes, states: NDArray[Any]) -> Any:
    whole_numbers(axes.yaxis)
    return axes.imshow(states.T, aspect="auto", cmap="RdBu_r", interpolation="nearest", vmin=-3, vmax=3)


def _errors(errors: NDArray[Any]) -> Any:
    made, axes = figure(10, 6)
    only = axes[0, 0]
    high = float(np.percentile(errors, 99.9)) or 1.0
    edges = np.linspace(0, high, BINS + 1)
    histogram(only, edges, np.histogram(np.minimum(errors, high), edges)[0], "#2f6db3")
    middle, mean = float(np.median(errors)), float(errors.mean())
    only.axvline(middle, color="#17375e", linestyle="--", label=f"median {middle:.3g}")
    only.axvline(mean, color="#e07b28", label=f"mean {mean:.3g}")
    title = f"Reconstruction Errors of {errors.size:,} States"
    only.set(
        xlabel="absolute error, in standard deviations of its dimension (last bar: and beyond)",
        ylabel="states",
        title=title,
    )
    only.set_xlim(0, high)
    only.legend()
    return made


def _kl(kl: NDArray[Any]) -> Any:
    made, axes = figure(10, 6)
    only = axes[0, 0]
    only.bar(np.arange(len(kl)), kl, color="#2f6db3")
    title = f"KL Divergence per Latent Dimension (sum {kl.sum():.1f} nats)"
    only.set(xlabel="latent dimension", ylabel="mean KL divergence in nats", title=title)
    only.set_xlim(-0.6, len(kl) - 0.4)
    whole_numbers(only.xaxis)
    return made
