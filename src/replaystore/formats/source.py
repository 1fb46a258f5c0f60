"""What reading a file of other software gives: a `Source`, steps in blocks, one trajectory after another; or
a `RingSource`, a ring of rows that is to come out again as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.report import Fate
from replaystore.schema.fields import Schema
from replaystore.trajectories.blocks import Block
from replaystore.trajectories.columns import PARTS
from replaystore.trajectories.parts import Parts

__all__ = ["Block", "RingSource", "Source", "no_parts"]


@dataclass
class Source:
    """A buffer of other software, as steps. It is read while the file is open.

    A format needs to give `schema` and `blocks`; the rest is what it knows beside that."""

    schema: Schema
    blocks: Callable[[int], Iterator[Block]]
    """(about how many bytes a block may have) → all steps, in order. A block that goes on with a trajectory
    has `begins=False`, and one after which it goes on `ends=False`; what goes on at the end is cut off. Where
    blocks have no rows of `terminated` and `truncated`, these are False but where a trajectory ends."""
    environment: dict[str, Any] | None = None
    """{"id": …, …}, as `buffer.environment` gives it."""
    metadata: Mapping[str, Any] | None = None
    """The user's, as `buffer.metadata` gives it."""
    splits: Sequence[str] = ()
    """Splits that there are even if no trajectory is of them."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Columns of the table of trajectories, of the source's own: name → dtype."""
    steps: int | None = None
    trajectories: int | None = None
    """How many there are, where that is known before they are read."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the provenance says of the source beside its format and location."""
    fields: Mapping[str, Fate] = field(default_factory=dict)
    rest: Mapping[str, Fate] = field(default_factory=dict)
    """What is not as it is in the file (`replaystore.formats.report`)."""
    remarks: list[str] = field(default_factory=list)
    """What else whoever reads it should know."""


@dataclass
class RingSource:
    """A foreign ring, as the buffer that it becomes. Rows are read while the file is open."""

    schema: Schema
    rows: int
    read: Callable[[str, int, int], NDArray[Any]]
    """(field, start, stop) → these rows of the field."""
    parts: Parts
    table: Mapping[str, NDArray[Any]]
    """Columns of the table of trajectories, all of which have ended: trajectory, length, split (place in
    `splits`), and its own."""
    splits: list[str]
    ring: dict[str, Any]
    """The state of the ring (`replaystore.views.foreign_ring`)."""
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
    fields: dict[str, Fate] = field(default_factory=dict)
    rest: dict[str, Fate] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """As a `Source` has them."""


def no_parts() -> Parts:
    """Rows of no trajectory."""
    return Parts(*(np.zeros(0, np.int64) for _ in PARTS))
