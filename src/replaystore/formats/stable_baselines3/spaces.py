"""Gymnasium spaces in a pickle, as the spaces that they describe: made anew from what the file says of them,
never by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.inert import Array, Thing

if TYPE_CHECKING:
    import gymnasium

__all__ = ["space_of"]

Read = Callable[[Array], NDArray[Any]]
MAX_SPACES = 256
"""Spaces in a Dict or Tuple, those in them included."""
MAX_DEPTH = 8
_PACKAGES = ("gymnasium", "gym")


def space_of(thing: Any, read: Read) -> gymnasium.Space[Any] | None:
    """The space that a file describes; None: it is of a kind, or describes it in a way, that is not known.

    `read`: the numbers of an array in the file, which may be too many for it (FormatError)."""
    try:
        return _space(thing, read, [MAX_SPACES], MAX_DEPTH)
    except (KeyError, TypeError, ValueError, AssertionError, ArithmeticError, AttributeError, IndexError):
        return None


def _space(thing: Any, read: Read, left: list[int], depth: int) -> gymnasium.Space[Any]:
    from gymnasium import spaces

    left[0] -= 1
    if type(thing) is not Thing or thing.name.module.partition(".")[0] not in _PACKAGES:
        raise TypeError("no space")
    if left[0] < 0 or depth < 0:
        raise ValueError("too many spaces")
    kind, known = thing.name.name, thing.attributes
    if kind == "Box":
        low, high = (_numbers(known[name], read) for name in ("low", "high"))
        dtype = np.dtype(known["dtype"]).newbyteorder("=")
        # Gymnasium takes bounds of integers that are as wide as the dtype for numbers of that dtype.
        return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)
    if kind == "Discrete":
        dtype = np.dtype(known.get("dtype", np.int64))
        more = {} if dtype == np.int64 else {"dtype": dtype.type}
        return spaces.Discrete(int(known["n"]), start=int(known.get("start", 0)), **more)
    if kind == "MultiDiscrete":
        counts = _numbers(known["nvec"], read)
        begin = known.get("start")
        more = {} if begin is None else {"start": _numbers(begin, read)}
        return spaces.MultiDiscrete(counts, dtype=counts.dtype.type, **more)
    if kind == "MultiBinary":
        shape = known["n"]
        return spaces.MultiBinary(tuple(map(int, shape)) if isinstance(shape, tuple | list) else int(shape))
    if kind == "Dict":
        items = known["spaces"].items()
        return spaces.Dict({str(key): _space(item, read, left, depth - 1) for key, item in items})
    if kind == "Tuple":
        return spaces.Tuple([_space(item, read, left, depth - 1) for item in known["spaces"]])
    raise TypeError(f"a space {kind}")


def _numbers(value: Any, read: Read) -> NDArray[Any]:
    return read(value) if type(value) is Array else np.asarray(value)
