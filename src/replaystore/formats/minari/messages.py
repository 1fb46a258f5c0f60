"""The messages in the heads of objects of HDF5: what each is, and which of its bytes are the same in objects
that are alike. Nothing is read here but bytes that were handed in.

What a message means is the file format specification's of HDF5; here is only what datasets of numbers and
groups of few members need.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ATTRIBUTE",
    "CHUNKED",
    "CONTIGUOUS",
    "GOES_ON",
    "LAYOUT",
    "LINK",
    "LINKS",
    "OLD_HEADER",
    "SPACE",
    "SYMBOLS",
    "TYPE",
    "OddError",
    "attribute_of",
    "dtype_of",
    "link_of",
    "taken_apart",
]

NIL, SPACE, LINKS, TYPE, OLD_FILL, FILL, LINK, LAYOUT, GROUP = 0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8, 0xA
ATTRIBUTE, GOES_ON, SYMBOLS, CHANGED, MANY = 0xC, 0x10, 0x11, 0x12, 0x15
CHUNKED, CONTIGUOUS = 2, 1
OLD_HEADER = 8
"""Bytes before each message of a head of version 1; 4 or 6 in one of version 2."""


class OddError(Exception):
    """It is not as it is expected here, which says nothing against it."""


Places = NDArray[np.intp]


def _numbers() -> dict[bytes, np.dtype[Any]]:
    """What the library writes for the dtypes of little-endian numbers."""
    found = {}
    for size in (1, 2, 4, 8):
        for signed in (0, 8):
            code = struct.pack("<4BIHH", 0x10, signed, 0, 0, size, 0, 8 * size)
            found[code] = np.dtype(f"{'i' if signed else 'u'}{size}").newbyteorder("<")
    for size, sign, exponent, width, bias in ((2, 15, 10, 5, 15), (4, 31, 23, 8, 127), (8, 63, 52, 11, 1023)):
        parts = (0x11, 0x20, sign, 0, size, 0, 8 * size, exponent, width, 0, exponent, bias)
        found[struct.pack("<4BIHH4BI", *parts)] = np.dtype(f"<f{size}")
    names = b"FALSE\0\0\0TRUE\0\0\0\0\0\x01"
    number = bytes.fromhex("100800000100000000000800")
    found[bytes.fromhex("1802000001000000") + number + names] = np.dtype(np.bool_)
    found[bytes.fromhex("3802000001000000") + number + b"FALSE\0TRUE\0\0\x01"] = np.dtype(np.bool_)
    return found


NUMBERS = _numbers()


def dtype_of(message: bytes) -> np.dtype[Any] | None:
    """The dtype that a message says; None: another type."""
    for length in (12, 20, 33, 38):
        if message[:length] in NUMBERS and not any(message[length:]):
            return NUMBERS[message[:length]]
    return None


def link_of(message: bytes) -> tuple[str, int] | None:
    """(name, where the address is) of a link to an object of the file; None: of another kind."""
    if len(message) < 3 or message[0] != 1:
        return None
    flags = message[1]
    place = 2 + bool(flags & 8) + (8 if flags & 4 else 0) + bool(flags & 16)
    if flags & 8 and message[2]:
        return None
    width = 1 << (flags & 3)
    length = int.from_bytes(message[place : place + width], "little")
    begin, end = place + width, place + width + length
    if end + 8 > len(message):
        return None
    try:
        return message[begin:end].decode(), end
    except UnicodeDecodeError:
        return None


def taken_apart(block: bytes, header: int) -> tuple[Places, list[tuple[int, int, int]], list[int], bool]:
    """(bytes that must be alike, messages, where continuations are, whether something is not understood)."""
    fixed = np.zeros(len(block), np.bool_)
    messages, more, odd, place = [], [], False, 0
    while place + header <= len(block):
        kind, length, flags = struct.unpack_from("<HHB" if header == OLD_HEADER else "<BHB", block, place)
        begin, end = place + header, place + header + length
        if end > len(block):
            raise OddError
        fixed[place : place + 4] = True
        odd = odd or bool(flags & 2)
        messages.append((kind, begin, length))
        same, understood = _alike(kind, block[begin:end])
        fixed[begin:end] = same
        odd = odd or not understood
        if kind == GOES_ON:
            more.append(begin)
        place = end
    return np.flatnonzero(fixed), messages, more, odd


def attribute_of(message: bytes) -> tuple[str, np.dtype[Any] | None, int] | None:
    """(name, dtype of a single number, where that begins); None: it is not understood."""
    if len(message) < 9 or message[0] not in (1, 3):
        return None
    version, name, type_, space = struct.unpack_from("<BxHHH", message)
    place, step = (8, 8) if version == 1 else (9, 1)
    ends = []
    for length in (name, type_, space):
        ends.append((place, place + length))
        place += -(-length // step) * step
    if place > len(message) or not name or (version == 3 and message[1] & 3):
        return None
    (begin, end), (kind, until), (there, _) = ends
    dtype = dtype_of(message[kind:until])
    if space < 4 or message[there + 1] != 0 or message[there] not in (1, 2):
        dtype = None
    if dtype is not None and place + dtype.itemsize > len(message):
        return None
    try:
        return message[begin : end - 1].decode(), dtype, place
    except UnicodeDecodeError:
        return None


def _alike(kind: int, message: bytes) -> tuple[NDArray[np.bool_], bool]:
    """Which bytes of a message must be the same in others that are like it, and whether it is understood.
    OddError: it is too short."""
    same = np.zeros(len(message), np.bool_)
    if kind == GOES_ON:
        if len(message) < 16:
            raise OddError
        same[8:16] = True
    elif kind == SPACE:
        same[:4] = True
    elif kind == LINK:
        link = link_of(message)
        same[: None if link is None else link[1]] = True
    elif kind == LINKS:
        same[:2] = same[max(0, len(message) - 16) :] = True
    elif kind == LAYOUT:
        same[: 3 if message[1:2] == b"\x02" else 2] = True
    elif kind == ATTRIBUTE:
        attribute = attribute_of(message)
        same[: None if attribute is None else attribute[2]] = True
    elif kind in (TYPE, OLD_FILL, FILL, MANY):
        same[:] = True
        heap = 4 if len(message) > 1 and message[1] & 1 else 2
        return same, kind != MANY or message[heap : heap + 8] == b"\xff" * 8
    else:
        return same, kind in (NIL, SYMBOLS, CHANGED, GROUP)
    return same, True
