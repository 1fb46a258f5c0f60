"""Which row of a vector step is which environment's, so that the rows of one lie a constant stride apart.

Of `count` environments, row r belongs to the lane r % count, and an environment keeps its lane. The rows of a
step that all of them record cover each lane once, wherever they begin. A step that some leave out covers a
run of lanes: an environment whose lane is not among them takes the lane of one that leaves the step out, and
leaves it its own. When rows of others lie between, or all environments are reset at once, all begin anew
(writer.py).

Invariants: (1) an environment that is not moved has its next row `count` rows behind its last one; (2) at
most as many are moved in a step as leave it out, and only in such a step; (3) what is decided for a step
depends on the steps since all began alone, not on how many are written at once, nor on commits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lanes"]

Ints = NDArray[np.int64]


class Lanes:
    """The lanes of so many environments, which begin with row `first` in the order of their numbers."""

    def __init__(self, count: int, first: int) -> None:
        self.count = count
        # A list: of few environments, it is looked at in less time than an operation on an array takes.
        self.at = [(first + env) % count for env in range(count)]
        """The lane of each environment."""

    def copy(self) -> Lanes:
        """Lanes that go their own way."""
        twin = Lanes(self.count, 0)
        twin.at = self.at.copy()
        return twin

    def places(self, first: int) -> Ints:
        """The row of each environment, counted from `first`, in a step from there on that all of them
        record."""
        return (np.array(self.at) - first) % self.count

    def order(self, first: int) -> Ints:
        """The environments in the order of those rows."""
        order = np.empty(self.count, np.int64)
        order[self.places(first)] = np.arange(self.count)
        return order

    def move(self, first: int, there: NDArray[np.bool_]) -> bool:
        """Move some for a step from row `first` on that only these record, so that its rows are the first of
        their `places`; whether any was moved."""
        here, count, at = there.tolist(), self.count, self.at
        rows, begin = here.count(True), first % count
        left = [env for env, one in enumerate(here) if not one and (at[env] - begin) % count < rows]
        if not left:
            return False
        moved = [env for env, one in enumerate(here) if one and (at[env] - begin) % count >= rows]
        for env, other in zip(moved, left, strict=True):
            at[env], at[other] = at[other], at[env]
        return True
