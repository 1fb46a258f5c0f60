"""Which dtypes a field can have, and what to do about the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from replaystore.errors import SchemaError, UnsupportedError
from replaystore.schema.spaces import DTYPES

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["field_dtype"]

NAMES = ", ".join(DTYPES)


def field_dtype(dtype: DTypeLike | None) -> np.dtype[Any]:
    """The dtype of a field, little-endian.

    Args:
        dtype: anything that NumPy takes for one, in either byte order.

    Raises:
        SchemaError: it is none of NumPy's. UnsupportedError: its values cannot be stored. Both say what to
        give instead.
    """
    if dtype is None:  # NumPy would take it for float64
        raise SchemaError("a field needs a dtype, not None")
    try:
        given = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:  # NumPy parses texts, such as "f4,("
        raise SchemaError(_not_of_numpy(dtype, error)) from None
    known = DTYPES.get(given.name)
    if known is not None:
        return known
    raise UnsupportedError(f"dtype {given} cannot be stored: {_instead_of(given)}")


def _not_of_numpy(dtype: object, error: Exception) -> str:
    """What to give instead of what is no dtype of NumPy: often another library's dtype, or a value."""
    name = str(dtype).rpartition(".")[
        2
    ]  # "torch.float32", "<dtype: 'float32'>" of TensorFlow, jax.numpy.float32
    found = next((known for known in DTYPES if name.strip("'<> ") == known), None)
    if found is not None:
        return f"{dtype!r} is not a dtype of NumPy: give {found!r}"
    if name == "bfloat16":
        return (
            f"{dtype!r} is not a dtype of NumPy: give 'float32', which holds each of its values exactly, "
            "and store tensor.float()"
        )
    if hasattr(dtype, "dtype"):
        return f"{_brief(dtype)} is a value, not a dtype: give its .dtype"
    return f"{_brief(dtype)} is not a dtype ({_brief_text(error)}): name one of {NAMES}"


def _instead_of(given: np.dtype[Any]) -> str:
    if given.kind == "O":
        return "objects would have to be pickled; encode them as numbers of a fixed size"
    if given.kind in "UT":
        return "texts are declared by Field.of_text(role), and given as they are, as str"
    if given.kind == "S" and given.itemsize:
        size = given.itemsize
        return (
            f"declare Field('uint8', ({size},), ...) and store numpy.array(texts, "
            f"'S{size}').view('uint8').reshape(-1, {size})"
        )
    if given.kind == "S":
        return (
            "declare Field('uint8', (None,), ...) and store numpy.frombuffer(value, 'uint8') of each; texts "
            "are declared by Field.of_text(role)"
        )
    if given.subdtype is not None:
        base, shape = given.subdtype
        return f"give {base.name!r} as the dtype, and {shape} at the end of the shape"
    if given.names is not None:
        return "declare one field for each of its members"
    if given.kind in "Mm":
        return "store values.view('int64')"
    if given.name == "bfloat16":
        return "give 'float32', which holds each of its values exactly"
    return f"store a view of it as an integer dtype, or convert it to one of {NAMES}"


def _brief(value: object) -> str:
    return _brief_text(repr(value))


def _brief_text(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 60 else line[:57] + "..."
