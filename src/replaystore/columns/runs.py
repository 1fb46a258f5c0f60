"""Adjacent bytes of files that the rows of a raw array lie in, and how they are put side by side."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.protocol import Place

__all__ = ["Part", "Run", "blocks_of", "cut", "merged", "parts_of", "starts_of"]


@dataclass(frozen=True)
class Run:
    """Adjacent bytes of one file."""

    object: str
    offset: int
    length: int
    identity: Hashable
    """Of the file (`Reads.status`): another file of the same name may have replaced this one."""
    base: int = 0
    """Where the object begins in the file that is mapped; of no meaning where nothing is."""

    def continued_by(self, other: Run) -> bool:
        return (
            self.object == other.object
            and self.identity == other.identity
            and self.offset + self.length == other.offset
        )

    def lengthened(self, length: int) -> Run:
        return Run(self.object, self.offset, length, self.identity, self.base)


class Part(NamedTuple):
    """Bytes of a run that are read at once."""

    run: Run
    inside: int
    """Where they begin in it."""
    length: int

    @property
    def place(self) -> Place:
        return self.run.object, self.run.offset + self.inside, self.length


def starts_of(runs: Sequence[Run]) -> NDArray[np.int64]:
    return np.cumsum([0, *(run.length for run in runs)], dtype=np.int64)


def merged(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Adjacent runs of one file made one: each costs a map."""
    found: list[Run] = []
    for run in runs:
        if found and found[-1].continued_by(run):
            found[-1] = found[-1].lengthened(found[-1].length + run.length)
        else:
            found.append(run)
    return tuple(found)


def cut(runs: Sequence[Run], length: int) -> list[Run]:
    """The first `length` bytes."""
    kept = []
    for run in runs:
        if length <= 0:
            break
        kept.append(run.lengthened(min(run.length, length)))
        length -= run.length
    return kept


def parts_of(
    runs: Sequence[Run], starts: NDArray[np.int64], position: int, end: int, most: int
) -> Sequence[Part]:
    """What is read, at most so many bytes at once, of bytes [position, end) of runs that begin at
    `starts`."""
    number, found = int(np.searchsorted(starts, position, side="right")) - 1, list[Part]()
    while position < end:
        run = runs[number]
        inside = position - int(starts[number])
        length = min(end - position, run.length - inside)
        for done in range(0, length, most):  # the bytes are copied: never all of them at once
            found.append(Part(run, inside + done, min(most, length - done)))
        position += length
        number += 1
    return found


def blocks_of(ordered: NDArray[np.int64], gap: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """Rows that are read together, at most `most` of them, with those between them if they are no more than
    `gap`: from which one to before which one of `ordered`, and from which row to before which."""
    apart = np.flatnonzero(np.diff(ordered) > 1 + gap) + 1
    begin = 0
    for end in (*apart.tolist(), len(ordered)):
        while begin < end:
            low = int(ordered[begin])
            here = begin + int(np.searchsorted(ordered[begin:end], low + most))
            yield begin, here, low, int(ordered[here - 1]) + 1
            begin = here
