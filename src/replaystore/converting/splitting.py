"""Which split trajectories are of, decided anew for a whole buffer, in one commit."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import open as open_buffer
from replaystore.errors import ArgumentError, SchemaError
from replaystore.location import Location
from replaystore.trajectories.columns import RETURN

__all__ = ["split_trajectories"]

USUAL = {2: ("train", "test"), 3: ("train", "val", "test")}
"""What so many parts are called, where nobody says."""
ROUNDED = 1e-4
"""So far from 1 may be what fractions with a few decimals sum to."""
MOST = 64
"""So many values of a column may become splits."""


def split_trajectories(
    target: str | os.PathLike[str] | Location | Buffer,
    *,
    fractions: Sequence[float] | None = None,
    returns: Sequence[float] | None = None,
    column: str | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, int]:
    """Give every trajectory that has ended a split, by one of three rules, and commit it.

    Args:
        target: a store, or a buffer that is open for writing.
        fractions: so large a part of the trajectories, drawn at random: `(0.8, 0.1, 0.1)`, which sum to 1; or
            shares of at least 1 each: `(8, 1, 1)`.
        returns: bounds, from low to high: below the first, from there to below the next, …, from the last on.
        column: a column of the table of trajectories: each of its values is a split.
        names: of the parts, in their order. By default of fractions train and test, or train, val and test;
            of returns what they are between; of a column its values.
        seed: of what is drawn; the same one draws the same.

    Returns:
        How many trajectories each split has.

    Raises:
        ArgumentError, SchemaError: a rule that cannot be followed; nothing is changed then. What opening and
        writing raise.
    """
    given = {"fractions": fractions, "returns": returns, "column": column}
    if sum(rule is not None for rule in given.values()) != 1:
        raise ArgumentError("split_trajectories takes one of fractions=, returns= and column=")
    if isinstance(target, Buffer):
        return _split(target, fractions, returns, column, names, seed)
    with open_buffer(target, "r+") as buffer:
        return _split(buffer, fractions, returns, column, names, seed)


def _split(
    buffer: Buffer,
    fractions: Sequence[float] | None,
    returns: Sequence[float] | None,
    column: str | None,
    names: Sequence[str] | None,
    seed: int,
) -> dict[str, int]:
    buffer.commit()
    table = buffer.trajectories[~buffer.trajectories.open]
    if not len(table):
        raise SchemaError(f"{buffer.where}: no trajectory has ended, so that there is nothing to split")
    if fractions is not None:
        parts = _numbers("fractions", fractions)
        part = _drawn(len(table), parts, seed)
        usual = USUAL.get(len(parts), tuple(f"part{number}" for number in range(len(parts))))
    elif returns is not None:
        bounds = _numbers("returns", returns)
        part, usual = _between(buffer, bounds)
    else:
        assert column is not None
        part, usual = _of_column(buffer, table.columns.get(column), column)
    called = _named(names, usual)
    values = np.array([called[number] for number in part.tolist()], object)
    buffer.set_trajectory_column("split", values)
    return {name: int(np.count_nonzero(values == name)) for name in called}


def _numbers(what: str, given: Any) -> list[float]:
    try:
        found = [float(number) for number in given]
    except (TypeError, ValueError):
        found = []
    if not found or isinstance(given, str | bytes) or not all(map(math.isfinite, found)):
        raise ArgumentError(f"{what} are numbers, such as (0.8, 0.1, 0.1), not {given!r:.80}")
    return found


def _drawn(count: int, parts: Sequence[float], seed: int) -> NDArray[np.int64]:
    """A part for each of so many, at random, with sizes that are rounded so that they sum up."""
    if len(parts) < 2 or min(parts) <= 0:
        raise ArgumentError(
            f"fractions are two positive numbers or more, not {', '.join(f'{part:g}' for part in parts)}"
        )
    total, said = math.fsum(parts), ", ".join(f"{part:g}" for part in parts)
    if min(parts) < 1 and abs(total - 1) > ROUNDED:
        raise ArgumentError(
            f"fractions sum to 1, and {said} to {total:g}: every trajectory gets a split, so give the rest a "
            "part too, or shares such as 8, 1, 1"
        )
    edges = np.round(np.cumsum(parts) / total * count).astype(np.int64)
    sizes = np.diff(edges, prepend=0)
    if not sizes.all():
        empty = int(np.flatnonzero(sizes == 0)[0])
        raise ArgumentError(
            f"of {count} trajectories the part {parts[empty]:g} would have none: give it a larger fraction"
        )
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(parts)), sizes))


def _between(buffer: Buffer, bounds: Sequence[float]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    table = buffer.trajectories[~buffer.trajectories.open]
    if RETURN not in table or table[RETURN].ndim != 1:
        raise SchemaError(
            f"{buffer.where}: trajectories have no return that is one number: split by a column"
        )
    if sorted(set(bounds)) != list(bounds):
        raise ArgumentError(f"returns are bounds from low to high, not {', '.join(map(str, bounds))}")
    found = table[RETURN]
    if np.isnan(found).any():
        raise SchemaError(
            f"{buffer.where}: {int(np.isnan(found).sum())} trajectories have a return that is not known, or "
            "no number"
        )
    edges = [f"{bound:g}" for bound in bounds]
    usual = (f"below {edges[0]}", *(f"{low} to {high}" for low, high in pairwise(edges)))
    return np.searchsorted(bounds, found, side="right"), (*usual, f"from {edges[-1]}")


def _of_column(
    buffer: Buffer, values: NDArray[Any] | None, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if values is None or values.ndim != 1:
        known = [of for of in buffer.trajectories.columns if of != "open"]
        why = "there is no such column" if values is None else "its values are vectors"
        raise SchemaError(
            f"{buffer.where}: trajectories cannot be split by {name!r}: {why}; columns are {', '.join(known)}"
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise SchemaError(
            f"{buffer.where}: {int(np.isnan(values).sum())} trajectories have no value of column {name!r}: "
            "set it first"
        )
    distinct, part = np.unique(values, return_inverse=True)
    if len(distinct) > MOST:
        raise SchemaError(
            f"{buffer.where}: column {name!r} has {len(distinct)} values, and at most {MOST} become splits: "
            "make a column with fewer"
        )
    shown = (str(value).lower() if values.dtype.kind == "b" else f"{value}" for value in distinct.tolist())
    return part.reshape(-1), tuple(f"{name} {value}" for value in shown)


def _named(names: Sequence[str] | None, usual: Sequence[str]) -> list[str]:
    given: Any = names  # what the annotation says is what is checked
    called = list(usual) if given is None else [given] if isinstance(given, str) else list(given)
    if len(called) != len(usual):
        raise ArgumentError(f"there are {len(usual)} parts ({', '.join(usual)}), and {len(called)} names")
    if any(not isinstance(name, str) or not name for name in called) or len(set(called)) != len(called):
        raise ArgumentError(f"names of splits are texts, all of them different, not {called!r:.80}")
    return called
