"""Datasets of HDF5 files: rows of numbers, texts, or arrays of any length, read in slices.

Numbers that lie one behind the other are read from the file itself, at the address that the library gives;
chunks that are deflated are inflated here, up to the size that they are said to have and no further; the rest
is read by the library.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from replaystore.errors import CorruptError, FormatError, ReplayStoreError, StorageError, UnsupportedError
from replaystore.formats.shared.hdf5.chunks import MAX_CHUNK, FileChunks, filters_of
from replaystore.formats.shared.hdf5.values import (
    OpenFile,
    attributes_of,
    called,
    from_library,
    standard_type,
)

__all__ = ["Dataset"]

MAX_RANK = 31
MAX_ROW = 1 << 28
"""Bytes of one row."""
LARGEST_RATIO = 1100
"""No chunk becomes larger than so many times what it takes in the file: deflate ends at 1032."""
SLACK = 1 << 20
"""Bytes that a dataset may have without any in the file: values that were never written."""
COMPACT_TEXTS = 64
"""Texts in the head of an object, whose lengths are not looked at before."""
MANY_TYPES = 16
"""Of numbers, that are remembered of a file."""
REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
"""What a file has in place of a value of any length."""
_CONTIGUOUS, _CHUNKED, _COMPACT = h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED, h5py.h5d.COMPACT


class Dataset:
    """A dataset. `kind` says what its values are: "numbers" (of `dtype`), "texts", "arrays" (of any length,
    of `dtype`), "empty" (it has no shape), or "other", which are not read."""

    __slots__ = (
        "_chunks",
        "_direct",
        "_file",
        "_handle",
        "_native",
        "_stored",
        "dtype",
        "kind",
        "name",
        "shape",
    )

    def __init__(self, file: OpenFile, handle: Any, name: str) -> None:
        self._file, self._handle, self.name = file, handle, name
        self._chunks: FileChunks | None = None
        self._direct: int | None = None
        """Where its bytes begin in the file."""
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        """Of numbers, little-endian; of one array."""
        self._stored: np.dtype[Any] = self.dtype
        self.kind, self._native = "other", False
        self.shape: tuple[int, ...] = ()
        try:
            self._look()
        except ReplayStoreError:
            raise
        except Exception as error:
            raise from_library(self.where, error) from error

    @property
    def where(self) -> str:
        """The file and the dataset, for messages."""
        return self._file.where(self.name)

    @property
    def rows(self) -> int:
        """How many; FormatError: it is a single value."""
        if not self.shape:
            raise FormatError(f"{self.where} is a single value, where there should be rows of them")
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Of numbers."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def attributes(self) -> dict[str, Any]:
        """As those of a group."""
        return attributes_of(self._handle, self.where)

    # --- what it is, and whether it can be

    def _look(self) -> None:
        handle = self._handle
        kind, shape = handle.get_type(), handle.shape
        if shape is None:
            self.kind = "empty"
            return
        self.shape = tuple(map(int, shape))
        if len(self.shape) > MAX_RANK:
            raise FormatError(f"{self.where} has {len(self.shape)} dimensions: the file is damaged")
        self._look_at_type(kind)
        self._look_at_layout(kind.get_size())

    def _look_at_type(self, kind: Any) -> None:
        if isinstance(kind, h5py.h5t.TypeStringID):
            self.kind = "texts"
            self._stored = REFERENCE if kind.is_variable_str() else np.dtype(f"S{kind.get_size()}")
            return
        if isinstance(kind, h5py.h5t.TypeVlenID):
            inner, self._stored = kind.get_super(), REFERENCE
            found = _number_type(inner)
            if found is not None:
                self.kind, self.dtype = "arrays", found.newbyteorder("<")
            return
        if isinstance(kind, h5py.h5t.TypeOpaqueID):
            tagged = _tagged_type(kind)
            if tagged is not None:
                self.kind, self.dtype, self._stored, self._native = "numbers", tagged, tagged, True
            return
        if isinstance(kind, h5py.h5t.TypeArrayID):
            kind, inner_shape = kind.get_super(), tuple(map(int, kind.get_array_dims()))
            self.shape += inner_shape
        for seen, dtype, native in self._file.types:
            if kind.equal(seen):
                self.kind, self.dtype, self._stored = "numbers", dtype.newbyteorder("<"), dtype
                self._native = native
                return
        found = _number_type(kind)
        if found is not None:
            self.kind, self.dtype, self._stored = "numbers", found.newbyteorder("<"), found
            self._native = bool(kind.equal(standard_type(found)))
            if len(self._file.types) < MANY_TYPES:
                self._file.types.append((kind, found, self._native))

    def _look_at_layout(self, item_bytes: int) -> None:
        whole = math.prod(self.shape) * (self.dtype.itemsize if self.kind == "numbers" else item_bytes)
        if self.kind == "numbers" and whole and self.row_bytes > MAX_ROW:
            raise UnsupportedError(f"{self.where} has rows of {self.row_bytes} bytes, more than {MAX_ROW}")
        at = self._handle.get_offset()
        if at is not None:  # one behind the other, in this file
            self._look_at_address(int(at), whole)
            return
        plist = self._handle.get_create_plist()
        layout = plist.get_layout()
        if layout not in (_CONTIGUOUS, _CHUNKED, _COMPACT):
            raise FormatError(
                f"{self.where} is a virtual dataset, whose values lie in other files or datasets, and which "
                "is not followed: copy it to a dataset of its own"
            )
        if layout == _CONTIGUOUS and plist.get_external_count():
            raise FormatError(
                f"{self.where} has its values in another file, which is not read: make one file"
            )
        if layout == _CONTIGUOUS and whole > SLACK:
            raise CorruptError(f"{self.where}: the {whole} bytes that it says it has are not there")
        if layout == _CHUNKED:
            stored = self._handle.get_storage_size()
            if whole > LARGEST_RATIO * stored + SLACK:
                raise CorruptError(
                    f"{self.where} says that it has {whole} bytes of shape {self.shape}, and the file has "
                    f"{stored} for them: it is damaged, or was not closed"
                )
            self._look_at_chunks(plist, item_bytes)

    def _look_at_address(self, at: int, whole: int) -> None:
        if at + whole > self._file.size:
            raise CorruptError(
                f"{self.where} has {whole} bytes at byte {at}, and the file has {self._file.size}: it is not "
                "whole; copy it again"
            )
        if self._file.plain:
            self._direct = at

    def _look_at_chunks(self, plist: Any, item_bytes: int) -> None:
        chunk = tuple(map(int, plist.get_chunk()))
        if math.prod(chunk) * item_bytes > MAX_CHUNK:
            raise UnsupportedError(
                f"{self.where} has chunks of shape {chunk}, of more than {MAX_CHUNK >> 20} MiB: make smaller "
                "ones (h5repack -l CHUNK=…)"
            )
        filters = filters_of(plist, self.where)
        rank = len(chunk)
        if self.shape[rank:] or item_bytes != self._stored.itemsize:
            return  # arrays as items, or none of ours: the library's
        self._chunks = FileChunks(
            self._file, self._handle, self.where, self.shape, chunk, self._stored, filters
        )

    # --- numbers

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows [start, stop), or of what has no rows the one value as an array of no dimension. FormatError:
        they are no numbers, or damaged."""
        if self.kind != "numbers":
            raise FormatError(f"{self.where} has {_told(self.kind)} where there should be numbers")
        values = self._read(start, stop)
        if values.dtype == np.bool_ and values.size and int(values.view(np.uint8).max()) > 1:
            raise CorruptError(f"{self.where}: a value that must be 0 or 1 is something else: it is damaged")
        return values.astype(self.dtype, copy=False)

    def _read(self, start: int, stop: int | None) -> NDArray[Any]:
        shape = self.shape
        if shape:
            start, stop, _ = slice(start, stop).indices(shape[0])
            shape = (max(0, stop - start), *shape[1:])
        values = np.empty(shape, self._stored)
        if not values.size:
            return values
        if self._native and self._direct is not None:
            self._pread(values, self._direct + start * (values.nbytes // shape[0] if shape else 0))
        elif self._native and self._chunks is not None and not self._chunks.plain:
            self._chunks.read(values, start)
        else:
            called(self.where, lambda: self._select(values, start))
        return values

    def _pread(self, values: NDArray[Any], at: int) -> None:
        rest = values.reshape(-1).view(np.uint8).data
        while rest:
            try:
                got = os.preadv(self._file.descriptor, [rest], at)
            except OSError as error:
                raise StorageError(
                    f"{self.where} cannot be read: {error.strerror or error}", error.errno
                ) from error
            if not got:
                raise CorruptError(f"{self.where}: the file became shorter while it was read: copy it again")
            rest, at = rest[got:], at + got

    def _select(self, values: NDArray[Any], start: int) -> None:
        """Read rows by the library."""
        handle = self._handle
        if not self.shape:
            handle.read(h5py.h5s.ALL, h5py.h5s.ALL, values, standard_type(values.dtype))
            return
        there = handle.get_space()
        rank = len(handle.shape)
        kind = handle.get_type() if values.dtype == object or len(self.shape) > rank else None
        count = (values.shape[0], *self.shape[1:rank])
        there.select_hyperslab((start, *(0,) * (rank - 1)), count)
        here = h5py.h5s.create_simple(count)
        if kind is None:
            kind = standard_type(values.dtype)
        elif values.dtype != object:
            kind = h5py.h5t.array_create(standard_type(values.dtype), self.shape[rank:])
        else:
            kind = None
        handle.read(here, there, values, kind)

    def blocks(self, max_bytes: int) -> Iterator[NDArray[Any]]:
        """All rows, about so many bytes at a time."""
        step = max(1, max_bytes // max(1, self.row_bytes))
        for start in range(0, self.rows, step):
            yield self.read(start, start + step)

    # --- texts, and arrays of any length

    def lengths(self, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """How many bytes each of the texts [start, stop) has, or values each of the arrays, of a flat
        dataset, or of a single one."""
        start, stop = self._flat(start, stop)
        if self._stored != REFERENCE:
            return np.full(stop - start, self._stored.itemsize, np.int64)
        if self._direct is None and self._chunks is None:
            if stop - start > COMPACT_TEXTS:
                raise FormatError(f"{self.where}: its values are stored in a way that is not read")
            return np.zeros(stop - start, np.int64)
        found = np.empty(stop - start, REFERENCE)
        if self._direct is not None:
            self._pread(found, self._direct + start * REFERENCE.itemsize)
        elif self._chunks is not None and len(found):
            self._chunks.read(found, start)
        lengths = np.where(found["address"] == 0, 0, found["length"]).astype(np.int64)
        if int(lengths.sum()) * self.dtype.itemsize > self._file.size:
            raise CorruptError(f"{self.where}: its values are longer than the file: it is damaged")
        return lengths

    def texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The texts [start, stop) of a flat dataset, or the single one. FormatError: they are none."""
        if self.kind != "texts":
            raise FormatError(f"{self.where} has {_told(self.kind)} where there should be texts")
        try:
            return [value.decode() for value in self._objects(start, stop)]
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.where} has a text that is not UTF-8: {error.reason}") from error

    def arrays(self, start: int = 0, stop: int | None = None) -> list[NDArray[Any]]:
        """The arrays [start, stop) of a flat dataset, or the single one. FormatError: they are none."""
        if self.kind != "arrays":
            raise FormatError(f"{self.where} has {_told(self.kind)} where there should be arrays")
        return [np.asarray(value, self.dtype) for value in self._objects(start, stop)]

    def _flat(self, start: int, stop: int | None) -> tuple[int, int]:
        if len(self.shape) > 1:
            raise FormatError(f"{self.where} has the shape {self.shape}, where there should be a list")
        start, stop, _ = slice(start, stop).indices(self.shape[0] if self.shape else 1)
        return start, max(start, stop)

    def _objects(self, start: int, stop: int | None) -> list[Any]:
        start, stop = self._flat(start, stop)
        self.lengths(start, stop)
        shape = (stop - start,) if self.shape else ()
        values = np.empty(shape, object if self._stored == REFERENCE else self._stored)
        if stop > start:
            called(self.where, lambda: self._select_objects(values, start))
        found = values.reshape(-1).tolist()
        empty: Any = b"" if self.kind == "texts" else ()
        return [empty if value is None or (self.kind == "texts" and value == 0) else value for value in found]

    def _select_objects(self, values: NDArray[Any], start: int) -> None:
        handle = self._handle
        here = there = h5py.h5s.ALL
        if self.shape:
            there, here = handle.get_space(), h5py.h5s.create_simple(values.shape)
            there.select_hyperslab((start,), values.shape)
        if self._stored != REFERENCE:
            handle.read(here, there, values)
            return
        kind = h5py.string_dtype() if self.kind == "texts" else h5py.vlen_dtype(self.dtype)
        handle.read(here, there, values, h5py.h5t.py_create(kind))


def _number_type(kind: Any) -> np.dtype[Any] | None:
    """The dtype of numbers; None: they are something else."""
    if isinstance(kind, h5py.h5t.TypeEnumID | h5py.h5t.TypeCompoundID):
        dtype = kind.dtype
        if dtype.kind in "iub" and dtype.metadata:
            dtype = np.dtype(dtype.str)  # an enumeration
        return dtype if dtype.kind in "iubc" and dtype.names is None else None
    if isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID):
        dtype = kind.dtype
        return dtype if dtype.kind in "iuf" and dtype.itemsize <= np.dtype(np.float64).itemsize else None
    return None


def _tagged_type(kind: Any) -> np.dtype[Any] | None:
    """The dtype of numbers that h5py wrote as bytes, with NumPy's name of it; None: they are something
    else."""
    tag = kind.get_tag().decode("ascii", "replace")
    if not re.fullmatch(r"NUMPY:[<|][biufc][0-9]{1,2}", tag):
        return None
    try:
        found = np.dtype(tag.partition(":")[2])
    except TypeError:
        return None
    return found if found.itemsize == kind.get_size() else None


def _told(kind: str) -> str:
    return {"other": "values of a kind that is not read", "empty": "nothing"}.get(kind, kind)
