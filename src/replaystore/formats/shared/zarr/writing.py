"""Zarr arrays of version 2 for other software: written row after row, into a folder or straight into a zip
file.

One chunk of each array is in memory at a time. Metadata are written last, so that a zip file has each name
once.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["FolderSink", "NewArray", "Sink", "ZipSink", "put_group"]

CHUNK_BYTES = 2 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Sink(Protocol):
    """Where files of a hierarchy go."""

    def put(self, name: str, data: Any) -> None:
        """Write a file, which is none yet."""


class FolderSink:
    """Files below a folder, which is there."""

    def __init__(self, root: str) -> None:
        self._root, self._made = root, {""}

    def put(self, name: str, data: Any) -> None:
        """Write a file, and make the folders that it lies in."""
        folder = name.rpartition("/")[0]
        if folder not in self._made:
            os.makedirs(os.path.join(self._root, folder), exist_ok=True)
            self._made.add(folder)
        with open(os.path.join(self._root, name), "wb") as file:
            file.write(data)


class ZipSink:
    """Members of a zip file, stored as they are; equal ones give equal files."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)

    def put(self, name: str, data: Any) -> None:
        """Write a member."""
        info = zipfile.ZipInfo(name, _EPOCH)
        info.create_system, info.external_attr = 3, 0o644 << 16
        self._zip.writestr(info, data)

    def close(self) -> None:
        """Write the directory of the zip file."""
        self._zip.close()


def put_group(sink: Sink, path: str, attributes: Mapping[str, Any] | None = None) -> None:
    """A group, and what is said of it."""
    below = f"{path}/" if path else ""
    sink.put(f"{below}.zgroup", b'{"zarr_format": 2}')
    if attributes:
        sink.put(f"{below}.zattrs", json.dumps(attributes, ensure_ascii=False).encode())


class NewArray:
    """An array whose rows are appended, in chunks of whole rows of 2 MB at most; `close` completes it.

    `compress`: by Blosc with zstd and shuffled bits, of the lowest level: higher ones take several times as
    long, and gain a few per cent."""

    def __init__(
        self,
        sink: Sink,
        path: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        *,
        compress: bool = True,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._sink, self._path = sink, path
        self._dtype, self._shape = dtype.newbyteorder("<"), shape
        self.row_bytes = dtype.itemsize * math.prod(shape)
        self._rows = max(1, min(chunk_bytes, CHUNK_BYTES) // self.row_bytes)
        self._codec = _codec() if compress else None
        self._waiting = np.zeros((0, *shape), self._dtype)
        self._used = self._chunks = 0

    @property
    def count(self) -> int:
        """How many rows were appended."""
        return self._chunks * self._rows + self._used

    def append(self, rows: NDArray[Any]) -> None:
        """Write further rows."""
        while len(rows):
            if not self._used and len(rows) >= self._rows:
                self._put(rows[: self._rows])
                rows = rows[self._rows :]
                continue
            if len(self._waiting) < self._rows:
                self._grow(self._used + len(rows))
            taken = min(len(rows), self._rows - self._used)
            self._waiting[self._used : self._used + taken] = rows[:taken]
            self._used, rows = self._used + taken, rows[taken:]
            if self._used == self._rows:
                self._put(self._waiting)
                self._used = 0

    def close(self) -> None:
        """Write what waits, and what the array is."""
        count, chunk = self.count, self._rows
        if self._used:
            chunk = self._rows if self._chunks else self._used
            self._grow(chunk)
            self._waiting[self._used :] = 0
            self._put(self._waiting[:chunk])
        metadata = {
            "chunks": [chunk, *self._shape],
            "compressor": None if self._codec is None else self._codec.get_config(),
            "dtype": self._dtype.str,
            "fill_value": _FILL.get(self._dtype.kind, 0),
            "filters": None,
            "order": "C",
            "shape": [count, *self._shape],
            "zarr_format": 2,
        }
        self._sink.put(f"{self._path}/.zarray", json.dumps(metadata, indent=4).encode())

    def _grow(self, rows: int) -> None:
        """Room for so many rows, and for more than that, up to a chunk."""
        if len(self._waiting) < rows:
            room = np.zeros((min(self._rows, max(rows, 2 * len(self._waiting))), *self._shape), self._dtype)
            room[: self._used] = self._waiting[: self._used]
            self._waiting = room

    def _put(self, chunk: NDArray[Any]) -> None:
        key = ".".join(map(str, (self._chunks, *(0 for _ in self._shape))))
        data: Any = np.ascontiguousarray(chunk, self._dtype)
        data = data.tobytes() if self._codec is None else self._codec.encode(data)
        self._sink.put(f"{self._path}/{key}", data)
        self._chunks += 1


_FILL: Mapping[str, Any] = {"b": False, "f": 0.0, "c": [0.0, 0.0]}


def _codec() -> Any:
    from numcodecs import Blosc  # type: ignore[import-untyped]

    return Blosc("zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)
