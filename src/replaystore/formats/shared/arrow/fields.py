"""Fields as columns of Parquet and Arrow: of which type, and their values there and back.

Arrays are lists of a fixed size, but images (uint8 of two dimensions or more) in Parquet bytes of a fixed
size, since lists of them take four times the room there and a hundred times the time; values of any length
are lists, texts and bytes; complex numbers pairs of floats.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.shared.arrow.reading import Kind
from replaystore.formats.shared.arrow.values import Leaf, leaf_of, numbers, ragged
from replaystore.formats.shared.arrow.writing import arrow_type, bytes_type, sparse_type
from replaystore.schema.field import Field
from replaystore.schema.ragged import Ragged

__all__ = [
    "BYTES",
    "check_column",
    "column_type",
    "complex_of",
    "joined",
    "sparse_column_type",
    "stacked",
    "values_of",
]

BYTES = np.dtype(np.uint8)


def is_image(declared: Field) -> bool:
    """Whether its values are bytes of a fixed size in a file of Parquet, where lists of them take four times
    the room and a hundred times the time."""
    return declared.dtype == BYTES and len(declared.shape) > 1 and not declared.ragged


def column_type(declared: Field, kind: Kind) -> Any:
    """The type of the column of a field."""
    if kind == "parquet" and is_image(declared):
        return bytes_type(math.prod(declared.shape))
    if _is_bytes(declared):
        return bytes_type(None)
    return arrow_type(declared.dtype, declared.shape, text=declared.text)


def sparse_column_type(declared: Field) -> Any:
    """The type of the column of what followed."""
    if is_image(declared) or _is_bytes(declared):
        return bytes_type(None)
    return sparse_type(declared.dtype, declared.shape, text=declared.text)


def _is_bytes(declared: Field) -> bool:
    return declared.dtype == BYTES and declared.shape == (None,) and not declared.text


def check_column(declared: Field, type_: Any, where: str) -> None:
    """FormatError: a column of this type cannot hold this field."""
    leaf: Leaf | None = leaf_of(type_)
    complex_ = declared.dtype.kind == "c"
    wanted = np.dtype(f"f{declared.dtype.itemsize // 2}") if complex_ else declared.dtype
    fits = (
        leaf is not None
        and leaf.dtype == wanted.newbyteorder("=")
        and leaf.text == declared.text
        and (leaf.shape[:1] == (None,)) == declared.ragged
        and leaf.plain
    )
    if not fits:
        raise FormatError(
            f"{where}: is not what its metadata say, {declared!r}: write the file again, or remove the "
            "metadata 'replaystore'"
        )


def values_of(array: Any, declared: Field, where: str, *, nan: bool = False) -> Any:
    """The values of a field. FormatError: they are not of it. `nan`: a float that is not there is NaN."""
    pair = (2,) if declared.dtype.kind == "c" else ()
    if declared.ragged:
        rows = ragged(array, where, None if declared.text else (*declared.inner, *pair))
        if not pair:
            return rows
        return Ragged(complex_of(rows.values, declared.dtype), rows.offsets)
    values = numbers(array, where, (*declared.shape, *pair), nan=nan)
    return complex_of(values, declared.dtype) if pair else values


def complex_of(values: Any, dtype: np.dtype[Any]) -> Any:
    """Complex numbers of pairs of floats."""
    return np.ascontiguousarray(values).view(dtype)[..., 0]


def joined(parts: list[Any]) -> Any:
    """Rows one behind the other."""
    if len(parts) == 1:
        return parts[0]
    return Ragged.concatenate(parts) if isinstance(parts[0], Ragged) else np.concatenate(parts)


def stacked(declared: Field, values: list[Any]) -> Any:
    """Single values of a field, of a text the bytes, as rows."""
    if not declared.ragged:
        return np.array(values, declared.dtype).reshape(len(values), *declared.shape)
    rows = Ragged.of(values, declared.dtype, declared.inner)
    return Ragged(rows.values, rows.offsets, text=True) if declared.text else rows
