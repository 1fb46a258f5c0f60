"""Blocks of steps of bounded size, whatever the lengths of their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Schema

__all__ = ["rows_of_bytes"]

SPANS = 1 << 16
"""Steps whose values' lengths are looked at together."""


class _View(Protocol):
    """What is asked of the view of a commit."""

    def __len__(self) -> int: ...
    @property
    def schema(self) -> Schema: ...
    def rows(self, name: str, rows: Any) -> NDArray[Any]: ...


def rows_of_bytes(
    view: _View, names: Iterable[str], most: int, start: int = 0, stop: int | None = None, stride: int = 1
) -> Iterator[tuple[int, int]]:
    """Blocks of steps `start, start + stride, …`, from where to where, whose fields of these names take
    `most` bytes at most, values of any length among them, or are one step."""
    fields = {name: view.schema.fields[name] for name in names}
    fixed = sum(declared.row_bytes for declared in fields.values())
    ragged = {name: f.dtype.itemsize * math.prod(f.inner) for name, f in fields.items() if f.ragged}
    stop = len(view) if stop is None else stop
    known = max(1, min(most // max(1, fixed), SPANS))
    while start < stop:
        end = min(stop, start + known * stride)
        sizes = np.full(len(range(start, end, stride)), fixed, np.int64)
        for name, width in ragged.items():
            spans = view.rows(name, slice(start, end, stride))
            sizes += (spans[:, 1] - spans[:, 0]) * width
        count = max(1, int(np.searchsorted(np.cumsum(sizes), most, side="right")))
        end = min(stop, start + count * stride)
        yield start, end
        start = end
