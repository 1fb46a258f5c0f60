"""What reading a foreign file gives: the schema and the tables of a buffer, and its rows on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Schema
from replaystore.trajectories.table import Parts

__all__ = ["Source", "no_parts"]


@dataclass
class Source:
    """A foreign buffer, as the buffer that it becomes. Rows are read while the file is open."""

    schema: Schema
    rows: int
    read: Callable[[str, int, int], NDArray[Any]]
    """(field, start, stop) → these rows of the field."""
    parts: Parts
    table: Mapping[str, NDArray[Any]]
    """Columns of the table of trajectories, all of which have ended: trajectory, length, split (place in
    `splits`), and its own."""
    splits: list[str]
    extensions: dict[str, Any]
    """What the document says beside all this: the state of the ring."""
    details: dict[str, Any]
    """What the provenance says of the source."""
    capacity: int | None = None
    """Of a ring that goes on as one, where the container can do that."""
    position: int | None = None
    environment: dict[str, Any] | None = None
    finals: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """For each final observation the row after whose step it was seen."""
    read_finals: Callable[[int, int], NDArray[Any]] | None = None
    """(start, stop) → what was seen after the steps of these rows."""
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """What does not come along."""


def no_parts() -> Parts:
    """Rows of no trajectory."""
    return Parts(*(np.zeros(0, np.int64) for _ in range(5)))
