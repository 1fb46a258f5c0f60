"""Blocks that are written together, so that what each of them costs is paid once for several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from replaystore.trajectories.blocks import Block

__all__ = ["TOGETHER", "Told", "together"]

TOGETHER = 1 << 20
"""Bytes of blocks that become arrays together."""


@dataclass(frozen=True)
class Told:
    """A block, with what is told of its trajectory."""

    block: Block
    number: int
    """Of the trajectory: 0, 1, 2, …"""
    about: Mapping[str, Any]
    """Its seed, split, env, and the user's columns of the table."""

    def __len__(self) -> int:
        return len(self.block)


def together(blocks: Iterable[Block], max_bytes: int = TOGETHER) -> Iterator[list[Told]]:
    """Blocks in groups of about so many bytes."""
    found: list[Told] = []
    size, number = 0, -1
    about: Mapping[str, Any] = {}
    for block in blocks:
        if block.begins:
            number += 1
            about = {"seed": block.seed, "split": block.split, "env": block.env, **block.row}
        found.append(Told(block, number, about))
        size += sum(rows.nbytes for rows in block.columns.values())
        if size >= max_bytes:
            yield found
            found, size = [], 0
    if found:
        yield found
