"""What is in an .npz of cpprb: small arrays, and pickles that are followed without being run.

The pickles are decompressed into files without a name, so that rows of the arrays in them can be read where
they lie, and no more than a few of them are in memory.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import numpy as np

from replaystore.errors import FormatError, StorageError
from replaystore.formats.shared.file_rows import FileRows, opened
from replaystore.formats.shared.pickles.reading import Array, scan
from replaystore.schema.spaces import DTYPES

__all__ = ["NAMES", "Members", "names_in", "opened_members", "rows_of"]

NAMES = frozenset({"safe", "version", "data", "Nstep", "cache", "next_of"})
PIECE = 1 << 20
MOST_RATIO = 1100
"""Deflate makes no more than 1032 bytes of one."""
MOST_HEAD = 1 << 12
_HEAD = re.compile(
    rb"\{'descr': '([|<>=]?[?biufcSUO]\d{0,6})', 'fortran_order': (True|False), 'shape': "
    rb"\(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \}\s*"
)
SMALL = 1 << 16
"""Bytes of an array that is no pickle."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def names_in(path: str) -> set[str]:
    """The arrays in a file, without their suffix; empty: it is no zip. It is read quickly, and not much."""
    try:
        with opened(path) as (descriptor, _), _zip(descriptor) as zipped:
            return {name.removesuffix(".npy") for name in zipped.namelist()}
    except (FormatError, OSError, *_DAMAGED):
        return set()


@contextmanager
def _zip(descriptor: int) -> Iterator[zipfile.ZipFile]:
    with os.fdopen(os.dup(descriptor), "rb") as file, zipfile.ZipFile(file) as zipped:
        yield zipped


@contextmanager
def opened_members(path: str) -> Iterator[Members]:
    """A file, while it is open. NotFoundError, StorageError; FormatError: it is none of cpprb, or damaged."""
    with ExitStack() as stack:
        descriptor, _ = stack.enter_context(opened(path))
        try:
            zipped = stack.enter_context(_zip(descriptor))
        except _DAMAGED as error:
            raise FormatError(f"{path} is no .npz, or damaged: {error}") from error
        names = {name.removesuffix(".npy") for name in zipped.namelist()}
        if not names >= NAMES:
            raise FormatError(
                f"{path} has no {min(NAMES - names)}, as transitions that cpprb saved have: it is another "
                ".npz"
            )
        yield Members(path, zipped, stack)


class Members:
    """The arrays of a file."""

    def __init__(self, path: str, zipped: zipfile.ZipFile, stack: ExitStack) -> None:
        self.path, self._zipped, self._stack = path, zipped, stack

    def number(self, name: str) -> Any:
        """A single number, or bool."""
        array = self._small(name)
        if array is None or array.shape != () or array.dtype.kind not in "biu":
            raise self._error(name, "it is no single number")
        return array.item()

    def texts(self, name: str) -> list[str]:
        """Texts; None is none of them."""
        array = self._small(name)
        if array is None:
            found, _ = self.pickled(name)
            if found is None:
                return []
            if isinstance(found, list | tuple) and all(isinstance(text, str) for text in found):
                return list(found)
        elif array.dtype.kind == "U" and array.ndim <= 1:
            return [str(text) for text in array.reshape(-1)]
        raise self._error(name, "it is no list of names")

    def pickled(self, name: str) -> tuple[Any, int]:
        """The object in an array of one, and the descriptor of the file in which its arrays lie."""
        with self._read(name) as member:
            dtype, shape, _ = self._head(name, member)
            if dtype != np.dtype(object) or shape != ():
                raise self._error(name, f"it is {dtype} of shape {shape}, and no pickled object")
            file = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            size, most = 0, self._zipped.getinfo(f"{name}.npy").file_size
            while data := member.read(PIECE):
                size += len(data)
                if size > most:
                    raise self._error(name, "it is larger than it is said to be")
                file.write(data)
        file.flush()
        found = scan(file.fileno(), size, f"{self.path}, {name!r}", "cpprb", lambda _: False)
        if not isinstance(found, Array) or found.items is None or len(found.items) != 1:
            raise self._error(name, "it is no object of Python in an array")
        return found.items[0], file.fileno()

    def _small(self, name: str) -> np.ndarray[Any, Any] | None:
        """An array of plain values; None: it is one of objects."""
        with self._read(name) as member:
            dtype, shape, fortran = self._head(name, member)
            if dtype.hasobject:
                return None
            count = math.prod(shape)
            if count * dtype.itemsize > SMALL:
                raise self._error(name, f"an array of shape {shape} is too large for it")
            data = member.read(count * dtype.itemsize)
        if len(data) < count * dtype.itemsize:
            raise self._error(name, "it is cut off")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

    @staticmethod
    def _head(name: str, member: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
        """The dtype, the shape and the order that an array is said to have, as NumPy writes them."""
        begin = member.read(8)
        size = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(begin)
        if size is None:
            raise ValueError(f"{name} is no .npy of NumPy")
        said = member.read(min(MOST_HEAD, int.from_bytes(member.read(size), "little")))
        told = _HEAD.fullmatch(said)
        lengths = [length for length in told[3].split(b",") if length.strip()] if told else []
        if told is None or len(lengths) > 16:
            raise ValueError(f"{name} does not say what it holds")
        return np.dtype(told[1].decode()), tuple(map(int, lengths)), told[2] == b"True"

    @contextmanager
    def _read(self, name: str) -> Iterator[IO[bytes]]:
        try:
            info = self._zipped.getinfo(f"{name}.npy")
        except KeyError:
            raise self._error(name, "it is not there") from None
        if info.file_size > MOST_RATIO * (info.compress_size + 1):
            raise self._error(name, f"it is said to make {info.file_size} bytes of {info.compress_size}")
        try:
            with self._zipped.open(info) as member:
                yield member
        except FormatError:
            raise
        except (*_DAMAGED, TypeError) as error:
            raise self._error(name, f"it cannot be read ({' '.join(str(error).split()):.120})") from error
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be read: {error.strerror or error}", error.errno
            ) from error

    def _error(self, name: str, what: str) -> FormatError:
        return FormatError(f"{self.path}: {name!r}: {what}: it is damaged, or was not written by cpprb")


def rows_of(found: Any, descriptor: int, where: str) -> FileRows:
    """The rows of an array in a pickle. FormatError: it is none of plain numbers."""
    if not isinstance(found, Array) or not found.shape or found.items is not None:
        raise FormatError(f"{where} is no array of rows, as cpprb has them: it is damaged")
    dtype = found.dtype
    known = DTYPES.get(dtype.name)
    if known is None or known != dtype:
        raise FormatError(f"{where} is of the dtype {dtype}, which no field can have")
    if found.fortran and sum(length > 1 for length in found.shape) > 1:
        raise FormatError(
            f"{where} is stored with its first dimension running fastest, which cpprb does not do"
        )
    return FileRows(descriptor, where, dtype, found.shape[1:], found.shape[0], found.offset)
