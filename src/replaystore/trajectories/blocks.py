"""A block: consecutive steps of one trajectory, all fields together, with what is known of its beginning and
of its end. What files of other software are read as, and what a recorder takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Block"]


@dataclass(slots=True)  # not frozen: a file has many, and making a frozen one takes three times as long
class Block:
    """Consecutive steps of one trajectory. Neither it nor its arrays are to be changed after it was handed
    on.

    A block goes on with the open trajectory of its environment unless it `begins` one, which cuts an open one
    off. Whether a trajectory ends is what `ends` says, whatever the flags among its steps say.
    """

    columns: Mapping[str, Any]
    """{field: array of shape (steps, *field shape)}, of every field of the schema; of a field of any length a
    Ragged."""
    env: int = 0
    begins: bool = True
    """A trajectory begins with the first step."""
    ends: bool = True
    """It ends with the last one."""
    seed: int = -1
    """What its environment was reset with, if known; of a block that begins."""
    split: str = ""
    """Of a block that begins."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Further values of the trajectory's row of the table, by column; of a block that begins or ends."""
    terminated: bool | None = None
    """How it ended; None: as the flags of the last step say. It is given where the schema has no such
    field."""
    truncated: bool | None = None
    final: Mapping[str, Any] | None = None
    """The observation after the last step, by field, if known; of a block that does not end too. A text is a
    str, or its bytes as an array, which is what `formats.blocks_of` gives."""

    def __len__(self) -> int:
        """How many steps."""
        for rows in self.columns.values():
            return len(rows)
        return 0
