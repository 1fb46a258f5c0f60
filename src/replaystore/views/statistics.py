"""Mean, spread and range of columns, over blocks of rows that are merged: nothing larger than a block is in
memory, however long a single value may be.

Blocks are merged as Chan, Golub and LeVeque give it (1983, "Algorithms for computing the sample variance"),
in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.views.blocks import View, rows_of_bytes

if TYPE_CHECKING:
    from replaystore.columns.values import Values

__all__ = ["RaggedStatistics", "Statistics", "of_field"]

BLOCK_BYTES, FAR_BLOCK_BYTES = 4 << 20, 16 << 20
"""Of a column, that statistics are made of at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Statistics:
    """Of the rows of a column, element by element: arrays of the shape of a row.

    Attributes:
        count: how many rows.
        mean: float64 (complex128 for complex fields); NaN where there are no rows.
        std: the standard deviation of the population, float64; NaN where there are no rows.
        squares: the sum of squared deviations from the mean, float64.
        min, max: in the column's dtype; None where there are no rows, or for complex fields.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    min: NDArray[Any] | None
    max: NDArray[Any] | None

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of the population."""
        if not self.count:
            return np.full(self.squares.shape, np.nan)
        return np.sqrt(self.squares / self.count)

    def __repr__(self) -> str:
        known = {name: getattr(self, name) for name in ("mean", "std", "min", "max")}
        texts = [f"{name} {_short(values)}" for name, values in known.items() if values is not None]
        shape = f" of shape {self.mean.shape}" if self.mean.shape else ""
        return f"<Statistics of {self.count} rows{shape}: {', '.join(texts)}>"

    @classmethod
    def nothing(cls, shape: tuple[int, ...]) -> Statistics:
        return cls(0, np.full(shape, np.nan), np.zeros(shape), None, None)

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Statistics:
        """Of one block, shape (rows, *shape)."""
        if not len(rows):
            return cls.nothing(rows.shape[1:])
        ordered = rows.dtype.kind != "c"
        values = rows.astype(np.float64 if ordered else np.complex128)
        mean = values.mean(axis=0)
        squares = (np.abs(values - mean) ** 2).sum(axis=0)
        low, high = (rows.min(axis=0), rows.max(axis=0)) if ordered else (None, None)
        return cls(len(rows), mean, squares, low, high)

    def merged(self, other: Statistics) -> Statistics:
        """Of both."""
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        distance = other.mean - self.mean
        mean = self.mean + distance * (other.count / count)
        squares = self.squares + other.squares + np.abs(distance) ** 2 * (self.count * other.count / count)
        low = None if self.min is None or other.min is None else np.minimum(self.min, other.min)
        high = None if self.max is None or other.max is None else np.maximum(self.max, other.max)
        return Statistics(count, mean, squares, low, high)


@dataclass(frozen=True, eq=False, repr=False)
class RaggedStatistics:
    """Of a field of values of any length.

    Attributes:
        count: how many values, one of each step.
        lengths: of how long they are, numbers; of texts in bytes of UTF-8.
        values: of what they are made of, one behind another, as `Statistics` of rows of their inner shape;
            None of texts.
    """

    count: int
    lengths: Statistics
    values: Statistics | None

    def __repr__(self) -> str:
        more = "" if self.values is None else f", values {self.values!r}"
        return f"<RaggedStatistics of {self.count} values: lengths {self.lengths!r}{more}>"

    @classmethod
    def nothing(cls, inner: tuple[int, ...], *, text: bool) -> RaggedStatistics:
        return cls(0, Statistics.nothing(()), None if text else Statistics.nothing(inner))

    def merged(self, other: RaggedStatistics) -> RaggedStatistics:
        """Of both."""
        values = None if self.values is None or other.values is None else self.values.merged(other.values)
        return RaggedStatistics(self.count + other.count, self.lengths.merged(other.lengths), values)


class _ViewOfValues(View, Protocol):
    """What is asked of the view of a commit."""

    def values_of(self, name: str) -> Values: ...


def of_field(view: _ViewOfValues, name: str, *, far: bool) -> Statistics | RaggedStatistics:
    """Of all steps of a field. `far`: they are on a server, and more is asked for at once."""
    declared = view.schema.fields[name]
    block = FAR_BLOCK_BYTES if far else BLOCK_BYTES
    if declared.ragged:
        return _of_ragged(view, name, block)
    total = Statistics.nothing(declared.shape)
    for start, stop in rows_of_bytes(view, [name], block):
        total = total.merged(Statistics.of(view.rows(name, slice(start, stop))))
    return total


def _of_ragged(view: _ViewOfValues, name: str, block: int) -> RaggedStatistics:
    """Of texts no more than where they lie is read."""
    declared, values = view.schema.fields[name], view.values_of(name)
    total = RaggedStatistics.nothing(declared.inner, text=declared.text)
    for start, stop in rows_of_bytes(view, [name], block):
        spans = view.rows(name, slice(start, stop))
        values.check(spans)
        lengths = spans[:, 1] - spans[:, 0]
        found = None if declared.text else _of_values(values, spans, block)
        total = total.merged(RaggedStatistics(len(spans), Statistics.of(lengths), found))
    return total


def _of_values(values: Values, spans: NDArray[np.int64], block: int) -> Statistics:
    total = Statistics.nothing(values.declared.inner)
    for piece in _pieces(values, spans, block):
        total = total.merged(Statistics.of(piece))
    return total


def _pieces(values: Values, spans: NDArray[np.int64], block: int) -> Iterator[NDArray[Any]]:
    """What lies in spans that were looked at: at once, or of one value as much as a block has."""
    if len(spans) > 1:
        yield values.take(spans).values
        return
    (begin, end), rows = spans[0].tolist(), max(1, block // values.column.row_bytes)
    for start in range(begin, end, rows):
        yield values.read(start, min(end, start + rows))


def _short(values: NDArray[Any]) -> str:
    """A few of the values, in one line."""
    flat = np.asarray(values).reshape(-1)
    shown = [f"{value:.4g}" if flat.dtype.kind in "fc" else str(value) for value in flat[:4].tolist()]
    return f"[{', '.join(shown)}{', …' if len(flat) > len(shown) else ''}]" if np.ndim(values) else shown[0]
