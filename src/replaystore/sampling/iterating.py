"""Batches as an iterator: what samplers of one buffer and of several have in common.

An order "epoch" ends with its epoch; every other one has no end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from replaystore.errors import ArgumentError
from replaystore.sampling.ahead import Place

__all__ = ["Iterating", "check_filled"]


def check_filled(out: Any) -> None:
    """ArgumentError: what `sample` was given is nothing that batches are put into."""
    if isinstance(out, Mapping):
        return
    size = isinstance(out, int | np.integer) and not isinstance(out, bool)
    hint = f"; how many steps a batch has is said when a sampler is made: buffer.sampler({out})"
    raise ArgumentError(
        f"sample() makes the next batch; what it takes, `out`, is a dict of arrays to be filled, such as an "
        f"earlier batch, not {type(out).__name__} {out!r:.40}{hint if size else ''}"
    )


class Iterating(ABC):
    """Something that gives batches one after the other."""

    _place: Place
    """Of the next batch."""

    @abstractmethod
    def sample(self) -> dict[str, Any]:
        """The next batch."""

    @property
    @abstractmethod
    def per_epoch(self) -> int | None:
        """How many batches an epoch has; None: the order has no end."""

    @property
    def epoch(self) -> int:
        """How many epochs have been completed."""
        return self._place[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches; with order "epoch" the rest of the epoch (the last batch may be smaller), else without
        end."""
        epoch = self._place[0]
        while True:
            yield self.sample()
            if self._place[0] != epoch:
                return

    __contains__ = None
    """`x in sampler` would draw without end: it is a TypeError."""

    def __bool__(self) -> bool:
        """True, whether or not the order has an end: `sampler or buffer.sampler()` keeps the sampler."""
        return True

    def __len__(self) -> int:
        """How many batches an epoch has; TypeError if the order has none."""
        found = self.per_epoch
        if found is None:
            raise TypeError("this order has no end; `num_items` says how many items there are to draw from")
        return found
