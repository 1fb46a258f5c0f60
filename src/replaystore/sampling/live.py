"""What no commit has yet, of a buffer that is written to in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replaystore.arrays.live import LiveColumns
from replaystore.trajectories.growth import Growth

if TYPE_CHECKING:
    from replaystore.views.reader import BufferReader

__all__ = ["live_of"]


def live_of(buffer: BufferReader) -> tuple[LiveColumns, Growth]:
    """The columns of a buffer open for writing, and what tells how it grows."""
    writing: Any = buffer
    writing.flush()
    growth: Growth = writing.growth
    live = LiveColumns(writing.store, lambda: buffer.schema)
    live.go_on(growth.first, growth.stop)
    return live, growth
