"""What the scores and lengths of trajectories tell: numbers for the logs, and how likely each is in priority
sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["likelihoods", "log", "summary"]


class Scored(Protocol):
    """A trajectory."""

    length: int
    split: str
    on_policiness_score: float


def likelihoods(scores: Sequence[float]) -> NDArray[np.float64]:
    """The more a score is above the mean, the likelier, below it never; all alike if all scores are the
    same."""
    known = np.array(scores)
    spread = known.std()
    weights = np.maximum(0, (known - known.mean()) / spread) if spread > 0 else np.ones(len(known))
    total = weights.sum()
    likely: NDArray[np.float64] = weights / total if total > 0 else np.full(len(known), 1 / len(known))
    return likely


def summary(trajectories: Sequence[Scored]) -> dict[str, Any]:
    """Numbers of trajectories, and of lengths and scores the mean, standard deviation, smallest and largest
    value."""
    if not trajectories:
        names = ("mean_length", *(f"{kind}_on_policiness_score" for kind in ("mean", "std", "min", "max")))
        return {"num_trajectories": 0} | dict.fromkeys(names, 0.0)
    scores, splits = (
        [known.on_policiness_score for known in trajectories],
        [known.split for known in trajectories],
    )
    return {
        "num_trajectories": len(trajectories),
        "num_train_trajectories": splits.count("train"),
        "num_val_trajectories": splits.count("val"),
        "mean_length": np.mean([known.length for known in trajectories]),
        "mean_on_policiness_score": np.mean(scores),
        "std_on_policiness_score": np.std(scores),
        "min_on_policiness_score": np.min(scores),
        "max_on_policiness_score": np.max(scores),
    }


def log(trajectories: Sequence[Scored], writer: Any, step: int) -> None:
    """Write them to a TensorBoard `SummaryWriter`, under replay_buffer/."""
    found = {"num_train_trajectories": 0, "num_val_trajectories": 0} | summary(trajectories)
    for name in ("num_trajectories", "num_train_trajectories", "num_val_trajectories"):
        writer.add_scalar(f"replay_buffer/{name}", found[name], step)
    writer.add_scalar("replay_buffer/mean_trajectory_length", found["mean_length"], step)
    for kind in ("mean", "std", "min", "max"):
        writer.add_scalar(
            f"replay_buffer/{kind}_on_policiness_score", found[f"{kind}_on_policiness_score"], step
        )
