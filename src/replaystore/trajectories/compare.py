"""Comparing a whole column with a value or another column, exactly.

Invariants:
(1) Integers are compared exactly, whatever their size and whatever they are compared with; they never pass
    through a float. Only a decimal fraction is first rounded to the type of a float column, so that `score ==
    0.1` is true of a float32 that was written as 0.1.
(2) Callers compare only values of one `kind`: numbers, strings or booleans.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = ["OPERATORS", "Mask", "Scalar", "check_column", "compare", "kind", "member"]

Scalar = bool | int | float | str
Mask = NDArray[np.bool_]

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def kind(value: NDArray[Any] | Scalar) -> str:
    """ "number", "string" or "boolean", of a value or of a column's values."""
    if isinstance(value, np.ndarray):
        return {"b": "boolean", "i": "number", "u": "number", "f": "number"}.get(value.dtype.kind, "string")
    return (
        "string" if isinstance(value, str) else "boolean" if isinstance(value, bool | np.bool_) else "number"
    )


def check_column(column: NDArray[Any], refuse: Callable[[str], NoReturn]) -> NDArray[Any]:
    """The column itself, if all its values are of one kind that can be compared."""
    if column.ndim != 1:
        refuse(
            f"holds arrays of shape {column.shape[1:]}, which cannot be compared; choose rows by a mask "
            "made with NumPy"
        )
    if column.dtype.kind not in "biufUOT":
        refuse(f"holds {column.dtype}, which cannot be compared; numbers, booleans and strings can")
    if column.dtype.kind == "O" and not all(isinstance(value, str) for value in column):
        refuse("holds objects that are not all strings, which cannot be compared")
    return column


def compare(left: NDArray[Any] | Scalar, sign: str, right: NDArray[Any] | Scalar) -> Mask | bool:
    """Compare two values of one kind."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return _compare_columns(left, sign, right)
    if isinstance(right, np.ndarray):
        left, sign, right = right, _MIRRORED[sign], left
    if isinstance(left, np.ndarray) and kind(left) == "number":
        return _compare_number(left, sign, right)  # type: ignore[arg-type]  # of one kind
    return OPERATORS[sign](left, right)  # type: ignore[no-any-return]


def _compare_columns(left: NDArray[Any], sign: str, right: NDArray[Any]) -> Mask:
    if kind(left) == "number":
        inexact = np.result_type(left, right).kind == "f" and any(
            side.dtype.kind in "iu" and side.size and max(-int(side.min()), int(side.max())) > 2**53
            for side in (left, right)
        )
    else:
        inexact = left.dtype.kind != right.dtype.kind  # strings stored in different ways
    if inexact:  # NumPy would round both to float64; Python's own objects compare exactly, if slowly
        left, right = left.astype(object), right.astype(object)
    with np.errstate(invalid="ignore"):  # as objects, nan would raise a warning
        return np.asarray(OPERATORS[sign](left, right), np.bool_)


def _compare_number(column: NDArray[Any], sign: str, value: int | float) -> Mask:
    """Compare a column with a number that its type may be unable to hold.

    Such a number lies between two that the type can hold. Of these, `floor` is the lower: `x < value`, `x <=
    value` and `x <= floor` say the same.
    """
    if _is_nan(value):
        return np.full(column.shape, sign == "!=")
    floor, held = _floor(value, column.dtype)
    if not held:
        if sign in ("==", "!=") or floor is None:
            return np.full(column.shape, sign in ("!=", ">", ">="))
        sign = "<=" if sign in ("<", "<=") else ">"
    return np.asarray(OPERATORS[sign](column, column.dtype.type(floor)), np.bool_)


def _is_nan(value: int | float) -> bool:
    return isinstance(value, float) and math.isnan(value)  # of a large integer, math.isnan would raise


def _floor(value: int | float, dtype: np.dtype[Any]) -> tuple[float | None, bool]:
    """The greatest number of the type that is not above `value` (None if all are), and whether it stands for
    `value` itself."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if value < limits.min:
            return None, False
        floor = math.floor(value) if value <= limits.max else int(limits.max)
        return floor, floor == value
    try:
        with np.errstate(over="ignore"):
            rounded = dtype.type(value)
    except OverflowError:  # an integer beyond every float
        rounded = dtype.type(math.inf if value > 0 else -math.inf)
    if np.isinf(rounded) and abs(value) != math.inf:
        return (np.finfo(dtype).max if rounded > 0 else rounded), False
    if isinstance(value, float) or int(rounded) == value:
        return rounded, True
    return (rounded if int(rounded) < value else np.nextafter(rounded, dtype.type(-math.inf))), False


def member(value: NDArray[Any] | Scalar, choices: list[Scalar]) -> Mask | bool:
    """Is the value, or each value of the column, one of the choices? All are of one kind."""
    if not isinstance(value, np.ndarray):
        return any(value == choice for choice in choices)  # `in` would find nan
    if kind(value) != "number":
        known = set(choices)
        return np.fromiter((entry in known for entry in value.tolist()), np.bool_, len(value))
    found = [
        _floor(choice, value.dtype)
        for choice in choices
        if not isinstance(choice, str) and not _is_nan(choice)
    ]
    return np.isin(value, np.array([floor for floor, held in found if held], value.dtype))
