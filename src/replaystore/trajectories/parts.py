"""Which rows belong to which trajectory: an immutable table of NumPy columns. Nothing here reads or writes a
file.

Invariants:
(1) Parts are sorted by `start` and do not overlap; rows between them belong to no trajectory.
(2) The parts of a trajectory, by `offset`, follow each other without a gap: offset + length of one is the
offset of the next. (3) Parts are minimal: two of them that follow each other in a trajectory are not adjacent
    rows. Hence `start[part] + length[part]` never continues a trajectory, and the observation after a part's
    last step is in `final/`, or first in the trajectory's next part, or nowhere.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.errors import CorruptError, SchemaError

__all__ = ["Parts", "frozen_rows"]

Rows = NDArray[np.int64]


class Parts:
    """Runs of adjacent rows of one trajectory each: five int64 columns of shape (P,). Rows count from the
    buffer's first row ever.

    Args:
        start: the part's first row.
        length: its number of rows, at least 1.
        trajectory: the id of its trajectory.
        offset: the place of its first row in the trajectory.
        final: the row in `final/` of the observation after its last step, or -1.

    Raises:
        SchemaError: the columns are not integers of one length.
    """

    def __init__(
        self, start: ArrayLike, length: ArrayLike, trajectory: ArrayLike, offset: ArrayLike, final: ArrayLike
    ) -> None:
        self.start = frozen_rows("start", start)
        self.length = frozen_rows("length", length)
        self.trajectory = frozen_rows("trajectory", trajectory)
        self.offset = frozen_rows("offset", offset)
        self.final = frozen_rows("final", final)
        lengths = {
            len(column) for column in (self.start, self.length, self.trajectory, self.offset, self.final)
        }
        if len(lengths) != 1:
            raise SchemaError(f"the columns of parts have different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        return f"Parts({len(self)} parts, {int(self.length.sum())} rows)"

    def check(self) -> None:
        """Verify the invariants; to be called once on parts that were read from a file.

        Raises:
            CorruptError: names the first part that breaks one.
        """
        stop = self.start + self.length
        _refuse_part(self.length < 1, "holds no rows")
        _refuse_part(
            (self.start < 0) | (self.offset < 0) | (self.final < -1),
            "has a negative start, offset or final row",
        )
        _refuse_part(self.start[1:] < stop[:-1], "overlaps the next one, or comes after it")
        current, following = self.order[:-1], self.order[1:]
        same = self.trajectory[current] == self.trajectory[following]
        gap = same & (self.offset[current] + self.length[current] != self.offset[following])
        _refuse_part(gap, "is not continued by the next part of its trajectory", current)
        _refuse_part(
            same & (stop[current] > self.start[following]),
            "lies behind the next part of its trajectory",
            current,
        )

    @cached_property
    def order(self) -> Rows:
        """The parts sorted by trajectory, then offset."""
        ordered = self.trajectory[1:] > self.trajectory[:-1]
        ordered |= (self.trajectory[1:] == self.trajectory[:-1]) & (self.offset[1:] >= self.offset[:-1])
        if ordered.all():  # steps of one environment only: much faster than finding it out by sorting
            return np.arange(len(self))
        return np.lexsort((self.offset, self.trajectory))

    @cached_property
    def _ordered_trajectory(self) -> Rows:
        return self.trajectory[self.order]

    @cached_property
    def _next_start(self) -> Rows:
        """For each part, the first row of its trajectory's next part, or -1."""
        current, following = self.order[:-1], self.order[1:]
        answer = np.full(len(self), -1, np.int64)
        answer[current] = np.where(
            self.trajectory[current] == self.trajectory[following], self.start[following], -1
        )
        return answer

    def part_of(self, rows: Rows) -> Rows:
        """The part that each row lies in, or -1 for rows of no trajectory; the shape of `rows`."""
        part = np.searchsorted(self.start, rows, side="right") - 1
        if len(self):
            part[rows >= self.start[part] + self.length[part]] = -1
        return part

    def parts_of(self, trajectories: ArrayLike) -> Rows:
        """The parts of these trajectories: one trajectory after another as given, in the order of steps.
        Unknown ids have none."""
        ids = np.asarray(trajectories, np.int64).reshape(-1)
        first = np.searchsorted(self._ordered_trajectory, ids, side="left")
        last = np.searchsorted(self._ordered_trajectory, ids, side="right")
        return self.order[_runs(first, last - first)]

    def rows_of(self, trajectory: int) -> list[tuple[int, int]]:
        """The runs of rows [start, stop) of one trajectory, in the order of its steps; none if the id is
        unknown."""
        parts = self.parts_of(trajectory)
        start = self.start[parts]
        return list(zip(start.tolist(), (start + self.length[parts]).tolist(), strict=True))

    def rows(self, trajectories: ArrayLike) -> Rows:
        """All rows of these trajectories: one trajectory after another as given, in the order of steps.
        int64, one-dimensional."""
        parts = self.parts_of(trajectories)
        return _runs(self.start[parts], self.length[parts])

    def next_observation(self, rows: Rows) -> tuple[Rows, Rows]:
        """Where the observation after each step is stored.

        Args:
            rows: int64, any shape; all must belong to a trajectory.

        Returns:
            Two arrays of the shape of `rows`: the row whose observation it is, or -1; and the row in
            `final/`, or -1. At most one of them is set. If neither is, it is the observation pending with the
            commit (the trajectory is still open), or was never recorded.

        Raises:
            SchemaError: a row belongs to no trajectory.
        """
        part = self.part_of(rows)
        outside = part < 0
        if outside.any():
            raise SchemaError(
                f"row {int(np.asarray(rows)[outside].flat[0])} belongs to no trajectory, so "
                "no observation follows it"
            )
        last = rows == self.start[part] + self.length[part] - 1
        final = np.where(last, self.final[part], -1)
        following = np.where(last, self._next_start[part], rows + 1)
        return np.where(final >= 0, -1, following), final

    def since(self, row: int) -> Parts:
        """The parts without the rows before this one; a part that holds it is cut, and its offset moves
        accordingly."""
        if not len(self) or row <= self.start[0]:
            return self
        cut = np.maximum(row - self.start, 0)
        kept = cut < self.length
        start, length, offset = (self.start + cut)[kept], (self.length - cut)[kept], (self.offset + cut)[kept]
        return Parts(start, length, self.trajectory[kept], offset, self.final[kept])


def frozen_rows(name: str, values: ArrayLike) -> Rows:
    """A column of numbers of rows that cannot be written to. SchemaError: it is none."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise SchemaError(
            f'column "{name}" must be one-dimensional and of integers, not {array.dtype}{list(array.shape)}'
        )
    view = array.astype(np.int64, copy=False).view()
    view.flags.writeable = False
    return view


def _runs(start: Rows, length: Rows) -> Rows:
    """The numbers of all runs start, start + 1, … of these lengths, one run after another."""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(int(length.sum()))


def _refuse_part(wrong: NDArray[np.bool_], problem: str, order: Rows | None = None) -> None:
    if wrong.any():
        place = int(np.argmax(wrong))
        raise CorruptError(
            f"parts: part {place if order is None else int(order[place])} {problem}; see `replaystore verify`"
        )
