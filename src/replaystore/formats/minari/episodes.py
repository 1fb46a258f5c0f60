"""The episodes of a dataset, whatever they lie in: which values each has, and rows of them.

Values are named by their paths in an episode as HDF5 has them ("observations", "infos/speed"), items of
tuples by their places ("actions/_index_0").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Attribute", "Episodes", "Leaf"]


@dataclass
class Leaf:
    """The values of one path in all episodes."""

    kind: Literal["numbers", "texts", "arrays", "other"]
    """Numbers of one shape; texts; flat arrays of any length; what is not read."""
    dtype: np.dtype[Any]
    """Which holds those of all episodes."""
    row: tuple[int, ...]
    """The shape of a row; of numbers."""
    rows: NDArray[np.int64]
    """How many each episode has; -1: it has none of this path."""
    mixed: str = ""
    """Why episodes do not go together, if they do not: dtypes of which none holds all, or shapes."""
    cast: str = ""
    """The dtypes that episodes have, if they are several."""

    @property
    def row_bytes(self) -> int:
        """Of numbers."""
        return self.dtype.itemsize * math.prod(self.row)


@dataclass(frozen=True)
class Attribute:
    """A number of each episode."""

    there: NDArray[np.bool_]
    values: NDArray[Any] | None
    """None: these are no single numbers of one dtype."""


class Episodes(Protocol):
    """The episodes of an open dataset."""

    count: int

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """All values, by path."""

    @property
    def attributes(self) -> Mapping[str, Attribute]:
        """What is known of each episode, by name."""

    def whole(self, path: str, begin: int, end: int) -> Any:
        """All rows of episodes [begin, end), one episode behind the other; a Ragged of texts and arrays."""

    def part(self, path: str, episode: int, start: int, stop: int) -> Any:
        """Rows [start, stop) of one episode."""

    def sizes(self, path: str, episode: int, start: int, stop: int) -> NDArray[np.int64]:
        """How many bytes the values of rows [start, stop) take, of texts and arrays."""
