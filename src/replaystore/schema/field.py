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
from replaystore.schema.dtypes import field_dtype
from replaystore.schema.roles import FLAGS, ROLES, Role
from replaystore.schema.spaces import DTYPES, LEAF_SPACES, reason

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["Field"]


@dataclass(frozen=True, init=False, repr=False)
class Field:
    """One named value of a step: `Field("float32", (17,), "observation")`.

    Args:
        dtype: anything that NumPy takes for one, in either byte order; kept as a little-endian `numpy.dtype`.
        shape: of one step's value; `()` for one number.
        role: what it is, one of `ROLES`; the first part of its name in the schema has to agree.
        space: the description by `space_to_json` of the Gymnasium space (one of `LEAF_SPACES`) or None. It
            documents the field, values are not checked against its bounds, and its dtype may differ from the
            field's. Do not change it.
        mutable: whether its values may be set later: `buffer["advantage"][rows] = values`.

    Raises:
        SchemaError: a wrong shape, role or space. UnsupportedError: a dtype that cannot be stored.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    role: Role
    space: dict[str, Any] | None = field(default=None, hash=False)
    mutable: bool = False

    def __init__(
        self,
        dtype: DTypeLike,
        shape: Sequence[int],
        role: Role,
        space: dict[str, Any] | None = None,
        *,
        mutable: bool = False,
    ) -> None:
        object.__setattr__(self, "dtype", field_dtype(dtype))
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "mutable", mutable)
        try:
            shape = tuple(map(operator.index, shape))
        except TypeError:
            remedy = f"; for {shape} numbers it is ({shape},)" if isinstance(shape, int) else ""
            raise SchemaError(
                f"a field's shape must be a tuple of integers, not {shape!r}; that of one "
                f"number is (){remedy}"
            ) from None
        if any(length < 1 for length in shape):
            raise SchemaError(f"a field of shape {shape} has rows without values: leave it out")
        object.__setattr__(self, "shape", shape)
        if self.role not in ROLES:
            raise SchemaError(f"there is no role {self.role!r}: give one of {', '.join(ROLES)}")
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

    def __repr__(self) -> str:
        space = "" if self.space is None else f", space={self.space!r}"
        mutable = ", mutable=True" if self.mutable else ""
        return f"Field({self.dtype.name!r}, {self.shape}, {self.role!r}{space}{mutable})"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: dtype (name), shape, role, space; and whether it is mutable, if it is."""
        mutable = {"mutable": True} if self.mutable else {}
        return {
            "dtype": self.dtype.name,
            "shape": list(self.shape),
            "role": self.role,
            "space": copy.deepcopy(self.space),
            **mutable,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Field:
        """The inverse of `to_json`; FormatError if that is impossible."""
        try:
            if data["dtype"] not in DTYPES:
                raise SchemaError(f"unknown dtype {data['dtype']!r}")
            mutable = data.get("mutable", False)
            return cls(data["dtype"], tuple(data["shape"]), data["role"], data.get("space"), mutable=mutable)
        except (KeyError, TypeError, SchemaError) as error:
            raise FormatError(f"this does not describe a field: {reason(error)}") from error
