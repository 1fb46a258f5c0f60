"""What a pickle of ours says beside what Stable-Baselines3 reads: `buffer.replaystore`, an attribute that
Stable-Baselines3 carries along and never looks at.

| key      | what                                                                                  |
|----------|---------------------------------------------------------------------------------------|
| format   | 1                                                                                     |
| document | JSON: schema, environment, metadata, splits, dtypes of columns                        |
| stamp    | of the actions, rewards and flags that it was written with                            |
| length, lane, env, seed, split, flags | of each trajectory, in the order of the file; lane: which of  |
|          | `n_envs`; flags: 1 terminated, 2 truncated, 4 the observation after it is known       |
| columns  | those of the table of trajectories that are the user's                                |
| fields   | fields that Stable-Baselines3 has no place for, or in another dtype, as they were     |

When Stable-Baselines3 has gone on with the buffer, none of it is true any more: the stamp and the position
tell, and it is ignored.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, ReplayStoreError
from replaystore.formats.shared.file_rows import BLOCK_BYTES
from replaystore.formats.shared.pickles.reading import Array, Payload, bytes_of
from replaystore.formats.stable_baselines3.contents import Contents, Steps, read_array, steps_of
from replaystore.schema.fields import Schema

__all__ = [
    "ATTRIBUTE",
    "COLUMNS",
    "FINAL",
    "MAX_TRAJECTORIES",
    "STAMPED",
    "TERMINATED",
    "TRUNCATED",
    "Notes",
    "notes_of",
]

ATTRIBUTE = "replaystore"
MAX_TRAJECTORIES = 1 << 24
MAX_DOCUMENT = 1 << 26
COLUMNS = ("length", "lane", "env", "seed", "split", "flags")
TERMINATED, TRUNCATED, FINAL = 1, 2, 4
STAMPED = ("actions", "rewards", "dones", "timeouts")


@dataclass(frozen=True)
class Notes:
    """What is known of a buffer that was written by us, and is as it was."""

    schema: Schema
    environment: dict[str, Any] | None
    metadata: Mapping[str, Any]
    splits: list[str]
    table: Mapping[str, NDArray[Any]]
    """`COLUMNS`, and those of the user."""
    dtypes: Mapping[str, Any]
    """Of the columns of the user."""
    fields: Mapping[str, Steps]
    """By the names of the schema."""


def notes_of(found: Contents) -> Notes | None:
    """None: there are none, or Stable-Baselines3 has gone on with the buffer since. FormatError: they are
    damaged."""
    kept = found.known.get(ATTRIBUTE)
    if type(kept) is not dict or kept.get("format") != 1:
        return None
    at = [found.position, int(found.full), found.capacity, found.envs]
    if kept.get("position") != at or kept.get("stamp") != _stamp(found):
        return None
    document = kept.get("document")
    if type(document) is not Payload:
        raise FormatError(f"{found.where}: {ATTRIBUTE!r} has no document: the file is damaged")
    try:
        told = json.loads(bytes_of(found.descriptor, document, MAX_DOCUMENT, found.where))
        schema = Schema.from_json(told["schema"])
        environment, metadata = told["environment"], told["metadata"]
        splits, names = [str(name) for name in told["splits"]], [str(name) for name in told["columns"]]
        if not isinstance(metadata, dict) or not isinstance(environment, dict | None):
            raise TypeError("metadata are no dict")
    except (ValueError, KeyError, TypeError, RecursionError, ReplayStoreError) as error:
        raise FormatError(f"{found.where}: {ATTRIBUTE!r} is damaged: {error}") from error
    table = {name: _column(found, kept.get(name), name) for name in COLUMNS}
    given = kept.get("columns")
    columns = given if type(given) is dict else {}
    table |= {name: _column(found, columns.get(name), name) for name in names}
    dtypes = {name: table[name].dtype for name in names}
    notes = Notes(
        schema, environment, metadata, splits, table, dtypes, _fields(found, schema, kept.get("fields"))
    )
    _check(found, notes)
    return notes


def _column(found: Contents, array: Any, name: str) -> NDArray[Any]:
    if type(array) is not Array or array.items is not None or not array.shape:
        raise FormatError(f"{found.where}: the column {name!r:.60} is no array: the file is damaged")
    if array.shape[0] > MAX_TRAJECTORIES:
        raise FormatError(f"{found.where}: the column {name!r:.60} has {array.shape[0]} rows: too many")
    return read_array(found.descriptor, array, f"{found.where}, {name!r:.60}", 1 << 31)


def _fields(found: Contents, schema: Schema, arrays: Any) -> dict[str, Steps]:
    given = arrays if type(arrays) is dict else {}
    fields = {}
    for name, array in given.items():
        steps = steps_of(found, str(name), array)
        declared = schema.fields.get(name)
        if (
            steps is None
            or declared is None
            or (steps.dtype, steps.shape) != (declared.dtype, declared.shape)
        ):
            raise FormatError(f"{found.where}: the field {name!r:.60} is not as it is declared")
        fields[name] = steps
    return fields


def _check(found: Contents, notes: Notes) -> None:
    """The trajectories are those of all rows."""
    table = notes.table
    integers = all(table[name].dtype == np.int64 and table[name].ndim == 1 for name in COLUMNS)
    count = len(table["length"])
    if not integers or any(len(column) != count for column in table.values()):
        raise FormatError(f"{found.where}: columns of trajectories are not of one length: damaged")
    length, lane, split = table["length"], table["lane"], table["split"]
    right = bool((length > 0).all() and (lane >= 0).all() and (lane < found.envs).all())
    right = right and bool((split >= 0).all() and (split < max(1, len(notes.splits))).all())
    right = right and bool((table["env"] >= 0).all() and (table["seed"] >= -1).all())
    right = right and bool((length <= found.rows).all())
    if not right or (np.bincount(lane, length, found.envs) != found.rows).any():
        raise FormatError(f"{found.where}: its trajectories are not those of its rows: the file is damaged")


def _stamp(found: Contents) -> int:
    """Of everything that changes when somebody goes on with the buffer."""
    stamp = 0
    for name in STAMPED:
        steps = found.steps.get(name)
        for block in () if steps is None else _blocks(steps):
            stamp = zlib.crc32(block, stamp)
    return stamp


def _blocks(steps: Steps) -> Iterator[bytes]:
    for piece in steps.pieces:
        step = max(1, BLOCK_BYTES // max(1, piece.row_bytes))
        for start in range(0, piece.count, step):
            yield piece.read(start, min(start + step, piece.count)).tobytes()
