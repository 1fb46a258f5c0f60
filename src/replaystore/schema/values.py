"""From what arrives to what a field stores: arrays of NumPy, tensors of PyTorch, lists, Python's own numbers.

1. A value is converted only where that changes nothing: a tensor loses its graph and its device, never its
   numbers; another dtype is taken if it holds each value exactly. Floats never become integers, nor complex
   numbers real ones.
2. Python's own numbers, alone or in lists, have no dtype: they are rounded to floats of the field, but not
   beyond their range.
3. Errors of NumPy and PyTorch become a SchemaError of one line that begins with the name of the field.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SchemaError

__all__ = ["BOOL", "array_of", "exactly", "fitted", "is_tensor", "of_any_length"]

BOOL = np.dtype(np.bool_)
"""A dtype is compared with this one in 0.6 of the time that `np.bool_` takes."""

_WITHOUT_DTYPE = (bool, int, float, complex, list, tuple)
_RAW = (TypeError, ValueError, RuntimeError, OverflowError)
"""What NumPy and PyTorch raise at what is no array."""


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor of PyTorch."""
    torch = sys.modules.get("torch")  # without it there is none
    return torch is not None and isinstance(value, torch.Tensor)


def array_of(name: str, value: Any, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """The value as an array; an array as it is. A tensor may share its memory with what comes back.

    bfloat16 and the floats of eight bits, which NumPy does not have, become float32, which holds each of
    them. SchemaError: it is none, or a tensor of another dtype than `dtype`."""
    if type(value) is np.ndarray:
        return value
    if type(value) in (float, int, bool):
        return np.asarray(value)
    if isinstance(value, np.ma.MaskedArray):
        raise SchemaError(
            f"{name}: expected a plain NumPy array, came a masked one, whose mask would be "
            "lost: use .filled(value)"
        )
    try:
        if is_tensor(value):
            array = _of_tensor(name, value, sys.modules["torch"])
            if dtype is not None and array.dtype != dtype:
                came = f"came a tensor of {value.dtype}: nothing is cast, use .to(torch.{dtype})"
                raise SchemaError(f"{name}: expected dtype {dtype}, {came}")
            return array
        try:
            return np.asarray(value)
        except _RAW:
            if not isinstance(value, list | tuple):
                raise
            return np.asarray([array_of(name, item) for item in value])  # tensors among them, perhaps
    except SchemaError:
        raise
    except _RAW as error:
        if isinstance(value, list | tuple) and "inhomogeneous" in str(error):
            raise SchemaError(
                f"{name}: came a {type(value).__name__} of unequal lengths: give each row the same shape"
            ) from None
        reason = " ".join(str(error).split())[:160]
        raise SchemaError(
            f"{name}: a {type(value).__name__} cannot be had as a NumPy array ({reason}): pass an array or "
            "a tensor"
        ) from None


def _of_tensor(name: str, tensor: Any, torch: Any) -> NDArray[Any]:
    if tensor.is_meta:
        raise SchemaError(
            f"{name}: a tensor on the device 'meta' has a shape, and no numbers: pass one that was computed"
        )
    if tensor.layout is not torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        raise SchemaError(f"{name}: expected a dense tensor, came a {kind} one: pass tensor.to_dense()")
    dense = tensor.detach().cpu().resolve_conj().resolve_neg()
    if dense.dtype == torch.bfloat16 or (dense.is_floating_point() and dense.element_size() == 1):
        dense = dense.to(torch.float32)
    return np.asarray(dense.numpy())


def exactly(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """The same values in another dtype; None if one would change, or if floats would become integers, or
    complex numbers real ones."""
    given = values.dtype
    if given == dtype:
        return values
    kinds = given.kind, dtype.kind
    if kinds[0] in "iu" and kinds[1] in "iufc" and values.size:
        if kinds[1] in "iu":
            low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        else:
            high = 2 ** (int(np.finfo(dtype).nmant) + 1)
            low = -high
        if low <= int(values.min()) and int(values.max()) <= high:
            return values.astype(dtype)
        if kinds[1] in "iu":
            return None
        with np.errstate(all="ignore"):
            floats = values.astype(dtype)
        # Python compares them exactly.
        return floats if np.array_equal(floats.astype(object), values.astype(object)) else None
    if np.can_cast(given, dtype, "safe"):
        return values.astype(dtype)
    if kinds not in (("f", "f"), ("f", "c"), ("c", "c")):
        return None
    with np.errstate(all="ignore"):
        narrow = values.astype(dtype)
        return (
            narrow
            if np.array_equal(narrow.astype(np.result_type(given, dtype)), values, equal_nan=True)
            else None
        )


def fitted(
    name: str,
    value: Any,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    remedy: Callable[[np.dtype[Any]], str],
) -> NDArray[Any]:
    """The value as an array of this dtype and shape. SchemaError; `remedy`: what to do if values of a dtype
    would have to be rounded."""
    given = array_of(name, value)
    stored = _rounded(given, dtype) if type(value) in _WITHOUT_DTYPE else exactly(given, dtype)
    if stored is not None and given.shape == shape:
        return stored
    came = f"{given.dtype} of shape {given.shape}" if given.dtype != object else f"a {type(value).__name__}"
    if given.dtype.kind not in "biufc":
        advice = "give numbers"
    else:
        advice = "nothing is squeezed or broadcast" if stored is not None else remedy(given.dtype)
    raise SchemaError(f"{name}: expected {dtype} of shape {shape}, came {came}: {advice}")


def _rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """What has no dtype of its own, rounded to that of the field if both are floats; None if it is beyond its
    range, or of another kind."""
    if values.dtype == dtype or (values.dtype.kind, dtype.kind) not in (("f", "f"), ("f", "c"), ("c", "c")):
        return exactly(values, dtype)
    with np.errstate(all="ignore"):
        rounded = values.astype(dtype)
    return rounded if np.array_equal(np.isfinite(rounded), np.isfinite(values)) else None


def of_any_length(
    name: str, value: Any, dtype: np.dtype[Any], inner: tuple[int, ...], text: bool
) -> NDArray[Any]:
    """The value as an array (length, *inner) of this dtype; of a text its UTF-8. SchemaError."""
    if text:
        return _utf8(name, value)
    if type(value) is np.ndarray and value.dtype == dtype and value.ndim and value.shape[1:] == inner:
        return value
    given = array_of(name, value)
    if given.ndim and not len(given) and (given.ndim == 1 or given.shape[1:] == inner):
        return np.empty((0, *inner), dtype)  # NumPy takes [] for floats of no further dimensions
    stored = exactly(given, dtype)
    if stored is None and type(value) in _WITHOUT_DTYPE and not _has_dtype(value):
        stored = _rounded(given, dtype)
    if stored is not None and given.ndim and given.shape[1:] == inner:
        return stored
    came = f"{given.dtype} of shape {given.shape}" if given.dtype != object else f"a {type(value).__name__}"
    wanted = f"({', '.join(map(str, ('length', *inner)))}{'' if inner else ','})"
    if isinstance(value, str | bytes):
        came, advice = f"a {type(value).__name__}", "give numbers, or declare a field of texts"
    elif given.dtype.kind not in "biufc":
        advice = "give numbers"
    elif stored is None:
        advice = f"nothing is cast, use numpy.asarray(value, {dtype.name!r}) if that is meant"
    else:
        advice = "the first dimension is the length of the value"
    raise SchemaError(f"{name}: expected {dtype} of shape {wanted}, came {came}: {advice}")


def _has_dtype(value: Any) -> bool:
    """Whether there are arrays, or numbers of NumPy, in a list."""
    several = isinstance(value, list | tuple)
    return any(map(_has_dtype, value)) if several else hasattr(value, "dtype")


def _utf8(name: str, value: Any) -> NDArray[np.uint8]:
    if isinstance(value, bytes | bytearray | memoryview):
        raise SchemaError(f"{name}: expected a text, came {type(value).__name__}: decode them")
    if not isinstance(value, str):
        raise SchemaError(f"{name}: expected a text, came a {type(value).__name__}: give a str")
    try:
        return np.frombuffer(value.encode("utf-8"), np.uint8)
    except UnicodeEncodeError as error:
        raise SchemaError(
            f"{name}: {value[error.start]!r} at {error.start} is half a character, which UTF-8 has none for: "
            "text.encode('utf-8', 'replace').decode() puts a question mark in its place"
        ) from None
