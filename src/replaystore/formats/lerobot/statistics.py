"""What LeRobot says of the values of features: smallest, largest, mean, standard deviation, count, and
quantiles, of each episode and of all.

All but quantiles are exact; these are of a sample, as LeRobot's own are. Pictures are numbers from 0 to 1, a
number for each channel, of a few frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Running", "numbers_of"]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLED_BYTES = 1 << 20
"""Of the rows that quantiles are of, for each feature."""
PICTURES = 4
"""Of a block, that are looked at."""


def numbers_of(values: NDArray[Any], *, picture: bool) -> NDArray[np.float64]:
    """Rows of numbers; of pictures a row for each pixel of a few."""
    if picture:
        some = values[:: max(1, len(values) // PICTURES)][:, ::2, ::2]
        return some.reshape(-1, values.shape[-1]).astype(np.float64) / 255.0
    with np.errstate(all="ignore"):
        return values.reshape(len(values), -1).astype(np.float64)


class Running:
    """The statistics of a feature, of rows that come in blocks."""

    def __init__(self) -> None:
        self.count = self.rows = 0
        self.least: Any = None
        self.most: Any = None
        self.mean: Any = 0.0
        self.squares: Any = 0.0
        self._sample: list[NDArray[np.float64]] = []
        self._sampled, self._every = 0, 1

    def add(self, rows: NDArray[np.float64], frames: int) -> None:
        """Rows of so many frames."""
        count, width = rows.shape
        with np.errstate(all="ignore"):
            mean = rows.mean(axis=0)
            squares = np.square(rows - mean).sum(axis=0)
            least, most = rows.min(axis=0), rows.max(axis=0)
            apart, total = mean - self.mean, self.rows + count
            self.squares = self.squares + squares + np.square(apart) * (self.rows * count / total)
            self.mean = self.mean + apart * (count / total)
        self.least = least if self.least is None else np.minimum(self.least, least)
        self.most = most if self.most is None else np.maximum(self.most, most)
        self.rows, self.count = total, self.count + frames
        self._sample.append(rows[:: self._every].copy() if self._every > 1 else rows)
        self._sampled += len(self._sample[-1])
        while self._sampled * width * 8 > SAMPLED_BYTES and self._sampled > 64:
            whole = np.concatenate(self._sample)[::2].copy()
            self._sample, self._sampled, self._every = [whole], len(whole), self._every * 2

    def told(self, shape: tuple[int, ...], *, picture: bool) -> dict[str, Any]:
        """As LeRobot has them: nested lists of the shape of the feature."""
        ordered = np.sort(np.concatenate(self._sample), axis=0)
        found = {
            "min": self.least,
            "max": self.most,
            "mean": self.mean,
            "std": np.sqrt(np.maximum(self.squares / max(1, self.rows), 0)),
        }
        found |= {name: ordered[round(share * (len(ordered) - 1))] for name, share in QUANTILES.items()}
        form = (shape[-1], 1, 1) if picture else shape
        told: dict[str, Any] = {
            name: _finite(values).reshape(form).tolist() for name, values in found.items()
        }
        return {**told, "count": [self.count]}


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """JSON has no other numbers."""
    return np.nan_to_num(values, nan=0.0, posinf=np.finfo(np.float64).max, neginf=np.finfo(np.float64).min)
