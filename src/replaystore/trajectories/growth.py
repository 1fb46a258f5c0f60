"""What is added to a buffer, for whoever follows it step by step: a sampler that shows steps when they are
appended, or a reader that goes on to newer commits.

There are two that tell: the recorder of the process that writes (of steps that no commit has yet, too), and a
commit of a store that is read. Numbers of parts and of final observations count from the first ever; those
that have left a ring keep theirs.

Invariants: (1) what `closed` has told never changes, and is told in the order in which parts end;
(2) whoever follows pays for what is new, whatever there is behind it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Growth", "OpenParts"]

Rows = NDArray[np.int64]


class OpenParts(NamedTuple):
    """The parts that still grow, one for each open trajectory that has a step in one; int64, shape (n,).

    No array is changed once it has been told. While the parts are the same ones, those that say which they
    are may be the same arrays again: whoever follows need not compare them then."""

    start: Rows
    length: Rows
    stride: Rows
    trajectory: Rows
    offset: Rows
    followed: NDArray[np.bool_]
    """Whether the observation after the last step is known."""


class Growth(Protocol):
    """A buffer that grows."""

    @property
    def bounds(self) -> tuple[int, int]:
        """The oldest row that counts, and the row behind the newest one."""
        ...

    @property
    def generation(self) -> int:
        """Grows when rows were given up by a rollback: whoever follows begins anew."""
        ...

    @property
    def oldest_part(self) -> int:
        """The number of the oldest part that `closed` can still tell."""
        ...

    @property
    def closed_parts(self) -> int:
        """How many parts have ended, those that have left a ring included."""
        ...

    def closed(self, since: int) -> Rows:
        """The parts from number `since` on, shape (n, 6), the columns of `columns.PARTS`."""
        ...

    def opened(self) -> OpenParts:
        """The parts that still grow, in the order of their trajectories' numbers."""
        ...

    def following(self, name: str) -> NDArray[Any]:
        """The observations after the last steps of `opened()`, shape (n, *field shape), of any value where
        `followed` is False."""
        ...

    def final_rows(self, name: str, numbers: Rows) -> NDArray[Any]:
        """Final observations by number, shape (len(numbers), *field shape)."""
        ...
