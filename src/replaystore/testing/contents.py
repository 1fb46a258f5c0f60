"""Everything that a user can see of a buffer, as plain arrays that are compared bit for bit (NaN equals NaN,
-0.0 differs from 0.0)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.ragged import Ragged
from replaystore.views.column import Trajectory
from replaystore.views.reader import BufferReader

__all__ = ["Contents", "Story", "bits", "final_by_field"]

Arrays = Mapping[str, Any]
"""Arrays by name, and a Ragged of each field of any length; of a single text a `str`."""


@dataclass(frozen=True)
class Story:
    """A trajectory: its steps, and what followed the last of them."""

    columns: Arrays
    final_observation: Arrays | None


@dataclass(frozen=True)
class Contents:
    """What a buffer shows as of one commit."""

    columns: Arrays
    """All steps, by field."""
    table: Arrays
    """The table of trajectories, by column."""
    stories: list[Story]
    """The trajectories, in the order of the table."""
    following: Mapping[str, list[bytes | None]] = field(default_factory=dict)
    """By observation field, for each step, the observation after it; None where no step and no final
    observation says."""

    @classmethod
    def of(cls, buffer: BufferReader) -> Contents:
        """Read all of a buffer."""
        columns = buffer.read(slice(None))
        stories = []
        for number in range(buffer.num_trajectories):
            read = buffer.trajectory(number)
            stories.append(Story(read.columns, final_by_field(read)))
        return cls(columns, dict(buffer.trajectories.columns), stories, _following(buffer, columns))

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values())))

    def by_trajectory(self) -> Contents:
        """The same without the order of rows, which depends on when steps of several environments were handed
        over together."""
        return Contents({name: values[:0] for name, values in self.columns.items()}, self.table, self.stories)

    def difference(self, other: Contents) -> str:
        """The first thing in which `other` differs, in one line; empty if they are the same."""
        found = _differing("steps", self.columns, other.columns) or _differing(
            "table", self.table, other.table
        )
        if found:
            return found
        if len(self.stories) != len(other.stories):
            return f"{len(other.stories)} trajectories instead of {len(self.stories)}"
        for number, (mine, theirs) in enumerate(zip(self.stories, other.stories, strict=True)):
            found = _differing(f"trajectory {number}", mine.columns, theirs.columns)
            if not found and (mine.final_observation is None) != (theirs.final_observation is None):
                found = (
                    f"trajectory {number}: final observation {theirs.final_observation} instead of "
                    f"{mine.final_observation}"
                )
            found = found or _differing(
                f"end of trajectory {number}", mine.final_observation or {}, theirs.final_observation or {}
            )
            if found:
                return found
        for name, known in self.following.items():
            for row, (expected, found_bytes) in enumerate(zip(known, other.following[name], strict=True)):
                if expected != found_bytes:
                    return f"after step {row}, {name} is {found_bytes!r} instead of {expected!r}"
        return ""


def _following(buffer: BufferReader, columns: Arrays) -> dict[str, list[bytes | None]]:
    names = buffer.schema.names("observation")
    parts = buffer.parts
    rows = parts.rows(np.unique(parts.trajectory))
    first = buffer.first_row
    following, final = parts.next_observation(rows)
    found: dict[str, list[bytes | None]] = {}
    for name in names:
        finals = iter(buffer.final_values(name, final[final >= 0]))
        after: list[bytes | None] = [None] * len(buffer)
        for row, next_row, final_row in zip(rows.tolist(), following.tolist(), final.tolist(), strict=True):
            if final_row >= 0:
                after[row - first] = bits(next(finals))
            elif next_row >= 0:
                after[row - first] = bits(columns[name][next_row - first])
        found[name] = after
    return found


def bits(value: Any) -> bytes:
    """The bytes of a value, as it is stored."""
    found: bytes = value.encode() if isinstance(value, str) else value.tobytes()
    return found


def _differing(where: str, expected: Arrays, found: Arrays) -> str:
    if list(expected) != list(found):
        return f"{where}: {list(found)} instead of {list(expected)}"
    for name, mine in expected.items():
        theirs = found[name]
        if isinstance(mine, Ragged | str):
            if mine != theirs:
                return f"{where}: {name} is {_few(theirs)} instead of {_few(mine)}"
            continue
        if mine.dtype.kind == theirs.dtype.kind == "U":  # widths of strings depend on what else there is
            if mine.tolist() != theirs.tolist():
                return f"{where}: {name} is {theirs.tolist()} instead of {mine.tolist()}"
            continue
        if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
            return (
                f"{where}: {name} is {theirs.dtype}{list(theirs.shape)} instead of "
                f"{mine.dtype}{list(mine.shape)}"
            )
        same = _bytes_equal(mine, theirs)
        if not np.all(same):
            row = int(np.flatnonzero(~np.asarray(same))[0])
            return (
                f"{where}: row {row} of {name} is {theirs[row]!r} instead of {mine[row]!r}"
                if mine.ndim
                else f"{where}: {name} differs"
            )
    return ""


def _few(value: Any) -> str:
    """Values of any length, for a message."""
    told = str(value.tolist() if isinstance(value, Ragged) else value)
    return told if len(told) < 2000 else told[:2000] + "…"


def _bytes_equal(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """For each row, whether all bytes are the same (for one value without rows: one answer)."""
    if not left.size:
        return np.ones(len(left), np.bool_)
    rows = len(left) if left.ndim else 1
    flat = [np.ascontiguousarray(side).reshape(-1).view(np.uint8).reshape(rows, -1) for side in (left, right)]
    return np.asarray((flat[0] == flat[1]).all(axis=1))


def final_by_field(trajectory: Trajectory) -> Arrays | None:
    """The observation after the last step as a dict by field name, also where it is a single array."""
    final = trajectory.final_observation
    return final if final is None or isinstance(final, Mapping) else {"observation": final}
