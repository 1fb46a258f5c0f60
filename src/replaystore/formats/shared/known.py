"""What a file tells of trajectories beside their steps, looked up for many at once: where they are short,
what each of them costs is most of what reading costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from replaystore.formats.source import Block

__all__ = ["Known"]


class Known(NamedTuple):
    """What is known of a trajectory."""

    env: int
    seed: int = -1
    split: str = ""
    row: Mapping[str, Any] = {}
    """Further columns of the table."""
    terminated: bool | None = None
    truncated: bool | None = None
    final: bool = True
    """It is known what was observed after its last step."""

    def tell(self, block: Block) -> Block:
        """Say it of a block of the trajectory that was not handed on yet; its `final` says what is there."""
        block.env = self.env
        if block.begins:
            block.seed, block.split, block.row = self.seed, self.split, self.row
        if block.ends:
            block.terminated, block.truncated = self.terminated, self.truncated
            if not self.final:
                block.final = None
        return block
