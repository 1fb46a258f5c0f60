"""Values of fields that are added to steps which there are already: a fill, an array, or a function of them.

1. Values are brought block by block, of bounded memory whatever the number of steps, each of exactly the
   dtype and shape of its field.
2. What is given is asked for its values outside of operations of the buffer, which a function may read
   meanwhile, and which nothing can be written to. What it raises, the caller sees as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, SchemaError
from replaystore.schema.fields import Field, Schema
from replaystore.schema.given_ragged import ragged_of
from replaystore.schema.ragged import Ragged
from replaystore.schema.values import array_of, exactly, fitted, is_tensor
from replaystore.views.blocks import rows_of_bytes
from replaystore.views.reader import BufferReader

__all__ = ["Steps", "blocks_of_steps", "check_late", "filled", "given_values", "values_of"]

BLOCK_BYTES = 16 << 20
"""Of all fields together, in a block of steps."""
BLOCK_ROWS = 16384
"""A block of more steps is no faster."""


class Steps:
    """A block of consecutive steps that values are made for: `steps["reward"]` is the array of a field in
    them, read when it is asked for.

    Attributes:
        start, stop: which steps of the buffer they are, counted from the oldest one that is kept.
    """

    __slots__ = ("_buffer", "start", "stop")

    def __init__(self, buffer: BufferReader, start: int, stop: int) -> None:
        self._buffer, self.start, self.stop = buffer, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, name: object) -> bool:
        return name in self._buffer

    def __getitem__(self, name: str) -> Any:
        """The array of a field, shape (steps, *field shape), or a Ragged. UnknownFieldError: there is no such
        field."""
        return self._buffer[name][self.start : self.stop]

    def __repr__(self) -> str:
        return f"<Steps {self.start} to {self.stop} of {self._buffer.where!r}>"


def blocks_of_steps(buffer: BufferReader, declared: Mapping[str, Field]) -> Iterator[tuple[int, int]]:
    """From where to where blocks of the steps of a buffer go, which gets these fields."""
    schema, count = buffer.schema, len(buffer)
    width = sum(field.row_bytes for field in (*schema.fields.values(), *declared.values()))
    rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // width))
    for start in range(0, count, rows):
        stop = min(count, start + rows)
        if schema.ragged:
            yield from rows_of_bytes(buffer, schema.ragged, BLOCK_BYTES, start, stop)
        else:
            yield start, stop


def check_late(values: Mapping[str, Any], fill: Mapping[str, Any], declared: Mapping[str, Field]) -> None:
    """ArgumentError: they are for a field that is not added, or for one that has a fill too; or a fill for
    values of any length."""
    for argument, given in (("values", values), ("fill", fill)):
        for name in given:
            if name not in declared:
                raise ArgumentError(
                    f"{argument} names {name!r:.80}, which is none of the fields that are added"
                )
    for name in values:
        if name in fill:
            raise ArgumentError(f"field {name!r:.80} is given values and a fill: leave one of them out")
    for name, one in fill.items():
        if declared[name].ragged and not (type(one) is int and one == 0):
            raise ArgumentError(
                f"fill of {name!r:.80}, which is of any length: the steps so far get the empty value; give "
                "values= for others"
            )


def values_of(name: str, declared: Field, given: Any, count: int) -> Callable[[Steps], NDArray[Any] | Ragged]:
    """What makes the values of a block of steps, each block checked. SchemaError: they are not one value for
    each of so many steps."""
    schema = Schema({name: declared})

    def checked(block: Any, rows: int) -> NDArray[Any]:
        array = array_of(f"field {name!r}", block, declared.dtype if is_tensor(block) else None)
        found = schema.check({name: array})
        if found != rows:
            raise SchemaError(
                f"field {name!r}: came {found} values for {rows} steps: give one for each step, in order"
            )
        return array

    if declared.ragged:
        return _ragged_values_of(name, declared, given, count)
    if callable(given):
        return lambda steps: checked(given(steps), len(steps))
    # An array on a disk is read in blocks.
    array = given if hasattr(given, "shape") and not is_tensor(given) else array_of(f"field {name!r}", given)
    shape = tuple(array.shape)
    if shape != (count, *declared.shape):
        raise SchemaError(
            f"field {name!r}: expected values of shape {(count, *declared.shape)}, one for each of the "
            f"{count} steps that are kept, came {shape}"
        )
    return lambda steps: checked(array[steps.start : steps.stop], len(steps))


def _ragged_values_of(
    name: str, declared: Field, given: Any, count: int
) -> Callable[[Steps], NDArray[Any] | Ragged]:
    if callable(given):
        return lambda steps: ragged_of(name, declared, given(steps), len(steps))
    # What is read in blocks is, as the field of another buffer.
    several = given if hasattr(given, "lengths") else ragged_of(name, declared, given, count)
    if len(several) != count:
        raise SchemaError(
            f"field {name!r}: expected {count} values, one for each of the steps that are kept, came "
            f"{len(several)}"
        )
    return lambda steps: ragged_of(name, declared, several[steps.start : steps.stop], len(steps))


def filled(name: str, declared: Field, value: Any) -> NDArray[Any]:
    """The value that all steps so far get, as the one row of an array. ArgumentError: a field of this dtype
    does not hold it."""
    try:
        given = array_of(f"fill of {name!r:.80}", value)
        if given.shape == () and given.dtype.kind in "biufc":
            if declared.dtype.kind == "b" and given.dtype.kind in "iu" and given in (0, 1):
                given = given.astype(bool)
            stored = exactly(given.reshape(1), declared.dtype)
            if stored is None and type(value) is float and declared.dtype.kind in "fc":
                with np.errstate(all="ignore"):  # Python's numbers have no dtype
                    rounded = given.reshape(1).astype(declared.dtype)
                stored = rounded if np.isfinite(rounded).all() == np.isfinite(given).all() else None
            if stored is not None:
                return np.broadcast_to(
                    stored.reshape(1, *(1 for _ in declared.shape)), (1, *declared.shape)
                ).astype(declared.dtype)
    except SchemaError:
        pass
    raise ArgumentError(
        f"fill of {name!r:.80} must be one number that {declared.dtype} holds, not {value!r:.80}"
    )


def given_values(name: str, declared: Field, given: Any, count: int, more: str = "") -> NDArray[Any]:
    """What so many steps of a field are set to: an array of one value for each, of exactly its dtype, or one
    value for all of them. SchemaError: it does not fit; `more` says something of the steps then."""
    where = f"field {name!r}"
    if isinstance(given, bool | int | float | complex | list | tuple) or np.isscalar(given):
        came = array_of(where, given)
        shape = came.shape if came.shape in (declared.shape, ()) else (count, *declared.shape)
        array = fitted(where, given, declared.dtype, shape, lambda _: "nothing is rounded")
    else:
        array = array_of(where, given, declared.dtype if is_tensor(given) else None)
        if array.dtype != declared.dtype:
            raise SchemaError(
                f"{where}: expected dtype {declared.dtype}, came {array.dtype}: nothing is cast, use "
                f"numpy.asarray(values, {declared.dtype.name!r})"
            )
    if array.shape not in ((count, *declared.shape), declared.shape, ()):
        raise SchemaError(
            f"{where}: expected values of shape {(count, *declared.shape)} for {count} steps{more}, or of "
            f"{declared.shape} for all of them, came {array.shape}"
        )
    return np.broadcast_to(array, (count, *declared.shape))
