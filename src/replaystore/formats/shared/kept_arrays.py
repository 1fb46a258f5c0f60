"""What is kept beside what other software reads (kept.py), as arrays by name, which a format stores as it
likes:

| name        | what                                                                            |
|-------------|---------------------------------------------------------------------------------|
| `about`     | JSON (uint8): version, schema, places of the fields, environment, metadata, …   |
| `length`    | of each trajectory, in the order of the file                                    |
| `how`       | bits: 1 terminated, 2 truncated, 4 its final observation is in the file         |
| `seed`, `env`, `split` | of each; `split` as a place in `about.splits`                        |
| `columns/…` | further columns of the table, by number as in `about.columns`                   |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.shared.kept import Kept, check
from replaystore.schema.fields import Schema
from replaystore.schema.strict_json import decoded, strict

__all__ = ["arrays_of", "kept_of"]

VERSION = 1
TERMINATED, TRUNCATED, FINAL = 1, 2, 4
MOST = 1 << 27
"""Trajectories."""


def arrays_of(kept: Kept) -> dict[str, NDArray[Any]]:
    """The arrays."""
    names = list(kept.columns)
    about = {
        "version": VERSION,
        "schema": kept.schema.to_json(),
        "places": dict(kept.places),
        "splits": kept.splits,
        "columns": {name: str(number) for number, name in enumerate(names)},
        "environment": kept.environment,
        "metadata": kept.metadata,
        "more": dict(kept.more),
    }
    text = json.dumps(strict(about), separators=(",", ":"), ensure_ascii=False).encode()
    how = kept.terminated * TERMINATED | kept.truncated * TRUNCATED | (kept.final >= 0) * FINAL
    return {
        "about": np.frombuffer(text, np.uint8),
        "length": kept.length,
        "how": how.astype(np.uint8),
        "seed": kept.seed,
        "env": kept.env,
        "split": kept.split,
        **{f"columns/{number}": kept.columns[name] for number, name in enumerate(names)},
    }


def kept_of(read: Callable[[str], NDArray[Any] | None], where: str) -> Kept | None:
    """What was kept in a file; None: nothing. `read`: the array of a name; None: there is none. FormatError:
    it is damaged."""
    text = read("about")
    if text is None:
        return None
    try:
        about = decoded(text.astype(np.uint8, copy=False).tobytes())
        if about["version"] != VERSION:
            return None
        schema = Schema.from_json(about["schema"])
        how = _array(read, "how", np.dtype(np.uint8))
        known = how & FINAL != 0
        found = Kept(
            schema,
            {name: str(about["places"][name]) for name in schema.fields},
            _array(read, "length", np.dtype(np.int64)),
            _array(read, "env", np.dtype(np.int64)),
            _array(read, "seed", np.dtype(np.int64)),
            _array(read, "split", np.dtype(np.int32)),
            how & TERMINATED != 0,
            how & TRUNCATED != 0,
            np.where(known, np.cumsum(known) - 1, -1),
            [str(name) for name in about["splits"]],
            {str(name): _array(read, f"columns/{at}", None) for name, at in about["columns"].items()},
            about["environment"],
            about["metadata"],
            about.get("more") or {},
        )
        check(found)
    except (KeyError, TypeError, ValueError, AttributeError, FormatError) as error:
        raise FormatError(
            f"{where}: what replaystore has kept in it is damaged ({type(error).__name__}: {error}): copy "
            "the file again, or remove it"
        ) from error
    return found


def _array(
    read: Callable[[str], NDArray[Any] | None], name: str, dtype: np.dtype[Any] | None
) -> NDArray[Any]:
    found = read(name)
    if found is None or found.ndim < 1 or len(found) > MOST:
        raise ValueError(f"{name!r} is missing, or no list")
    if dtype is not None and (found.dtype != dtype or found.ndim != 1):
        raise ValueError(f"{name!r} has the dtype {found.dtype}")
    return found
