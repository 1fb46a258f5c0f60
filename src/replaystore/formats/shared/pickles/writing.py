"""Pickles written piece by piece, without ever having in memory what they hold: the instructions that
Python's `pickle` and NumPy write, of plain values, and of objects that are told by the names of classes.

Frames are short: a long run of numbers stands between two of them, and is written as it comes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

__all__ = ["Call", "Instance", "PickleWriter", "Streamed", "integer_code"]

FRAME_BYTES = 1 << 16
BATCH = 1000


@dataclass(frozen=True)
class Instance:
    """An object of a class, with its attributes."""

    module: str
    name: str
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """What a call of something makes."""

    module: str
    name: str
    args: tuple[Any, ...] = field(default=())


@dataclass(frozen=True)
class Streamed:
    """An array whose numbers `write` puts into the file, in C order."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    write: Callable[[IO[bytes]], None]


class PickleWriter:
    """Writes one pickle; `value` of what it holds, then `end`."""

    def __init__(self, file: IO[bytes], protocol: int = 4) -> None:
        self.file = file
        self._frame = bytearray()
        self._memo: dict[Any, int] = {}
        self._memoized = 0
        file.write(b"\x80" + bytes([protocol]))

    # --- pieces

    def code(self, data: bytes) -> None:
        """Instructions as they are."""
        self._frame += data

    def end_frame(self) -> None:
        """Write what was held back, so that the file can be written to."""
        if self._frame:
            self.file.write(b"\x95" + len(self._frame).to_bytes(8, "little") + self._frame)
            self._frame = bytearray()

    def end_long_frame(self) -> None:
        """End the frame if it is long."""
        if len(self._frame) >= FRAME_BYTES:
            self.end_frame()

    def end(self) -> None:
        """The pickle ends."""
        self.code(b".")
        self.end_frame()

    def memoize(self, key: Any = None) -> None:
        """Remember what was written last, by a key to refer to it."""
        if key is not None:
            self._memo[key] = self._memoized
        self._memoized += 1
        self._frame += b"\x94"

    def known(self, key: Any) -> bool:
        """Whether it was written before; then it is referred to."""
        place = self._memo.get(key)
        if place is None:
            return False
        self._frame += b"h" + bytes([place]) if place < 256 else b"j" + place.to_bytes(4, "little")
        return True

    def text(self, text: str) -> None:
        """A text, which is there once."""
        if not self.known(text):
            data = text.encode()
            short = len(data) < 256
            self._frame += (
                b"\x8c" + bytes([len(data)]) if short else b"X" + len(data).to_bytes(4, "little")
            ) + data
            self.memoize(text)

    def integer(self, number: int) -> None:
        """An integer."""
        self._frame += integer_code(number)

    def name(self, module: str, name: str) -> None:
        """What a name refers to."""
        if not self.known((module, name)):
            self.text(module)
            self.text(name)
            self.code(b"\x93")
            self.memoize((module, name))

    # --- values

    def value(self, value: Any) -> None:
        """Any of what this module knows. TypeError: it is something else."""
        if value is None or value is True or value is False:
            self.code({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif type(value) is int:
            self.integer(value)
        elif type(value) is float:
            self.code(b"G" + struct.pack(">d", value))
        elif type(value) is str:
            self.text(value)
        elif isinstance(value, bytes):
            self._bytes(value)
        elif isinstance(value, np.dtype):
            self._dtype(value)
        elif isinstance(value, np.generic):
            self._scalar(value)
        elif isinstance(value, np.ndarray):
            rows = np.ascontiguousarray(value)
            self._array(Streamed(rows.dtype, value.shape, lambda file: _put(file, rows)))
        elif isinstance(value, Streamed):
            self._array(value)
        else:
            self._holder(value)
        self.end_long_frame()

    def _holder(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self._dict(value)
        elif isinstance(value, tuple):
            self._tuple(value)
        elif isinstance(value, list):
            self._list(value)
        elif isinstance(value, Instance):
            self.name(value.module, value.name)
            self.code(b")\x81")
            self._dict(value.state)
            self.code(b"b")
        elif isinstance(value, Call):
            self.name(value.module, value.name)
            self._tuple(value.args)
            self.code(b"R")
        else:
            raise TypeError(f"a {type(value).__name__} is no value for a pickle")

    def _dict(self, value: Mapping[Any, Any]) -> None:
        self.code(b"}")
        for key, item in value.items():
            self.value(key)
            self.value(item)
            self.code(b"s")

    def _list(self, value: list[Any]) -> None:
        self.code(b"]")
        for start in range(0, len(value), BATCH):
            self.code(b"(")
            for item in value[start : start + BATCH]:
                self.value(item)
            self.code(b"e")

    def _tuple(self, value: tuple[Any, ...]) -> None:
        if not value:
            self.code(b")")
            return
        short = len(value) <= 3
        self.code(b"" if short else b"(")
        for item in value:
            self.value(item)
        self.code((b"\x85", b"\x86", b"\x87")[len(value) - 1] if short else b"t")

    def _bytes(self, value: bytes) -> None:
        self.end_frame()
        self.file.write(b"\x8e" + len(value).to_bytes(8, "little") + value)

    def _dtype(self, dtype: np.dtype[Any]) -> None:
        key = ("dtype", dtype.str)
        if self.known(key):
            return
        self.name("numpy", "dtype")
        self.value((dtype.str[1:], False, True))
        self.code(b"R")
        self.memoize(key)
        self.value((3, dtype.str[0], None, None, None, -1, -1, 0))
        self.code(b"b")

    def _scalar(self, value: np.generic) -> None:
        self.name("numpy._core.multiarray", "scalar")
        self._dtype(value.dtype)
        data = value.tobytes()
        self.code(b"C" + bytes([len(data)]) + data + b"\x86R")

    def _array(self, array: Streamed) -> None:
        """As NumPy writes one that lies in one piece, which can be written to when it is read again."""
        size = array.dtype.itemsize
        for length in array.shape:
            size *= length
        self.name("numpy._core.numeric", "_frombuffer")
        self.code(b"(")
        self.end_frame()
        self.file.write(b"\x96" + size.to_bytes(8, "little"))
        array.write(self.file)
        self._dtype(array.dtype)
        self._tuple(array.shape)
        self.text("C")
        self.code(b"tR")


def _put(file: IO[bytes], rows: np.ndarray[Any, Any]) -> None:
    file.write(rows.tobytes())


def integer_code(number: int) -> bytes:
    """The instruction that makes an integer."""
    if 0 <= number < 1 << 8:
        return b"K" + bytes([number])
    if 0 <= number < 1 << 16:
        return b"M" + number.to_bytes(2, "little")
    if -(1 << 31) <= number < 1 << 31:
        return b"J" + number.to_bytes(4, "little", signed=True)
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)
