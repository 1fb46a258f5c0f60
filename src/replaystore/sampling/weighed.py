"""The weights of a sampler, as whoever uses it sees and sets them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling import given_weights
from replaystore.sampling.batches import Batches
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.weighted_order import StepWeights, TrajectoryWeights

__all__ = ["Weighed"]


class Weighed:
    """What a sampler has to do with weights."""

    _recipe: Recipe
    _batches: Batches
    _ignored: int

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weights: of each step of the buffer, or of each row of its table of trajectories. 0 where
        nothing can be drawn."""
        return self._weighted().values

    @property
    def ignored(self) -> int:
        """How many weights were set of what had left the ring by then."""
        return self._ignored

    @property
    def mass(self) -> float:
        """How much there is to draw from: items, trajectories, or the sum of weights."""
        found: float = self._batches.order.mass
        return found

    @property
    def smallest(self) -> float:
        """The smallest weight that can be drawn."""
        return self._weighted().weights.smallest

    @property
    def largest(self) -> float:
        """The weight of what is new."""
        return self._weighted().largest

    @largest.setter
    def largest(self, weight: float) -> None:
        self._weighted().largest = weight

    def update_priorities(self, index: ArrayLike, priorities: ArrayLike) -> None:
        """Set the priorities of steps, as of the next batch: they weigh priority ** alpha. `index`: as that
        of `update_weights`."""
        alpha = self._recipe.alpha
        if alpha is None:
            raise ArgumentError('this sampler has no priorities: make one with order="prioritized"')
        places, values = given_weights.flat("priorities", index, priorities)
        self._update(places, given_weights.of_priorities(values, alpha))

    def update_weights(self, index: ArrayLike, weights: ArrayLike) -> None:
        """Set weights, as of the next batch. What has left a ring is passed over, and counted by `ignored`.

        Args:
            index: which steps, as numbers that are theirs for ever: `batch["index"]`. Of weights for
                trajectories their ids: `batch["trajectory"]`.
            weights: one for each.

        Raises:
            ArgumentError: one that is not finite or negative, or of what does not exist; none is set then.
        """
        self._weighted()
        places, values = given_weights.flat("weights", index, weights)
        given_weights.check(values)
        self._update(places, values)

    def _update(self, places: NDArray[Any], weights: NDArray[np.float64]) -> None:
        order = self._weighted()
        stop = order.stop
        if len(places) and not (places.min() >= 0 and places.max() < stop):
            what = "trajectories" if self._recipe.per_trajectory else "rows"
            raise ArgumentError(f"index from {places.min()} to {places.max()}: {what} end before {stop}")
        self._ignored += order.update(places.astype(np.int64, copy=False), weights)

    def _weighted(self) -> StepWeights | TrajectoryWeights:
        if not self._recipe.weighted:
            raise ArgumentError("this sampler has no weights: make one with weights=...")
        order: StepWeights | TrajectoryWeights = self._batches.order
        return order
