"""The files of a dataset in Arrow or Parquet: for each episode a folder with its rows and its metadata, in
the types that Minari gives them, so that it can go on with them.

Minari reads an episode as one batch: it is in memory as a whole, and written as one.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.minari.metadata import FILE
from replaystore.formats.minari.plan import Placed
from replaystore.formats.minari.writer import joined
from replaystore.formats.shared.arrow.reading import pyarrow
from replaystore.formats.shared.arrow.writing import TableWriter, arrow_array
from replaystore.formats.shared.spaces import space_of
from replaystore.schema.ragged import Ragged

__all__ = ["ArrowWriter"]

PURPOSE = "writing a dataset of Minari in Arrow or Parquet"
WHOLE = 1 << 62


class ArrowWriter:
    """Episodes on their way into files."""

    def __init__(self, folder: str, container: str) -> None:
        self._arrow = pyarrow(PURPOSE)
        self._folder, self._container = folder, container
        self._parts: dict[str, list[Any]] = {}
        self._placed: dict[str, Placed] = {}
        self._episode = self._steps = 0
        self._seed = -1

    def begin(self, episode: int, steps: int, seed: int) -> None:
        """A new episode."""
        self._episode, self._steps, self._seed = episode, steps, seed
        self._parts.clear()

    def rows(self, one: Placed, values: Any, count: int, *, whole: bool) -> None:
        """Rows of a field."""
        self._placed[one.path] = one
        self._parts.setdefault(one.path, []).append(values)

    def plain(self, path: str, values: NDArray[Any], count: int, *, whole: bool) -> None:
        """Rows of numbers."""
        self._parts.setdefault(path, []).append(values)

    def end(self) -> None:
        """The episode is complete."""
        folder = os.path.join(self._folder, str(self._episode))
        os.mkdir(folder)
        types: dict[str, Any] = {}
        columns: dict[str, Any] = {}
        for path, parts in self._parts.items():
            first, *inner = path.split("/")
            kind, values = self._column(path, joined(parts))
            _put(types, [first, *inner], (kind, self._said(path)))
            _put(columns, [first, *inner], values)
        types = {name: self._type(known) for name, known in types.items()}
        kind = "parquet" if self._container == "parquet" else "file"
        with (
            open(os.path.join(folder, f"part-0.{self._container}"), "wb") as file,
            TableWriter(
                file,
                types,
                kind="parquet" if kind == "parquet" else "file",
                compression="snappy" if kind == "parquet" else None,
                group_bytes=WHOLE,
                nullable=list(types),
            ) as table,
        ):
            table.write({name: self._array(column) for name, column in columns.items()})
        told: dict[str, Any] = {"id": self._episode, "total_steps": self._steps}
        if self._seed >= 0:
            told["seed"] = self._seed
        with open(os.path.join(folder, FILE), "w", encoding="utf-8") as beside:
            json.dump(told, beside)

    # --- columns

    def _column(self, path: str, values: Any) -> tuple[Any, Any]:
        """The type of a column that Minari gives it, and the column."""
        arrow, one = self._arrow, self._placed.get(path)
        values = self._filled(values)
        if isinstance(values, Ragged):
            text = one is not None and not one.encoded
            kind = arrow.string() if text else arrow.large_binary()
            return kind, arrow_array(values if text else _of_bytes(values), kind)
        if one is not None and one.encoded:
            values = np.ascontiguousarray(values)
            size = values.dtype.itemsize * math.prod(values.shape[1:])
            flat = values.reshape(-1).view(np.uint8)
            kind = arrow.large_binary()
            return kind, arrow_array(Ragged(flat, np.arange(len(values) + 1) * size), kind)
        kind = arrow.from_numpy_dtype(values.dtype)
        space = (
            space_of(one.field) if one is not None and one.field.role in ("observation", "action") else None
        )
        if values.ndim == 1 and (space is None or space["type"] == "Discrete"):
            return kind, arrow_array(values, kind)
        flat = values.reshape(len(values), -1)
        kind = arrow.list_(kind, flat.shape[1])
        return kind, arrow_array(flat, kind)

    def _filled(self, values: Any) -> Any:
        """With a row for each observation."""
        missing = self._steps + 1 - len(values)
        if not missing:
            return values
        if isinstance(values, Ragged):
            return joined([values, Ragged.empty(missing, values.dtype, values.inner, text=values.text)])
        return joined([values, np.zeros((missing, *values.shape[1:]), values.dtype)])

    def _said(self, path: str) -> dict[str, str] | None:
        """What Minari says of infos of several numbers."""
        one = self._placed.get(path)
        if one is None or not one.shifted or one.field.ragged or not one.field.shape:
            return None
        return {"shape": ",".join(map(str, one.field.shape))}

    def _type(self, known: Any) -> Any:
        if not isinstance(known, dict):
            return known[0]
        fields = []
        for name, inner in known.items():
            said = None if isinstance(inner, dict) else inner[1]
            fields.append(self._arrow.field(name, self._type(inner), metadata=said))
        return self._arrow.struct(fields)

    def _array(self, column: Any) -> Any:
        if not isinstance(column, dict):
            return column
        parts = [self._array(inner) for inner in column.values()]
        return self._arrow.StructArray.from_arrays(parts, list(column))


def _put(found: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        found = found.setdefault(key, {})
    found[keys[-1]] = value


def _of_bytes(values: Ragged) -> Ragged:
    """The bytes of values of any length."""
    data = np.ascontiguousarray(values.named)
    width = data.dtype.itemsize * math.prod(data.shape[1:])
    offsets = (np.asarray(values.offsets) - values.offsets[0]) * width
    return Ragged(data.reshape(-1).view(np.uint8), offsets)
