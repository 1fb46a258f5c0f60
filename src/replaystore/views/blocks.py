"""Blocks of steps of bounded size, whatever the lengths of their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Schema

__all__ = ["View", "chosen_of_bytes", "rows_of_bytes"]

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
    widths = _Widths(view, names)
    stop = len(view) if stop is None else stop
    known = max(1, most // max(1, widths.fixed))
    if widths.ragged:
        known = min(known, SPANS)
    for low in range(start, stop, known * stride):
        high = min(stop, low + known * stride)
        if not widths.ragged:
            yield low, high
            continue
        for begin, end in _cut(widths.of(slice(low, high, stride)), most):
            yield low + begin * stride, min(high, low + end * stride)


def chosen_of_bytes(
    view: View, names: Iterable[str], most: int, rows: NDArray[np.int64], count: int
) -> Iterator[NDArray[np.int64]]:
    """Some steps, by their rows, in blocks of `count` at most whose fields of these names take `most` bytes
    at most, or are one step."""
    widths = _Widths(view, names)
    for start in range(0, len(rows), count):
        block = rows[start : start + count]
        for begin, end in _cut(widths.of(block), most):
            yield block[begin:end]


class _Widths:
    """What steps take of some fields, in bytes."""

    def __init__(self, view: View, names: Iterable[str]) -> None:
        fields = {name: view.schema.fields[name] for name in names}
        self.view = view
        self.fixed = sum(declared.row_bytes for declared in fields.values())
        self.ragged = {
            name: declared.dtype.itemsize * math.prod(declared.inner)
            for name, declared in fields.items()
            if declared.ragged
        }

    def of(self, rows: slice | NDArray[np.int64]) -> NDArray[np.int64]:
        """What each of these steps takes; those of a slice are there."""
        count = len(rows) if not isinstance(rows, slice) else len(range(rows.start, rows.stop, rows.step))
        sizes = np.full(count, self.fixed, np.int64)
        for name, width in self.ragged.items():
            spans = self.view.rows(name, rows)
            sizes += (spans[:, 1] - spans[:, 0]) * width
        return sizes


def _cut(sizes: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """From where to where as many lie side by side as have `most` bytes at most, or one."""
    ends, done = np.cumsum(sizes), 0
    while done < len(ends):
        before = int(ends[done - 1]) if done else 0
        until = max(done + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield done, until
        done = until
