"""What the steps of a buffer are handed to, episode by episode, whatever container they end in."""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.minari.plan import Placed
from replaystore.schema.ragged import Ragged

__all__ = ["Writer", "encoded", "joined"]


class Writer(Protocol):
    """Where episodes are written to."""

    def begin(self, episode: int, steps: int, seed: int) -> None:
        """A new episode."""

    def rows(self, one: Placed, values: Any, count: int, *, whole: bool) -> None:
        """Rows of a field, which has `count` in this episode; all of them if they are `whole`."""

    def plain(self, path: str, values: NDArray[Any], count: int, *, whole: bool) -> None:
        """Rows of what Minari needs and the buffer does not have."""

    def end(self) -> None:
        """The episode is complete."""


def joined(parts: list[Any]) -> Any:
    """Rows one behind the other."""
    if isinstance(parts[0], Ragged):
        return Ragged.concatenate(parts)
    return np.concatenate(parts)


def encoded(values: Ragged) -> list[NDArray[np.uint8]]:
    """The bytes of each value."""
    data = np.ascontiguousarray(values.named)
    width = data.dtype.itemsize * int(np.prod(data.shape[1:], dtype=np.int64))
    offsets = ((np.asarray(values.offsets) - values.offsets[0]) * width).tolist()
    flat = data.reshape(-1).view(np.uint8)
    return [flat[start:stop] for start, stop in itertools.pairwise(offsets)]
