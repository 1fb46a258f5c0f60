"""From what arrives to what a field of any length stores: lists of arrays, of tensors or of texts, arrays of
values of one length, and Ragged; and blocks of fields of either kind put together.

1. Values are taken as those of other fields (values.py): converted only where that changes nothing.
2. A text that is let in is UTF-8, and no value is larger than MOST_BYTES.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SchemaError
from replaystore.schema.field import Field
from replaystore.schema.ragged import MOST_BYTES, Ragged
from replaystore.schema.ragged_forms import not_text, offsets_of
from replaystore.schema.values import array_of, is_tensor, of_any_length

__all__ = ["joined", "ragged_of", "stacked"]


def ragged_of(name: str, declared: Field, given: Any, count: int | None) -> Ragged:
    """The values of a field, one for each of `count` steps (None: as many as come); it may share memory with
    what was given. SchemaError names the field and the value."""
    field = f"field {name!r}"
    found = given if isinstance(given, Ragged) else _items(field, declared, given)
    if isinstance(found, Ragged):
        found = _fitting(field, declared, found)
    else:
        found = _of_items(field, declared, found)
    if count is not None and len(found) != count:
        raise SchemaError(f"{field} has {len(found)} values, not {count}: give one for each step")
    most = MOST_BYTES // (declared.dtype.itemsize * math.prod(declared.inner))
    if len(found.named) > most and int(found.lengths.max()) > most:
        place = int(found.lengths.argmax())
        raise SchemaError(
            f"{field}, value {place}: its length is {found.lengths[place]}, and a value has at most {most} "
            f"({MOST_BYTES >> 30} GiB): cut it"
        )
    return found


def _items(field: str, declared: Field, given: Any) -> Sequence[Any] | Ragged:
    """What is given for each step; of an array of values of one length these values."""
    if isinstance(given, list | tuple):
        return given
    if is_tensor(given) and given.is_nested:
        return list(given.unbind())
    wanted = "a text" if declared.text else "an array"
    if given is None or isinstance(given, str | bytes | dict):
        raise SchemaError(
            f"{field}: expected a list with {wanted} for each step, came a {type(given).__name__}: "
            "a single one is [value]"
        )
    array = array_of(field, given)
    if array.dtype == object or (declared.text and array.dtype.kind in "UT"):
        if array.ndim == 1 or (array.ndim and array.dtype == object):
            return list(array.tolist())  # NumPy makes an array of two dimensions of lists of one length
    elif declared.text:
        remedy = ": decode them" if array.dtype.kind == "S" else ""
        raise SchemaError(
            f"{field}: expected a list of texts, came {array.dtype} of shape {array.shape}{remedy}"
        )
    elif array.shape == (0,):
        return []  # as NumPy makes it of no values
    elif array.ndim >= 2 and array.shape[2:] == declared.inner:
        return Ragged(array.reshape(-1, *declared.inner), np.arange(len(array) + 1) * array.shape[1])
    inner = "".join(f", {length}" for length in declared.inner)
    raise SchemaError(
        f"{field}: expected a list with {wanted} for each step, or an array of shape (steps, length{inner}), "
        f"came {array.dtype} of shape {array.shape}: a single value is [value]"
    )


def _of_items(field: str, declared: Field, items: Sequence[Any]) -> Ragged:
    dtype, inner = declared.dtype, declared.inner
    if not declared.text and set(map(type, items)) == {np.ndarray}:
        with suppress(TypeError, ValueError):  # one is not as it is stored, as below is told
            values = np.concatenate(items, dtype=dtype, casting="no")
            if values.shape[1:] == inner:
                return Ragged(values, offsets_of(list(map(len, items))))
    arrays = [
        of_any_length(f"{field}, value {place}", item, dtype, inner, declared.text)
        for place, item in enumerate(items)
    ]
    return _of_arrays(declared, arrays)


def _of_arrays(declared: Field, arrays: Sequence[NDArray[Any]]) -> Ragged:
    values = np.concatenate(arrays) if len(arrays) else np.empty((0, *declared.inner), declared.dtype)
    return Ragged(values, offsets_of([len(array) for array in arrays]), text=declared.text)


def _fitting(field: str, declared: Field, given: Ragged) -> Ragged:
    given = given.to_numpy()
    if len(given.lead) != 1:
        raise SchemaError(f"{field}: the values are arranged as {given.lead}: pass ragged.reshape(-1)")
    if given.text is not declared.text:
        came, wanted = ("texts", "numbers") if given.text else ("numbers", "texts")
        raise SchemaError(f"{field}: expected {wanted}, came {came}: a Ragged of texts has text=True")
    if given.text:
        if (bad := not_text(given.values, given.offsets)) is not None:
            raise SchemaError(f"{field}, value {bad}: its bytes are not UTF-8: Ragged.of(texts) encodes so")
        return given
    values = of_any_length(field, given.named, declared.dtype, declared.inner, False)
    return given if given.dtype == declared.dtype else Ragged(values, given.compact().offsets)


def joined(blocks: Sequence[NDArray[Any] | Ragged]) -> NDArray[Any] | Ragged:
    """Blocks of values of one field, one behind another."""
    if isinstance(blocks[0], Ragged):
        return Ragged.concatenate(cast("Sequence[Ragged]", blocks))
    return np.concatenate(cast("Sequence[NDArray[Any]]", blocks))


def stacked(declared: Field, values: Sequence[NDArray[Any]]) -> NDArray[Any] | Ragged:
    """Single values of one field, each as it is stored (a text as its bytes), as a block of them."""
    return _of_arrays(declared, values) if declared.ragged else np.stack(values)
