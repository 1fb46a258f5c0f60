"""Chunks of HDF5 datasets that are read from the file and decoded here: none becomes larger than it is said
to be, which the library's own filters do not promise."""

from __future__ import annotations

import itertools
import math
import os
import zlib
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from replaystore.containers.deflating import inflate
from replaystore.errors import CorruptError, StorageError, UnsupportedError
from replaystore.formats.shared.hdf5.values import OpenFile, called

__all__ = ["MAX_CHUNK", "FileChunks", "filters_of"]

MAX_CHUNK = 1 << 28
MAX_KEPT = 8 << 20
"""Bytes of decoded chunks that are kept, because the next slice begins in them."""
_DEFLATE, _SHUFFLE, _FLETCHER = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32
_LIBRARY = (h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_NBIT, h5py.h5z.FILTER_SCALEOFFSET, h5py.h5z.FILTER_LZF)
_OURS = (_SHUFFLE, _DEFLATE, _FLETCHER)
"""In this order."""


def filters_of(plist: Any, where: str) -> tuple[int, ...]:
    """The filters that chunks went through. UnsupportedError: not all of them come with h5py."""
    found = tuple(int(plist.get_filter(place)[0]) for place in range(plist.get_nfilters()))
    for number in found:
        if number not in _OURS and number not in _LIBRARY:
            raise UnsupportedError(
                f"{where} is compressed by the filter {number}, which does not come with h5py: make a copy "
                "of the file that is not compressed, or with gzip (h5repack -f GZIP=1)"
            )
    return found


class FileChunks:
    """The chunks of one dataset."""

    def __init__(
        self,
        file: OpenFile,
        handle: Any,
        where: str,
        shape: tuple[int, ...],
        chunk: tuple[int, ...],
        dtype: np.dtype[Any],
        filters: tuple[int, ...],
    ) -> None:
        self._file, self._handle, self._where = file, handle, where
        self._shape, self._chunk, self._dtype, self._filters = shape, chunk, dtype, filters
        self._bytes = math.prod(chunk) * dtype.itemsize
        self._kept: dict[tuple[int, ...], NDArray[Any]] = {}

    @property
    def plain(self) -> bool:
        """Whether the library reads them as well as this does, and as safely."""
        order = [_OURS.index(number) for number in self._filters if number in _OURS]
        return not order or len(order) < len(self._filters) or order != sorted(set(order))

    def read(self, values: NDArray[Any], start: int) -> None:
        """Fill with rows from `start` on."""
        stop = start + len(values)
        sizes = (range(start // self._chunk[0], (stop - 1) // self._chunk[0] + 1),)
        grid = *sizes, *(range(-(-n // c)) for n, c in zip(self._shape[1:], self._chunk[1:], strict=True))
        keep = len(grid[0]) > 0 and math.prod(map(len, grid[1:])) * self._bytes <= MAX_KEPT
        for place in itertools.product(*grid):
            origin = tuple(n * c for n, c in zip(place, self._chunk, strict=True))
            data = self._kept.get(origin)
            if data is None:
                data = self._decoded(origin)
            low, high = max(start, origin[0]), min(stop, origin[0] + self._chunk[0])
            rest = tuple(
                slice(at, min(at + c, n))
                for at, c, n in zip(origin[1:], self._chunk[1:], self._shape[1:], strict=True)
            )
            inside = tuple(slice(0, part.stop - part.start) for part in rest)
            values[(slice(low - start, high - start), *rest)] = data[
                (slice(low - origin[0], high - origin[0]), *inside)
            ]
            if keep and place[0] == grid[0][-1] and high < origin[0] + self._chunk[0]:
                self._kept = {at: kept for at, kept in self._kept.items() if at[0] == origin[0]}
                self._kept[origin] = data
            elif self._kept and place[0] > grid[0][0]:
                self._kept.clear()

    def _decoded(self, origin: tuple[int, ...]) -> NDArray[Any]:
        info = called(self._where, lambda: self._handle.get_chunk_info_by_coord(origin))
        if info.byte_offset is None:
            return self._filled()
        most = self._bytes + self._bytes // 64 + 4096
        if info.size > most or info.byte_offset + info.size > self._file.size:
            raise CorruptError(
                f"{self._where}: a chunk of {self._bytes} bytes takes {info.size}: it is damaged"
            )
        data = self._stored(origin, int(info.byte_offset), int(info.size))
        for number, skip in zip(reversed(self._filters), self._skips(int(info.filter_mask)), strict=True):
            if skip:
                continue
            if number == _FLETCHER:
                data = self._checked(data)
            elif number == _DEFLATE:
                data = self._inflated(data)
            else:
                data = self._unshuffled(data)
        if data.size != self._bytes:
            raise CorruptError(
                f"{self._where}: a chunk has {data.size} bytes, not {self._bytes}: it is damaged"
            )
        return data.view(self._dtype).reshape(self._chunk)

    def _skips(self, mask: int) -> list[bool]:
        """Which filters a chunk did not go through, the last one first."""
        return [bool(mask >> place & 1) for place in reversed(range(len(self._filters)))]

    def _stored(self, origin: tuple[int, ...], at: int, size: int) -> NDArray[np.uint8]:
        if not self._file.plain:
            _, data = called(self._where, lambda: self._handle.read_direct_chunk(origin))
            return np.frombuffer(data, np.uint8)
        found = np.empty(size, np.uint8)
        try:
            got = os.preadv(self._file.descriptor, [found.data], at)
        except OSError as error:
            raise StorageError(
                f"{self._where} cannot be read: {error.strerror or error}", error.errno
            ) from error
        if got < size:
            raise CorruptError(f"{self._where}: the file ends in the middle of a chunk: copy it again")
        return found

    def _filled(self) -> NDArray[Any]:
        """A chunk that was never written."""
        value = np.zeros((), self._dtype)
        if self._dtype.names is None:
            called(self._where, lambda: self._handle.get_create_plist().get_fill_value(value))
        return np.full(self._chunk, value, self._dtype)

    def _inflated(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            return np.frombuffer(inflate(data, self._bytes, zlib.MAX_WBITS), np.uint8)
        except CorruptError as error:
            raise CorruptError(f"{self._where}: {error}: it is damaged; copy it again") from error

    def _unshuffled(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = self._dtype.itemsize
        if data.size % size:
            raise CorruptError(
                f"{self._where}: a chunk has {data.size} bytes, not {self._bytes}: it is damaged"
            )
        return np.ascontiguousarray(data.reshape(size, -1).T).reshape(-1)

    def _checked(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Without the checksum of Fletcher at the end."""
        body, end = data[:-4], data[-4:]
        words = np.zeros(-(-body.size // 2) * 2, np.uint8)
        words[: body.size] = body
        numbers = words.view(">u2").astype(np.uint64)
        first = int(numbers.sum()) % 65535
        weights = np.arange(len(numbers), 0, -1, dtype=np.uint64) % np.uint64(65535)
        second = int((numbers * weights % np.uint64(65535)).sum()) % 65535
        low, high = (int(part) % 65535 for part in end.view("<u2"))
        if (low, high) != (first, second):
            raise CorruptError(f"{self._where}: a chunk is not what its checksum says: it is damaged")
        return body
