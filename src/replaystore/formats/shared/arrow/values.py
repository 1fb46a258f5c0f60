"""What is in a column of Arrow, as arrays of NumPy; and what type a column has.

`leaf_of` says what a type means: numbers of one shape, values of any length, texts. `numbers`, `ragged`,
`lists` and `members` take a column apart. Nothing is cast: a float32 stays one. Where there is no value (a
null) is a FormatError, since an array has none for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.extras import require
from replaystore.schema.ragged import Ragged

__all__ = ["Leaf", "decoded", "leaf_of", "leaves_of", "lists", "members", "numbers", "ragged", "there"]

MOST_LEVELS = 32
"""Of types in types."""


@dataclass(frozen=True)
class Leaf:
    """What a column means."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    """Of one row's value; None: of any length, which may be so at any place, first or further in."""
    text: bool = False
    binary: bool = False
    """Bytes of any length."""

    @property
    def fixed(self) -> bool:
        """Whether all values have one shape."""
        return None not in self.shape

    @property
    def plain(self) -> bool:
        """Whether a field can have such values: of one shape, or of any length in the first dimension."""
        return None not in self.shape[1:]


def _arrow() -> Any:
    return require("pyarrow", "a file of Parquet or Arrow", "arrow")


def leaf_of(type_: Any) -> Leaf | None:
    """What a type means; None: nothing that arrays hold (structs, maps, unions, decimals, nulls)."""
    shape: list[int | None] = []
    types = _arrow().types
    for _ in range(MOST_LEVELS):
        type_ = _storage(type_, shape)
        if types.is_fixed_size_list(type_):
            shape.append(type_.list_size)
        elif types.is_list(type_) or types.is_large_list(type_):
            shape.append(None)
        else:
            break
        type_ = type_.value_type
    if types.is_string(type_) or types.is_large_string(type_):
        return Leaf(np.dtype(np.uint8), (*shape, None), text=True)
    if types.is_binary(type_) or types.is_large_binary(type_):
        return Leaf(np.dtype(np.uint8), (*shape, None), binary=True)
    if types.is_fixed_size_binary(type_) and not types.is_decimal(type_):
        return Leaf(np.dtype(np.uint8), (*shape, type_.byte_width))
    dtype = _dtype(type_)
    return None if dtype is None else Leaf(dtype, tuple(shape))


def _storage(type_: Any, shape: list[int | None]) -> Any:
    """A type without what pyarrow adds to it: dictionaries, and types of other libraries."""
    arrow = _arrow()
    while True:
        if isinstance(type_, arrow.FixedShapeTensorType) and type_.permutation is None:
            shape.extend(type_.shape)
            return type_.value_type
        if isinstance(type_, arrow.BaseExtensionType):
            type_ = type_.storage_type
        elif arrow.types.is_dictionary(type_):
            type_ = type_.value_type
        else:
            return type_


def _dtype(type_: Any) -> np.dtype[Any] | None:
    """The dtype of a number; of dates and times the integers that they are stored as."""
    types = _arrow().types
    if types.is_boolean(type_):
        return np.dtype(np.bool_)
    if types.is_integer(type_) or types.is_floating(type_):
        number: np.dtype[Any] = np.dtype(type_.to_pandas_dtype())
        return number
    if types.is_temporal(type_) and not types.is_interval(type_):
        return np.dtype(f"i{type_.bit_width // 8}")
    return None


