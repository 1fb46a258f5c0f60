"""A pickle of a dict of arrays, written as Python's pickle of protocol 4 would be, but for the arrays, whose
numbers come in blocks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.writing import flat_arrays, flat_places
from replaystore.formats.shared.kept_arrays import arrays_of

__all__ = ["fill"]

BEGIN, STOP = b"\x80\x04", b"."
EMPTY_DICT, MARK, SET_ITEMS = b"}", b"(", b"u"
TUPLE, REDUCE, BUILD = b"t", b"R", b"b"
NONE, FALSE, TRUE = b"N", b"\x89", b"\x88"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n" + MARK + b"cnumpy\nndarray\n" + MARK + b"K\x00" + TUPLE
ARRAY += b"C\x01b" + TUPLE + REDUCE
"""What every array begins with; every version of NumPy knows these names."""


def fill(file: IO[bytes], chosen: Chosen, kept_in: str) -> None:
    """Write all of it."""
    places = flat_places(chosen)
    file.write(BEGIN + EMPTY_DICT + MARK)
    for name, dtype, shape, blocks in flat_arrays(chosen, places):
        file.write(_text(name))
        _put(file, dtype, (chosen.steps, *shape), blocks)
    file.write(_text(kept_in) + EMPTY_DICT + MARK)
    for name, values in arrays_of(chosen.kept(places)).items():
        file.write(_text(name))
        _put(file, values.dtype, values.shape, iter([values]))
    file.write(SET_ITEMS + SET_ITEMS + STOP)


def _put(
    file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterator[NDArray[Any]]
) -> None:
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    file.write(ARRAY + MARK + b"K\x01" + MARK + b"".join(map(_number, shape)) + TUPLE + _dtype(dtype) + FALSE)
    file.write(b"\x8e" + struct.pack("<Q", size))
    for rows in blocks:
        file.write(np.ascontiguousarray(rows).data)
    file.write(TUPLE + BUILD)


def _dtype(dtype: np.dtype[Any]) -> bytes:
    order = b"\x8c\x01" + (b"|" if dtype.itemsize == 1 else b"<")
    made = b"cnumpy\ndtype\n" + MARK + _text(dtype.str[1:]) + FALSE + TRUE + TUPLE + REDUCE
    state = MARK + b"K\x03" + order + NONE * 3 + _number(-1) * 2 + _number(0) + TUPLE
    return made + state + BUILD


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(number: int) -> bytes:
    if -(1 << 31) <= number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    data = number.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data
