"""The spaces of a schema as one nested description, and the fields that a description stands for: for formats
that keep spaces in a dialect of their own. Gymnasium is not needed.

A description is what `replaystore.schema.spaces.space_to_json` gives: leaves, and Dict and Tuple of them.

Invariants:
1. `declared(nested(schema, role), role)` has the fields of `schema`, their dtypes and shapes, where each says
   its space and that space is of its dtype.
2. A field without a space, or whose space is of another shape, gets a Box of all values of its dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.names import join_path, split_path, unflatten
from replaystore.schema.roles import Role
from replaystore.schema.spaces import MOST_BOUNDS, MOST_DIMENSIONS

__all__ = [
    "MOST_LEAVES",
    "bounds_array",
    "bounds_json",
    "checked_shape",
    "declared",
    "nested",
    "shape_of",
    "space_of",
]

Space = dict[str, Any]
MOST_LEAVES = 4096
"""So many spaces there are at most in one description of a file."""
MOST_DEPTH = 32


def space_of(field: Field) -> Space | None:
    """The space of a field's values; None: no space holds such values."""
    if field.text:
        known = field.space is not None and field.space["type"] == "Text"
        return field.space if known else None
    if field.ragged:
        return None
    if field.space is not None and shape_of(field.space) == field.shape:
        return field.space
    if field.dtype.kind == "c":
        return None
    low, high = _limits(field.dtype)
    return {
        "type": "Box",
        "dtype": field.dtype.name,
        "shape": list(field.shape),
        "low": low,
        "high": high,
    }


def shape_of(space: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of the values of a leaf; None: they have none."""
    if space["type"] == "Discrete":
        return ()
    if space["type"] == "MultiBinary":
        n = space["n"]
        return tuple(n) if isinstance(n, list) else (n,)
    return tuple(space["shape"]) if "shape" in space else None


def nested(schema: Schema, role: str, spaces: Mapping[str, Space]) -> Space:
    """The space of all values of a role, Dict and Tuple as the names of fields say; `spaces`: those of its
    fields, of which it names all that are to be in it. Keys of Dicts are the parts of names, as they are
    written there."""
    names = [name for name in schema.names(role) if name in spaces]
    left = schema.select(names)
    leaves = {name: _Leaf(spaces[name]) for name in names}
    return _described(unflatten(leaves, role, left.tuples))


class _Leaf:
    """A description that is not taken apart."""

    def __init__(self, space: Space) -> None:
        self.space = space


def _described(value: Any) -> Space:
    if isinstance(value, _Leaf):
        return value.space
    if isinstance(value, tuple):
        return {"type": "Tuple", "spaces": [_described(item) for item in value]}
    return {"type": "Dict", "spaces": [[join_path(key), _described(item)] for key, item in value.items()]}


def declared(space: Space, role: str) -> tuple[dict[str, Field], frozenset[str]]:
    """The fields that a description stands for, by name, and the paths that are tuples. FormatError: there
    are too many, or a Dict or Tuple has nothing in it."""
    fields: dict[str, Field] = {}
    tuples: set[str] = set()
    _declare(space, role, role, fields, tuples, 0)
    return fields, frozenset(tuples)


def _declare(
    space: Space, name: str, role: str, fields: dict[str, Field], tuples: set[str], depth: int
) -> None:
    if depth > MOST_DEPTH or len(fields) >= MOST_LEAVES:
        raise FormatError(
            f"the space of {role}s has more than {MOST_LEAVES} parts, or is nested more than {MOST_DEPTH} "
            "deep: it is damaged"
        )
    kind = space["type"]
    if kind not in ("Dict", "Tuple"):
        fields[name] = _field(space, cast("Role", role))
        return
    items = space["spaces"]
    if not items:
        raise FormatError(f"{name}: an empty {kind} has no values to read")
    if kind == "Tuple":
        tuples.add(name)
        items = [[str(place), item] for place, item in enumerate(items)]
    for key, item in items:
        part = key if kind == "Tuple" else join_path(*split_path(key))
        _declare(item, f"{name}/{part}", role, fields, tuples, depth + 1)


def _field(space: Space, role: Role) -> Field:
    if space["type"] == "Text":
        return Field.of_text(role, space)
    shape = shape_of(space)
    dtype = np.dtype(space.get("dtype", "int8"))  # MultiBinary has one dtype
    return Field(dtype, shape or (), role, space)


# --- bounds


def checked_shape(given: Any) -> tuple[int, ...]:
    """A shape whose bounds fit into memory. ValueError: it is none."""
    if not isinstance(given, list) or any(type(length) is not int or length < 0 for length in given):
        raise ValueError(f"{given!r:.80} is not a shape")
    if len(given) > MOST_DIMENSIONS or math.prod(given) > MOST_BOUNDS:
        raise ValueError(f"a space of shape {given!r:.80} is too large")
    return tuple(given)


def bounds_json(array: NDArray[Any]) -> Any:
    """Bounds as descriptions have them: one number if all are the same, what is not finite as text."""
    flat = array.ravel()
    if not flat.size:
        return flat.tolist()
    same = flat.tobytes() == flat[:1].tobytes() * flat.size
    values = (flat[:1] if same else array).astype(object)
    if array.dtype.kind == "f":
        shown = flat[:1] if same else array
        for text, found in (
            ("Infinity", np.isposinf(shown)),
            ("-Infinity", np.isneginf(shown)),
            ("NaN", np.isnan(shown)),
        ):
            values[found] = text
    return values.tolist()[0] if same else values.tolist()


def bounds_array(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of `bounds_json`; an integer that has no bound gets the limit of its dtype."""
    given = np.array(value, dtype=object)
    if dtype.kind in "iu":
        low, high = _limits(dtype)
        flat = [{"-Infinity": low, "Infinity": high}.get(n, n) for n in given.ravel().tolist()]
    else:
        flat = [float(n) if isinstance(n, str) else n for n in given.ravel().tolist()]
    return np.broadcast_to(np.array(flat, dtype=dtype).reshape(given.shape or ()), shape)


def _limits(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    if dtype.kind == "f":
        return "-Infinity", "Infinity"
    if dtype.kind == "b":
        return False, True
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
