"""Blocks of steps of bounded size, whatever the lengths of their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Schema

__all__ = ["View", "rows_of_bytes"]

SPANS = 1 << 16
"""Steps whose values' lengths are looked at together."""


class View(Protocol):
    """What is asked of the view of a commit."""

    def __len__(self) -> int: ...
    @property
    def schema(self) -> Schema: ...
    def rows(self, name: str, rows: Any) -> NDArray[Any]: ...


def rows_of_bytes(
    view: View, names: Iterable[str], most: int, start: int = 0, stop: int | None = None, stride: int = 1
) -> Iterator[tuple[int, int]]:
    """Blocks of steps `start, start + stride, …`, from where to where, whose fields of these names take
    `most` bytes at most, values of any length among them, or are one step."""
    fields = {name: view.schema.fields[name] for name in names}
    fixed = sum(declared.row_bytes for declared in fields.values())
    ragged = {name: f.dtype.itemsize * math.prod(f.inner) for name, f in fields.items() if f.ragged}
    stop = len(view) if stop is None else stop
    known = max(1, most // max(1, fixed))
    if ragged:
        known = min(known, SPANS)
    for low in range(start, stop, known * stride):
        high = min(stop, low + known * stride)
        if not ragged:
            yield low, high
            continue
        sizes = np.full(len(range(low, high, stride)), fixed, np.int64)
        for name, width in ragged.items():
            spans = view.rows(name, slice(low, high, stride))
            sizes += (spans[:, 1] - spans[:, 0]) * width
        ends, done = np.cumsum(sizes), 0
        while done < len(ends):
            before = int(ends[done - 1]) if done else 0
            until = max(done + 1, int(np.searchsorted(ends, before + most, side="right")))
            yield low + done * stride, min(high, low + until * stride)
            done = until
