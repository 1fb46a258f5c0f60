"""What no commit has yet, of a buffer that is written to in this process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from replaystore.arrays.live import LiveColumns
from replaystore.errors import ArgumentError
from replaystore.schema.names import listed
from replaystore.trajectories.growth import Growth

if TYPE_CHECKING:
    from replaystore.views.reader import BufferReader

__all__ = ["live_of"]


def live_of(buffer: BufferReader, names: Iterable[str]) -> tuple[LiveColumns, Growth]:
    """The columns of a buffer open for writing, and what tells how it grows. ArgumentError: one of the fields
    has values that are set later."""
    later = [name for name in names if buffer.schema.fields[name].mutable]
    if later:
        raise ArgumentError(
            f"{buffer.where}: values of {listed(later)} are set later, by commit, and a live sampler does "
            "not show that: give it the other fields (fields=...), or leave out live and call refresh()"
        )
    writing: Any = buffer
    writing.flush()
    growth: Growth = writing.growth
    live = LiveColumns(writing.store, lambda: buffer.schema, writing.flush)
    live.go_on(*growth.bounds)
    return live, growth
