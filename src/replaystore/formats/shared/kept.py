"""What other software has no place for, and is kept beside what it reads, where it does not look: which field
each array is, where trajectories begin and end and how, seeds, splits, environments, columns of the user's,
metadata. Where it lies is for others to say: in arrays by name (kept_arrays.py), in a group of HDF5
(hdf5/kept.py) or of Zarr (zarr/kept.py).

A file that is not what this tells of any more was changed by other software, and is read as theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.known import Known
from replaystore.formats.source import Block, Source
from replaystore.schema.fields import Schema
from replaystore.schema.strict_json import strict

__all__ = ["Kept", "Rows", "check"]

SOME = 4096
"""Trajectories that are looked up at once."""
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

    def known(self, some: slice, fields: Collection[str] = ()) -> Iterator[Known]:
        """What is known of some trajectories; of flags that are `fields`, their steps tell."""
        count = len(self.length[some])
        columns = {name: values[some] for name, values in self.columns.items()}
        flags = {"terminated": self.terminated, "truncated": self.truncated}
        return map(
            Known,
            self.env[some].tolist(),
            self.seed[some].tolist(),
            [self.splits[place] for place in self.split[some].tolist()],
            [{name: values[at] for name, values in columns.items()} for at in range(count)],
            *([None] * count if name in fields else values[some].tolist() for name, values in flags.items()),
            (self.final[some] >= 0).tolist(),
        )

    def told(self, block: Block, number: int) -> Block:
        """A block of a trajectory, with what was kept of that."""
        at = int(self.final[number])
        if block.ends and self.finals and at >= 0:
            block.final = {name: rows.read(at, at + 1)[0] for name, rows in self.finals.items()}
        (known,) = self.known(slice(number, number + 1))
        return known.tell(block)

    def told_of(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The blocks of all trajectories, with what was kept of each; final observations are in them."""
        every = (one for at in range(0, len(self), SOME) for one in self.known(slice(at, at + SOME)))
        known = Known(0)
        for block in blocks:
            if block.begins:
                known = next(every)
            yield known.tell(block)

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
