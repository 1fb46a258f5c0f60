"""What a buffer holds and Minari has no place for: in a file of its own beside metadata.json, which Minari
does not look at, so that such a dataset comes back as it was.

The file says how long its episodes are. If the dataset has others (Minari has changed it since), what it says
of trajectories is not used.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, ReplayStoreError
from replaystore.formats.minari.metadata import read_json
from replaystore.schema.dtypes import field_dtype
from replaystore.schema.fields import Schema
from replaystore.trajectories.columns import TRAJECTORIES

__all__ = ["FILE", "GROUP", "Beside", "Place"]

FILE = "replaystore.json"
GROUP = "replaystore"
"""Of each episode: the group, or the beginning of the names of columns, of what Minari does not look at."""
VERSION = 1


@dataclass(frozen=True)
class Place:
    """Where the values of a field lie."""

    path: str
    """In an episode, as `episodes.py` names it."""
    encoded: bool = False
    """Whether each value is its bytes, as an array of any length."""
    also: str = ""
    """Of texts: where they lie as bytes in episodes where the others are not the same."""


@dataclass
class Beside:
    """What the file says."""

    schema: Schema
    places: dict[str, Place]
    lengths: NDArray[np.int64]
    splits: list[str] = field(default_factory=list)
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Of trajectories: `env`, `split` (places in `splits`), `known` (whether the observation after the last
    step is), and those of the user's as "user/<name>"."""
    resets: list[str] = field(default_factory=list)
    """The columns of the user's that are the first rows of infos."""
    metadata: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] | None = None

    def write(self, folder: str) -> None:
        """Write the file."""
        told = {
            "version": VERSION,
            "schema": self.schema.to_json(),
            "places": {name: [at.path, at.encoded, at.also] for name, at in self.places.items()},
            "lengths": _encoded(self.lengths),
            "splits": self.splits,
            "columns": {name: _encoded(values) for name, values in self.columns.items()},
            "resets": self.resets,
            "metadata": self.metadata,
            "environment": self.environment,
        }
        with open(os.path.join(folder, FILE), "w", encoding="utf-8") as file:
            json.dump(told, file, ensure_ascii=False, allow_nan=False)

    @classmethod
    def read(cls, folder: str) -> Beside | None:
        """That of a dataset, if there is one. FormatError: it is damaged; StorageError."""
        path = os.path.join(folder, FILE)
        if not os.path.lexists(path):
            return None
        told = read_json(path)
        try:
            return _looked_at(told)
        except ReplayStoreError as error:
            raise FormatError(f"{path}: {error}; remove it to read what Minari reads") from error
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise FormatError(
                f"{path} is damaged ({type(error).__name__}): remove it to read what Minari reads"
            ) from error


def _looked_at(told: Any) -> Beside:
    if told["version"] != VERSION:
        raise FormatError(f"version {told['version']!r:.20} is not known: upgrade replaystore")
    schema = Schema.from_json(told["schema"])
    given = told["places"].items()
    places = {name: Place(str(at), bool(how), str(also)) for name, (at, how, also) in given}
    if set(places) != set(schema.fields):
        raise FormatError("it does not say where all fields are")
    lengths = _decoded(told["lengths"])
    if lengths.dtype != np.int64:
        raise FormatError("lengths are int64")
    columns = {str(name): _decoded(values) for name, values in told["columns"].items()}
    splits, resets = told["splits"], told["resets"]
    if not all(isinstance(one, str) for one in (*splits, *resets)):
        raise FormatError("splits and columns have names")
    beside = Beside(schema, places, lengths, list(splits), columns, list(resets))
    for name, kind in (("env", "i"), ("split", "i"), ("known", "b")):
        if columns[name].dtype.kind != kind:
            raise FormatError(f"{name!r} is of dtype {columns[name].dtype}")
    if any(name.removeprefix("user/") in (*TRAJECTORIES, "open") for name in columns if "/" in name):
        raise FormatError("a column of every buffer has the name of one of its own")
    if any(len(values) != len(lengths) for values in columns.values()):
        raise FormatError("its columns have different lengths")
    if len(lengths) and not -1 < columns["split"].min() <= columns["split"].max() < len(splits):
        raise FormatError("there is no such split")
    metadata, environment = told["metadata"], told["environment"]
    if not isinstance(metadata, dict) or not isinstance(environment, dict | None):
        raise FormatError("metadata and environment are dicts")
    beside.metadata, beside.environment = metadata, environment
    return beside


def _encoded(values: NDArray[Any]) -> dict[str, Any]:
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return {"dtype": values.dtype.name, "data": base64.b64encode(values.tobytes()).decode("ascii")}


def _decoded(told: Mapping[str, Any]) -> NDArray[Any]:
    dtype = field_dtype(told["dtype"])
    try:
        return np.frombuffer(base64.b64decode(told["data"], validate=True), dtype).copy()
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"a column is damaged: {error}") from None
