"""The arrays of a file, whatever they are called (names.py), as flat ones with what is known of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.shared.flat.arrays import Column, Flat, as_flags, squeezed, without_cuts
from replaystore.formats.shared.flat.names import DONE, LENGTHS, NUMBER, STARTS, STOPS, Spelled, own_name
from replaystore.formats.shared.flat.writing import next_of
from replaystore.formats.shared.kept import Kept
from replaystore.formats.source import Source

__all__ = ["as_json", "flat_as_kept", "flat_of", "flat_source"]


def flat_source(
    columns: Mapping[str, Column], kept: Kept | None, where: str
) -> tuple[Source, list[str] | None]:
    """The arrays of a file as a source, and the names of those that are no steps; None: all of them are as
    they were kept. FormatError: there are no steps."""
    flat = None if kept is None else flat_as_kept(columns, kept)
    if kept is not None and flat is not None:
        return kept.source(flat.blocks, flat.remarks), None
    flat, left = flat_of(columns, where)
    if kept is not None:
        flat.remarks.append(
            "its arrays were changed by other software: what was kept beside them is left out"
        )
    return Source(flat.schema(), flat.blocks, steps=flat.count, remarks=flat.remarks), left


def flat_of(columns: Mapping[str, Column], where: str, *, whole: bool = False) -> tuple[Flat, list[str]]:
    """The arrays of a file as fields, and the names of those that are no steps. FormatError: there are
    none."""
    found = Spelled(list(columns))
    count = _count(found, columns, where)
    flat, left = Flat({}, whole=whole), []
    for name, path in found.fields.items():
        column = columns[path]
        if column.count != count:
            raise FormatError(
                f"{column.where} has {column.count} rows, and other arrays have {count}: they are not the "
                "steps "
                "of the same trajectories"
            )
        if name in ("terminated", "truncated"):
            column = as_flags(column)
        flat.columns[name] = squeezed(column) if name == "reward" else column
    for name, path in found.following.items():
        if columns[path].count == count:
            flat.following[name] = columns[path]
        else:
            left.append(path)
    for path in found.own:
        if columns[path].count == count and columns[path].dtype.kind in "biufc":
            flat.columns[own_name(path)] = columns[path]
        else:
            left.append(path)
    left += _boundaries(flat, found, columns, count)
    flat.settle_following(lambda name: own_name(found.following[name]))
    if not flat.columns:
        raise FormatError(f"{where} has no arrays of steps")
    return flat, left


def as_json(value: Any) -> Any:
    """The value of an attribute, as JSON; None: that cannot be."""
    values = np.asarray(value)
    if values.dtype.kind == "c" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        return None
    return values.tolist() if isinstance(value, np.ndarray) else value


def flat_as_kept(
    columns: Mapping[str, Column], kept: Kept, after: Callable[[str], str] = next_of
) -> Flat | None:
    """The arrays that were kept; None: they are not what they were. `after`: of the array of an observation
    that of what follows."""
    found: dict[str, Column] = {}
    following: dict[str, Column] = {}
    for name, declared in kept.schema.fields.items():
        place = kept.places[name]
        for path, into in ((place, found), (after(place), following)):
            if into is following and declared.role != "observation":
                continue
            column = columns.get(path)
            if column is None or (column.dtype, column.shape, column.count) != (
                declared.dtype,
                declared.shape,
                kept.steps,
            ):
                return None
            into[name] = column
    if "truncated" in found:
        found["truncated"] = without_cuts(found["truncated"], kept.cut)
    return Flat(found, following=following, stops=np.cumsum(kept.length), kept=kept)


def _count(found: Spelled, columns: Mapping[str, Column], where: str) -> int:
    tops = {name.partition("/")[0]: columns[path].count for name, path in found.fields.items()}
    missing = [name for name in ("observation", "action") if name not in tops]
    if missing:
        known = ", ".join(list(columns)[:8]) or "none"
        raise FormatError(
            f"{where} has no {missing[0]}s, under no name that is known (it has {known}): name its arrays "
            "observations, actions, rewards, terminals, timeouts"
        )
    return tops["action"]


def _boundaries(flat: Flat, found: Spelled, columns: Mapping[str, Column], count: int) -> list[str]:
    """Where trajectories end; the names of what does not tell that, and has no rows of steps either."""
    left = []
    for meaning, path in found.others.items():
        column = columns[path]
        if meaning in (STOPS, LENGTHS):
            stops = _stops(column, count, lengths=meaning == LENGTHS)
            if stops is not None and flat.stops is None:
                flat.stops = stops
                continue
        if column.count != count:
            left.append(path)
            continue
        flat.columns[own_name(path)] = column
        if meaning == DONE:
            flat.ends.append(as_flags(column))
            if "terminated" not in flat.columns:
                flat.remarks.append(
                    f"{path!r} does not say whether a trajectory was terminated or truncated: it is a "
                    "field, and "
                    "trajectories have neither flag"
                )
        elif meaning == STARTS:
            flat.ends.append(_before(as_flags(column)))
        elif meaning == NUMBER:
            flat.ends.append(_changing(column))
    told = flat.stops is not None or flat.ends or flat.following
    if not (told or flat.whole) and "truncated" not in flat.columns:
        flat.remarks.append(
            "nothing says where trajectories were cut off by a time limit: some may be several in one"
            if "terminated" in flat.columns
            else "nothing says where trajectories end: all steps are taken for one"
        )
    return left


def _stops(column: Column, count: int, *, lengths: bool) -> NDArray[np.int64] | None:
    """The rows after which trajectories end; None: it is something else."""
    if column.shape or column.dtype.kind not in "iu" or column.count > count:
        return None
    values = column.read(0, column.count).astype(np.int64)
    stops = np.cumsum(values) if lengths else values
    sound = len(stops) and stops[0] > 0 and stops[-1] == count and (np.diff(stops) > 0).all()
    return stops if sound else None


def _before(column: Column) -> Column:
    """Flags, each a row earlier."""

    def read(start: int, stop: int) -> NDArray[Any]:
        found = np.ones(stop - start, np.bool_)
        values = column.read(start, min(stop + 1, column.count))
        found[: len(values) - 1] = values[1:]
        return found

    return Column(column.dtype, (), column.count, read, column.where)


def _changing(column: Column) -> Column:
    """Which rows have another number than the next."""

    def read(start: int, stop: int) -> NDArray[Any]:
        found = np.ones(stop - start, np.bool_)
        values = column.read(start, min(stop + 1, column.count)).reshape(-1, max(1, math.prod(column.shape)))
        found[: len(values) - 1] = (values[1:] != values[:-1]).any(axis=1)
        return found

    return Column(np.dtype(np.bool_), (), column.count, read, column.where)
