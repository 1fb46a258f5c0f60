"""What the HDF5 library takes for its file while it prepares a transaction: the file, and over it what the
library writes, in memory."""

from __future__ import annotations

import io
import struct
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from typing import Any

from replaystore.containers.hdf5.directory import Notes
from replaystore.storage.alone import alone

__all__ = ["Overlay", "Pieces", "lookup3"]


class Pieces:
    """Bytes at places, none of which overlap: what was written, later writes over earlier ones."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._data: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return ((start, self._data[start]) for start in self._starts)

    def _overlapping(self, start: int, stop: int) -> tuple[int, int]:
        first = bisect_right(self._starts, start)
        if first and self._starts[first - 1] + len(self._data[self._starts[first - 1]]) > start:
            first -= 1
        last = first
        while last < len(self._starts) and self._starts[last] < stop:
            last += 1
        return first, last

    def write(self, offset: int, data: bytes) -> None:
        if not data:
            return
        stop = offset + len(data)
        first, last = self._overlapping(offset, stop)
        old = self._starts[first:last]
        if old and not (len(old) == 1 and old[0] == offset and len(self._data[offset]) == len(data)):
            start = min(offset, old[0])
            merged = bytearray(max(stop, old[-1] + len(self._data[old[-1]])) - start)
            for place in old:
                merged[place - start : place - start + len(self._data[place])] = self._data[place]
            merged[offset - start : stop - start] = data
            offset, data = start, bytes(merged)
        for place in old:
            del self._data[place]
        self._starts[first:last] = [offset]
        self._data[offset] = data

    def lay_over(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Replace those bytes of a buffer, which holds the file's from `offset` on, that were written."""
        stop = offset + len(buffer)
        first, last = self._overlapping(offset, stop)
        for place in self._starts[first:last]:
            data = self._data[place]
            begin, end = max(place, offset), min(place + len(data), stop)
            buffer[begin - offset : end - offset] = data[begin - place : end - place]

    def holds(self, offset: int, data: bytes) -> bool:
        """Whether just these bytes were written there."""
        return self._data.get(offset) == data

    def cut(self, end: int) -> None:
        """Forget what lies at `end` or beyond."""
        for place in [start for start in self._starts if start + len(self._data[start]) > end]:
            data = self._data.pop(place)[: max(0, end - place)]
            if data:
                self._data[place] = data
        self._starts = sorted(self._data)


class Overlay(io.RawIOBase):
    """The file object for h5py. It never raises, because the library would not survive that in every place:
    what goes wrong here, an error of the system or an interrupt, is kept in `failure`, and from then on the
    library is given zeros."""

    def __init__(self, read: Callable[[int, int], bytes], end: int, pieces: Pieces | None = None) -> None:
        self.pieces = Pieces() if pieces is None else pieces
        self.start = end
        """The end before the transaction."""
        self.end = end
        self.direct: list[tuple[int, bytes]] = []
        """Bytes that the caller puts into space won by the transaction."""
        self.chunks: set[int] = set()
        """Where the library's writes are encoded chunks, in new space."""
        self.front: dict[int, bytes] = {}
        """Bytes of the user block (a head) that change with it."""
        self.notes = Notes()
        """What changes, for the directory."""
        self.recent: list[tuple[int, int]] = []
        """(offset, length) of the library's writes, for a caller that clears it before it looks."""
        self.cancelled = False
        """There turned out to be nothing to change."""
        self.failure: BaseException | None = None
        self._read = read
        self._position = 0
        self._drop: list[tuple[int, int]] = []
        """(offset, length) of places that do not overlap, in order."""

    def drop(self, offset: int, length: int) -> None:
        """Ignore what the library writes here: the bytes are rows, and it only means to fill them."""
        insort(self._drop, (offset, length))

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self.end)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = b""
            if self.failure is None and self._position < self.end:
                with alone():  # the library holds its lock
                    data = self._read(self._position, len(view))
            view[: len(data)] = data
            if len(data) < len(view):
                view[len(data) :] = bytes(len(view) - len(data))
            if self.pieces and self.failure is None:
                self.pieces.lay_over(self._position, view)
        except BaseException as error:  # noqa: BLE001  # raised again when the library has returned
            self.failure = error.with_traceback(None)
            view[:] = bytes(len(view))
        self._position += len(view)
        return len(view)

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes of the file as it is by now; zeros after a failure."""
        buffer = bytearray(length)
        self.seek(offset)
        self.readinto(buffer)
        return bytes(buffer)

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        start = self._position
        try:
            at = bisect_right(self._drop, (start, 1 << 64)) - 1
            if at < 0 or start + length > sum(self._drop[at]):
                self.pieces.write(start, bytes(data))
                self.recent.append((start, length))
        except BaseException as error:  # noqa: BLE001  # likewise
            self.failure = error.with_traceback(None)
        self._position += length
        self.end = max(self.end, self._position)
        return length

    def truncate(self, size: int | None = None) -> int:
        self.end = self._position if size is None else size
        return self.end

    def flush(self) -> None:
        """Nothing is kept back."""


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash, with which HDF5 checks its metadata; for up to some hundred bytes."""
    mask = 0xFFFFFFFF

    def turn(value: int, bits: int) -> int:
        return ((value << bits) | (value >> (32 - bits))) & mask

    x: int
    y: int
    z: int
    a = b = c = (0xDEADBEEF + len(data)) & mask
    last = max(0, (len(data) - 1) // 12 * 12)
    for place in range(0, last, 12):
        x, y, z = struct.unpack_from("<III", data, place)
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        for bits in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & mask) ^ turn(c, bits)
            c = (c + b) & mask
            a, b, c = b, c, a
    if not data:
        return c
    x, y, z = struct.unpack("<III", data[last:].ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - turn(b, bits)) & mask
        a, b, c = b, c, a
    return b  # the value that was changed last, after the names have moved on
