"""The rows of a buffer that is merged with others, and their parts, as they lie behind those of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.converting.excerpt import Excerpt, selection
from replaystore.trajectories.parts import Parts
from replaystore.trajectories.table import Trajectories

__all__ = ["all_of", "moved"]


def all_of(buffer: Buffer, table: Trajectories, observed: Sequence[str], without_loose: bool) -> Excerpt:
    """The steps of these trajectories, and behind them those of none, which may have been in an earlier
    source."""
    excerpt = selection(buffer, table, observed)
    if without_loose:
        return excerpt
    first = buffer.first_row
    begin, length = buffer.parts.between(first, first + len(buffer))
    return replace(
        excerpt,
        starts=np.concatenate([excerpt.starts, begin]),
        lengths=np.concatenate([excerpt.lengths, length]),
        strides=np.concatenate([excerpt.strides, np.ones_like(begin)]),
    )


def moved(parts: Parts, order: NDArray[np.int64], rows: int, finals: int, count: int) -> Parts:
    """Parts behind so many rows, final observations and trajectories, whose numbers were `order`."""
    return Parts(
        parts.start + rows,
        parts.length,
        parts.stride,
        count + np.searchsorted(order, parts.trajectory),
        parts.offset,
        np.where(parts.final >= 0, parts.final + finals, -1),
    )
