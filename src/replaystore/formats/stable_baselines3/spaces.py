"""Gymnasium spaces in a pickle, as the spaces that they describe: made anew from what the file says of them,
never by it; and on their way into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.pickles.reading import Array, Thing
from replaystore.formats.shared.pickles.writing import Instance
from replaystore.schema.field import Field
from replaystore.schema.spaces import space_from_json

if TYPE_CHECKING:
    import gymnasium

__all__ = ["instance_of", "space_for", "space_of"]

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


def space_for(declared: Field, largest: int | None = None) -> gymnasium.Space[Any]:
    """The space of a field; of one that has none a space that holds all values of its dtype and shape, of
    integers up to `largest` if that is given."""
    from gymnasium import spaces

    shape, dtype = declared.shape or (1,), declared.dtype
    if declared.space is not None:
        space = space_from_json(declared.space)
        if isinstance(space, spaces.Box) and not space.shape:
            return spaces.Box(space.low.reshape(1), space.high.reshape(1), dtype=space.dtype.type)
        return space
    if largest is not None:
        return spaces.Discrete(largest + 1)
    if dtype == np.bool_:
        return spaces.MultiBinary(shape)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = (np.full(shape, limit, dtype) for limit in (limits.min, limits.max))
        return spaces.Box(low, high, dtype=dtype.type)
    kind = dtype.type if dtype.kind == "f" else np.float32
    return spaces.Box(-np.inf, np.inf, shape, kind)


def instance_of(space: gymnasium.Space[Any]) -> Instance:
    """A space, to be written."""
    kind = type(space)
    return Instance(kind.__module__, kind.__qualname__, {k: _value(v) for k, v in vars(space).items()})


def _value(value: Any) -> Any:
    from gymnasium import spaces

    if isinstance(value, spaces.Space):
        return instance_of(value)
    if isinstance(value, np.random.Generator):
        return None
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_value(item) for item in value)
    return value
