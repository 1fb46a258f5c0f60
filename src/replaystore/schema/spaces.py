"""Gymnasium spaces: to and from JSON, and taken apart into the arrays that fields hold.

Invariants:
1. `space_from_json(space_to_json(space)) == space`, bounds to the last bit, byte order and the order of keys
   included.
2. The JSON is strict: what is not finite is text.
3. Every dtype has its name in `DTYPES`; a space of any other dtype, or whose values are no array and no text
   (ragged_spaces.py), is refused and never changed to fit.
4. Gymnasium is imported by the functions that need it, not with this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from replaystore.errors import FormatError, SchemaError, UnsupportedError
from replaystore.schema.names import join_path
from replaystore.schema.ragged_spaces import (
    RAGGED_SPACES,
    graph_of,
    parts_of_graph,
    ragged_from_json,
    ragged_to_json,
)

if TYPE_CHECKING:
    import gymnasium
    from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "LEAF_SPACES",
    "nested_space",
    "reason",
    "space_from_json",
    "space_leaves",
    "space_to_json",
]

_NUMBERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
_NUMBERS += ["float16", "float32", "float64", "complex64", "complex128"]
DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"bool": np.dtype(bool)} | {n: np.dtype(n).newbyteorder("<") for n in _NUMBERS}
)
"""The dtypes that a field may have, by name."""
LEAF_SPACES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", *RAGGED_SPACES)
"""The Gymnasium spaces that are one field; Dict and Tuple are built of them."""

MOST_BOUNDS = 1 << 25
"""Numbers of a space, whose bounds Gymnasium holds one by one."""
MOST_DIMENSIONS = 31
_NON_FINITE = ("Infinity", "-Infinity", "NaN")
_BOUND_TYPES: Mapping[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
_ENDLESS: Mapping[str, tuple[str, ...]] = {"b": (), "i": ("Infinity", "-Infinity"), "u": (), "f": _NON_FINITE}


def space_to_json(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """A Gymnasium space as strict JSON.

    Bounds that are the same everywhere are written once, others as nested lists; bounds that are not finite
    are the strings "Infinity" and "-Infinity". UnsupportedError: Graph, which is several fields, OneOf and
    other spaces whose values are neither an array nor a text.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):  # pairs keep the order
        return {
            "type": "Dict",
            "spaces": [[_key(key), space_to_json(item)] for key, item in space.spaces.items()],
        }
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(item) for item in space.spaces]}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Discrete):
        return {
            "type": "Discrete",
            "dtype": _dtype_to_json(space.dtype),
            "n": int(space.n),
            "start": int(space.start),
        }
    if isinstance(space, spaces.MultiDiscrete):
        counts = {"nvec": _bounds_to_json(space.nvec), "start": _bounds_to_json(space.start)}
        return {
            "type": "MultiDiscrete",
            "dtype": _dtype_to_json(space.dtype),
            "shape": list(space.shape),
        } | counts
    if isinstance(space, spaces.Box):
        low, high = (
            _bounds_to_json(space.low, space.bounded_below),
            _bounds_to_json(space.high, space.bounded_above, "Infinity"),
        )
        return {
            "type": "Box",
            "dtype": _dtype_to_json(space.dtype),
            "shape": list(space.shape),
            "low": low,
            "high": high,
        }
    ragged = ragged_to_json(space, space_to_json)
    if ragged is not None:
        return ragged
    if not isinstance(space, spaces.Space):
        raise SchemaError(
            f"expected a Gymnasium space, came a {type(space).__name__}: pass an object of gymnasium.spaces"
        )
    remedy = "encode them as such with a wrapper (gymnasium.wrappers.TransformObservation, TransformAction)"
    raise UnsupportedError(f"the values of a {type(space).__name__} space are no array and no text: {remedy}")


def space_from_json(data: Mapping[str, Any]) -> gymnasium.Space[Any]:
    """The inverse of `space_to_json`; FormatError if that is impossible."""
    try:
        return _space_from_json(data)
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        AssertionError,
    ) as error:
        raise FormatError(f"this does not describe a Gymnasium space: {reason(error)}") from error


def _space_from_json(data: Mapping[str, Any]) -> gymnasium.Space[Any]:
    from gymnasium import spaces

    kind = data["type"]
    if kind == "Dict":
        # Pairs, because a dict would be sorted.
        return spaces.Dict([(key, _space_from_json(item)) for key, item in data["spaces"]])
    if kind == "Tuple":
        return spaces.Tuple([_space_from_json(item) for item in data["spaces"]])
    if kind == "MultiBinary":
        _shape(data["n"] if isinstance(data["n"], list) else [data["n"]])
        return spaces.MultiBinary(data["n"])
    if kind not in LEAF_SPACES:
        raise ValueError(f"unknown type {kind!r}")
    if kind in RAGGED_SPACES:
        return ragged_from_json(data, _space_from_json)
    dtype = np.dtype(data["dtype"])
    if dtype.name not in DTYPES:
        raise ValueError(f"unknown dtype {data['dtype']!r}")
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"], dtype=dtype.str)
    shape = _shape(data["shape"])
    if kind == "MultiDiscrete":
        (counts, counted), (start, started) = (
            _bounds_from_json(data[key], dtype, shape) for key in ("nvec", "start")
        )
        if not (counted.all() and started.all()):
            raise ValueError("nvec and start must be numbers")
        return spaces.MultiDiscrete(counts, dtype=dtype.str, start=start)
    low, below = _bounds_from_json(data["low"], dtype, shape)
    high, above = _bounds_from_json(data["high"], dtype, shape)
    box: spaces.Box[Any] = spaces.Box(low, high, dtype=dtype)
    # An integer cannot be infinite, so the array alone does not say that a bound is missing, and sampling
    # asks.
    if dtype.kind in "iu":
        box.bounded_below, box.bounded_above = below, above
    return box


