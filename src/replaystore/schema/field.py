"""One field of a step: what a value is, to and from JSON."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from replaystore.errors import FormatError, SchemaError
from replaystore.schema import tree
from replaystore.schema.dtypes import field_dtype
from replaystore.schema.roles import FLAGS, ROLES, Role
from replaystore.schema.spaces import DTYPES, LEAF_SPACES, reason

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["Field", "arrays_of"]

SPAN: tuple[np.dtype[Any], tuple[int, ...]] = np.dtype("<i8"), (2,)
"""What a row of a field of any length is: where its values begin and end."""
FIXED: tuple[Role, ...] = ("reward", *FLAGS, "mask")
"""The roles whose values all have one shape."""


@dataclass(frozen=True, init=False, repr=False)
class Field:
    """One named value of a step: `Field("float32", (17,), "observation")`.

    Args:
        dtype: anything that NumPy takes for one, in either byte order; kept as a little-endian `numpy.dtype`.
        shape: of one step's value; `()` for one number. `(None, 3)`: values of any length, each of shape
            (length, 3); `(None,)` for sequences of numbers.
        role: what it is, one of `ROLES`; the first part of its name in the schema has to agree.
        space: the description by `space_to_json` of the Gymnasium space (one of `LEAF_SPACES`) or None. It
            documents the field, values are not checked against its bounds, and its dtype may differ from the
            field's. Do not change it.
        mutable: whether its values may be set later: `buffer["advantage"][rows] = values`.
        text: whether its values are texts, which `Field.of_text(role)` declares.

    Raises:
        SchemaError: a wrong shape, role or space. UnsupportedError: a dtype that cannot be stored.
    """

    dtype: np.dtype[Any]
    shape: tuple[Any, ...]
    """Of numbers, but for None first where values are of any length (`ragged`)."""
    role: Role
    space: dict[str, Any] | None = field(default=None, hash=False)
    mutable: bool = False
    text: bool = False

    def __init__(
        self,
        dtype: DTypeLike,
        shape: Sequence[int | None],
        role: Role,
        space: dict[str, Any] | None = None,
        *,
        mutable: bool = False,
        text: bool = False,
    ) -> None:
        object.__setattr__(self, "dtype", field_dtype(dtype))
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "mutable", mutable)
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "shape", _checked_shape(shape))
        if self.role not in ROLES:
            raise SchemaError(f"there is no role {self.role!r}: give one of {', '.join(ROLES)}")
        self._check_length()
        if self.role == "mask" and self.dtype != bool:
            raise SchemaError(
                f"a mask must be of dtype bool, not {self.dtype}: True where the value is present"
            )
        if self.role in FLAGS and (self.dtype != bool or shape):
            raise SchemaError(
                f"{self.role} must be one bool for each step, not {self.dtype} of shape {shape}: keep other "
                "flags as extra fields"
            )
        if mutable is not False and mutable is not True:
            raise SchemaError(f"mutable is True or False, not {mutable!r:.80}")
        if mutable and self.role in (*FLAGS, "observation"):
            raise SchemaError(
                f"{self.role} is what was seen, and next observations and the table of trajectories are made "
                "of it, so that it is not mutable: keep what is made of it later as an extra field"
            )
        given: Any = space  # what the annotation says is what is checked
        if given is not None:
            if not isinstance(given, dict) or given.get("type") not in LEAF_SPACES:
                raise SchemaError(
                    f"a field's space must be None or what space_to_json makes of a {', '.join(LEAF_SPACES)}"
                )
            object.__setattr__(self, "space", copy.deepcopy(given))

    @classmethod
    def of_text(cls, role: Role, space: dict[str, Any] | None = None) -> Field:
        """A field whose values are texts (`str`), of any length: they are stored in UTF-8."""
        return cls("uint8", (None,), role, space, text=True)

    def _check_length(self) -> None:
        """SchemaError: values that have no fixed length are of a role that needs one, are to be set later, or
        are no texts."""
        if self.text is not False and self.text is not True:
            raise SchemaError(f"text is True or False, not {self.text!r:.80}")
        if self.text and (self.dtype != np.uint8 or self.shape != (None,)):
            raise SchemaError(
                f"texts are uint8 of shape (None,), not {self.dtype} of shape {self.shape}: declare them by "
                "Field.of_text(role)"
            )
        if not self.ragged:
            return
        if self.role in FIXED:
            raise SchemaError(
                f"{self.role} cannot be of any length, as shape {self.shape} says: keep such values as an "
                "extra field"
            )
        if self.mutable:
            raise SchemaError(
                f"a field of shape {self.shape}, of any length, is not mutable: append what is known later "
                "as a field of its own, add_field(name, field, values=...), or with the steps"
            )

    def __repr__(self) -> str:
        space = "" if self.space is None else f", space={self.space!r}"
        more = ", mutable=True" if self.mutable else ""
        if self.text:
            return f"Field.of_text({self.role!r}{space})"
        return f"Field({self.dtype.name!r}, {self.shape}, {self.role!r}{space}{more})"

    @property
    def ragged(self) -> bool:
        """Whether each of its values has a length of its own."""
        return bool(self.shape) and self.shape[0] is None

    @property
    def inner(self) -> tuple[int, ...]:
        """Of values of any length: what follows the length in their shapes."""
        return self.shape[1:]

    @property
    def stored(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """The dtype and the shape of a row of the array of its steps: of values of any length, where they
        begin and end."""
        return SPAN if self.ragged else (self.dtype, self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the array of its steps."""
        dtype, shape = self.stored
        return dtype.itemsize * math.prod(shape)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: dtype (name), shape (null for any length), role, space; and whether it is mutable or
        text, if it is."""
        more = {key: True for key in ("mutable", "text") if getattr(self, key)}
        return {
            "dtype": self.dtype.name,
            "shape": list(self.shape),
            "role": self.role,
            "space": copy.deepcopy(self.space),
            **more,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Field:
        """The inverse of `to_json`; FormatError if that is impossible."""
        try:
            if data["dtype"] not in DTYPES:
                raise SchemaError(f"unknown dtype {data['dtype']!r}")
            more = {key: data.get(key, False) for key in ("mutable", "text")}
            return cls(data["dtype"], tuple(data["shape"]), data["role"], data.get("space"), **more)
        except (KeyError, TypeError, SchemaError) as error:
            raise FormatError(f"this does not describe a field: {reason(error)}") from error


def arrays_of(name: str, declared: Field) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    """The arrays that a field may have, with the dtype and the shape of their rows."""
    found = [(stored, *declared.stored) for stored in (tree.steps(name), tree.final(name))]
    return [*found, (tree.values(name), declared.dtype, declared.inner)] if declared.ragged else found


def _checked_shape(given: Any) -> tuple[Any, ...]:
    """The shape of a value. SchemaError: there is none like it."""
    try:
        shape = tuple(None if length is None else operator.index(length) for length in given)
    except TypeError:
        number = isinstance(given, int)
        remedy = f"; for {given} numbers it is ({given},)" if number else ""
        remedy = "; of any length it is (None,)" if given is None else remedy
        raise SchemaError(
            f"a field's shape must be a tuple of integers, not {given!r}; that of one number is (){remedy}"
        ) from None
    if any(length is not None and length < 1 for length in shape):
        raise SchemaError(f"a field of shape {shape} has rows without values: leave it out")
    if None in shape[1:]:
        raise SchemaError(
            f"a field of shape {shape}: None, for any length, comes first, and once: store further lengths "
            "as a field of their own"
        )
    return shape
