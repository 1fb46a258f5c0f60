"""The episodes of a dataset in Arrow or Parquet: a folder for each, with one file of rows and what is known
of it in a metadata.json.

All columns have a row for each observation, of which there is one more than steps: the last row of the others
is filling. How long an episode is, its metadata say before its file is opened, and the file must agree. An
episode is in memory as a whole, as Minari's files are batches of one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.minari.episodes import Attribute, Leaf
from replaystore.formats.minari.metadata import FILE, read_json
from replaystore.formats.shared.arrow.reading import opened_table, pyarrow
from replaystore.formats.shared.arrow.values import leaf_of, leaves_of, members, numbers, ragged
from replaystore.schema.ragged import Ragged

__all__ = ["ArrowEpisodes"]

PART = "part-0"
WHOLE = 1 << 62
MOST_STEPS = 1 << 40
LONGER = ("observations", "infos")
"""What has a row more than there are steps."""
MOST_DEPTH = 8


class ArrowEpisodes:
    """The episodes 0, 1, 2, … in a folder."""

    def __init__(
        self, folder: str, container: str, shapes: Mapping[str, tuple[int, ...]], longer: set[str]
    ) -> None:
        """`shapes`: of rows, where they are known, since files have all numbers of a row in one list.
        `longer`: what further paths have a row more than there are steps."""
        self.folder, self._container, self._shapes, self._longer = folder, container, shapes, longer
        self._arrow = pyarrow("reading a dataset of Minari in Arrow or Parquet")
        self.count = 0
        names = set(os.listdir(folder))
        while str(self.count) in names:
            self.count += 1
        told = [self._told(episode) for episode in range(self.count)]
        self._steps = np.array([self._length(episode, one) for episode, one in enumerate(told)], np.int64)
        self.attributes: Mapping[str, Attribute] = _attributes(told)
        self.leaves: Mapping[str, Leaf] = {}
        self._loaded: dict[int, dict[str, Any]] = {}
        if self.count:
            self.leaves = self._leaves()

    def _told(self, episode: int) -> dict[str, Any]:
        path = os.path.join(self.folder, str(episode), FILE)
        found = read_json(path)
        if not isinstance(found, dict):
            raise FormatError(f"{path} is not what Minari says of an episode: it is damaged")
        return _flat(found, "", 0)

    def _length(self, episode: int, told: dict[str, Any]) -> int:
        steps = told.get("total_steps")
        if type(steps) is not int or not 0 <= steps < MOST_STEPS:
            raise FormatError(
                f"{os.path.join(self.folder, str(episode), FILE)} does not say how many steps there are: it "
                "is damaged"
            )
        return steps

    def _named(self, episode: int) -> str:
        """The file of an episode."""
        return f"{self.folder}{os.sep}{episode}{os.sep}{PART}.{self._container}"

    def _path(self, episode: int) -> str:
        """The file of an episode. FormatError: there are others beside it."""
        folder, name = os.path.split(self._named(episode))
        others = [one for one in os.listdir(folder) if one not in (name, FILE) and one[0] not in "._"]
        if others:
            raise FormatError(f"{folder} has {others[0]!r:.80} beside {name}: one file is an episode")
        return self._named(episode)

    # --- what there is

    def _leaves(self) -> dict[str, Leaf]:
        found: dict[str, Leaf] = {}
        with opened_table(self._path(0)) as table:
            for field in table.schema:
                for path, kind, said in _below(field, (), 0):
                    if path in found:
                        raise FormatError(f"{self._path(0)} has two columns {path!r:.80}: it is damaged")
                    more = int(path.split("/")[0] in LONGER or path in self._longer)
                    found[path] = self._leaf(path, kind, said, more)
        return found

    def _leaf(self, path: str, kind: Any, said: tuple[int, ...] | None, more: int) -> Leaf:
        known, rows = leaf_of(kind), self._steps + more
        nothing = np.dtype(np.uint8)
        if known is None or not known.plain:
            return Leaf("other", nothing, (), rows)
        if known.text:
            return Leaf("texts", nothing, (), rows)
        if not known.fixed:
            return Leaf("arrays", known.dtype, (), rows)
        row = tuple(length for length in known.shape if length is not None)
        for shape in (self._shapes.get(path), said):
            if shape is not None and math.prod(shape) == math.prod(row):
                row = shape
        return Leaf("numbers", known.dtype, row, rows)

    # --- rows

    def whole(self, path: str, begin: int, end: int) -> Any:
        """All rows of episodes [begin, end), one episode behind the other."""
        if self._loaded.keys() != set(range(begin, end)):
            self._loaded = {episode: self._read(episode) for episode in range(begin, end)}
        parts = [self._values(path, episode) for episode in range(begin, end)]
        return Ragged.concatenate(parts) if isinstance(parts[0], Ragged) else np.concatenate(parts)

    def part(self, path: str, episode: int, start: int, stop: int) -> Any:
        """Rows [start, stop) of one episode; a copy, since whoever keeps a row would keep the episode in
        memory."""
        rows = self._of_one(path, episode)[start:stop]
        return rows.copy() if isinstance(rows, np.ndarray) else rows.take(np.arange(len(rows)))

    def sizes(self, path: str, episode: int, start: int, stop: int) -> NDArray[np.int64]:
        """How many bytes the values of rows [start, stop) take, of texts and arrays."""
        values = self._of_one(path, episode)[start:stop]
        lengths: NDArray[np.int64] = np.asarray(values.lengths) * values.dtype.itemsize
        return lengths

    def _of_one(self, path: str, episode: int) -> Any:
        if self._loaded.keys() != {episode}:
            self._loaded = {}  # first: two long episodes need not be in memory at once
            self._loaded = {episode: self._read(episode)}
        return self._values(path, episode)

    def _values(self, path: str, episode: int) -> Any:
        columns, leaf = self._loaded[episode], self.leaves[path]
        found = columns.get(path)
        if found is None:
            raise FormatError(f"{self._path(episode)} has no column {path!r}, as other episodes have")
        if isinstance(found, Ragged | np.ndarray):
            return found
        where = f"{self._named(episode)}, {path!r}"
        found = found.slice(0, int(leaf.rows[episode]))
        if leaf.kind == "numbers":
            flat = numbers(found, where)
            if math.prod(flat.shape[1:]) != math.prod(leaf.row) or not np.can_cast(flat.dtype, leaf.dtype):
                raise FormatError(
                    f"{where} is {flat.dtype} of shape {flat.shape[1:]}, and in episode 0 {leaf.dtype} of "
                    f"{leaf.row}: have Minari write the dataset in HDF5, which may have several"
                )
            found = flat.astype(leaf.dtype, copy=False).reshape(len(flat), *leaf.row)
        else:
            found = ragged(found, where)
            if found.text != (leaf.kind == "texts") or found.dtype != leaf.dtype:
                raise FormatError(f"{where} has other values than in episode 0: it is damaged")
        columns[path] = found
        return found

    def _read(self, episode: int) -> dict[str, Any]:
        """The columns of an episode, as pyarrow has them."""
        path = self._path(episode)
        with opened_table(path) as table:
            batches = [batch for batch in table.batches(WHOLE) if batch.num_rows]
        rows = sum(batch.num_rows for batch in batches)
        if rows != self._steps[episode] + 1:
            raise FormatError(
                f"{path} has {rows} rows, and there should be {self._steps[episode] + 1}, one more than "
                "steps, as its metadata say: it is damaged"
            )
        found: dict[str, Any] = {}
        for name in batches[0].schema.names:
            parts = [batch.column(name) for batch in batches]
            column = parts[0] if len(parts) == 1 else self._arrow.concat_arrays(parts)
            _take_apart(_key(name), column, found, path, 0)
        return found


def _key(name: str) -> str:
    """A part of a path."""
    return name.replace("/", "%2F")


def _take_apart(path: str, column: Any, found: dict[str, Any], where: str, depth: int) -> None:
    if not column.type.num_fields or leaf_of(column.type) is not None or depth > MOST_DEPTH:
        found[path] = column
        return
    if not any(True for _ in leaves_of(path, column.type)):
        return
    if str(column.type).startswith("struct"):
        for name, inner in members(column, f"{where}, {path!r}").items():
            _take_apart(f"{path}/{_key(name)}", inner, found, where, depth + 1)
    else:
        found[path] = column


def _below(
    field: Any, above: tuple[str, ...], depth: int
) -> Iterator[tuple[str, Any, tuple[int, ...] | None]]:
    """(path, type, the shape that is said) of what is in a column."""
    keys = (*above, _key(field.name))
    if str(field.type).startswith("struct") and depth <= MOST_DEPTH:
        for place in range(field.type.num_fields):
            yield from _below(field.type.field(place), keys, depth + 1)
        return
    said = (field.metadata or {}).get(b"shape")
    yield "/".join(keys), field.type, _shape(said)


def _shape(said: bytes | None) -> tuple[int, ...] | None:
    """A shape as Minari says it of infos."""
    if said is None:
        return None
    parts = said.split(b",") if said else []
    return tuple(map(int, parts)) if all(part.isdigit() and len(part) < 10 for part in parts) else None


def _flat(told: dict[str, Any], begin: str, depth: int) -> dict[str, Any]:
    """What is in dicts, by paths."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        if isinstance(value, dict) and depth < MOST_DEPTH:
            found |= _flat(value, f"{begin}{name}/", depth + 1)
        else:
            found[begin + name] = value
    return found


def _attributes(told: list[dict[str, Any]]) -> dict[str, Attribute]:
    found = {}
    for name in dict.fromkeys(name for one in told for name in one):
        there = np.array([name in one for one in told], np.bool_)
        values = [one[name] for one in told if name in one]
        kinds = {type(value) for value in values}
        joined: NDArray[Any] | None = None
        if kinds == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values):
            joined = np.zeros(len(told), np.int64)
        elif kinds == {int} and name == "seed":
            joined = np.zeros(len(told), object)
        elif kinds in ({float}, {bool}):
            joined = np.zeros(len(told), np.float64 if kinds == {float} else np.bool_)
        if joined is not None:
            joined[there] = values
        found[name] = Attribute(there, joined)
    return found
