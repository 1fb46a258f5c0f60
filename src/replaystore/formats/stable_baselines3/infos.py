"""The infos that a hindsight buffer keeps of each step, as fields: of each key that every step has, with a
number, or an array of one dtype and shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.report import Fate, lost
from replaystore.formats.shared.file_rows import FileRows
from replaystore.formats.shared.pickles.reading import Array
from replaystore.formats.stable_baselines3.contents import KINDS, Contents
from replaystore.schema.fields import Field
from replaystore.schema.names import join_path

__all__ = ["Infos", "infos_of"]

_NUMBERS: dict[type, str] = {bool: "bool", int: "int64", float: "float64"}


@dataclass(frozen=True)
class Infos:
    """Infos of the steps of a buffer."""

    found: Contents
    items: list[Any]
    """Dicts, row by row, environment by environment."""
    keys: dict[str, str]
    """By the names of fields."""
    fields: dict[str, Field]

    @property
    def row_bytes(self) -> int:
        return sum(declared.row_bytes for declared in self.fields.values())

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Rows [start, stop), shape (rows, environments, …)."""
        found = self.found
        batch = {}
        for name, declared in self.fields.items():
            rows = np.empty((stop - start, found.envs, *declared.shape), declared.dtype)
            for row in range(start, stop):
                place = (found.first + row) % found.capacity * found.envs
                for env in range(found.envs):
                    value = self.items[place + env][self.keys[name]]
                    rows[row - start, env] = _read(found, value) if type(value) is Array else value
            batch[name] = rows
        return batch


def infos_of(found: Contents, fates: dict[str, Fate]) -> Infos | None:
    """None: there are none. Keys that are no fields are told in `fates`."""
    array = found.known.get("infos")
    if type(array) is not Array or array.items is None or array.shape != (found.capacity, found.envs):
        return None
    used = [
        array.items[(found.first + row) % found.capacity * found.envs + env]
        for row in range(found.rows)
        for env in range(found.envs)
    ]
    if not used or not all(type(info) is dict for info in used):
        return None
    count: dict[Any, int] = {}
    for info in used:
        for key in info:
            count[key] = count.get(key, 0) + 1
    fields, keys = dict[str, Field](), dict[str, str]()
    for key, times in count.items():
        name = join_path("info", str(key)) if type(key) is str and key else f"info {key!r:.40}"
        kinds = {_kind(info[key]) for info in used if key in info}
        if times < len(used):
            fates[name] = lost(f"only {times} of {len(used)} steps have it")
        elif len(kinds) != 1 or None in kinds or type(key) is not str or not key:
            fates[name] = lost("its values are not numbers of one dtype and shape")
        else:
            ((dtype, shape),) = (kind for kind in kinds if kind is not None)
            fields[name], keys[name] = Field(dtype, shape, "info"), key
    return Infos(found, array.items, keys, fields) if fields else None


def _kind(value: Any) -> tuple[str, tuple[int, ...]] | None:
    """dtype and shape; None: it is no number."""
    if type(value) in _NUMBERS:
        fits = type(value) is not int or -(1 << 63) <= value < 1 << 63
        return (_NUMBERS[type(value)], ()) if fits else None
    if isinstance(value, np.generic):
        return (value.dtype.newbyteorder("<").str, ()) if value.dtype.kind in KINDS else None
    if type(value) is Array and value.items is None and value.dtype.kind in KINDS and not value.fortran:
        return (value.dtype.newbyteorder("<").str, value.shape) if math.prod(value.shape) else None
    return None


def _read(found: Contents, array: Array) -> NDArray[Any]:
    rows = FileRows(found.descriptor, f"{found.where}, an info", array.dtype, array.shape, 1, array.offset)
    numbers: NDArray[Any] = rows.read(0, 1)[0]
    return numbers
