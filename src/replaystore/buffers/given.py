"""What `append` is given: checked, as arrays by field name, and as a run of an assembler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import (
    ArgumentError,
    SchemaError,
)
from replaystore.schema.fields import Schema
from replaystore.schema.names import flatten
from replaystore.schema.values import array_of, is_tensor
from replaystore.trajectories.assembler import End, Run

__all__ = ["checked_columns", "checked_ends", "run_of"]


def checked_ends(columns: Any, env: Any, split: Any, ends: Any) -> NDArray[Any] | None:
    """`ends` as an array. ArgumentError: an argument is not of the kind that it should be."""
    given = None if ends is None else array_of("ends", ends)
    if not isinstance(columns, Mapping):
        raise ArgumentError(f"steps are a dict {{field name: array}}, not a {type(columns).__name__}")
    if isinstance(env, bool) or not isinstance(env, (int, np.integer)) or env < 0:
        raise ArgumentError(f"env is the number of an environment, from 0 on, not {env!r}")
    if not isinstance(split, str):
        raise ArgumentError(f"split is a string, not {split!r}")
    if given is not None and (given.ndim != 1 or (len(given) and given.dtype.kind not in "iu")):
        raise ArgumentError("ends are the places of last steps: a flat sequence of integers")
    return given


def checked_columns(schema: Schema, columns: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The columns by field name, and how many rows they have. SchemaError: they are not the schema's."""
    flat: dict[str, Any] = {}
    for name, value in columns.items():
        if type(value) is np.ndarray:
            flat[name] = value
            continue
        leaves = flatten(value, name) if isinstance(value, (Mapping, tuple)) else {name: value}
        for leaf, item in leaves.items():
            flat[leaf] = _array(schema, leaf, item) if is_tensor(item) else item
    count = schema.check(flat)
    return flat, count


def run_of(
    schema: Schema,
    observed: Schema | None,
    env: int,
    flat: Mapping[str, Any],
    given: NDArray[Any] | None,
    final_observation: Any,
) -> Run:
    """The run of rows that these are, with the ends of trajectories among them; `observed` is the schema of
    the observations alone."""
    count = len(next(iter(flat.values())))
    no = np.zeros(count, np.bool_)
    terminated, truncated = flat.get("terminated", no), flat.get("truncated", no)
    places = np.flatnonzero(terminated | truncated) if given is None else np.unique(given.astype(np.int64))
    if len(places) and not 0 <= places[0] <= places[-1] < count:
        raise SchemaError(f"ends must lie among the {count} steps, not at {places.tolist()}")
    touched = len(places) + (not len(places) or int(places[-1]) != count - 1)
    finals = _final_rows(schema, observed, final_observation, touched)
    run = Run(env, 0, terminated, truncated, schema.total_reward(flat))
    run.ends = {
        int(place): End((int(place), 1), finals[number]) for number, place in enumerate(places.tolist())
    }
    run.following = finals[-1] if touched > len(places) else None
    return run


def _array(schema: Schema, name: str, value: Any, what: str = "") -> NDArray[Any]:
    """A value of a field as an array."""
    declared = schema.fields.get(name)
    return array_of(f"{what}field {name!r}", value, None if declared is None else declared.dtype)


def _final_rows(
    schema: Schema, observed: Schema | None, observation: Any, touched: int
) -> list[dict[str, NDArray[Any]] | None]:
    """The observation after each trajectory that an append touches."""
    if observation is None:
        return [None] * touched
    fields = {} if observed is None else observed.fields
    given = schema.flatten(observation, "observation")
    leaves = {name: _array(schema, name, value, "final_observation: ") for name, value in given.items()}
    if touched == 1 and all(name in leaves and leaves[name].shape == fields[name].shape for name in fields):
        leaves = {name: leaf[None] for name, leaf in leaves.items()}
    try:
        rows = (observed or schema.select(())).check(leaves)
    except SchemaError as error:
        raise SchemaError(f"final_observation: {error}") from None
    if rows != touched:
        raise SchemaError(
            f"final_observation has {rows} rows, but these steps touch {touched} trajectories: give the "
            "observation after each"
        )
    return [{name: leaf[row].copy() for name, leaf in leaves.items()} for row in range(rows)]
