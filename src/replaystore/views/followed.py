"""The parts of a store; what was recorded after a step that is not the next one; and what a newer commit has
after the last step of a trajectory that was open in an older one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.reading import ArrayColumn, StoreReader
from replaystore.errors import CorruptError
from replaystore.schema import tree
from replaystore.trajectories.columns import PARTS
from replaystore.trajectories.opened import Open
from replaystore.trajectories.parts import Parts

__all__ = ["followed_by", "followed_within", "has_values", "stored_parts"]


class _View(Protocol):
    """What is asked of the view of a newer commit."""

    @property
    def parts(self) -> Parts: ...
    def column(self, name: str) -> ArrayColumn: ...
    def final_rows(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]: ...
    def open_trajectories(self) -> list[Open]: ...


class _Finals(Protocol):
    """What is asked of the view that shows a trajectory."""

    @property
    def parts(self) -> Parts: ...
    def final_values(self, name: str, rows: NDArray[np.int64]) -> Any: ...


def stored_parts(store: StoreReader) -> NDArray[np.int64]:
    """The table of parts, shape (n, 6), in the order in which they ended."""
    table = store.table(tree.PARTS) if tree.PARTS in store.state.arrays else None
    if table is None or table.dtype != np.int64 or table.shape[1:] != (len(PARTS),):
        raise CorruptError(
            f"{store}: the table {tree.PARTS} of int64 numbers is missing; run `replaystore repair`"
        )
    return table


def followed_by(newer: _View, entry: Open, name: str) -> NDArray[Any] | None:
    """The row that a newer commit has of an observation field after the last step of a trajectory that was
    open in an older one."""
    parts = newer.parts
    for part in parts.parts_of(entry.trajectory).tolist():
        begin, stop = int(parts.offset[part]), int(parts.offset[part] + parts.length[part])
        if begin <= entry.length < stop:
            row = int(parts.start[part] + (entry.length - begin) * parts.stride[part])
            found: NDArray[Any] = newer.column(name).read(row, row + 1)[0]
            return found
        if stop == entry.length and parts.final[part] >= 0:
            final: NDArray[Any] = newer.final_rows(name, parts.final[part : part + 1])[0]
            return final
    for other in newer.open_trajectories():
        if (
            other.trajectory == entry.trajectory
            and other.length == entry.length
            and other.following is not None
        ):
            return other.following[name]
    return None


def followed_within(view: _Finals, trajectory: int, observations: Iterable[str]) -> dict[int, dict[str, Any]]:
    """By step of a trajectory, what followed it where the next step was recorded with another
    observation."""
    parts = view.parts
    inner = parts.parts_of(trajectory)[:-1]
    places = np.cumsum(parts.length[inner]) - 1
    return {
        int(step): {name: view.final_values(name, final[None])[0] for name in observations}
        for step, final in zip(places, parts.final[inner], strict=True)
        if final >= 0
    }


def has_values(store: StoreReader, name: str, span: NDArray[np.int64]) -> bool:
    """Whether a commit has these values of a field."""
    stored, begin, end = tree.values(name), int(span[0]), int(span[1])
    return begin == end or store.first(stored) <= begin < end <= store.rows(stored)
