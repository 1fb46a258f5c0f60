"""What `append` is given: checked, as arrays by field name, and as pieces of trajectories; and the masks and
seeds that the `reset` of a writer is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.placing import row_of
from replaystore.errors import (
    ArgumentError,
    SchemaError,
)
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.given_ragged import ragged_of
from replaystore.schema.names import flatten, listed
from replaystore.schema.ragged import Ragged
from replaystore.schema.values import array_of, is_tensor
from replaystore.trajectories.pieces import NEVER, STEP, Following, Piece, Pieces

__all__ = [
    "Given",
    "check_writer",
    "checked_columns",
    "checked_step",
    "chosen_envs",
    "given_steps",
    "seeds_of",
]

FEW = 24
"""Fewer trajectories are taken one by one; all at once takes as long for one as for hundreds."""
_ONE_EACH = "reset takes one seed and one mask entry for each of the "


@dataclass(frozen=True, slots=True)
class Given:
    """Steps of one environment, checked: to be appended once."""

    schema: Schema
    """Their fields are those of this one."""
    env: int
    columns: Mapping[str, Any]
    count: int
    told: list[Piece] | tuple[Pieces, dict[str, Any], Following]
    split: str = ""
    """Of trajectories that begin here."""
    seeds: int | list[int] | None = None
    """Of the trajectories that begin here, or of the first one."""
    cut: bool = False
    """The trajectory that is open in the environment is cut off before them."""

    @property
    def pieces(self) -> int:
        """How many trajectories they are of."""
        return len(self.told if isinstance(self.told, list) else self.told[0].env)

    @property
    def stays_open(self) -> bool:
        """Whether the last of them does not end."""
        ends = self.told[-1].ends if isinstance(self.told, list) else int(self.told[0].ends[-1])
        return ends == NEVER


def given_steps(
    schema: Schema,
    observed: Schema | None,
    columns: Mapping[str, Any],
    *,
    final_observation: Any = None,
    env: int = 0,
    split: str = "",
    ends: Sequence[int] | None = None,
    seed: int | Sequence[int | None] | None = None,
    cut: bool = False,
) -> Given:
    """What `Buffer.append` is given, checked; `observed` is the schema of the observations alone.
    SchemaError, ArgumentError: it is wrong."""
    places = checked_ends(columns, env, split, ends)
    flat, count = checked_columns(schema, columns) if columns or not cut else ({}, 0)
    told = pieces_of(schema, observed, env, flat, places, final_observation) if count else []
    return Given(schema, int(env), flat, count, told, split, checked_seeds(seed), cut)


def checked_ends(columns: Any, env: Any, split: Any, ends: Any) -> NDArray[Any] | None:
    """`ends` as an array. ArgumentError: an argument is not of the kind that it should be."""
    given = None if ends is None else array_of("ends", ends)
    if not isinstance(columns, Mapping):
        raise ArgumentError(f"steps are a dict {{field name: array}}, not a {type(columns).__name__}")
    if isinstance(env, bool) or not isinstance(env, (int, np.integer)) or not 0 <= env < 1 << 63:
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
        if name in schema.ragged:
            flat[name] = ragged_of(name, schema.ragged[name], value, None)
            continue
        if type(value) is np.ndarray:
            flat[name] = value
            continue
        nested = isinstance(value, (Mapping, tuple)) or name in schema.graphs
        leaves = flatten(value, name, schema.ragged, schema.graphs) if nested else {name: value}
        for leaf, item in leaves.items():
            if leaf in schema.ragged:
                flat[leaf] = ragged_of(leaf, schema.fields[leaf], item, None)
            else:
                flat[leaf] = _array(schema, leaf, item) if is_tensor(item) else item
    count = schema.check(flat)
    return flat, count


def checked_step(
    schema: Schema, of: Schema | None, columns: Mapping[str, Any], num_envs: int
) -> dict[str, Any]:
    """One step of several environments as a writer stages it, of the fields `of` of its schema (None: of
    none). SchemaError: it is not theirs."""
    arrays: dict[str, Any] = {}
    for name, value in columns.items():
        declared = schema.fields.get(name)
        if declared is not None and declared.ragged:
            arrays[name] = ragged_of(name, declared, value, None)
        else:
            arrays[name] = array_of(f"field {name!r}", value, None if declared is None else declared.dtype)
    if of is None:
        if arrays:
            raise SchemaError(
                f"there is no field {next(iter(arrays))!r} in the schema ({listed(schema.fields)}): leave it "
                "out"
            )
        return {}
    of.check(arrays)
    for name, array in arrays.items():
        if array.shape[0] != num_envs:
            raise SchemaError(f"field {name!r} has {array.shape[0]} rows for {num_envs} environments")
    return arrays


def checked_seeds(seed: object) -> int | list[int] | None:
    """The seeds that `append` or `reset` is given. ArgumentError: they are none."""
    given = seed.tolist() if isinstance(seed, np.ndarray) else seed
    if given is None:
        return None
    several = isinstance(given, list | tuple)
    found = list[int]()
    for one in given if isinstance(given, list | tuple) else [given]:
        found.append(-1 if isinstance(one, bool) or not isinstance(one, int | np.integer) else int(one))
        if one is not None and not 0 <= found[-1] < 1 << 63:
            raise ArgumentError(f"a seed is a number from 0 on, below 2 ** 63, not {one!r:.80}")
    return found if several else found[0]


def chosen_envs(mask: Any, num_envs: int) -> NDArray[np.int64]:
    """The environments that the mask of a `reset` chooses."""
    chosen = np.asarray(array_of("mask", mask), np.bool_)
    if chosen.shape != (num_envs,):
        raise SchemaError(_ONE_EACH + f"{num_envs} environments")
    return chosen.nonzero()[0]


def seeds_of(seed: Any, envs: NDArray[np.int64], num_envs: int) -> list[int]:
    """The seeds of these environments, -1 where there is none."""
    given = checked_seeds(seed)
    seeds = given if isinstance(given, list) else [-1 if given is None else given] * num_envs
    if len(seeds) != num_envs:
        raise SchemaError(_ONE_EACH + f"{num_envs} environments")
    return [seeds[env] for env in envs.tolist()]


def pieces_of(
    schema: Schema,
    observed: Schema | None,
    env: int,
    flat: Mapping[str, Any],
    given: NDArray[Any] | None,
    final_observation: Any,
) -> list[Piece] | tuple[Pieces, dict[str, Any], Following]:
    """The rows as pieces of trajectories: a few, or many with the observations after each of them, and after
    the last one; `observed` is the schema of the observations alone."""
    count = len(next(iter(flat.values())))
    flags = [flat[name] for name in ("terminated", "truncated") if name in flat]
    if given is not None:
        places = np.unique(given.astype(np.int64))
        if len(places) and not 0 <= places[0] <= places[-1] < count:
            raise SchemaError(f"ends must lie among the {count} steps, not at {places.tolist()}")
    elif flags:
        places = (flags[0] | flags[1] if len(flags) == 2 else flags[0]).nonzero()[0]
    else:
        places = np.empty(0, np.int64)
    ended = len(places)
    rest = not ended or int(places[-1]) != count - 1
    finals = _final_rows(schema, observed, final_observation, ended + rest)
    if ended < FEW:
        return _few(env, places.tolist(), flat, schema.total_reward(flat), finals)
    pieces = Pieces.of(ended + rest)
    pieces.env[:] = env
    last = np.append(places, count - 1) if rest else places
    pieces.start[1:] = last[:-1] + 1
    pieces.length[:] = last + 1 - pieces.start
    pieces.when[:] = pieces.start * STEP
    pieces.ends[:ended] = places * STEP + (STEP - 1)
    for name, told in (("terminated", pieces.terminated), ("truncated", pieces.truncated)):
        if name in flat:
            told[:] = flat[name][last]
    if finals:
        pieces.final[:ended] = np.arange(ended)
    following = {name: rows[-1:] for name, rows in finals.items()} if rest else {}
    return pieces, finals, Following(np.array([bool(following)]), following)


def _few(
    env: int,
    places: Sequence[int],
    flat: Mapping[str, Any],
    rewards: NDArray[Any] | None,
    finals: Mapping[str, Any],
) -> list[Piece]:
    """The rows as pieces, of which few end, at these places."""
    count = len(next(iter(flat.values())))
    found: list[Piece] = []
    start = 0
    terminated, truncated = flat.get("terminated"), flat.get("truncated")
    lasts = [*places] if places and places[-1] == count - 1 else [*places, count - 1]
    for number, last in enumerate(lasts):
        piece = Piece(env, start, last + 1 - start, start * STEP)
        piece.terminated = terminated is not None and bool(terminated[last])
        piece.truncated = truncated is not None and bool(truncated[last])
        piece.rewards = None if rewards is None else rewards[start : last + 1]
        final = {name: row_of(rows, number) for name, rows in finals.items()} or None
        if number < len(places):
            piece.ends, piece.final = last * STEP + (STEP - 1), final
        else:
            piece.following = final
        found.append(piece)
        start = last + 1
    return found


def _array(schema: Schema, name: str, value: Any, what: str = "") -> NDArray[Any]:
    """A value of a field as an array."""
    declared = schema.fields.get(name)
    return array_of(f"{what}field {name!r}", value, None if declared is None else declared.dtype)


def _final_rows(schema: Schema, observed: Schema | None, observation: Any, touched: int) -> dict[str, Any]:
    """The observation after each trajectory that an append touches; nothing if none is given."""
    if observation is None:
        return {}
    fields = {} if observed is None else observed.fields
    given = schema.flatten(observation, "observation")
    leaves: dict[str, Any] = {
        name: _array(schema, name, value, "final_observation: ")
        for name, value in given.items()
        if name not in schema.ragged
    }
    if touched == 1 and all(
        declared.ragged or (name in leaves and leaves[name].shape == declared.shape)
        for name, declared in fields.items()
    ):
        leaves = {name: leaf[None] for name, leaf in leaves.items()}
    try:
        for name in given.keys() & schema.ragged.keys():
            value = (
                [given[name]] if touched == 1 and _is_one(schema.fields[name], given[name]) else given[name]
            )
            leaves[name] = ragged_of(name, schema.fields[name], value, None)
        rows = (observed or schema.select(())).check(leaves)
    except SchemaError as error:
        raise SchemaError(f"final_observation: {error}") from None
    if rows != touched:
        raise SchemaError(
            f"final_observation has {rows} rows, but these steps touch {touched} trajectories: give the "
            "observation after each"
        )
    return leaves


def _is_one(declared: Field, value: Any) -> bool:
    """Whether this is a single value of a field of any length, and not several."""
    if isinstance(value, str):
        return True
    if declared.text or isinstance(value, Ragged):
        return False
    if isinstance(value, list | tuple):  # of numbers, or of arrays
        return not value or (not isinstance(value[0], Ragged) and np.ndim(value[0]) == len(declared.inner))
    return np.ndim(value) == 1 + len(declared.inner)


def check_writer(num_envs: object, split: object) -> None:
    """ArgumentError: no writer has so many environments, or such a split."""
    if not isinstance(num_envs, int) or isinstance(num_envs, bool) or num_envs < 1:
        raise ArgumentError(f"num_envs is a number of environments, at least 1, not {num_envs!r}")
    if not isinstance(split, str):
        raise ArgumentError(f"split is a string, not {split!r}")
