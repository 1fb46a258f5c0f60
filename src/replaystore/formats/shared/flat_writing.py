"""Steps of a buffer on their way into flat arrays: one row a step, one trajectory behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.kept import Chosen
from replaystore.formats.source import Block

__all__ = ["FLAGS", "Following", "Target", "fill_flat", "with_flags"]

FLAGS = ("terminated", "truncated")


class Target(Protocol):
    """An array that rows are appended to."""

    def append(self, values: NDArray[Any]) -> None:
        """The next rows."""


def with_flags(block: Block) -> dict[str, NDArray[Any]]:
    """The rows of a block, and of both flags. A trajectory that was only cut off is truncated there: readers
    that know nothing but flags would take the next one for its going on."""
    columns = {**{name: np.zeros(len(block), np.bool_) for name in FLAGS}, **block.columns}
    if block.ends:
        for name in FLAGS:
            columns[name] = np.append(columns[name][:-1], bool(getattr(block, name)))
        if not (block.terminated or block.truncated):
            columns["truncated"][-1] = True
    return columns


def fill_flat(
    chosen: Chosen, rows: Mapping[str, Target], following: Mapping[str, Target], done: Target | None = None
) -> None:
    """Append all steps: of fields (and of both flags) to `rows`, of what was observed after them to
    `following`; to `done`, whether either flag is set."""
    after = Following(following)
    for _, block in chosen.blocks():
        columns = with_flags(block)
        for name, target in rows.items():
            target.append(columns[name])
        if done is not None:
            done.append(columns["terminated"] | columns["truncated"])
        after.add(block)


class Following:
    """Writes what was observed after each step: the next row, and at the end the final observation, or the
    last one again where nobody knows."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    def add(self, block: Block) -> None:
        """The next steps."""
        for name, target in self._targets.items():
            values = block.columns[name]
            target.append(values[:0] if block.begins else values[:1])
            target.append(values[1:])
            if block.ends:
                final = values[-1] if not block.final else block.final[name]
                target.append(np.asarray(final, values.dtype)[None])
