"""Numbers drawn in proportion to weights that change, and that become more: a tree of sums, of which the
lowest level are the weights.

A node has FAN children, so that a draw of many numbers is a few steps of NumPy for each of the few levels;
the top level is searched by its cumulated sums. Sums are made anew from the children whenever one of them
changes: they do not drift, and sums of whole numbers are exact. A second tree, of the smallest weights above
0, is for importance weights, which orders.py computes. `Sampler.update_weights` (weighed.py) checks what is
given.
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
        weights: float64, finite and not negative, shape (n,).
        shared: among how many each weight is shared; `smallest` and `draw` speak of the shares.
        room: positions that there are at least; those behind the weights weigh 0.
        least: whether `smallest` is going to be asked for.
    """

    def __init__(
        self,
        weights: Floats,
        shared: NDArray[np.int64] | None = None,
        *,
        room: int = 0,
        least: bool = True,
    ) -> None:
        self._size = max(len(weights), room)
        self._shared, self._with_least = shared, least
        # zeros: memory of what is never written to is not taken
        leaves = np.zeros(max(1, -(-self._size // FAN)) * FAN)
        leaves[: len(weights)] = weights
        self._sums: list[Floats] = [leaves]
        self._least: list[Floats] = []
        """Of the levels above the weights."""
        while len(self._sums[-1]) > TOP:
            if least:
                below = self._least[-1] if self._least else self._leaf_shares()
                self._least.append(_padded(below.reshape(-1, FAN).min(axis=1), np.inf))
            self._sums.append(_padded(self._sums[-1].reshape(-1, FAN).sum(axis=1), 0.0))
        self._top: Floats | None = None

    def _leaf_shares(self) -> Floats:
        leaves = self._sums[0]
        if self._shared is None:
            return np.where(leaves > 0, leaves, np.inf)
        shares = np.full(len(leaves), np.inf)
        shares[: self._size] = self._shares(np.arange(self._size))
        return shares

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
        if self._least:
            return float(self._least[-1].min())
        return float(self._shares(np.arange(self._size)).min(initial=np.inf))

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
        node, _ = self.find(np.minimum(uniform * top[-1], np.nextafter(top[-1], 0)))
        return node, self._shares(node)

    def find(self, target: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The positions where the sum of the weights up to them first exceeds these numbers, which are less
        than `total`; and by how much they exceed the sum of those before."""
        top = self._cumulated()
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
        return node, target

    def update(self, positions: NDArray[np.int64], weights: Floats) -> None:
        """Set weights; of a position given twice the last counts. Time grows with the number of levels."""
        node = positions
        self._sums[0][node] = weights
        shares: Floats | None = None
        for level in range(1, len(self._sums)):
            children = _children(self._sums[level - 1], node // FAN)
            node = node // FAN
            self._sums[level][node] = children.sum(axis=0)
            if not self._with_least:
                continue
            if level > 1:
                shares = _children(self._least[level - 2], node)
            elif self._shared is None:
                shares = np.where(children > 0, children, np.inf)
            else:
                shares = self._shares((node * FAN + np.arange(FAN)[:, None]).clip(max=self._size - 1))
            self._least[level - 1][node] = shares.min(axis=0)
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
