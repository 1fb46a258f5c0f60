"""Values that lie one behind another, `values[offsets[i] : offsets[i + 1]]`, in other forms: some of them
copied, padded, as nested tensors and as lists of Arrow.

Everything here takes arrays and gives arrays; `ragged.py` has the class. They may be tensors where that is
said.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, UnsupportedError
from replaystore.extras import require
from replaystore.schema.spaces import DTYPES
from replaystore.schema.values import array_of, fitted, is_tensor

__all__ = [
    "arrow_of",
    "cast",
    "check_parts",
    "jagged_of",
    "joined_parts",
    "lead_of",
    "not_text",
    "offsets_of",
    "on_host",
    "padded",
    "taken",
    "tensor_of",
]

_SIGNED = {"uint16": "int16", "uint32": "int32", "uint64": "int64"}
_LONG = 512
"""Bytes of a value from which on each is copied by itself; of shorter ones all numbers by their places."""


def offsets_of(lengths: Any) -> NDArray[np.int64]:
    """Where values of these lengths begin and end, (count + 1,)."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def lead_of(given: Any, count: int) -> tuple[int, ...]:
    """How so many values are arranged, one behind the other if it is not said. ArgumentError: they are not
    as many."""
    try:
        several = given if isinstance(given, Iterable) else [count if given is None else given]
        lead = tuple(map(operator.index, several))
    except TypeError:
        lead = ()
    if not lead or min(lead) < 0 or math.prod(lead) != count:
        raise ArgumentError(
            f"{count} values cannot be arranged as {given!r:.80}: give a lead of that product"
        )
    return lead


def check_parts(values: Any, offsets: NDArray[Any], text: bool) -> None:
    """ArgumentError: these are no values, an array or a tensor, and their offsets."""
    if values.ndim == 0 or values.dtype == object:
        raise ArgumentError("values are one array, (total, *inner): Ragged.of takes a list of arrays")
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype != np.int64:
        raise ArgumentError(
            f"offsets are integers of shape (count + 1,), not {offsets.dtype} of shape {offsets.shape}"
        )
    if text and (numpy_dtype(values.dtype) != np.uint8 or values.ndim > 1):
        raise ArgumentError(
            f"texts are bytes of UTF-8, uint8 of shape (total,), not {values.dtype} of shape {values.shape}: "
            "Ragged.of(texts, text=True) makes them"
        )
    if offsets[0] < 0 or offsets[-1] > len(values) or (offsets[1:] < offsets[:-1]).any():
        raise ArgumentError(
            f"offsets must not be negative, nor decrease, nor end beyond the {len(values)} values"
        )


def not_text(values: NDArray[np.uint8], offsets: NDArray[np.int64]) -> int | None:
    """The first value that is no UTF-8; None: all are."""
    begin, end = int(offsets[0]), int(offsets[-1])
    bad = None
    try:
        values[begin:end].tobytes().decode("utf-8")
    except UnicodeDecodeError as error:
        end = begin + error.start
        bad = int(np.searchsorted(offsets, end, side="right")) - 1
    # A text that ends inside of a character has its rest in the next one, so that together they are sound.
    (filled,) = ((offsets[1:] > offsets[:-1]) & (offsets[:-1] < end)).nonzero()
    (rests,) = (values[offsets[filled]] & 0xC0 == 0x80).nonzero()
    return int(filled[rests[0] - 1]) if len(rests) else bad


def joined_parts(values: list[Any], offsets: NDArray[np.int64]) -> tuple[Any, Any]:
    """Arrays one behind the other, with their offsets. Tensors of tensors."""
    if not is_tensor(values[0]):
        return np.concatenate(values), offsets
    whole = sys.modules["torch"].cat(values)
    return whole, tensor_of(offsets).to(whole.device)


def cast(values: Any, dtype: Any, copy: bool) -> Any:
    """An array or a tensor in another dtype, which may be one of NumPy's or of PyTorch's. ArgumentError: it
    is none. An array is cast to NumPy's own alone: libraries add theirs to NumPy when they are imported."""
    name = str(dtype)
    of_torch = name.startswith("torch.")
    try:
        if not is_tensor(values):
            return values.astype(
                DTYPES[name.removeprefix("torch.") if of_torch else np.dtype(dtype).name], copy=copy
            )
        if not of_torch:
            dtype = getattr(sys.modules["torch"], np.dtype(dtype).name)
    except (TypeError, AttributeError, KeyError):
        raise ArgumentError(f"dtype {dtype!r:.80} is none that {type(values).__name__} has") from None
    return values.to(dtype, copy=copy)


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """That of NumPy for one of PyTorch; of a float that NumPy does not have float32, which holds it."""
    return DTYPES.get(str(dtype).removeprefix("torch."), np.dtype(np.float32))