def leaves_of(name: str, type_: Any, level: int = 0) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The columns that a column consists of: itself, or if it is a struct its members, as (keys, type)."""
    types = _arrow().types
    if not types.is_struct(type_) or level >= MOST_LEVELS:
        yield (name,), type_
        return
    for at in range(type_.num_fields):
        member = type_.field(at)
        for keys, inner in leaves_of(member.name, member.type, level + 1):
            yield (name, *keys), inner


def decoded(batch: Any) -> Any:
    """A batch whose columns have their values in them, not in a dictionary."""
    arrow = _arrow()
    if not any(arrow.types.is_dictionary(column.type) for column in batch.columns):
        return batch
    columns = [
        column.dictionary_decode() if arrow.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return arrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def members(array: Any, where: str) -> dict[str, Any]:
    """The columns of a struct, by name. FormatError: it has no value somewhere."""
    _check_nulls(array, where)
    try:
        names = [array.type.field(at).name for at in range(array.type.num_fields)]
    except UnicodeDecodeError:
        raise FormatError(f"{where}: a name in it is no text: the file is damaged") from None
    return dict(zip(names, array.flatten(), strict=True))


def lists(array: Any, where: str) -> tuple[NDArray[np.int64], Any]:
    """A column of lists as offsets, which begin at 0, and a column of what is in them. FormatError: it has
    none, or no value somewhere."""
    arrow = _arrow()
    array = _plain(array)
    _check_nulls(array, where)
    types = arrow.types
    if types.is_fixed_size_list(array.type):
        offsets = np.arange(len(array) + 1, dtype=np.int64) * array.type.list_size
        return offsets, array.flatten()
    if not (types.is_list(array.type) or types.is_large_list(array.type)):
        raise FormatError(f"{where}: expected lists, came {array.type}: check which file it is")
    if not len(array):
        return np.zeros(1, np.int64), array.values.slice(0, 0)
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    begin, end = int(offsets[0]), int(offsets[-1])
    return offsets - begin, array.values.slice(begin, end - begin)


def numbers(
    array: Any, where: str, shape: tuple[int, ...] | None = None, *, nan: bool = False
) -> NDArray[Any]:
    """Values of one shape, (rows, *shape), of exactly the dtype that they have. FormatError: they have
    several, or another, or are no numbers. `nan`: a float that is not there (null) is NaN."""
    arrow = _arrow()
    types, tensor = arrow.types, arrow.FixedShapeTensorType
    found: list[int] = []
    child = array
    for _ in range(MOST_LEVELS):
        of_tensor = tuple(child.type.shape) if isinstance(child.type, tensor) else None
        child = _plain(child)
        type_ = child.type
        if not (types.is_fixed_size_list(type_) or types.is_list(type_) or types.is_large_list(type_)):
            break
        offsets, child = lists(child, where)
        lengths = np.diff(offsets)
        length = int(lengths[0]) if len(lengths) else _length(type_, shape, len(found))
        if len(lengths) and (lengths != length).any():
            other = int(lengths[lengths != length][0])
            raise FormatError(
                f"{where}: has values of {length} and of {other} numbers, and all must have one shape: look "
                "at how it was written"
            )
        found += [length] if of_tensor is None else of_tensor
    if not (nan and types.is_floating(child.type)):
        _check_nulls(child, where)
    flat = _flat(child, where, found)
    if shape is not None and tuple(found) != shape and math.prod(found) != math.prod(shape):
        raise FormatError(f"{where}: has the shape {tuple(found)} instead of {shape}: it is damaged")
    return flat.reshape(len(array), *(found if shape is None else shape))


def _length(type_: Any, shape: tuple[int, ...] | None, at: int) -> int:
    size = getattr(type_, "list_size", None)
    if size is not None:
        return int(size)
    return shape[at] if shape is not None and at < len(shape) else 0


def _plain(array: Any) -> Any:
    """Without dictionaries, and types of other libraries."""
    arrow = _arrow()
    while True:
        if isinstance(array, arrow.ChunkedArray):
            array = array.combine_chunks()
        elif isinstance(array.type, arrow.BaseExtensionType):
            array = array.storage
        elif arrow.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        else:
            return array


def _flat(array: Any, where: str, found: list[int]) -> NDArray[Any]:
    """All numbers of a column of numbers."""
    arrow = _arrow()
    types = arrow.types
    if types.is_fixed_size_binary(array.type) and not types.is_decimal(array.type):
        width = array.type.byte_width
        found.append(width)
        data = array.buffers()[1]
        if data is None or not len(array):
            return np.zeros(0, np.uint8)
        return np.frombuffer(data, np.uint8, len(array) * width, array.offset * width)
    dtype = _dtype(array.type)
    if dtype is None:
        raise FormatError(f"{where}: expected numbers, came {array.type}: check which file it is")
    if types.is_temporal(array.type):
        array = array.view(arrow.int64() if dtype.itemsize == 8 else arrow.int32())
    result: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return result.astype(dtype, copy=False)


def ragged(array: Any, where: str, shape: tuple[int, ...] | None = None) -> Ragged:
    """Values of any length: lists of numbers, texts, bytes. `shape`: of what is in a list, if it is known."""
    arrow = _arrow()
    array = _plain(array)
    types = arrow.types
    _check_nulls(array, where)
    if types.is_string(array.type) or types.is_large_string(array.type):
        return _bytes(array, text=True)
    if types.is_binary(array.type) or types.is_large_binary(array.type):
        return _bytes(array, text=False)
    offsets, child = lists(array, where)
    return Ragged(numbers(child, where, shape), offsets)


def there(array: Any) -> NDArray[np.int64]:
    """The rows of a column that have a value."""
    if not array.null_count:
        return np.arange(len(array))
    found: NDArray[np.int64] = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    return found


def _bytes(array: Any, *, text: bool) -> Ragged:
    arrow = _arrow()
    large = arrow.types.is_large_string(array.type) or arrow.types.is_large_binary(array.type)
    _, raw, data = array.buffers()
    if not len(array) or raw is None:
        return Ragged.empty(len(array), text=text)
    dtype = np.dtype(np.int64 if large else np.int32)
    offsets = np.frombuffer(raw, dtype, len(array) + 1, array.offset * dtype.itemsize).astype(np.int64)
    values = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    begin, end = int(offsets[0]), int(offsets[-1])
    return Ragged(values[begin:end], offsets - begin, text=text)


def _check_nulls(array: Any, where: str) -> None:
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise FormatError(
            f"{where}: has no value (null) at row {row} of {len(array)}, and at {array.null_count - 1} more: "
            "fill them in, or leave the column out"
        )
