"""What the HDF5 library gives, as values of NumPy, and what it raises, as errors of ours."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import h5py  # type: ignore[import-untyped]
import numpy as np

from replaystore.errors import CorruptError, FormatError, ReplayStoreError, StorageError

__all__ = ["OpenFile", "attributes_of", "called", "from_library", "standard_type"]

MAX_ATTRIBUTES = 4096
MAX_ATTRIBUTE = 16 << 20
"""Bytes of one attribute."""
_NUMBERS = "biufc"
_ERRNO = re.compile(r"errno = (\d+)")
_CUT = re.compile(r"truncated file: eof = (\d+), .*stored_eof = (\d+)")

Item = TypeVar("Item")


@dataclass(frozen=True)
class OpenFile:
    """A file that is open, beside the library's own handle."""

    path: str
    descriptor: int
    size: int
    plain: bool
    """Whether HDF5 begins at byte 0, so that the library's addresses count from there."""
    types: list[tuple[Any, np.dtype[Any], bool]] = field(default_factory=list)
    """Types of numbers that were seen in it: the library's, NumPy's, and whether they lie in the file as in
    memory."""

    def where(self, name: str) -> str:
        """For messages."""
        return f"{self.path}, {name!r}" if name else self.path


def called(where: str, action: Callable[[], Item]) -> Item:
    """What the library answers. FormatError, CorruptError, StorageError."""
    try:
        return action()
    except Exception as error:  # h5py raises nearly every exception that there is
        raise from_library(where, error) from error


def from_library(where: str, error: Exception) -> ReplayStoreError:
    """An error of ours for one that was raised inside the library."""
    if isinstance(error, ReplayStoreError):
        return error
    if isinstance(error, MemoryError):
        return StorageError(f"{where}: there is not enough memory for what it says it has")
    reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    if isinstance(error, OSError):
        if cut := _CUT.search(reason):
            return CorruptError(
                f"{where}: it has {cut[1]} bytes of the {cut[2]} that it was written with: a copy of it or "
                "its writer was stopped; copy it again, or write it anew"
            )
        if "unable to lock" in reason:
            return StorageError(f"{where} is being written by another program: wait until it has ended")
        if "already open for write" in reason:
            return FormatError(
                f"{where} was not closed by the program that wrote it: run h5clear -s on a copy of it"
            )
        number = _ERRNO.search(reason)
        if number and (code := int(number.group(1))):
            return StorageError(f"{where}: {os.strerror(code)}", code)
    said = "" if isinstance(error, SystemError) else f" ({reason:.200})"  # its text is of the interpreter
    return CorruptError(f"{where}: HDF5 cannot read it{said}: the file is damaged; copy it again")


@functools.lru_cache(maxsize=64)
def standard_type(dtype: np.dtype[Any]) -> Any:
    """The library's type of values that lie in a file as they lie in memory."""
    return h5py.h5t.py_create(dtype, logical=True)


def attributes_of(handle: Any, where: str) -> dict[str, Any]:
    """The attributes of an object."""

    def listed() -> dict[str, Any]:
        names: list[bytes] = []

        def add(name: bytes) -> int | None:
            names.append(name)
            return 1 if len(names) > MAX_ATTRIBUTES else None

        h5py.h5a.iterate(handle, add)
        if len(names) > MAX_ATTRIBUTES:
            raise FormatError(f"{where}: it has more than {MAX_ATTRIBUTES} attributes")
        return {name.decode(): _attribute_value(h5py.h5a.open(handle, name)) for name in names}

    return called(where, listed)


def _attribute_value(attribute: Any) -> Any:
    """The value of an attribute: str, bool, int, float, or an array of numbers or of str; None: something
    else."""
    kind = attribute.get_type()
    shape = attribute.shape
    if shape is None or len(shape) > 8 or attribute.get_storage_size() > MAX_ATTRIBUTE:
        return None
    if isinstance(kind, h5py.h5t.TypeStringID):
        return _texts(attribute, kind, shape)
    if not isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID | h5py.h5t.TypeEnumID):
        return None
    dtype = attribute.dtype
    if dtype.kind not in _NUMBERS:
        return None
    values = np.zeros(shape, dtype)
    attribute.read(values)
    if dtype == np.bool_ and values.size and int(values.view(np.uint8).max()) > 1:
        return None
    values = values.astype(dtype.newbyteorder("<"), copy=False)
    return values if shape else values.item()


def _texts(attribute: Any, kind: Any, shape: tuple[int, ...]) -> Any:
    if kind.is_variable_str():
        values = np.empty(shape, object)
        attribute.read(values, h5py.h5t.py_create(h5py.string_dtype()))
    else:
        values = np.empty(shape, f"S{kind.get_size()}")
        attribute.read(values)
    try:
        found = [_text(value) for value in values.reshape(-1).tolist()]
    except UnicodeDecodeError:
        return None
    return np.array(found, object).reshape(shape) if shape else found[0]


def _text(value: Any) -> str:
    if value is None or value == 0:  # the library has no text there
        return ""
    return value if isinstance(value, str) else bytes(value).decode()
