"""The arrays of an .npz file, found without NumPy's reader: rows of those that are stored are read where they
lie, deflated ones are inflated as a stream, forwards. Nothing is unpickled.

Sizes are compared with the bytes that are there, and with what deflate can make of them, before anything is
allocated; a stream gives rows as they are asked for, and never more.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import CorruptError, FormatError, StorageError, UnsupportedError
from replaystore.formats.shared.file_rows import opened
from replaystore.formats.shared.flat.arrays import Column
from replaystore.storage.local import read_all

__all__ = ["Member", "opened_npz"]

MOST_MEMBERS = 4096
HEADER = 1 << 16
"""More than any header of an array of numbers takes."""
LOCAL = struct.Struct("<4s5H3I2H")
"""What is before the content of a member."""
LARGEST_RATIO, SLACK = 1100, 1 << 20
"""Deflate makes at most so many times more of it."""
WHOLE = 1 << 28
"""Bytes of an array that has to be read as a whole."""
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    SyntaxError,
    TypeError,
)
"""What Python's zipfile and NumPy's reader of headers raise."""
Item = TypeVar("Item")


@contextmanager
def opened_npz(path: str) -> Iterator[dict[str, Member]]:
    """The arrays in a file, by name, which is open meanwhile. NotFoundError, StorageError; FormatError: it is
    something else, or damaged."""
    with opened(path) as (descriptor, size), open(descriptor, "rb", closefd=False) as file:
        archive = _told(path, lambda: zipfile.ZipFile(file))
        with archive:
            infos = archive.infolist()
            if len(infos) > MOST_MEMBERS:
                raise FormatError(f"{path} has {len(infos)} members, more than any file of arrays has")
            found = {}
            for info in infos:
                if info.filename.endswith(".npy"):
                    made = partial(_member, archive, info, path, descriptor, size)
                    found[info.filename.removesuffix(".npy")] = _told(path, made)
            yield found


def _told(where: str, action: Callable[[], Item]) -> Item:
    try:
        with warnings.catch_warnings():  # a strange header may be no valid Python
            warnings.simplefilter("ignore")
            return action()
    except (FormatError, UnsupportedError, StorageError):
        raise
    except OSError as error:
        raise StorageError(f"{where} cannot be read: {error.strerror or error}", error.errno) from error
    except BROKEN as error:
        reason = str(error) or type(error).__name__
        raise CorruptError(
            f"{where} is no sound .npz file ({reason:.200}): it is damaged; copy it again"
        ) from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str, descriptor: int, size: int) -> Member:
    where = f"{path}, {info.filename.removesuffix('.npy')!r}"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedError(
            f"{where} is encrypted, or compressed as numpy.savez_compressed does not: save it anew"
        )
    if info.file_size > LARGEST_RATIO * info.compress_size + SLACK or info.compress_size > size:
        raise CorruptError(
            f"{where} says that {info.compress_size} bytes become {info.file_size}, which cannot be: it "
            "is damaged"
        )
    with archive.open(info) as file:
        begin = io.BytesIO(file.read(HEADER))
    shape, fortran, dtype = _header(begin)
    at, count = begin.tell(), math.prod(shape)
    objects = dtype.hasobject
    if not objects and count * dtype.itemsize != info.file_size - at:
        raise CorruptError(
            f"{where} has the shape {shape}, which takes {count * dtype.itemsize} bytes, and there are "
            f"{info.file_size - at}: it is damaged"
        )
    offset = None
    if info.compress_type == zipfile.ZIP_STORED:
        offset = _content(descriptor, info, size, where) + at
    return Member(archive, info, where, descriptor, dtype, shape, fortran and len(shape) > 1, at, offset)


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except tokenize.TokenError as error:  # NumPy takes one that is no Python for a very old one
        raise ValueError(f"its head is none ({error.args[0]})") from error
    if not all(type(length) is int and 0 <= length < 1 << 62 for length in shape):
        raise ValueError(f"an array of the shape {shape}")
    return shape, bool(fortran), dtype


def _content(descriptor: int, info: zipfile.ZipInfo, size: int, where: str) -> int:
    """Where what is stored of a member begins."""
    local = LOCAL.unpack(read_all(descriptor, info.header_offset, LOCAL.size))
    begin: int = info.header_offset + LOCAL.size + local[9] + local[10]
    if local[0] != b"PK\x03\x04" or begin + info.file_size > size or info.compress_size != info.file_size:
        raise CorruptError(f"{where} is not where the directory of the file says: it is damaged")
    return begin


@dataclass
class Member:
    """An array of a file."""

    _archive: zipfile.ZipFile
    _info: zipfile.ZipInfo
    where: str
    _descriptor: int
    dtype: np.dtype[Any]
    """As it is in the file."""
    shape: tuple[int, ...]
    fortran: bool
    """The first dimension runs fastest."""
    _begin: int
    """Where the numbers begin in the member."""
    _offset: int | None
    """And in the file, if they are stored."""

    @property
    def numbers(self) -> bool:
        """Whether it is an array of numbers."""
        return self.dtype.kind in "biufc" and self.dtype.names is None and self.dtype.itemsize <= 16

    def column(self) -> Column:
        """It as a column of steps."""
        assert self.shape
        read: Any = _Stream(self).read
        if self.fortran:
            read = self._read_turned if self._offset is not None else self._read_whole
        elif self._offset is not None:
            read = self._read_stored
        dtype = self.dtype.newbyteorder("<")

        def checked(start: int, stop: int) -> NDArray[Any]:
            values = read(start, stop)
            if dtype == np.bool_ and values.size and int(values.view(np.uint8).max()) > 1:
                raise CorruptError(
                    f"{self.where}: a value that must be 0 or 1 is something else: it is damaged"
                )
            return np.asarray(values, dtype)

        return Column(dtype, self.shape[1:], self.shape[0], checked, self.where)

    def whole(self) -> NDArray[Any]:
        """All of it, if it is small. UnsupportedError: it is not."""
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > WHOLE:
            raise UnsupportedError(
                f"{self.where} takes {size} bytes, and would have to be in memory as a whole"
            )
        with self.stream() as file:
            data = self.taken(file, size)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")

    def stream(self) -> IO[bytes]:
        """What follows its header."""
        return _told(self.where, self._open)

    def _open(self) -> IO[bytes]:
        file = self._archive.open(self._info)
        file.read(self._begin)
        return file

    def taken(self, file: IO[bytes], count: int) -> bytes:
        """So many bytes of a stream."""
        data = _told(self.where, lambda: file.read(count))
        if len(data) != count:
            raise CorruptError(f"{self.where} ends in the middle: it is damaged; copy it again")
        return data

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def _pread(self, at: int, values: NDArray[Any]) -> None:
        assert self._offset is not None
        rest, place = values.reshape(-1).view(np.uint8).data, self._offset + at
        while rest:
            try:
                got = os.preadv(self._descriptor, [rest], place)
            except OSError as error:
                raise StorageError(
                    f"{self.where} cannot be read: {error.strerror or error}", error.errno
                ) from error
            if not got:
                raise CorruptError(f"{self.where}: the file became shorter while it was read: copy it again")
            rest, place = rest[got:], place + got

    def _read_stored(self, start: int, stop: int) -> NDArray[Any]:
        values = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._pread(start * self.row_bytes, values)
        return values

    def _read_turned(self, start: int, stop: int) -> NDArray[Any]:
        """Of an array in which the first dimension runs fastest."""
        pieces = np.empty((math.prod(self.shape[1:]), stop - start), self.dtype)
        for place, piece in enumerate(pieces):
            self._pread((place * self.shape[0] + start) * self.dtype.itemsize, piece)
        return np.ascontiguousarray(pieces.reshape(*reversed(self.shape[1:]), stop - start).T)

    def _read_whole(self, start: int, stop: int) -> NDArray[Any]:
        return np.ascontiguousarray(self.whole()[start:stop])


class _Stream:
    """Rows of a deflated member, forwards; the last ones may be asked for again."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._file: IO[bytes] | None = None
        self._start = 0
        self._kept = np.zeros((0, *member.shape[1:]), member.dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop)."""
        member = self._member
        if self._file is None or start < self._start:
            self._file, self._start = member.stream(), 0
            self._kept = self._kept[:0]
        at = self._start + len(self._kept)
        step = max(1, (1 << 20) // max(1, member.row_bytes))
        while at < start:
            skipped = min(step, start - at)
            member.taken(self._file, skipped * member.row_bytes)
            at, self._kept = at + skipped, self._kept[:0]
            self._start = at
        found = self._kept[start - self._start :]
        if stop > at:
            data = member.taken(self._file, (stop - at) * member.row_bytes)
            more = np.frombuffer(data, member.dtype).reshape(stop - at, *member.shape[1:])
            found = np.concatenate([found, more]) if len(found) else more
        self._start, self._kept = start, found
        return found[: stop - start]