def taken(values: Any, offsets: Any, places: NDArray[np.int64]) -> tuple[Any, Any]:
    """The values at these places, copied, and their offsets. Tensors of tensors."""
    known = on_host(offsets)
    begins = known[places]
    lengths = known[places + 1] - begins
    after = offsets_of(lengths)
    total = int(after[-1])
    if is_tensor(values):
        index = offsets.new_tensor(_each(begins, after, lengths)).to(values.device)
        return values[index], offsets.new_tensor(after)
    if total * values.itemsize * math.prod(values.shape[1:]) < _LONG * len(places):
        return values[_each(begins, after, lengths)], after
    found = np.empty((total, *values.shape[1:]), values.dtype)
    if total:
        ends = (begins + lengths).tolist()
        parts = [values[begin:end] for begin, end in zip(begins.tolist(), ends, strict=True)]
        np.concatenate(parts, out=found)
    return found, after


def _each(
    begins: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each number of the values that begin there lies; `offsets` are those that they get."""
    return np.repeat(begins - offsets[:-1], lengths) + np.arange(int(offsets[-1]))


def padded(named: Any, lengths: Any, fill: Any, side: str) -> tuple[Any, Any]:
    """An array (*lead, longest, *inner) of values of these lengths (*lead), and where in it they are; the
    rest is `fill`. Tensors of tensors."""
    if side not in ("end", "start"):
        raise ArgumentError(f"side is 'end' or 'start', not {side!r:.40}: where the padding goes")
    longest = int(lengths.max()) if math.prod(lengths.shape) else 0
    shape = (*lengths.shape, longest, *named.shape[1:])
    if is_tensor(named):
        places = lengths.new_ones(longest).cumsum(0) - 1
        array = named.new_full(shape, _fill(fill, numpy_dtype(named.dtype)).item())
    else:
        narrow = np.min_scalar_type(longest)  # three times as quick to compare as eight bytes
        places, lengths = np.arange(longest, dtype=narrow), lengths.astype(narrow)
        array = np.full(shape, _fill(fill, named.dtype), named.dtype)
    mask = places < lengths[..., None] if side == "end" else places >= longest - lengths[..., None]
    whole = array
    if is_tensor(named) and (signed := _SIGNED.get(numpy_dtype(named.dtype).name)):
        dtype = getattr(sys.modules["torch"], signed)  # PyTorch puts no unsigned numbers into places
        whole, named = array.view(dtype), named.view(dtype)
    whole[mask] = named
    return array, mask


def _fill(fill: Any, dtype: np.dtype[Any]) -> Any:
    if type(fill) is int and fill == 0:
        return np.zeros((), dtype)  # whatever the dtype, a bool included
    return fitted("fill", fill, dtype, (), lambda _: "nothing is rounded, so give a number of that dtype")


# --- forms of other libraries


def on_host(part: Any) -> Any:
    """As an array of NumPy; one as it is."""
    return array_of("values", part)


def tensor_of(part: Any) -> Any:
    """As a tensor, of the same memory where that may be written; one as it is."""
    if is_tensor(part):
        return part
    torch = require("torch", "a Ragged of tensors", "torch")
    native = part.astype(part.dtype.newbyteorder("="), copy=False)
    backwards = any(stride < 0 for stride in native.strides)
    return torch.from_numpy(native.copy() if backwards or not native.flags.writeable else native)


def jagged_of(values: Any, offsets: Any) -> Any:
    """A nested tensor of PyTorch, of offsets that begin at 0."""
    torch = require("torch", "to_torch_jagged", "torch")
    values, offsets = tensor_of(values), tensor_of(offsets)
    lengths = offsets[1:] - offsets[:-1]
    # They are said, because PyTorch takes the sum of all lengths for the longest where they are not.
    least, most = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    return torch.nested.nested_tensor_from_jagged(values, offsets, min_seqlen=least, max_seqlen=most)


def arrow_of(values: NDArray[Any], offsets: NDArray[np.int64], lead: tuple[int, ...], text: bool) -> Any:
    """Lists of Arrow, of offsets that begin at 0."""
    arrow = require("pyarrow", "to_arrow", "arrow")
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if 0 in (*values.shape[1:], *lead[1:]):
        raise UnsupportedError("Arrow has no lists that all have the length 0: leave out that dimension")
    if values.dtype.kind == "c":
        raise UnsupportedError("Arrow has no complex numbers: make a Ragged of .values.real and one of .imag")
    made: Any
    if text:
        buffers = [None, arrow.py_buffer(np.ascontiguousarray(offsets)), arrow.py_buffer(values)]
        made = arrow.Array.from_buffers(arrow.large_string(), len(offsets) - 1, buffers)
    else:
        made = arrow.array(values.reshape(-1))
        for length in reversed(values.shape[1:]):
            made = arrow.FixedSizeListArray.from_arrays(made, length)
        made = arrow.LargeListArray.from_arrays(arrow.array(offsets), made)
    for length in reversed(lead[1:]):
        made = arrow.FixedSizeListArray.from_arrays(made, length)
    return made
