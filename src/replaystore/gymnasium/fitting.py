"""Whether a buffer takes what an environment gives, and what to do about a value that a field does not hold
exactly."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv

from replaystore.errors import ReplayStoreWarning, SchemaError, UnsupportedError
from replaystore.schema.fields import Field, Schema
from replaystore.schema.spaces import DTYPES, space_from_json

__all__ = ["check_fields", "is_given", "refuse_shared_texts", "remedy", "storable"]

_MAX_SEED = 2**63 - 1


def remedy(name: str, declared: Field, given: np.dtype[Any]) -> str:
    """What to do about a value that the dtype of its field does not hold exactly."""
    if declared.role == "action":
        return f"nothing is rounded, so pass numpy.asarray(action, '{declared.dtype.name}') if that is meant"
    if declared.role == "extra":
        return f"nothing is rounded, so give its values as '{declared.dtype}' if that is meant"
    text = "nothing is rounded, so convert it in a wrapper inside of this one"
    if declared.role == "reward":
        return (
            f"{text}, or create the buffer from Schema.from_env(env, reward_dtype='{given}')"
            if given.name in DTYPES
            else text
        )
    wider = np.promote_types(declared.dtype, given)
    if wider.name not in DTYPES:
        return text
    fields = f"{{**schema.fields, {name!r}: Field('{wider}', {declared.shape}, 'observation')}}"
    return (
        f"{text}, or create the buffer from Schema({fields}, schema.tuples, schema.graphs), where schema "
        "is Schema.from_env(env)"
    )


def _is_wider(dtype: Any, other: Any) -> bool:
    """Whether a field of this dtype holds all that an environment with the other one is to give."""
    return dtype is not None and other is not None and np.can_cast(other, dtype, "safe")


def storable(seed: int | None) -> int | None:
    if seed is None or 0 <= seed <= _MAX_SEED:
        return seed
    warnings.warn(
        f"the seed {seed} does not fit 63 bits: it is recorded as unknown", ReplayStoreWarning, stacklevel=4
    )
    return None


def is_given(field: Field) -> bool:
    """Whether an agent gives the values of a field, with the step or, as those of masks that are mutable,
    later."""
    return field.role == "extra" or (field.role == "mask" and field.mutable)


def check_fields(env: Any, schema: Schema) -> None:
    """SchemaError at the first field in which the buffer differs from what the environment gives."""
    given = Schema.from_env(env)
    for name, wanted in given.fields.items():
        declared = schema.fields.get(name)
        if declared is None:
            raise SchemaError(
                f"the buffer has no field {name!r}, which the environment gives: create the "
                "buffer from this environment"
            )
        if wanted.role in ("observation", "action"):
            for what in ("dtype", "shape", "text", "space"):
                here, there = getattr(declared, what), getattr(wanted, what)
                as_good = (what == "dtype" and _is_wider(here, there)) or (
                    # The characters of a Text may come in another order.
                    what == "space" and here and there and space_from_json(here) == space_from_json(there)
                )
                if here != there and here is not None and not as_good:
                    differs = f"has the {what} {here} in the buffer and {there} in the environment"
                    raise SchemaError(f"field {name!r} {differs}: use a buffer created from this environment")
    for name in schema.fields:
        if name not in given.fields and not name.startswith("info/") and not is_given(schema.fields[name]):
            raise SchemaError(
                f"the buffer has a field {name!r}, which the environment does not give, and whose role is "
                "not 'extra', as that of an agent's (a mutable one may be a 'mask'): record with "
                "buffer.writer instead"
            )
    for what, odd in (("tuple", given.tuples ^ schema.tuples), ("graph", given.graphs ^ schema.graphs)):
        if odd:
            raise SchemaError(
                f"{min(odd)!r} is a {what} in only one of buffer and environment: create the "
                "buffer from this environment"
            )


def refuse_shared_texts(env: Any) -> None:
    """UnsupportedError: texts of other processes come through shared memory, which Gymnasium reads for them
    once, before the first step: it gives what it found there for ever."""
    base = env.unwrapped
    shared = isinstance(base, AsyncVectorEnv) and base.shared_memory
    if shared and _has_text(base.single_observation_space):
        raise UnsupportedError(
            f"{base} has texts in its observations, which Gymnasium does not bring through shared memory: "
            "make it with shared_memory=False, gymnasium.make_vec(…, vector_kwargs={'shared_memory': False})"
        )


def _has_text(space: Any) -> bool:
    inner = space.spaces if isinstance(space, spaces.Dict | spaces.Tuple) else ()
    among = inner.values() if isinstance(inner, dict) else inner
    return isinstance(space, spaces.Text) or any(map(_has_text, among))
