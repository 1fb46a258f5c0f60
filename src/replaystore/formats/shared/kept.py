"""What other software has no place for, and is kept beside what it reads, where it does not look: which field
each array is, where trajectories begin and end and how, seeds, splits, environments, columns of the user's,
metadata. Where it lies is for others to say: in arrays by name (kept_arrays.py), in a group of HDF5
(hdf5/kept.py) or of Zarr (zarr/kept.py).

A file that is not what this tells of any more was changed by other software, and is read as theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.source import Block, Source
from replaystore.schema.fields import Schema
from replaystore.schema.strict_json import strict

__all__ = ["Kept", "Rows", "check"]

LONGEST = 1 << 48
"""Steps of a trajectory."""


class Rows(Protocol):
    """An array of which rows can be read."""

    def read(self, start: int, stop: int) -> NDArray[Any]: ...


@dataclass
class Kept:
    """What was kept, or is to be."""

    schema: Schema
    places: Mapping[str, Any]
    """Of each field, where it is in the file, as the format says it."""
    length: NDArray[np.int64]
    """Steps of each trajectory, in the order of the file; what follows is of each, too."""
    env: NDArray[np.int64]
    seed: NDArray[np.int64]
    split: NDArray[np.int32]
    """A place in `splits`."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final: NDArray[np.int64]
    """Which of the final observations in the file is its own, or -1."""
    splits: list[str]
    columns: Mapping[str, NDArray[Any]]
    """Of the user's."""
    environment: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else the format notes for itself."""
    finals: Mapping[str, Rows] = field(default_factory=dict)
    """The final observations by field, where they lie apart from the steps."""

    def __len__(self) -> int:
        return len(self.length)

    @property
    def steps(self) -> int:
        """How many there are."""
        return int(self.length.sum())

    @property
    def cut(self) -> NDArray[np.int64]:
        """The last rows of trajectories that were only cut off, which other readers see as truncated."""
        return (np.cumsum(self.length) - 1)[~(self.terminated | self.truncated)]

    def begins(self, number: int) -> dict[str, Any]:
        """What the block says with which a trajectory begins."""
        return {
            "env": int(self.env[number]),
            "seed": int(self.seed[number]),
            "split": self.splits[self.split[number]],
            "row": {name: values[number] for name, values in self.columns.items()},
        }

    def ends(self, number: int) -> dict[str, Any]:
        """What the block says with which it ends, but for the final observation."""
        return {"terminated": bool(self.terminated[number]), "truncated": bool(self.truncated[number])}

    def told(self, block: Block, number: int) -> Block:
        """A block of a trajectory, with what was kept of that."""
        about = self.begins(number) if block.begins else {"env": int(self.env[number])}
        if block.ends:
            at, final = int(self.final[number]), block.final
            if self.finals and at >= 0:
                final = {name: rows.read(at, at + 1)[0] for name, rows in self.finals.items()}
            about |= {"final": final if at >= 0 else None, **self.ends(number)}
        return replace(block, **about)

    def source(self, blocks: Callable[[int], Iterator[Block]], remarks: list[str] | None = None) -> Source:
        """As a format gives it, with these blocks."""
        return Source(
            self.schema,
            blocks,
            environment=self.environment,
            metadata=self.metadata,
            splits=[name for name in self.splits if name],
            columns={name: values.dtype for name, values in self.columns.items()},
            steps=self.steps,
            trajectories=len(self),
            remarks=[] if remarks is None else remarks,
        )


def check(kept: Kept) -> None:
    """ValueError, TypeError: it does not fit together."""
    count = len(kept)
    of_each: list[NDArray[Any]] = [kept.env, kept.seed, kept.split, kept.terminated, kept.truncated]
    if any(len(values) != count for values in (*of_each, kept.final, *kept.columns.values())):
        raise ValueError("its lists have different lengths")
    if count and (kept.length.min() < 1 or kept.length.max() > LONGEST or kept.env.min() < 0):
        raise ValueError("a trajectory has no steps, or no environment")
    if count and not 0 <= int(kept.split.min()) <= int(kept.split.max()) < len(kept.splits):
        raise ValueError("a split has no name")
    for part in (kept.environment, kept.metadata):
        if part is not None and not isinstance(part, dict):
            raise TypeError("the environment or the metadata are no dict")
    strict({"environment": kept.environment, "metadata": kept.metadata})
