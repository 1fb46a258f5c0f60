"""What an assembler is told of the rows that are added: pieces, runs of rows of one environment in one
trajectory, with what is known of their beginnings and ends. Columns, one entry a piece.

When something happened is a number: that of a step, times STEP. What happens in a step has that number + STEP
- 1, what happens before it a lower one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEVER", "NOTHING_FOLLOWS", "NO_NUMBER", "STEP", "Following", "Piece", "Pieces"]

Ints = NDArray[np.int64]
STEP = 1 << 32
"""There are fewer resets between two steps."""
NEVER = -1
NO_NUMBER = -1
"""Of a trajectory that has no step yet."""


@dataclass
class Following:
    """The observations after the last steps of some environments: rows of arrays by field, of which row i is
    the i-th's. Known where `known` is True; without rows nowhere."""

    known: NDArray[np.bool_]
    rows: Mapping[str, NDArray[Any]]


NOTHING_FOLLOWS = Following(np.empty(0, np.bool_), {})


@dataclass
class Pieces:
    """Runs of rows; the pieces of one environment lie together, in the order of their steps.

    Two that follow each other in a trajectory are not adjacent. A piece of no rows is an environment's last
    one, and begins a trajectory."""

    env: Ints
    start: Ints
    """The first row, counted from the first of those that are added."""
    length: Ints
    when: Ints
    """When the first row was recorded."""
    begins: Ints
    """When a trajectory began, before the first row; NEVER: it goes on, if one is open."""
    seed: Ints
    """Of those that begin."""
    split: Ints
    """Of those that begin."""
    ends: Ints
    """When the trajectory ended; NEVER: it did not, unless the next piece begins one."""
    terminated: NDArray[np.bool_]
    """The flags of the last row."""
    truncated: NDArray[np.bool_]
    final: Ints
    """The row in `finals` of the observation after the last step of one that ends, or -1."""
    stride: int = 1
    """How far the rows of a piece lie apart."""
    apart: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """Pieces, first of an environment, whose first observation is not the one that was said to follow."""
    rows: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """By piece, further values of its trajectory's row of the table."""

    @classmethod
    def of(cls, count: int, stride: int = 1) -> Pieces:
        """So many, of which nothing is known yet."""
        zeros = np.zeros((6, count), np.int64)
        never = np.full((3, count), NEVER, np.int64)
        no = np.zeros((2, count), np.bool_)
        return cls(
            env=zeros[0],
            start=zeros[1],
            length=zeros[2],
            when=zeros[3],
            begins=never[0],
            seed=zeros[4] - 1,
            split=zeros[5],
            ends=never[1],
            terminated=no[0],
            truncated=no[1],
            final=never[2],
            stride=stride,
        )

    def take(self, order: Ints) -> Pieces:
        """The pieces in another order, with nothing said of single ones (`apart`, `rows`)."""
        columns = {name: column[order] for name, column in vars(self).items() if name in _COLUMNS}
        return Pieces(**columns, stride=self.stride)


@dataclass(slots=True)
class Piece:
    """One of few pieces, as `Pieces` has many."""

    env: int
    start: int
    length: int
    when: int
    begins: int = NEVER
    seed: int = -1
    split: int = 0
    ends: int = NEVER
    terminated: bool = False
    truncated: bool = False
    final: Mapping[str, NDArray[Any]] | None = None
    """The observation after the last row of one that ends."""
    rewards: NDArray[Any] | None = None
    following: Mapping[str, NDArray[Any]] | None = None
    """The observation after the last row of one that goes on."""
    stride: int = 1
    apart: bool = False


_COLUMNS = frozenset(
    ("env", "start", "length", "when", "begins", "seed", "split", "ends", "terminated", "truncated", "final")
)