def _shape(lengths: Any) -> tuple[int, ...]:
    """A shape whose bounds fit into memory. ValueError: it is none."""
    if not isinstance(lengths, list) or any(type(length) is not int or length < 0 for length in lengths):
        raise ValueError(f"{lengths!r:.80} is not a shape")
    if len(lengths) > MOST_DIMENSIONS or math.prod(lengths) > MOST_BOUNDS:
        raise ValueError(
            f"a space has at most {MOST_DIMENSIONS} dimensions and {MOST_BOUNDS} numbers, not {lengths!r:.80}"
        )
    return tuple(lengths)


def nested_space(nested: Any) -> gymnasium.Space[Any]:
    """The space of nested values, of spaces nested in the same way: a Dict for each dict, a Graph for each
    GraphInstance, a Tuple for each other tuple."""
    from gymnasium import spaces

    if isinstance(nested, spaces.GraphInstance):
        return graph_of(nested)
    if isinstance(nested, dict):
        return spaces.Dict([(key, nested_space(item)) for key, item in nested.items()])
    if isinstance(nested, tuple):
        return spaces.Tuple([nested_space(item) for item in nested])
    leaf: gymnasium.Space[Any] = nested
    return leaf


def space_leaves(
    space: gymnasium.Space[Any],
    name: str,
    role: str,
    leaves: dict[str, tuple[str, gymnasium.Space[Any]]],
    tuples: set[str],
    graphs: set[str],
) -> None:
    """Add the leaves of `space` to `leaves` by field name, each with `role`, the paths of tuples to `tuples`
    and those of graphs to `graphs`.

    SchemaError: an empty Dict or Tuple; UnsupportedError: a key that is not a string. Leaves of any type are
    taken as they are.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        items = [(_key(key), item) for key, item in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        items = [(str(place), item) for place, item in enumerate(space.spaces)]
        tuples.add(name)
    elif isinstance(space, spaces.Graph):
        parts = parts_of_graph(name, space)
        leaves |= {f"{name}/{part}": (role, item) for part, item in parts.items()}
        graphs.add(name)
        return
    else:
        leaves[name] = (role, space)
        return
    if not items:
        raise SchemaError(
            f"{name}: an empty {type(space).__name__} space has nothing to store: leave it out with a wrapper"
        )
    for key, item in items:
        space_leaves(item, f"{name}/{join_path(key)}", role, leaves, tuples, graphs)


def reason(error: Exception) -> str:
    """What is wrong with JSON whose reading ended in `error`, for a message."""
    return f"the key {error} is missing" if isinstance(error, KeyError) else str(error)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise UnsupportedError(
            f"a Dict space with the key {key!r}, a {type(key).__name__}, cannot be "
            "stored: rename its keys to strings"
        )
    return key


def _dtype_to_json(dtype: np.dtype[Any]) -> str:
    if dtype.name not in DTYPES:
        raise UnsupportedError(
            f"a space of dtype {dtype} cannot be stored: make it of one of {', '.join(DTYPES)}"
        )
    return dtype.name if dtype.isnative else dtype.str


def _bounds_to_json(
    array: NDArray[Any], bounded: NDArray[np.bool_] | None = None, missing: str = "-Infinity"
) -> Any:
    values = array.astype(object)  # Python numbers, whose JSON is exact
    if array.dtype.kind == "f":
        for text, found in zip(
            _NON_FINITE, (np.isposinf(array), np.isneginf(array), np.isnan(array)), strict=True
        ):
            values[found] = text
    elif bounded is not None:
        values[~bounded] = missing
    flat = values.ravel().tolist()
    # Repr tells 0.0 from -0.0.
    return flat[0] if flat and all(repr(value) == repr(flat[0]) for value in flat) else values.tolist()


def _bounds_from_json(
    value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The array, and where it is bounded."""
    given = np.array(value, dtype=object).reshape(shape) if 0 in shape else np.array(value, dtype=object)
    flat = given.ravel().tolist()
    for number in flat:
        if number not in _ENDLESS.get(dtype.kind, ()) and type(number) not in _BOUND_TYPES.get(
            dtype.kind, ()
        ):
            raise ValueError(f"{number!r} is not a bound of dtype {dtype}")
    bounded = np.array([not isinstance(number, str) for number in flat], dtype=bool).reshape(given.shape)
    if dtype.kind == "f":
        flat = [float(number) for number in flat]
    elif dtype.kind in "iu":
        limits = np.iinfo(dtype)
        extremes = {"-Infinity": int(limits.min), "Infinity": int(limits.max)}
        flat = [extremes[number] if isinstance(number, str) else number for number in flat]
    array = np.array(flat, dtype=dtype).reshape(given.shape)
    if isinstance(value, list) and array.shape != shape:
        raise ValueError(f"bounds of shape {array.shape} for a space of shape {shape}")
    return np.broadcast_to(array, shape).copy(), np.broadcast_to(bounded, shape).copy()
