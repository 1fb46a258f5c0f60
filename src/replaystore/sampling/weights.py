"""Numbers drawn in proportion to weights that change: a tree of sums, of which the lowest level are the
weights.

A node has FAN children, so that a draw of many numbers is a few steps of NumPy for each of the few levels;
the top level is searched by its cumulated sums. Sums are made anew from the children whenever one of them
changes: they do not drift. A second tree, of the smallest weights above 0, is for importance
weights, which orders.py computes. `Sampler.update_weights` (sampler.py) checks what is given.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError

__all__ = ["WeightTree", "as_text", "from_text"]

FAN = 16
TOP = 4096
"""The most nodes of the top level."""

Floats = NDArray[np.float64]


def as_text(weights: Floats) -> str:
    """The bytes of float64 numbers (little-endian) in base64: a text passes through JSON and `torch.load`,
    and is quicker than a list."""
    return base64.b64encode(weights.astype("<f8", copy=False).tobytes()).decode("ascii")


def from_text(text: str) -> Floats:
    """The inverse of `as_text`; ArgumentError if it is none of its texts."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f8").astype(np.float64)
    except (ValueError, binascii.Error) as error:
        raise ArgumentError(f"these are not the weights of a sampler's state: {error}") from None


class WeightTree:
    """Weights by position; those that are 0 are never drawn.

    Args:
        weights: float64, finite and not negative, shape (n,); at least one.
        shared: among how many each weight is shared; `smallest` and `draw` speak of the shares.
    """

    def __init__(self, weights: Floats, shared: NDArray[np.int64] | None = None) -> None:
        self._size = len(weights)
        self._shared = shared
        self._sums: list[Floats] = [_padded(weights, 0.0)]
        self._least: list[Floats] = [_padded(self._shares(np.arange(len(weights))), np.inf)]
        while len(self._sums[-1]) > TOP:
            self._sums.append(_padded(self._sums[-1].reshape(-1, FAN).sum(axis=1), 0.0))
            self._least.append(_padded(self._least[-1].reshape(-1, FAN).min(axis=1), np.inf))
        self._top: Floats | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> Floats:
        """The weights; a view."""
        return self._sums[0][: self._size]

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self._cumulated()[-1])

    @property
    def smallest(self) -> float:
        """The smallest share above 0; infinite if there is none."""
        return float(self._least[-1].min())

    def _shares(self, positions: NDArray[np.int64]) -> Floats:
        """The shares at these positions, infinite for those that are not drawn."""
        weights = self._sums[0][positions]
        shares = weights if self._shared is None else weights / self._shared[positions]
        return np.where(weights > 0, shares, np.inf)

    def _cumulated(self) -> Floats:
        if self._top is None:
            self._top = np.cumsum(self._sums[-1])
        return self._top

    def draw(self, uniform: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The positions for these numbers in [0, 1), and their shares."""
        top = self._cumulated()
        target = np.minimum(uniform * top[-1], np.nextafter(top[-1], 0))
        node = np.searchsorted(top, target, side="right")
        target = target - np.where(node > 0, top[node - 1], 0.0)
        item = np.arange(len(node))
        for sums in reversed(self._sums[:-1]):
            before = np.zeros((FAN + 1, len(node)))
            np.cumsum(_children(sums, node), axis=0, out=before[1:])
            # Rounding may leave a target at or behind the sum of all: then it is the last child that weighs
            # anything.
            target = np.minimum(target, np.nextafter(before[-1], 0))
            child = (before[1:] <= target).view(np.int8).sum(axis=0, dtype=np.int8).astype(np.intp)
            target = target - before[child, item]
            node = node * FAN + child
        return node, self._shares(node)

    def update(self, positions: NDArray[np.int64], weights: Floats) -> None:
        """Set weights; of a position given twice the last counts. Time grows with the number of levels."""
        node = positions
        self._sums[0][node] = weights
        self._least[0][node] = self._shares(node)
        for level in range(1, len(self._sums)):
            node = node // FAN
            self._sums[level][node] = _children(self._sums[level - 1], node).sum(axis=0)
            self._least[level][node] = _children(self._least[level - 1], node).min(axis=0)
        self._top = None


def _children(level: Floats, node: NDArray[np.int64]) -> Floats:
    """The children of these nodes, shape (FAN, len(node)): NumPy goes along long rows in a quarter of the
    time of short columns."""
    return level.reshape(-1, FAN).take(node, axis=0).T.copy()


def _padded(values: Floats, fill: float) -> Floats:
    """A copy whose length is a multiple of FAN."""
    padded = np.full(max(1, -(-len(values) // FAN)) * FAN, fill)
    padded[: len(values)] = values
    return padded
