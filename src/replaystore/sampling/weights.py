"""Numbers drawn in proportion to weights that change, and that become more: a tree of sums, of which the
lowest level are the weights.

A node has FAN children, so that a draw of many numbers is a few steps of NumPy for each of the few levels;
the top level is searched by its cumulated sums. Sums are made anew from the children when one of them has
changed, before the next draw: they do not drift, and sums of whole numbers are exact. The smallest weight
above 0, for importance weights, is known until it is set anew itself; a second tree of the smallest ones
finds it then.

`orders.py` computes importance weights, `Sampler.update_weights` (weighed.py) checks what is given.
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
WAITING = 64
"""Updates at most that sums are made of at once."""

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
        smallest: the smallest share above 0, if that is known.
    """

    def __init__(
        self,
        weights: Floats,
        shared: NDArray[np.int64] | None = None,
        *,
        room: int = 0,
        least: bool = True,
        smallest: float | None = None,
    ) -> None:
        self._size = max(len(weights), room)
        self._shared, self._with_least = shared, least
        self._touched: list[NDArray[np.int64]] = []
        """Positions whose weights were set since sums were made of them."""
        self._smallest = smallest
        """None: it has to be looked for, in what `_least` has of the levels above the weights,"""
        self._least: list[Floats] = []
        self._lowered: list[NDArray[np.int64]] | None = None
        """when that is brought up to date at these positions, so many of them; None: it is made anew."""
        self._waiting = 0
        # zeros: memory of what is never written to is not taken
        leaves = np.zeros(max(1, -(-self._size // FAN)) * FAN)
        leaves[: len(weights)] = weights
        self._sums: list[Floats] = [leaves]
        while len(self._sums[-1]) > TOP:
            self._sums.append(_padded(_added(self._sums[-1].reshape(-1, FAN).T), 0.0))
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
        if self._smallest is None:
            if len(self._sums) == 1:
                self._smallest = float(self._shares(np.arange(self._size)).min(initial=np.inf))
            else:
                self._find_least()
                self._smallest = float(self._least[-1].min())
        return self._smallest

    def _shares(self, positions: NDArray[np.int64]) -> Floats:
        """The shares at these positions, infinite for those that are not drawn."""
        weights = self._sums[0][positions]
        shares = weights if self._shared is None else weights / self._shared[positions]
        return np.where(weights > 0, shares, np.inf)

    def _cumulated(self) -> Floats:
        """The cumulated sums of the top level, brought up to date."""
        if self._touched:
            node = _all_of(self._touched)
            for level, sums in enumerate(self._sums[1:]):
                node = node // FAN
                sums[node] = _added(_children(self._sums[level], node))
            self._top = None
        if self._top is None:
            self._top = np.cumsum(self._sums[-1])
        return self._top

    def _find_least(self) -> None:
        """Bring the tree of the smallest up to date."""
        if self._lowered is None:
            self._least = []
            for _ in self._sums[1:]:
                below = self._least[-1] if self._least else self._leaf_shares()
                self._least.append(_padded(below.reshape(-1, FAN).min(axis=1), np.inf))
            self._lowered, self._waiting = [], 0
            return
        if not self._lowered:
            return
        node = np.unique(_all_of(self._lowered) // FAN)
        self._waiting = 0
        for level, least in enumerate(self._least):
            if level:
                node = np.unique(node // FAN)
                shares = _children(self._least[level - 1], node)
            elif self._shared is None:
                children = _children(self._sums[0], node)
                shares = np.where(children > 0, children, np.inf)
            else:
                shares = self._shares((node * FAN + np.arange(FAN)[:, None]).clip(max=self._size - 1))
            least[node] = shares.min(axis=0)

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
            upto = _cumulate(_children(sums, node))
            # Rounding may leave a target at or behind the sum of all: then it is the last child that weighs
            # anything.
            target = np.minimum(target, np.nextafter(upto[-1], 0))
            child = (upto <= target).view(np.int8).sum(axis=0, dtype=np.int8).astype(np.intp)
            target -= np.where(child > 0, upto[child - 1, item], 0.0)
            node = node * FAN + child
        return node, target

    def update(self, positions: NDArray[np.int64], weights: Floats) -> None:
        """Set weights; of a position given twice the last counts."""
        before = self._smallest
        lost = before is not None and np.count_nonzero(self._shares(positions) == before) > 0
        self._sums[0][positions] = weights
        self._touched.append(positions)
        if len(self._touched) > WAITING:
            self._cumulated()
        if not self._with_least:
            return
        if before is not None:
            new = float(self._shares(positions).min(initial=np.inf))
            # What was the smallest may have been the only one of its kind.
            self._smallest = new if new <= before else None if lost else before
        if self._lowered is not None:
            self._lowered.append(positions)
            self._waiting += len(positions)
            if self._waiting * FAN > self._size:
                self._lowered = None


def _all_of(several: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All of them in one; the list is empty then."""
    found = several[0] if len(several) == 1 else np.concatenate(several)
    several.clear()
    return found


def _children(level: Floats, node: NDArray[np.int64]) -> Floats:
    """The children of these nodes, shape (FAN, len(node)): NumPy goes along long rows in a quarter of the
    time of short columns."""
    return level.reshape(-1, FAN).take(node, axis=0).T.copy()


def _added(children: Floats) -> Floats:
    """The sums of children, shape (FAN, nodes). They are added in the same order however many nodes there
    are, so that a tree is the same whether it was built of its weights or they were set: not so `sum`."""
    while len(children) > 1:
        half = len(children) // 2
        children = children[:half] + children[half:]
    found: Floats = children[0]
    return found


def _cumulate(children: Floats) -> Floats:
    """The sums of children up to each, in their place.

    Four are added one by one, and then four by four: it takes half of the time of `cumsum`. Like that, too,
    sums never fall, and stay as they are at a child that weighs nothing."""
    groups = children.reshape(FAN // 4, 4, -1)
    first, second, third, fourth = (groups[:, at] for at in range(4))
    second += first
    third += second
    fourth += third
    for group in range(1, len(groups)):
        groups[group] += groups[group - 1, 3]
    return children


def _padded(values: Floats, fill: float) -> Floats:
    """A copy whose length is a multiple of FAN."""
    padded = np.full(max(1, -(-len(values) // FAN)) * FAN, fill)
    padded[: len(values)] = values
    return padded
