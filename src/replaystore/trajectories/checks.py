"""What the tables of parts and trajectories are asked when they are first used: whoever made a store, no row
number in them may lead beyond its rows, and the state of open trajectories that a commit keeps is of the
types that it has to be.

Whole columns are compared at once, and one by one only where something is wrong: some milliseconds for a
million parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import CorruptError
from replaystore.trajectories.columns import RETURN, TRAJECTORIES
from replaystore.trajectories.lanes import MOST_STRIDE, Lanes
from replaystore.trajectories.parts import Parts

__all__ = ["check_extra", "check_parts", "check_table"]

Column = NDArray[Any]
MOST = 1 << 62
MOST_TEXT = 1 << 32
"""Bytes of the column of splits, in which each name takes as much as the longest."""
_ADVICE = "see `replaystore verify`"


def check_parts(columns: Sequence[Column], *, rows: int, finals: int, where: str) -> Parts:
    """The parts of these columns (those of `columns.PARTS`), sorted by start, which lie in `rows` rows, and
    none in another's.

    CorruptError names the first that does not, or whose final observation is not one of `finals`."""
    start, length, stride, trajectory, offset, final = columns
    if any(column.dtype != np.int64 or column.ndim != 1 or len(column) != len(start) for column in columns):
        raise CorruptError(f"{where}: the columns of parts are not int64 numbers, as many in each; {_ADVICE}")
    parts = Parts(*columns)
    if not len(start):
        return parts
    # No sum and no product goes over the end.
    dense = stride.min() == stride.max() == 1
    bounded = start.min() >= 0 and start.max() <= rows and length.min() >= 1 and length.max() <= rows
    if bounded and dense:
        behind = start[-1] + length[-1] <= rows and (start[:-1] + length[:-1] <= start[1:]).all()
    else:
        behind = bounded and stride.min() >= 1 and stride.max() <= MOST_STRIDE
        behind = behind and bool(((rows - 1 - start) // stride >= length - 1).all())
        behind = behind and (start[:-1] < start[1:]).all()
        behind = behind and (parts.lanes is None or not parts.lanes.crossed().any())
    known = (
        offset.min() >= 0
        and offset.max() <= MOST
        and trajectory.min() >= 0
        and final.min() >= -1
        and final.max() < finals
    )
    if behind and known:
        return parts
    _refuse(where, (length < 1) | (length > rows), "has an impossible length")
    _refuse(where, (stride < 1) | (stride > MOST_STRIDE), "has an impossible stride")
    outside = (start < 0) | (start >= rows)
    outside |= (rows - 1 - np.where(outside, 0, start)) // stride < length - 1
    _refuse(where, outside, f"does not lie in rows 0 to {rows}")
    crossed = np.append(start[:-1] >= start[1:], False)
    if not crossed.any():
        crossed = Lanes(start, length, stride).crossed()
    _refuse(where, crossed, "overlaps the next one")
    _refuse(where, (offset < 0) | (offset > MOST) | (trajectory < 0), "has a negative offset or trajectory")
    _refuse(where, (final < -1) | (final >= finals), f"names a final observation that is not one of {finals}")
    return parts


def _refuse(where: str, wrong: NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        raise CorruptError(f"{where}: part {int(np.argmax(wrong))} {what}; {_ADVICE}")


def check_table(
    columns: Mapping[str, Column], splits: Sequence[str], reward: tuple[int, ...], where: str
) -> None:
    """The columns of trajectories are those of every table, returns of the shape of a `reward`, and splits
    those that there are."""
    for name, dtype in TRAJECTORIES.items():
        column = columns.get(name)
        if name != RETURN and (column is None or column.dtype != dtype or column.ndim != 1):
            raise CorruptError(
                f"{where}: the table of trajectories has no column {name} of {dtype}; {_ADVICE}"
            )
    if len({len(column) for column in columns.values()}) != 1:
        raise CorruptError(f"{where}: the columns of trajectories have different lengths; {_ADVICE}")
    returns = columns.get(RETURN)
    if returns is not None and (returns.dtype != TRAJECTORIES[RETURN] or returns.shape[1:] != reward):
        raise CorruptError(
            f"{where}: returns are {returns.dtype} of shape {returns.shape[1:]}, and rewards "
            f"of shape {reward}; {_ADVICE}"
        )
    split, longest = columns["split"], max(map(len, splits))
    if 4 * longest * max(len(split), len(splits)) > MOST_TEXT:
        raise CorruptError(
            f"{where}: the name of a split has {longest} letters, too many for {len(split)} "
            f"trajectories; {_ADVICE}"
        )
    if len(split) and not 0 <= int(split.min()) <= int(split.max()) < len(splits):
        raise CorruptError(f"{where}: a trajectory is of a split that is not one of {len(splits)}; {_ADVICE}")


def check_extra(extra: Mapping[str, Any], where: str) -> None:
    """What a commit keeps of a buffer: open trajectories, the next number, the names of splits, the number of
    final observations."""
    numbers = [extra.get("next"), extra.get("finals")]
    opened, splits = extra.get("open"), extra.get("splits")
    right = all(type(number) is int and 0 <= number <= MOST for number in numbers) and isinstance(
        opened, np.ndarray
    )
    if not (right and isinstance(splits, list) and splits and all(isinstance(name, str) for name in splits)):
        raise CorruptError(
            f"{where}: what the commit keeps of trajectories is not what a writer keeps; run "
            "`replaystore repair`"
        )
