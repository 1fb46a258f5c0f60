"""Spaces as Minari writes them into metadata.json, to and from the descriptions of a schema.

Its JSON is not strict (bounds may be Infinity), it writes out each bound, and of Discrete it does not keep
the dtype, which is then int64. Nothing of a file is handed to Gymnasium before it was looked at here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.shared.spaces import (
    MOST_DEPTH,
    Space,
    bounds_array,
    bounds_json,
    checked_shape,
    shape_of,
)
from replaystore.schema.names import join_path
from replaystore.schema.spaces import DTYPES, reason

__all__ = ["from_minari", "is_image", "text_space", "to_minari"]

_SIDE = 32
"""An image is at least so wide and so high, for Minari."""
_LONGEST = 1 << 20


def to_minari(space: Space) -> dict[str, Any]:
    """What Minari reads such a space from."""
    kind = space["type"]
    if kind == "Dict":
        return {"type": kind, "subspaces": {key: to_minari(item) for key, item in space["spaces"]}}
    if kind == "Tuple":
        return {"type": kind, "subspaces": [to_minari(item) for item in space["spaces"]]}
    if kind == "Text":
        return {key: space[key] for key in ("type", "max_length", "min_length", "charset")}
    if kind == "MultiBinary":
        return {"type": kind, "n": space["n"]}
    dtype = np.dtype(space["dtype"])
    if kind == "Discrete":
        return {"type": kind, "dtype": "int64", "start": space["start"], "n": space["n"]}
    shape = shape_of(space) or ()
    bounds = ("nvec", "start") if kind == "MultiDiscrete" else ("low", "high")
    told = {key: bounds_array(space[key], dtype, shape).tolist() for key in bounds}
    more = {} if kind == "MultiDiscrete" else {"shape": list(shape)}
    return {"type": kind, "dtype": dtype.name, **more, **told}


def from_minari(text: Any, what: str) -> Space:
    """The description of a space of metadata.json, which is JSON in a string. FormatError: it is none, or one
    that Minari does not know."""
    try:
        given = json.loads(text) if isinstance(text, str) else text
        return _described(given, 0)
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise FormatError(f"{what} is no space that Minari writes: {reason(error):.200}") from error


def _described(given: Any, depth: int) -> Space:
    if not isinstance(given, dict) or depth > MOST_DEPTH:
        raise ValueError(f"{given!r:.60} is no space, or they are nested too deep")
    kind = given["type"]
    if kind == "Dict":
        items = given["subspaces"]
        if not isinstance(items, dict):
            raise ValueError("the spaces of a Dict are a dict")
        spaces = [[join_path(key), _described(item, depth + 1)] for key, item in items.items()]
        return {"type": kind, "spaces": spaces}
    if kind == "Tuple":
        if not isinstance(given["subspaces"], list):
            raise ValueError("the spaces of a Tuple are a list")
        return {"type": kind, "spaces": [_described(item, depth + 1) for item in given["subspaces"]]}
    if not isinstance(kind, str) or kind not in _LEAVES:
        raise ValueError(f"the type {kind!r:.60} is not known")
    return _LEAVES[kind](given)


def _box(given: dict[str, Any]) -> Space:
    dtype, shape = _dtype(given["dtype"]), checked_shape(given["shape"])
    low, high = (_bounds(given[key], dtype, shape) for key in ("low", "high"))
    return {"type": "Box", "dtype": dtype.name, "shape": list(shape), "low": low, "high": high}


def _multi_discrete(given: dict[str, Any]) -> Space:
    dtype = _dtype(given["dtype"])
    counts = np.array(given["nvec"])
    shape = checked_shape(list(counts.shape))
    if counts.dtype.kind not in "iu" or dtype.kind not in "iu" or (counts < 1).any():
        raise ValueError("nvec are whole numbers from 1 on")
    start = given.get("start", np.zeros(shape, np.int64).tolist())
    told = {"nvec": _bounds(given["nvec"], dtype, shape), "start": _bounds(start, dtype, shape)}
    return {"type": "MultiDiscrete", "dtype": dtype.name, "shape": list(shape), **told}


def _multi_binary(given: dict[str, Any]) -> Space:
    n = given["n"]
    checked_shape(n if isinstance(n, list) else [n])
    return {"type": "MultiBinary", "n": n}


def _discrete(given: dict[str, Any]) -> Space:
    n, start = given["n"], given.get("start", 0)
    most = np.iinfo(np.int64)
    if type(n) is not int or type(start) is not int or not 0 < n <= most.max or not most.min <= start:
        raise ValueError(f"Discrete of {n!r:.40} numbers from {start!r:.40} on")
    if start + n - 1 > most.max:
        raise ValueError(f"{start} + {n} numbers do not fit into int64")
    return {"type": "Discrete", "dtype": "int64", "n": n, "start": start}


def _text(given: dict[str, Any]) -> Space:
    least, most, charset = given["min_length"], given["max_length"], given["charset"]
    if type(least) is not int or type(most) is not int or not 0 <= least <= most:
        raise ValueError("a Text is of min_length to max_length characters")
    if isinstance(charset, list):
        charset = "".join(charset)
    if not isinstance(charset, str) or len(charset) > _LONGEST:
        raise ValueError("the charset of a Text is a text")
    charset.encode()
    return {"type": "Text", "min_length": least, "max_length": most, "charset": charset}


_LEAVES: dict[str, Callable[[dict[str, Any]], Space]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiBinary": _multi_binary,
    "MultiDiscrete": _multi_discrete,
    "Text": _text,
}


def _dtype(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or name not in DTYPES or DTYPES[name].kind == "c":
        raise ValueError(f"a space of dtype {name!r:.40} cannot be stored")
    return DTYPES[name]


def _bounds(given: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    if not isinstance(given, list | int | float):
        raise TypeError(f"{given!r:.60} are no bounds")
    array = np.array(given)
    if array.dtype.kind not in "biuf" and array.size:
        raise ValueError(f"{given!r:.60} are no bounds")
    if array.shape != shape and array.shape != ():
        raise ValueError(f"bounds of shape {array.shape} for a space of shape {shape}")
    with np.errstate(all="ignore"):
        return bounds_json(np.broadcast_to(np.array(given, dtype), shape))


def is_image(space: Space) -> bool:
    """Whether Minari keeps the values of such a space as JPEG images, where it is not told otherwise."""
    shape = shape_of(space)
    return bool(
        space["type"] == "Box"
        and space["dtype"] == "uint8"
        and shape is not None
        and len(shape) in (2, 3)
        and min(shape[:2]) >= _SIDE
        and space["low"] == 0
        and space["high"] == 255
    )


def text_space() -> Space:
    """A space of texts of which nothing is known."""
    printable = "".join(map(chr, range(32, 127)))
    return {"type": "Text", "min_length": 0, "max_length": _LONGEST, "charset": printable}
