"""The weights of a sampler, as whoever uses it sees and sets them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling import given_weights
from replaystore.sampling.batches import Batches
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.steps import Rows
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
        self.set_weights(*self.checked_weights("priorities", index, priorities))

    def update_weights(self, index: ArrayLike, weights: ArrayLike) -> None:
        """Set weights, as of the next batch. What has left a ring is passed over, and counted by `ignored`.

        Args:
            index: which steps, as numbers that are theirs for ever: `batch["index"]`. Of weights for
                trajectories their ids: `batch["trajectory"]`.
            weights: one for each.

        Raises:
            ArgumentError: one that is not finite or negative, or of what does not exist; none is set then.
        """
        self.set_weights(*self.checked_weights("weights", index, weights))

    def checked_weights(self, what: str, index: Any, values: Any) -> tuple[Rows, NDArray[np.float64]]:
        """Which steps, and what they weigh, of "weights" or "priorities" of them. ArgumentError: something is
        wrong with one of them."""
        alpha = self._recipe.alpha
        if what == "priorities" and alpha is None:
            raise ArgumentError('this sampler has no priorities: make one with order="prioritized"')
        places, weights = given_weights.flat(what, index, values)
        if what == "priorities" and alpha is not None:
            weights = given_weights.of_priorities(weights, alpha)
        else:
            given_weights.check(weights)
        if len(places) and not (places.min() >= 0 and places.max() < self._stop_for(int(places.max()))):
            of = "trajectories" if self._recipe.per_trajectory else "rows"
            raise ArgumentError(
                f"index from {places.min()} to {places.max()}: {of} end before {self._weighted().stop}"
            )
        return places.astype(np.int64, copy=False), weights

    def set_weights(self, places: Rows, weights: NDArray[np.float64]) -> None:
        """Set weights that have been checked."""
        self._ignored += self._weighted().update(places, weights)

    def _stop_for(self, place: int) -> int:
        """The number behind the last one that has a weight, of who wants to set that of `place`."""
        return self._weighted().stop

    def _weighted(self) -> StepWeights | TrajectoryWeights:
        if not self._recipe.weighted:
            raise ArgumentError("this sampler has no weights: make one with weights=...")
        order: StepWeights | TrajectoryWeights = self._batches.order
        return order
