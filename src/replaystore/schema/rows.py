"""Whether columns of rows are those of a schema, and what is wrong with those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.errors import SchemaError, UnknownFieldError
from replaystore.schema.field import Field
from replaystore.schema.names import listed
from replaystore.schema.ragged import Ragged

__all__ = ["check_rows"]

Expected = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]


def check_rows(expected: Expected, columns: Mapping[str, Any], ragged: Mapping[str, Field]) -> int:
    """How many rows columns have: one array for each field, of its dtype and shape, and a Ragged for each of
    those of any length. SchemaError."""
    if len(columns) == len(expected):  # the way taken by every append: a few comparisons a field
        rows = -1
        for name, (dtype, shape) in expected.items():
            array = columns.get(name)
            if type(array) is not np.ndarray or (array.dtype is not dtype and array.dtype != dtype):
                break
            came = array.shape
            if came[1:] != shape or not came:
                break
            if rows < 0:
                rows = came[0]
            elif came[0] != rows:
                break
        else:
            return rows
    return _check_one_by_one(expected, columns, ragged)


def _check_one_by_one(expected: Expected, columns: Mapping[str, Any], ragged: Mapping[str, Field]) -> int:
    """`check_rows` for fields of any length, for subclasses of ndarray, and for whatever is wrong."""
    if missing := expected.keys() - columns.keys():
        name = next(name for name in expected if name in missing)
        raise SchemaError(
            f"field {name!r} is missing among {listed(columns)}: every field of the "
            "schema needs a value in every row"
        )
    if strange := [name for name in columns if name not in expected]:
        text = (
            f"there is no field {strange[0]!r} in the schema ({listed(expected)}): leave it out, "
            "or add it as a field"
        )
        raise UnknownFieldError(text)
    rows, first = -1, ""
    for name, (dtype, shape) in expected.items():
        array = columns[name]
        if name in ragged:
            _check_ragged(name, array, ragged[name])
        else:
            _check_column(name, array, dtype, shape)
        if rows < 0:
            rows, first = array.shape[0], name
        elif array.shape[0] != rows:
            raise SchemaError(
                f"field {name!r} has {array.shape[0]} rows, but {first!r} has {rows}: give one row of "
                "each for every step"
            )
    return rows


def _check_column(name: str, array: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        came = f"a {type(array).__name__}: pass numpy.asarray(values, dtype={dtype.name!r})"
        raise SchemaError(f"field {name!r}: expected a NumPy array of {dtype}, came {came}")
    if isinstance(array, np.ma.MaskedArray):
        raise SchemaError(
            f"field {name!r}: expected a plain NumPy array, came a masked one, whose mask "
            "would be lost: use .filled(value)"
        )
    if array.dtype != dtype:
        came = (
            f"{array.dtype.newbyteorder('=')} in big-endian byte order"
            if array.dtype.name == dtype.name
            else str(array.dtype)
        )
        advice = (
            "give numbers"
            if array.dtype == object
            else (f"nothing is cast, use numpy.asarray(values, {dtype.name!r})")
        )
        raise SchemaError(f"field {name!r}: expected dtype {dtype}, came {came}: {advice}")
    if array.ndim == 0 or array.shape[1:] != shape:
        wanted = f"(rows, {', '.join(map(str, shape))})" if shape else "(rows,)"
        remedy = (
            "a single step needs a first dimension of 1: value[None]"
            if array.shape == shape
            else ("the first dimension counts the steps")
        )
        raise SchemaError(f"field {name!r}: expected shape {wanted}, came {array.shape}: {remedy}")


def _check_ragged(name: str, values: Any, declared: Field) -> None:
    if not isinstance(values, Ragged):
        raise SchemaError(
            f"field {name!r} is of any length: expected a Ragged, came a {type(values).__name__}: pass "
            f"replaystore.Ragged.of(values{', text=True' if declared.text else ''})"
        )
    kind = declared.dtype, declared.inner, declared.text
    if len(values.lead) != 1 or (values.dtype, values.inner, values.text) != kind:
        wanted = "texts" if declared.text else f"{declared.dtype} of shape (rows, None, *{declared.inner})"
        raise SchemaError(f"field {name!r}: expected {wanted}, came {values!r}")
