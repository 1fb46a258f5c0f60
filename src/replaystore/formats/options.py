"""How a buffer is to be written to a file of other software."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replaystore.trajectories.table import Trajectories

__all__ = ["Options", "Progress"]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    trajectories: Trajectories | None = None
    """Only these, as they are selected; None: all rows."""
    fields: tuple[str, ...] | None = None
    """Only these; None: all."""
    strict: bool = False
    """Refuse if anything would be changed, lost or made up."""
    overwrite: bool = False
    """Replace such a file that is there."""
    progress: Progress | None = None
    place: str = ""
    """Where it will have its name, if it is written elsewhere until it is proved: what is called after its
    place is called after this one. Empty: where it is written."""
