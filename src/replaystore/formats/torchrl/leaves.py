"""Rows of tensors that lie in files, read in slices: never as a whole, and never mapped (a mapped file that
becomes shorter ends the process)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.schema.spaces import DTYPES
from replaystore.storage.protocol import Reads

__all__ = ["BFLOAT16", "FlatRows", "JoinedRows", "MemberRows", "Rows", "WidenedRows", "dtype_of"]

BFLOAT16 = "torch.bfloat16"
"""NumPy has no such dtype: its values are float32, which holds each of them exactly."""


class Rows(Protocol):
    """Rows of one dtype and shape."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def count(self) -> int: ...
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop). FormatError: they are damaged, or not there; StorageError."""


def dtype_of(name: object) -> np.dtype[Any] | None:
    """The dtype of a tensor, by PyTorch's name of it; None: it is none of ours. Of bfloat16 that of its
    bits."""
    if name == BFLOAT16:
        return np.dtype("<u2")
    return DTYPES.get(str(name).removeprefix("torch."))


@dataclass(frozen=True)
class MemberRows:
    """`count` rows in C order, little-endian, from byte `offset` of a file on."""

    files: Reads
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int
    offset: int = 0

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def check(self) -> None:
        """FormatError: the file is shorter."""
        size = self.count * self.row_bytes
        try:
            there = self.files.size(self.name) if size else 0
        except FileNotFoundError:
            raise FormatError(f"{self.files.path(self.name)} is not there: restore it from a copy") from None
        if there < self.offset + size:
            raise FormatError(
                f"{self.files.path(self.name)} has {there} bytes, and {size} are said to be in it: it was "
                "cut short, restore it from a copy"
            )

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop)."""
        found = np.empty((stop - start, *self.shape), self.dtype)
        view = found.reshape(-1).view(np.uint8)
        at = self.offset + start * self.row_bytes
        if view.size and self.files.read_into(self.name, at, view.data) != view.size:
            raise FormatError(
                f"{self.files.path(self.name)}: the file became shorter while it was read: copy it again"
            )
        if self.dtype == np.bool_ and view.size and int(view.max()) > 1:
            where = self.files.path(self.name)
            raise FormatError(f"{where}: a value that must be 0 or 1 is {int(view.max())}: it is damaged")
        return found


@dataclass(frozen=True)
class WidenedRows:
    """The values of bfloat16 whose bits these rows are, as float32."""

    bits: Rows
    dtype = np.dtype("<f4")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    @property
    def count(self) -> int:
        return self.bits.count

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop)."""
        return (self.bits.read(start, stop).astype("<u4") << 16).view("<f4")


@dataclass(frozen=True)
class FlatRows:
    """The first `axes` axes of an array as one, whose rows along the first axis are read."""

    rows: Rows
    axes: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape[self.axes - 1 :]

    @property
    def count(self) -> int:
        return self.rows.count * self._each

    @property
    def _each(self) -> int:
        return math.prod(self.rows.shape[: self.axes - 1])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop)."""
        each = max(1, self._each)
        first = start // each
        found = self.rows.read(first, -(-stop // each)).reshape(-1, *self.shape)
        return found[start - first * each : stop - first * each]


class JoinedRows:
    """Rows of several arrays, one behind the other. Each is opened when its rows are read, and forgotten when
    those of another are."""

    def __init__(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        counts: Sequence[int],
        opened: Callable[[int], Rows],
    ) -> None:
        """`opened`: (number of an array) → its rows."""
        self.dtype, self.shape, self._opened = dtype, shape, opened
        self._stops = np.cumsum(np.asarray(counts, np.int64))
        self._last: tuple[int, Rows] | None = None

    @property
    def count(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop)."""
        found = np.empty((stop - start, *self.shape), self.dtype)
        at, number = start, int(np.searchsorted(self._stops, start, side="right"))
        while at < stop:
            end = int(self._stops[number])
            begin = int(self._stops[number - 1]) if number else 0
            until = min(stop, end)
            if until > at:
                rows = self._part(number, end - begin)
                found[at - start : until - start] = rows.read(at - begin, until - begin)
            at, number = until, number + 1
        return found

    def _part(self, number: int, count: int) -> Rows:
        if self._last is None or self._last[0] != number:
            rows = self._opened(number)
            if (rows.dtype, rows.shape, rows.count) != (self.dtype, self.shape, count):
                raise FormatError(
                    f"trajectory {number} has {rows.count} rows of {rows.dtype}{list(rows.shape)} where "
                    f"{count} of {self.dtype}{list(self.shape)} are expected: it is damaged"
                )
            self._last = number, rows
        return self._last[1]
