"""A record in the making: the values of an episode, feature by feature, while its steps come in blocks.

What is more than fits into memory waits in files without a name, one for each feature, until the episode is
complete and its length is known.
"""

from __future__ import annotations

import math
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, pairwise
from typing import IO, Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replaystore.errors import UnsupportedError
from replaystore.formats.rlds.features import Feature
from replaystore.formats.rlds.records import masked
from replaystore.formats.rlds.wire import BYTES, FLOAT, INT, written_varints
from replaystore.schema.field import Field
from replaystore.schema.ragged import Ragged

__all__ = ["Building", "feature_of"]

MOST_RECORD = (1 << 31) - 1
"""A message of protobuf has no more bytes."""
VALUES, LENGTHS = "/ragged_flat_values", "/ragged_row_lengths_0"
IN_MEMORY = 8 << 20
PIECE = 1 << 20


def feature_of(declared: Field, path: tuple[str, ...], key: str) -> Feature:
    """A field as a feature: numbers of which a tf.train.Example has lists are stored as such, others as their
    bytes, so that each keeps every bit."""
    dtype, shape = declared.dtype, tuple(declared.shape)
    if declared.text:
        return Feature(path, key, dtype, (), "text")
    if dtype.name in ("uint32", "uint64"):  # whose bytes TensorFlow does not decode
        return Feature(
            path,
            key,
            dtype,
            declared.inner if declared.ragged else shape,
            "none",
            shape[:1] if declared.ragged else (),
        )
    listed = (dtype == np.float32 and not declared.ragged) or (dtype.kind in "biu" and not shape)
    return Feature(path, key, dtype, shape, "none" if listed else "bytes")


class _List:
    """The list of a feature: its bytes so far."""

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self.key = feature.key.encode()
        self.kind = BYTES
        if feature.encoding == "none":
            self.kind = FLOAT if feature.dtype.kind == "f" else INT
        self.size = 0
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None

    def add(self, values: Any) -> int:
        """Take the values of some steps; how many bytes they are."""
        data = self._encoded(values)
        self._pieces.append(data)
        self.size += len(data)
        return len(data)

    def _encoded(self, values: Any) -> bytes:
        if isinstance(values, Ragged):
            return _items(values)
        if self.kind == FLOAT:
            return np.ascontiguousarray(values, "<f4").tobytes()
        if self.kind == INT:
            return written_varints(values.view(np.int64) if values.dtype == np.uint64 else values)
        return _fixed_items(values)

    def spill(self, folder: str) -> None:
        """Put what is in memory into a file."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed when it was read
        self._file.writelines(self._pieces)
        self._pieces = []

    def parts(self) -> Iterator[bytes]:
        """All bytes, in order."""
        if self._file is not None:
            self._file.seek(0)
            while data := self._file.read(PIECE):
                yield data
            self._file.close()
        yield from self._pieces

    def heads(self) -> bytes:
        """What is written before the bytes: the entry of the feature."""
        packed = b"" if self.kind == BYTES else _head(1, self.size)
        listed = _head(self.kind, len(packed) + self.size) + packed
        featured = _head(2, len(listed) + self.size) + listed
        named = _head(1, len(self.key)) + self.key
        return _head(1, len(named) + len(featured) + self.size) + named + featured


class Building:
    """An episode that is being written."""

    def __init__(self, features: Iterable[Feature], folder: str, where: str) -> None:
        self._lists = dict[str, _List]()
        self._sequences = set[str]()
        for feature in features:
            key = feature.key
            if feature.sequence:
                self._sequences.add(key)
                lengths = replace(feature, key=key + LENGTHS, dtype=np.dtype("<i8"))
                self._lists[key + LENGTHS] = _List(lengths)
                self._lists[key] = _List(replace(feature, key=key + VALUES))
            else:
                self._lists[key] = _List(feature)
        self._folder, self._where = folder, where
        self._waiting = self._size = 0

    def add(self, columns: Mapping[str, Any]) -> None:
        """Values of some of the features, by their names in the record. UnsupportedError: the record would be
        larger than one can be."""
        added = 0
        for key, values in columns.items():
            if key in self._sequences:
                added += self._lists[key + LENGTHS].add(values.lengths)
                added += self._lists[key].add(values.named)
            else:
                added += self._lists[key].add(values)
        self._waiting, self._size = self._waiting + added, self._size + added
        if self._size > MOST_RECORD - (1 << 16):
            raise UnsupportedError(
                f"{self._where}: a trajectory takes more than {MOST_RECORD} bytes, and a tf.train.Example "
                "cannot be larger: choose another format"
            )
        if self._waiting > IN_MEMORY:
            for values in self._lists.values():
                values.spill(self._folder)
            self._waiting = 0

    def write(self, file: IO[bytes]) -> int:
        """Write the record; how many bytes its data are."""
        heads = {name: values.heads() for name, values in self._lists.items()}
        inside = sum(len(heads[name]) + values.size for name, values in self._lists.items())
        begin = _head(1, inside)
        total = len(begin) + inside
        length = struct.pack("<Q", total)
        file.write(length + struct.pack("<I", masked(google_crc32c.value(length))))
        file.write(begin)
        checksum = google_crc32c.value(begin)
        for name, values in self._lists.items():
            for data in chain([heads[name]], values.parts()):
                checksum = google_crc32c.extend(checksum, data)
                file.write(data)
        file.write(struct.pack("<I", masked(checksum)))
        return total


def _number(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _head(number: int, size: int) -> bytes:
    """What stands before a message, text or packed list of so many bytes."""
    return bytes([number << 3 | 2]) + _number(size)


def _fixed_items(values: NDArray[Any]) -> bytes:
    """Each step's value as its bytes."""
    rows = np.ascontiguousarray(values.reshape(len(values), -1)).view(np.uint8)
    head = np.frombuffer(_head(1, rows.shape[1]), np.uint8)
    lines = np.empty((len(rows), len(head) + rows.shape[1]), np.uint8)
    lines[:, : len(head)], lines[:, len(head) :] = head, rows
    return lines.tobytes()


def _items(values: Ragged) -> bytes:
    """Each step's value, of its own length, as its bytes."""
    flat, begin = values.named.tobytes(), values.offsets[0]
    ends = ((values.offsets - begin) * values.dtype.itemsize * math.prod(values.inner)).tolist()
    pieces = list[bytes]()
    for start, stop in pairwise(ends):
        pieces += (_head(1, stop - start), flat[start:stop])
    return b"".join(pieces)
