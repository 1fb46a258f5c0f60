"""Lists of numbers: float32, and integers, which bools and smaller ones are stored as too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.rlds.features import Feature
from replaystore.formats.rlds.records import Record
from replaystore.formats.rlds.rows import WINDOW, Rows
from replaystore.formats.rlds.wire import Values, varint, varints_in

__all__ = ["FloatRows", "IntRows", "bools_of"]

UNPACKED = 1 << 22
"""So many bytes of numbers that are written one by one are read, and no more: nobody writes them so."""


class _PackedRows(Rows):
    """Numbers, packed into one field of the list as everybody does it."""

    wire: int
    """How single numbers are written that are not packed."""

    def __init__(self, record: Record, values: Values, feature: Feature) -> None:
        super().__init__(record, values, feature)
        self._loose: NDArray[Any] | None = None
        if self.begin == self.stop:
            return
        head = record.read(self.begin, min(11, self.stop - self.begin))
        if head[0] == 0x0A:
            size, used = varint(record, head, 1)
            if self.begin + used + size == self.stop:
                self.begin += used
                return
        self._loose = self._one_by_one(record.read(self.begin, min(UNPACKED, self.stop - self.begin)))
        self.begin = self.stop

    def _one_by_one(self, data: bytes) -> NDArray[Any]:
        """Numbers that are packed in several pieces, or not at all."""
        if len(data) < self.stop - self.begin:
            raise self.error("its numbers are not packed")
        pieces, at = list[bytes](), 0
        while at < len(data):
            tag, at = varint(self.record, data, at)
            size = 4
            if tag == 0x0A:
                size, at = varint(self.record, data, at)
            elif tag == 0x08 and self.wire == 0:
                size = varint(self.record, data, at)[1] - at
            elif tag != 0x0D or self.wire != 5:
                raise self.error("it is no list of numbers")
            if size > len(data) - at:
                raise self.error("it ends in the middle of a number")
            pieces.append(data[at : at + size])
            at += size
        return self._decoded(b"".join(pieces))

    def _decoded(self, data: bytes) -> NDArray[Any]:
        raise NotImplementedError

    def bytes_of(self, steps: int) -> int:
        return steps * self.width * self.feature.dtype.itemsize

    def _shaped(self, numbers: NDArray[Any], count: int) -> NDArray[Any]:
        return numbers.reshape(count, *self.feature.shape)


class FloatRows(_PackedRows):
    wire = 5

    def _decoded(self, data: bytes) -> NDArray[Any]:
        if len(data) % 4:
            raise self.error(f"{len(data)} bytes are no numbers of 4 bytes")
        return np.frombuffer(data, "<f4")

    def left(self) -> bool:
        return self.begin != self.stop or bool(self._loose is not None and len(self._loose))

    def count(self) -> int:
        numbers = len(self._loose) if self._loose is not None else (self.stop - self.begin) / 4
        if numbers % self.width:
            raise self.error(f"{numbers:g} numbers are no whole steps of {self.width}")
        return int(numbers // self.width)

    def take(self, count: int) -> NDArray[Any]:
        wanted = count * self.width
        if self._loose is not None:
            found, self._loose = self._loose[:wanted], self._loose[wanted:]
        elif wanted * 4 <= self.stop - self.begin:
            found = self._decoded(self.record.read(self.begin, wanted * 4))
            self.begin += wanted * 4
        else:
            raise self.too_few()
        if len(found) < wanted:
            raise self.too_few()
        return self._shaped(found, count).astype(self.feature.dtype, copy=False)

    def last(self) -> NDArray[Any]:
        if self._loose is not None:
            return self._loose[-self.width :]
        size = min(self.width * 4, (self.stop - self.begin) // 4 * 4)
        return self._decoded(self.record.read(self.stop - size, size))


class IntRows(_PackedRows):
    wire = 0

    def __init__(self, record: Record, values: Values, feature: Feature) -> None:
        self._known = np.zeros(0, np.int64)
        super().__init__(record, values, feature)
        if self._loose is not None:
            self._known = self._loose

    def _decoded(self, data: bytes) -> NDArray[Any]:
        return varints_in(self.record, np.frombuffer(data, np.uint8))

    def _more(self) -> bool:
        """Decode the next window; whether there was one."""
        if self.begin == self.stop:
            return False
        whole = self.record.data is not None
        size = self.stop - self.begin if whole else min(WINDOW, self.stop - self.begin)
        data = np.frombuffer(self.record.read(self.begin, size), np.uint8)
        if self.begin + size < self.stop:
            ends = np.flatnonzero(data[-10:] < 0x80)
            data = data[: len(data) - len(data[-10:]) + int(ends[-1]) + 1] if len(ends) else data
        self.begin += len(data)
        found = varints_in(self.record, data)
        self._known = np.concatenate([self._known, found]) if len(self._known) else found
        return True

    def left(self) -> bool:
        return self.begin != self.stop or bool(len(self._known))

    def count(self) -> int:
        numbers, at = len(self._known), self.begin
        while at < self.stop:
            data = self.record.read(at, min(1 << 18, self.stop - at))
            numbers += int(np.count_nonzero(np.frombuffer(data, np.uint8) < 0x80))
            at += len(data)
        if numbers % self.width:
            raise self.error(f"{numbers} numbers are no whole steps of {self.width}")
        return numbers // self.width

    def take(self, count: int) -> NDArray[Any]:
        wanted = count * self.width
        if len(self._known) >= wanted:
            found, self._known = self._known[:wanted], self._known[wanted:]
            return self._shaped(self._cast(found), count)
        pieces, had = [self._cast(self._known)], len(self._known)
        self._known = self._known[:0]
        while had < wanted:
            if not self._more():
                raise self.too_few()
            pieces.append(self._cast(self._known[: wanted - had]))
            self._known = self._known[wanted - had :]
            had += len(pieces[-1])
        return self._shaped(np.concatenate(pieces), count)

    def _cast(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        dtype = self.feature.dtype
        if dtype == np.int64:
            return numbers
        if dtype == np.uint64:
            return numbers.view(np.uint64)
        if len(numbers):
            low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            if int(numbers.min()) < low or int(numbers.max()) > high:
                raise self.error(f"it has a number that is no {dtype.name}")
        return numbers.astype(dtype)

    def last(self) -> NDArray[Any]:
        if self.begin == self.stop:
            return self._known[-self.width :]
        size = min(10 * (self.width + 1), self.stop - self.begin)
        data = np.frombuffer(self.record.read(self.stop - size, size), np.uint8)
        if size < self.stop - self.begin:
            ends = np.flatnonzero(data < 0x80)
            data = data[int(ends[0]) + 1 :] if len(ends) else data
        return varints_in(self.record, data)[-self.width :]


def bools_of(rows: Rows, count: int) -> NDArray[np.bool_]:
    """So many numbers as bools, a window at a time."""
    found = np.empty(count, np.bool_)
    for start in range(0, count, WINDOW):
        stop = min(start + WINDOW, count)
        found[start:stop] = rows.take(stop - start)
    return found
