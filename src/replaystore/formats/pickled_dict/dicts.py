"""Pickles of dicts of arrays, and of lists of them, followed by a machine that runs nothing in them.

| in the file                                | in a buffer                                            |
|--------------------------------------------|--------------------------------------------------------|
| {"observations": …, "actions": …, …}       | flat arrays, one row a step, as in a file of D4RL       |
| [{"observations": …, …}, {…}, …]           | a trajectory each, as Decision Transformer has them    |
| observations of one row more than actions  | the last one is the final observation                  |

Dicts in dicts are paths; lists of numbers are arrays. Arrays of objects, and what else is no array, are left
out, and that is said. A buffer is written as one flat dict, which `pickle.load` reads, with what has no name
of its own under the key `replaystore`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.pickled_dict.writing import fill
from replaystore.formats.report import Fate, lost
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.file_rows import FileRows, opened
from replaystore.formats.shared.flat.arrays import Column, Flat
from replaystore.formats.shared.flat.format import OneFile
from replaystore.formats.shared.flat.names import Spelled, has_steps
from replaystore.formats.shared.flat.reading import as_json, flat_of, flat_source
from replaystore.formats.shared.kept_arrays import kept_of
from replaystore.formats.shared.pickles.reading import Array, scan
from replaystore.formats.source import Block, Source
from replaystore.storage.local import read_all

__all__ = ["PickledDict"]

KEPT_IN = "replaystore"
MAKER = "pickle.dump of a dict of arrays"
MOST_KEYS = 4096
MOST_DEPTH = 8
SMALL = 1024


class PickledDict(OneFile["_Pickled"]):
    """The format, as `replaystore.formats` knows it."""

    example = "data.dict.pkl"

    @contextmanager
    def opened(self, path: str) -> Iterator[_Pickled]:
        with opened(path) as (descriptor, size):
            yield _Pickled(descriptor, path, scan(descriptor, size, path, MAKER, lambda _: False))

    def is_one(self, held: _Pickled) -> bool:
        return held.has_steps()

    def source(self, held: _Pickled, path: str) -> Source:
        return held.source()

    def fill(self, file: IO[bytes], chosen: Chosen) -> None:
        fill(file, chosen, KEPT_IN)


def _flattened(
    values: Mapping[Any, Any], where: str, begin: str = "", above: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Dicts in dicts as paths."""
    found: dict[str, Any] = {}
    if id(values) in above or len(above) >= MOST_DEPTH:
        raise FormatError(f"{where}: its dicts hold each other, or are nested deeper than {MOST_DEPTH}")
    for key, value in values.items():
        if type(key) is not str or not key:
            raise FormatError(
                f"{where}: {key!r:.40} is a key of a dict, where there should be names of arrays"
            )
        if type(value) is dict:
            found |= _flattened(value, where, f"{begin}{key}/", (*above, id(values)))
        else:
            found[begin + key] = value
        if len(found) > MOST_KEYS:
            raise FormatError(f"{where} has more than {MOST_KEYS} keys")
    return found


