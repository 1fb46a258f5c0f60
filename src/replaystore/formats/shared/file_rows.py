"""Rows of a tensor that lie one behind the other in a file: read in blocks, never as a whole, never mapped (a
mapped file that becomes shorter ends the process)."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, NotFoundError, StorageError

__all__ = ["BLOCK_BYTES", "FileRows", "opened"]

BLOCK_BYTES = 4 << 20
"""About how much of a buffer is in memory at a time, for each of its fields."""


@contextmanager
def opened(path: str) -> Iterator[tuple[int, int]]:
    """The descriptor and the size of a file. NotFoundError; FormatError: no regular file; StorageError: it
    cannot be read."""
    try:
        # a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}", error.errno) from error
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise FormatError(
                f"{path} is a folder: give the path of the file in it, or of a store (.zarr, .h5)"
            )
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{path} is no regular file: give the path of the file that was saved")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FileRows:
    """`count` rows of a shape, in C order and little-endian, from byte `offset` of an open file on."""

    descriptor: int
    where: str
    """What is read, for messages."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop). FormatError: the file became shorter, or a bool is neither 0 nor 1;
        StorageError."""
        found = np.empty((stop - start, *self.shape), self.dtype)
        numbers = found.reshape(-1).view(np.uint8)
        rest, at = numbers.data, self.offset + start * self.row_bytes
        while rest:
            try:
                got = os.preadv(self.descriptor, [rest], at)
            except OSError as error:
                raise StorageError(
                    f"{self.where} cannot be read: {error.strerror or error}", error.errno
                ) from error
            if not got:
                raise FormatError(f"{self.where}: the file became shorter while it was read: copy it again")
            rest, at = rest[got:], at + got
        if self.dtype == np.bool_ and numbers.size and int(numbers.max()) > 1:
            raise FormatError(
                f"{self.where}: a value that must be 0 or 1 is {int(numbers.max())}: the file is damaged"
            )
        return found

    def used(self, start: int) -> int:
        """One more than the last row from `start` on that has a byte other than 0; `start` if there is
        none."""
        step, stop = max(1, BLOCK_BYTES // max(1, self.row_bytes)), self.count
        while stop > start:
            begin = max(start, stop - step)
            found = np.flatnonzero(
                self.read(begin, stop).reshape(stop - begin, -1).view(np.uint8).any(axis=1)
            )
            if len(found):
                return begin + int(found[-1]) + 1
            stop = begin
        return start

    def read_around(self, begin: int, start: int, stop: int) -> NDArray[Any]:
        """Rows begin + start to begin + stop, going on with row 0 after the last one."""
        first = (begin + start) % self.count
        head = min(stop - start, self.count - first)
        if head == stop - start:
            return self.read(first, first + head)
        return np.concatenate([self.read(first, self.count), self.read(0, stop - start - head)])
