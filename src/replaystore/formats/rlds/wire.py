"""The bytes of a tf.train.Example: which lists it holds, and where; and numbers of any length.

    Example   1: Features
    Features  1: one message for each feature: 1: its name, 2: Feature
    Feature   1: BytesList, 2: FloatList or 3: Int64List
    …List     1: the values: bytes one by one; numbers packed into one (or one by one, which is as good)

Values are not read here, and nothing is followed deeper than this, so that neither cycles nor depth can be
made. Fields of other numbers are skipped, as every reader of such messages does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.rlds.records import Record

__all__ = ["BYTES", "FLOAT", "INT", "Values", "lists_of", "varint", "varints_in", "written_varints"]

Kind = Literal["bytes", "floats", "ints"]
BYTES, FLOAT, INT = 1, 2, 3
_KINDS: dict[int, Kind] = {BYTES: "bytes", FLOAT: "floats", INT: "ints"}
MOST_LISTS = 4096
MOST_NAME = 4096
VARINT = 10
"""Bytes that a number has at most."""


@dataclass(frozen=True)
class Values:
    """A list of values in a record: its bytes [begin, stop)."""

    kind: Kind
    begin: int
    stop: int


def lists_of(record: Record) -> dict[str, Values]:
    """The lists of an Example, by name. Of a name that is there twice the last counts. FormatError."""
    found: dict[str, Values] = {}
    for number, begin, stop in _fields(record, 0, record.size):
        if number != 1:
            continue
        for place, start, end in _fields(record, begin, stop):
            if place != 1:
                continue
            named = _named(record, start, end)
            if named is not None:
                found[named[0]] = named[1]
                if len(found) > MOST_LISTS:
                    raise record.error(f"it has more than {MOST_LISTS} features")
    return found


def _named(record: Record, begin: int, stop: int) -> tuple[str, Values] | None:
    """The name and the list of a feature; None: it has no list, and so no value."""
    name, values = b"", None
    for number, start, end in _fields(record, begin, stop):
        if number == 1:
            if end - start > MOST_NAME:
                raise record.error("the name of a feature is too long")
            name = record.read(start, end - start)
        elif number == 2:
            for kind, first, last in _fields(record, start, end):
                if kind in _KINDS:
                    values = Values(_KINDS[kind], first, last)
    try:
        return None if values is None else (name.decode(), values)
    except UnicodeDecodeError:
        raise record.error("the name of a feature is no text") from None


def _fields(record: Record, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The messages, texts and packed values in bytes [at, stop): the number of each, and its bytes."""
    while at < stop:
        head = record.read(at, min(2 * VARINT, stop - at))
        tag, used = varint(record, head, 0)
        wire, number = tag & 7, tag >> 3
        if wire == 2:
            size, used = varint(record, head, used)
            if size > stop - at - used:
                raise record.error(f"at byte {at} of it {size} bytes are said to follow, which are not there")
            yield number, at + used, at + used + size
            at += used + size
        elif wire in (0, 1, 5):
            if wire == 0:
                _, used = varint(record, head, used)
            at += used + {0: 0, 1: 8, 5: 4}[wire]
        else:
            raise record.error(f"at byte {at} of it is a field of the kind {wire}, which there is not")
    if at > stop:
        raise record.error("a field of it reaches beyond its message")


def varint(record: Record, data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for place in range(VARINT):
        if at + place >= len(data):
            break
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise record.error("a number in it has no end")


# --- many numbers


def varints_in(record: Record, data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """All numbers in these bytes, of which the last one ends there."""
    if not len(data) or int(data.max()) < 0x80:  # most lists are of flags, or of small numbers
        return data.astype(np.int64)
    ends = np.flatnonzero(data < 0x80)
    begins = np.empty_like(ends)
    begins[:1], begins[1:] = 0, ends[:-1] + 1
    sizes = ends - begins + 1
    if not len(ends) or ends[-1] != len(data) - 1 or int(sizes.max()) > VARINT:
        raise record.error("a number in it has no end")
    found = (data[begins] & 0x7F).astype(np.uint64)
    for place in range(1, int(sizes.max())):
        (longer,) = np.nonzero(sizes > place)
        more = (data[begins[longer] + place] & 0x7F).astype(np.uint64)
        found[longer] |= more << np.uint64(7 * place)
    return found.view(np.int64)


def written_varints(values: NDArray[Any]) -> bytes:
    """Numbers as they are written: integers of up to 64 bits."""
    numbers = (
        values.astype(np.uint64) if values.dtype.kind in "bu" else values.astype(np.int64).view(np.uint64)
    ).reshape(-1)
    most = int(numbers.max(initial=0))
    if most < 0x80:
        return numbers.astype(np.uint8).tobytes()
    longest = -(-most.bit_length() // 7)
    sizes = np.ones(len(numbers), np.int64)
    for place in range(1, longest):
        sizes += numbers >= np.uint64(1 << (7 * place))
    begins = np.cumsum(sizes) - sizes
    data = np.empty(int(sizes.sum()), np.uint8)
    for place in range(longest):
        (there,) = np.nonzero(sizes > place)
        last = sizes[there] == place + 1
        bits = (numbers[there] >> np.uint64(7 * place)).astype(np.uint8) & 0x7F
        data[begins[there] + place] = np.where(last, bits, bits | 0x80)
    return data.tobytes()
