"""Which rows belong to which trajectory: an immutable table of NumPy columns. Nothing here reads or writes a
file.

Step i of a part lies in row `start + i * stride`: environments that take turns row by row have a stride of
their number.

Invariants:
(1) Parts are sorted by `start`, and no row is in two of them; parts whose rows lie between each other's have
the same stride. Rows in none belong to no trajectory.
(2) The parts of a trajectory, by `offset`, follow each other without a gap: offset + length of one is the
offset of the next, whose rows come later.
(3) Parts are minimal: what follows one in its trajectory does not lie where the part would go on (`stop`), or
is not what was observed after it. Hence the observation after a part's last step is in `final/`, or first in
the trajectory's next part, or nowhere.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.errors import CorruptError, SchemaError
from replaystore.trajectories.columns import PARTS
from replaystore.trajectories.lanes import Lanes

__all__ = ["Parts", "frozen_rows", "numbers"]

Rows = NDArray[np.int64]


class Parts:
    """Steps of one trajectory each, whose rows lie as far from each other: six int64 columns of shape (P,),
    in the order of `columns.PARTS`. Rows count from the buffer's first row ever.

    Args:
        start: the part's first row.
        length: its number of rows, at least 1.
        stride: how far each of them lies from the one before, at least 1.
        trajectory: the id of its trajectory.
        offset: the place of its first row in the trajectory.
        final: the row in `final/` of the observation after its last step, or -1.

    Raises:
        SchemaError: the columns are not integers of one length.
    """

    def __init__(
        self,
        start: ArrayLike,
        length: ArrayLike,
        stride: ArrayLike,
        trajectory: ArrayLike,
        offset: ArrayLike,
        final: ArrayLike,
    ) -> None:
        self.start = frozen_rows("start", start)
        self.length = frozen_rows("length", length)
        self.stride = frozen_rows("stride", stride)
        self.trajectory = frozen_rows("trajectory", trajectory)
        self.offset = frozen_rows("offset", offset)
        self.final = frozen_rows("final", final)
        lengths = {len(getattr(self, name)) for name in PARTS}
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
        _refuse_part(self.length < 1, "holds no rows")
        _refuse_part(self.stride < 1, "has a stride below 1")
        _refuse_part(
            (self.start < 0) | (self.offset < 0) | (self.final < -1),
            "has a negative start, offset or final row",
        )
        crossed = self.start[1:] <= self.start[:-1]
        if not crossed.any():
            crossed = self.stop[:-1] > self.start[1:] if self.lanes is None else self.lanes.crossed()
        _refuse_part(crossed, "overlaps the next one, or comes after it")
        current, following = self.order[:-1], self.order[1:]
        same = self.trajectory[current] == self.trajectory[following]
        gap = same & (self.offset[current] + self.length[current] != self.offset[following])
        _refuse_part(gap, "is not continued by the next part of its trajectory", current)
        _refuse_part(
            same & (self.last[current] >= self.start[following]),
            "lies behind the next part of its trajectory",
            current,
        )

    @cached_property
    def last(self) -> Rows:
        """The row of each part's last step."""
        return self.stop - self.stride

    @cached_property
    def stop(self) -> Rows:
        """The row in which each part would go on."""
        return self.start + (self.length if self.dense else self.length * self.stride)

    @cached_property
    def dense(self) -> bool:
        """Whether all parts are runs of adjacent rows."""
        return bool((self.stride == 1).all())

    @cached_property
    def lanes(self) -> Lanes | None:
        """What finds parts; None: they lie behind each other."""
        return None if self.dense else Lanes(self.start, self.length, self.stride)

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
        if self.lanes is not None:
            return self.lanes.part_of(rows)
        part = np.searchsorted(self.start, rows, side="right") - 1
        if len(self):
            part[rows >= self.stop[part]] = -1
        return part

    def parts_of(self, trajectories: ArrayLike) -> Rows:
        """The parts of these trajectories: one trajectory after another as given, in the order of steps.
        Unknown ids have none."""
        ids = np.asarray(trajectories, np.int64).reshape(-1)
        first = np.searchsorted(self._ordered_trajectory, ids, side="left")
        last = np.searchsorted(self._ordered_trajectory, ids, side="right")
        return self.order[numbers(first, last - first)]

    def rows_of(self, trajectory: int) -> list[range]:
        """The rows of one trajectory, part after part in the order of its steps; none if the id is
        unknown."""
        parts = self.parts_of(trajectory)
        edges = (column[parts].tolist() for column in (self.start, self.stop, self.stride))
        return [range(*edge) for edge in zip(*edges, strict=True)]

    def rows(self, trajectories: ArrayLike) -> Rows:
        """All rows of these trajectories: one trajectory after another as given, in the order of steps.
        int64, one-dimensional."""
        parts = self.parts_of(trajectories)
        return numbers(self.start[parts], self.length[parts], None if self.dense else self.stride[parts])

    def runs(self, parts: Rows) -> tuple[Rows, Rows, Rows]:
        """(start, length, part): the runs of adjacent rows that these parts have, in their order. Rows that
        lie apart are one each."""
        apart = self.stride[parts] > 1
        count = np.where(apart, self.length[parts], 1)
        part = np.repeat(parts, count)
        start = numbers(self.start[parts], count, self.stride[parts])
        return start, np.where(self.stride[part] > 1, 1, self.length[part]), part

    def spans(self) -> tuple[Rows, Rows]:
        """(start, stop) of the stretches of rows that parts lie in; those of parts that lie between each
        other's rows are one."""
        if self.dense:
            return self.start, self.stop
        reach = np.maximum.accumulate(self.last)
        begins = np.flatnonzero(np.append(True, reach[:-1] < self.start[1:])[: len(self)])
        return self.start[begins], np.append(reach[begins[1:] - 1], reach[-1:]) + 1

    def between(self, first: int, stop: int) -> tuple[Rows, Rows]:
        """(start, length) of the runs of rows from `first` to `stop` that belong to no trajectory."""
        begins, ends = self.spans()
        gaps = [(np.append(first, ends), np.append(begins, stop))]
        held = np.zeros(len(begins), np.int64)
        np.add.at(held, np.searchsorted(begins, self.start, side="right") - 1, self.length)
        for span in np.flatnonzero(held < ends - begins).tolist():
            free = np.ones(int(ends[span] - begins[span]) + 2, np.bool_)
            free[[0, -1]] = False
            within = slice(*np.searchsorted(self.start, [begins[span], ends[span]]).tolist())
            free[numbers(self.start[within], self.length[within], self.stride[within]) - begins[span] + 1] = (
                False
            )
            edges = np.flatnonzero(free[1:] != free[:-1]) + begins[span]
            gaps.append((edges[::2], edges[1::2]))
        start, end = (np.concatenate(side) for side in zip(*gaps, strict=True))
        order = np.argsort(start, kind="stable")
        order = order[(end > start)[order]]
        return start[order], (end - start)[order]

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
        last = rows == self.last[part]
        final = np.where(last, self.final[part], -1)
        following = np.where(last, self._next_start[part], rows + self.stride[part])
        return np.where(final >= 0, -1, following), final

    def since(self, row: int) -> Parts:
        """The parts without the rows before this one; a part that holds it is cut, and its offset moves
        accordingly."""
        if not len(self) or row <= self.start[0]:
            return self
        cut = np.maximum(row - self.start, 0)
        if not self.dense:
            cut = -(-cut // self.stride)
        kept = np.flatnonzero(cut < self.length)
        start = (self.start + cut * self.stride)[kept]
        if not self.dense:  # the first of an environment may be left further from the row than others
            kept, start = kept[np.argsort(start, kind="stable")], np.sort(start)
        return Parts(
            start,
            (self.length - cut)[kept],
            self.stride[kept],
            self.trajectory[kept],
            (self.offset + cut)[kept],
            self.final[kept],
        )


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


def numbers(start: Rows, length: Rows, stride: Rows | None = None) -> Rows:
    """The numbers start, start + stride, … of all runs of these lengths, one run after another; by 1 where no
    stride is given."""
    before = np.cumsum(length) - length
    steps = np.arange(int(length.sum()))
    if stride is None:
        return np.repeat(start - before, length) + steps
    return np.repeat(start - before * stride, length) + steps * np.repeat(stride, length)


def _refuse_part(wrong: NDArray[np.bool_], problem: str, order: Rows | None = None) -> None:
    if wrong.any():
        place = int(np.argmax(wrong))
        raise CorruptError(
            f"parts: part {place if order is None else int(order[place])} {problem}; see `replaystore verify`"
        )
