"""Lists of bytes: values as their bytes, texts, what is compressed, pictures."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.rlds.features import Feature
from replaystore.formats.rlds.records import Record
from replaystore.formats.rlds.rows import WINDOW, Rows
from replaystore.formats.rlds.wire import Values, varint
from replaystore.schema.ragged import Ragged
from replaystore.schema.ragged_forms import offsets_of

__all__ = ["FixedRows", "ItemRows", "Picture"]

MOST_ITEM = 1 << 28
"""Bytes of a single value that may come out of a few."""
Picture = Callable[[bytes, Feature], NDArray[Any]]


class FixedRows(Rows):
    """Values of one size, each as its bytes."""

    def __init__(self, record: Record, values: Values, feature: Feature) -> None:
        super().__init__(record, values, feature)
        size = self.width * feature.dtype.itemsize
        head, left = bytearray(b"\x0a"), size
        while left >= 0x80:
            head.append(left & 0x7F | 0x80)
            left >>= 7
        head.append(left)
        self._head = np.frombuffer(bytes(head), np.uint8)
        self._each = len(head) + size

    def count(self) -> int:
        if (self.stop - self.begin) % self._each:
            raise self._other()
        return (self.stop - self.begin) // self._each

    def _other(self) -> FormatError:
        return self.error(f"a value of it is not {self.feature.dtype.name} of shape {self.feature.shape}")

    def take(self, count: int) -> NDArray[Any]:
        size = count * self._each
        if size > self.stop - self.begin:
            raise self.too_few()
        found = self._values(self.record.read(self.begin, size))
        self.begin += size
        return found

    def _values(self, data: bytes) -> NDArray[Any]:
        lines = np.frombuffer(data, np.uint8).reshape(-1, self._each)
        head = len(self._head)
        if not (lines[:, :head] == self._head).all():
            raise self._other()
        values = np.ascontiguousarray(lines[:, head:])
        if self.feature.dtype == np.bool_ and values.size and values.max() > 1:
            raise self.error("it has a bool that is neither 0 nor 1")
        return values.view(self.feature.dtype).reshape(len(lines), *self.feature.shape)

    def bytes_of(self, steps: int) -> int:
        return steps * self._each

    def last(self) -> NDArray[Any]:
        size = min(self._each, self.stop - self.begin)
        return self._values(self.record.read(self.stop - size, size))


class ItemRows(Rows):
    """Values of sizes of their own: texts, arrays of any length, what is compressed, pictures."""

    def __init__(self, record: Record, values: Values, feature: Feature, picture: Picture | None) -> None:
        super().__init__(record, values, feature)
        self._picture = picture
        self._window, self._at = b"", self.begin

    def _near(self, at: int, count: int) -> bytes:
        if self.record.data is not None:
            return self.record.data[at : at + count]
        begin = at - self._at
        if begin < 0 or begin + count > len(self._window):
            self._window = self.record.read(at, min(max(count, WINDOW), self.stop - at))
            self._at, begin = at, 0
        return self._window[begin : begin + count]

    def _next(self, at: int) -> tuple[int, int]:
        """Where the value at a byte begins and ends."""
        head = self._near(at, min(11, self.stop - at))
        if not head or head[0] != 0x0A:
            raise self.error("it is no list of bytes" if head else "it has fewer values than other features")
        size, used = varint(self.record, head, 1)
        if size > self.stop - at - used:
            raise self.error("a value reaches beyond the list")
        return at + used, at + used + size

    def bytes_of_next(self) -> bytes:
        """The value as it is stored."""
        begin, self.begin = self._next(self.begin)
        return self._near(begin, self.begin - begin)

    def count(self) -> int:
        found, at = 0, self.begin
        while at < self.stop:
            _, at = self._next(at)
            found += 1
        return found

    def bytes_of(self, steps: int) -> int:
        plain = 0 if None in self.feature.shape else steps * self.width * self.feature.dtype.itemsize
        return max(self.stop - self.begin, plain)

    def take(self, count: int) -> Any:
        items = [self._item(self.bytes_of_next()) for _ in range(count)]
        feature = self.feature
        if feature.text:
            return Ragged(_joined(items), offsets_of(list(map(len, items))), text=True)
        if feature.encoding == "image":
            return self._pictures(items)
        each = feature.dtype.itemsize * math.prod(self.inner)
        if None not in feature.shape:
            if any(len(item) != each for item in items):
                raise self.error(f"a value of it is not of shape {feature.shape}")
            return self._viewed(items).reshape(count, *feature.shape)
        if any(len(item) % each for item in items):
            raise self.error(f"a value of it is not of shape {feature.shape}")
        offsets = offsets_of([len(item) // each for item in items])
        return Ragged(self._viewed(items).reshape(-1, *self.inner), offsets)

    def _viewed(self, items: list[bytes]) -> NDArray[Any]:
        found = _joined(items)
        if self.feature.dtype == np.bool_ and found.size and found.max() > 1:
            raise self.error("it has a bool that is neither 0 nor 1")
        return found.view(self.feature.dtype)

    def _item(self, data: bytes) -> bytes:
        if self.feature.encoding != "zlib":
            return data
        most = MOST_ITEM if None in self.feature.shape else self.width * self.feature.dtype.itemsize
        try:
            machine = zlib.decompressobj()
            found = machine.decompress(data, most + 1)
        except zlib.error as error:
            raise self.error(f"it cannot be decompressed: {error}") from None
        if len(found) > most or not machine.eof:
            raise self.error("it is larger than it may be, or cut off")
        return found

    def _pictures(self, items: list[bytes]) -> NDArray[Any]:
        if self._picture is None:
            raise self.error("pictures cannot be read here")
        return np.stack([self._picture(item, self.feature) for item in items])


def _joined(items: list[bytes]) -> NDArray[Any]:
    return np.frombuffer(b"".join(items), np.uint8)
