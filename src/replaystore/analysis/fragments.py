"""Rows and fragments of a ring of trajectories, read block by block.

The ring is what a drop-in buffer of `replaystore.compat` with trajectories is: `capacity` places, of which
`trajectories` are runs that may reach round the end. Whether its tensors are in memory or in a store makes no
difference: only the rows of a block or a batch are read at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replaystore.errors import ArgumentError
from replaystore.views.statistics import Statistics

__all__ = [
    "Fragments",
    "TrajectoryBuffer",
    "TrajectoryLike",
    "blocks",
    "places",
    "random_rows",
    "statistics",
    "unowned",
]

BLOCK_BYTES = 8 << 20
"""About so much of a tensor is read at once."""
BLOCK_ROWS = 1 << 17
"""And no more rows than these, whose numbers take memory as well."""

Rows = NDArray[np.int64]


class TrajectoryLike(Protocol):
    """Rows `start_pos` to `start_pos + length` of a ring."""

    @property
    def start_pos(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def split(self) -> str: ...
    @property
    def on_policiness_score(self) -> float: ...


class TrajectoryBuffer(Protocol):
    """A ring of rows. Its tensors `obs`, `acts`, `rews`, `dones` are (capacity, width), and indexed by a
    tensor of row numbers."""

    capacity: int
    obs: Any
    acts: Any
    rews: Any
    dones: Any

    @property
    def size(self) -> int:
        """How many rows are in use."""

    @property
    def trajectories(self) -> Sequence[TrajectoryLike]:
        """From the oldest to the newest."""


@dataclass(frozen=True)
class Unowned:
    """Rows side by side that belong to no trajectory; otherwise like one."""

    start_pos: int
    length: int
    split: str = "in no trajectory"
    on_policiness_score: float = 0.0


def unowned(buffer: TrajectoryBuffer) -> list[Unowned]:
    """The rows in use that belong to no trajectory: what is left of overwritten ones, or rows that came
    without any."""
    starts = np.array([info.start_pos for info in buffer.trajectories], np.int64)
    lengths = np.minimum([info.length for info in buffer.trajectories], buffer.capacity).astype(np.int64)
    heads = np.minimum(lengths, buffer.capacity - starts)  # what is left of a trajectory goes on at place 0
    begins = np.concatenate([starts, np.zeros_like(starts)])
    ends = begins + np.concatenate([heads, lengths - heads])
    order = np.argsort(begins, kind="stable")
    covered = np.maximum.accumulate(np.concatenate([[0], ends[order]]))
    next_begins = np.minimum(np.concatenate([begins[order], [buffer.size]]), buffer.size)
    gaps = np.flatnonzero(next_begins > covered)
    return [Unowned(int(covered[gap]), int(next_begins[gap] - covered[gap])) for gap in gaps]


class _Runs:
    """Trajectories one after another: from a number among all their rows to the row of the ring."""

    def __init__(self, buffer: TrajectoryBuffer, trajectories: Sequence[TrajectoryLike]) -> None:
        self._capacity = buffer.capacity
        self.starts = np.array([info.start_pos for info in trajectories], np.int64)
        self.lengths = np.array([info.length for info in trajectories], np.int64)
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, numbers: Rows) -> Rows:
        """Rows of the ring."""
        run = np.searchsorted(self._ends, numbers, side="right")
        return np.asarray(
            (self.starts[run] + numbers - (self._ends[run] - self.lengths[run])) % self._capacity
        )


def places(buffer: TrajectoryBuffer, trajectories: Sequence[TrajectoryLike], block: int) -> Iterator[Rows]:
    """The rows of the ring that these trajectories have, at most `block` at a time."""
    runs = _Runs(buffer, trajectories)
    for start in range(0, len(runs), block):
        yield runs.rows(np.arange(start, min(start + block, len(runs))))


def blocks(
    buffer: TrajectoryBuffer, name: str, trajectories: Sequence[TrajectoryLike]
) -> Iterator[NDArray[Any]]:
    """A tensor's rows in these trajectories, one trajectory after another, as arrays (rows, width)."""
    tensor = getattr(buffer, name)
    step = min(BLOCK_ROWS, max(1, BLOCK_BYTES // max(1, tensor.shape[1] * 4)))
    for rows in places(buffer, trajectories, step):
        yield tensor[torch.from_numpy(rows)].cpu().numpy()


def random_rows(
    buffer: TrajectoryBuffer,
    name: str,
    trajectories: Sequence[TrajectoryLike],
    count: int,
    generator: np.random.Generator,
) -> NDArray[Any]:
    """At most `count` different rows of a tensor, drawn uniformly from these trajectories, as an array (rows,
    width)."""
    runs = _Runs(buffer, trajectories)
    drawn = generator.choice(len(runs), min(count, len(runs)), replace=False, shuffle=False)
    found: NDArray[Any] = getattr(buffer, name)[torch.from_numpy(runs.rows(np.sort(drawn)))].cpu().numpy()
    return found


def statistics(buffer: TrajectoryBuffer, name: str, trajectories: Sequence[TrajectoryLike]) -> Statistics:
    """Of each column of a tensor over these trajectories."""
    total = Statistics.nothing((int(getattr(buffer, name).shape[1]),))
    with np.errstate(invalid="ignore", over="ignore"):  # infinities show in the result
        for block in blocks(buffer, name, trajectories):
            total = total.merged(Statistics.of(block))
    return total


class Fragments:
    """The fragments of `length` consecutive observations that trajectories are cut into.

    ArgumentError: no trajectory is that long.
    """

    def __init__(self, buffer: TrajectoryBuffer, trajectories: Sequence[TrajectoryLike], length: int) -> None:
        kept = [info for info in trajectories if info.length >= length]
        if not kept:
            longest = max((info.length for info in trajectories), default=0)
            hint = (
                f"pass a fragment length of at most {longest}"
                if longest
                else ("rows that belong to no trajectory have no fragments")
            )
            raise ArgumentError(
                f"none of {len(trajectories)} trajectories has a fragment of {length} steps: {hint}"
            )
        self._buffer, self._runs, self.length, self.trajectories = buffer, _Runs(buffer, kept), length, kept

    def __len__(self) -> int:
        """How many there are, side by side."""
        return int((self._runs.lengths // self.length).sum())

    def epoch(self, batch_size: int, generator: np.random.Generator) -> Iterator[Tensor]:
        """All fragments once in random order, as batches (batch, length, width).

        Where a trajectory is cut is drawn anew for each epoch, so each step has been at each place of a
        fragment after some epochs; up to length - 1 steps at each of its ends are left out for that."""
        slack = np.minimum(self._runs.lengths - self.length, self.length - 1)
        starts = self._starts(generator.integers(0, slack + 1))
        return self._batches(generator.permutation(starts), batch_size)

    def in_order(self, batch_size: int, at_most: int | None = None) -> Iterator[Tensor]:
        """The same fragments each time; if there are more than `at_most`, so many of them, evenly spread."""
        starts = self._starts(np.zeros(len(self.trajectories), np.int64))
        if at_most is not None and len(starts) > at_most:
            starts = starts[np.linspace(0, len(starts) - 1, at_most).astype(np.int64)]
        return self._batches(starts, batch_size)

    def draw(self, count: int, generator: np.random.Generator) -> Tensor:
        """At most `count` different fragments, drawn at random, (fragments, length, width)."""
        starts = self._starts(np.zeros(len(self.trajectories), np.int64))
        return self._read(generator.permutation(starts)[:count])

    def _starts(self, skipped: Rows) -> Rows:
        """Where fragments begin, as numbers among all rows of the trajectories, if so many steps of each
        trajectory are skipped."""
        lengths = self._runs.lengths
        counts = (lengths - skipped) // self.length
        begin = np.cumsum(lengths) - lengths + skipped
        number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(np.repeat(begin, counts) + number * self.length)

    def _batches(self, starts: Rows, batch_size: int) -> Iterator[Tensor]:
        for first in range(0, len(starts), batch_size):
            yield self._read(starts[first : first + batch_size])

    def _read(self, starts: Rows) -> Tensor:
        rows = self._runs.rows(starts[:, None] + np.arange(self.length))
        found: Tensor = self._buffer.obs[torch.from_numpy(rows)]
        return found.float()