class _Pickled:
    """What a pickle holds."""

    def __init__(self, descriptor: int, path: str, found: Any) -> None:
        self._descriptor, self._path, self._found = descriptor, path, found
        self._remarks: list[str] = []

    def has_steps(self) -> bool:
        """Whether there are observations and actions in it."""
        found = self._found
        one = found[0] if type(found) is list and found else found
        if type(one) is not dict or b"capacity" in read_all(self._descriptor, 0, 64):
            return False
        return KEPT_IN in one or has_steps(list(_flattened(one, self._path)))

    def source(self) -> Source:
        found = self._found
        if type(found) is dict:
            return self._flat_source(found)
        if type(found) is list and found and all(type(one) is dict for one in found):
            return self._list_source(found)
        raise FormatError(
            f"{self._path} holds a {type(found).__name__}, where there should be a dict of arrays, or a "
            "list of them, "
            "one for each trajectory"
        )

    # --- one dict

    def _flat_source(self, found: dict[Any, Any]) -> Source:
        beside = found.pop(KEPT_IN, None)
        values = _flattened(found, self._path)
        columns = self._columns(values)
        kept = None
        if type(beside) is dict:
            arrays = _flattened(beside, self._path)
            kept = kept_of(lambda name: self._whole(arrays.get(name)), self._path)
        source, left = flat_source(columns, kept, self._path)
        if left is not None:
            metadata, source.fields = self._others(values, columns, left)
            source.metadata = metadata or None
        return source

    def _others(
        self, values: Mapping[str, Any], columns: Mapping[str, Column], left: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Fate]]:
        metadata: dict[str, Any] = {}
        fates: dict[str, Fate] = {}
        for name, value in values.items():
            if name in columns and name not in left:
                continue
            plain = self._plain(value)
            if plain is not None:
                metadata[name] = plain
            elif name in columns:
                fates[name] = lost("it has no row for each step")
            else:
                fates[name] = lost("it is no array of numbers")
        return metadata, fates

    def _plain(self, value: Any) -> Any:
        """A text, a number, or a few of them, as JSON; None: it is something else."""
        if type(value) in (str, bool, int):
            return value if type(value) is not int or -(1 << 63) <= value < 1 << 63 else None
        if type(value) is float:
            return as_json(value)
        if type(value) is Array and value.items is None and value.size <= SMALL:
            whole = self._whole(value)
            return None if whole is None else as_json(whole)
        return None

    # --- a list of dicts

    def _list_source(self, found: list[dict[Any, Any]]) -> Source:
        first = self._one(found[0], 0)
        names = set(first.columns)
        schema = first.schema()
        following = bool(first.following)
        _, fates = self._others(*self._told)
        self._remarks += first.remarks
        return Source(
            schema,
            lambda most: self._list_blocks(found, most, names, following=following),
            trajectories=len(found),
            fields=fates,
            remarks=self._remarks,
        )

    def _one(self, values: dict[Any, Any], number: int) -> Flat:
        """A trajectory."""
        where = f"{self._path}, trajectory {number}"
        arrays = _flattened(values, where)
        columns = self._columns(arrays)
        flat, left = flat_of(_ended(columns), where, whole=True)
        self._told = arrays, columns, left
        return flat

    def _list_blocks(
        self, found: list[dict[Any, Any]], max_bytes: int, names: set[str], *, following: bool
    ) -> Iterator[Block]:
        strange = 0
        for number, values in enumerate(found):
            flat = self._one(values, number)
            if flat.columns.keys() != names or bool(flat.following) != following:
                other = sorted(flat.columns.keys() ^ names) or ["next observations"]
                raise FormatError(
                    f"{self._path}, trajectory {number}: it has other arrays than the first one "
                    f"({', '.join(other[:4])})"
                )
            flat.remarks.clear()
            if flat.count:
                yield from flat.blocks(max_bytes)
            strange += bool(flat.remarks)
        if strange:
            self._remarks.append(
                f"{strange} trajectories are several: in the middle the next observation is not that of "
                "the next row"
            )

    # --- arrays

    def _columns(self, values: Mapping[str, Any]) -> dict[str, Column]:
        found = {}
        for name, value in values.items():
            column = self._column(name, value)
            if column is not None:
                found[name] = column
        return found

    def _column(self, name: str, value: Any) -> Column | None:
        where = f"{self._path}, {name!r}"
        if type(value) is list and value and all(type(one) in (int, float, bool) for one in value):
            try:
                numbers = np.array(value)
            except OverflowError:
                return None
            if numbers.dtype.kind not in "biuf":
                return None
            return Column(numbers.dtype, (), len(numbers), lambda start, stop: numbers[start:stop], where)
        if (
            type(value) is not Array
            or value.items is not None
            or not value.shape
            or not _numbers(value.dtype)
        ):
            return None
        if value.fortran and len(value.shape) > 1:
            return self._turned(value, where)
        dtype = value.dtype.newbyteorder("<")
        rows = FileRows(self._descriptor, where, value.dtype, value.shape[1:], value.shape[0], value.offset)
        return Column(
            dtype, value.shape[1:], value.shape[0], lambda a, b: np.asarray(rows.read(a, b), dtype), where
        )

    def _turned(self, value: Array, where: str) -> Column:
        """An array in which the first dimension runs fastest."""
        count, inner = value.shape[0], value.shape[1:]
        dtype, number = value.dtype.newbyteorder("<"), int(np.prod(inner))
        rows = FileRows(self._descriptor, where, value.dtype, (), count * number, value.offset)

        def read(start: int, stop: int) -> NDArray[Any]:
            pieces = [rows.read(at * count + start, at * count + stop) for at in range(number)]
            stacked = np.stack(pieces).reshape(*reversed(inner), stop - start)
            return np.ascontiguousarray(stacked.T, dtype)

        return Column(dtype, inner, count, read, where)

    def _whole(self, value: Any) -> NDArray[Any] | None:
        if type(value) is not Array or value.items is not None or not _numbers(value.dtype):
            return None
        column = self._column("replaystore", replace(value, shape=(1, *value.shape), fortran=False))
        if column is None or (value.fortran and len(value.shape) > 1):
            return None
        found: NDArray[Any] = column.read(0, 1)[0]
        return found


def _numbers(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biufc" and dtype.names is None


def _ended(columns: dict[str, Column]) -> dict[str, Column]:
    """Observations of one row more than actions, as observations and what follows them."""
    names = Spelled(list(columns))
    acted = [columns[path].count for name, path in names.fields.items() if name.partition("/")[0] == "action"]
    longer = {
        name: path
        for name, path in names.fields.items()
        if name.partition("/")[0] == "observation" and acted and columns[path].count == acted[0] + 1
    }
    if not longer or names.following:
        return columns
    found = dict(columns)
    for name, path in longer.items():
        column = columns[path]
        found[path] = replace(column, count=column.count - 1)
        found[name.replace("observation", "next_observations", 1)] = replace(
            column, count=column.count - 1, read=_later(column)
        )
    return found


def _later(column: Column) -> Any:
    return lambda start, stop: column.read(start + 1, stop + 1)
