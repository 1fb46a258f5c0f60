"""What a sampler says once, because nobody would see it otherwise: that most steps cannot be drawn, and that
the memory for decoded chunks does not hold what is drawn from.

It may come true as a buffer grows: whatever the order, it is looked when a sampler is made and when it is
refreshed, and a live one now and then. Samplers of several stores that are joined say nothing by themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from replaystore.errors import ReplayStoreWarning
from replaystore.sampling.batches import Batches

__all__ = ["LOOK", "Cautions", "joining"]

WORTH_SAYING = 1000
"""Steps: of fewer nobody wonders whether they are drawn."""
LOOK = 1024
"""Batches after which a live sampler looks again."""

_joining = ContextVar("joining", default=False)


@contextmanager
def joining() -> Iterator[None]:
    """Samplers that are made meanwhile are those of one that speaks for all."""
    token = _joining.set(True)
    try:
        yield
    finally:
        _joining.reset(token)


class Sampled(Protocol):
    """A sampler of one store."""

    @property
    def where(self) -> str: ...

    @property
    def batches(self) -> Batches: ...


class Cautions:
    """Tells each kind of thing once."""

    def __init__(self) -> None:
        self._told = {"left out", "too large"} if _joining.get() else set[str]()

    def tell(self, samplers: Iterable[Sampled], level: int) -> None:
        """Warn of what is so of any of these samplers. `level`: as `stacklevel` where this is called."""
        if len(self._told) == 2:
            return
        found: dict[str, list[str]] = {"left out": [], "too large": []}
        for sampler in samplers:
            batches, where = sampler.batches, sampler.where
            if batches.steps.left_out > max(batches.steps.total, WORTH_SAYING):
                found["left out"].append(f"{where}: {batches.mostly_left_out()}")
            # An epoch decodes each chunk once, however many there is room for.
            large = None if batches.per_epoch is not None else batches.gather.too_large()
            if large is not None:
                found["too large"].append(f"{where}: {large}")
        for kind, texts in found.items():
            if texts and kind not in self._told:
                self._told.add(kind)
                more = f" (and so it is with {len(texts) - 1} more of these stores)" if texts[1:] else ""
                warnings.warn(texts[0] + more, ReplayStoreWarning, stacklevel=level + 1)
