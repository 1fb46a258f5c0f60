"""robomimic's HDF5 files: a group for each demonstration.

| in the file                 | in a buffer                                                           |
|-----------------------------|-----------------------------------------------------------------------|
| data/demo_<i>               | a trajectory, in the order of the numbers                             |
| obs/<key>, actions, rewards | `observation/<key>`, `action`, `reward`                               |
| next_obs/<key>              | the next row, and at the end the final observation; if not, a field   |
| dones, states, …            | fields of their own names: `dones` says not how a trajectory ended    |
| mask/<name>                 | splits; a mask that overlaps with another one: a column `mask_<name>` |
| env_args, other attributes  | the environment, and the metadata; of demonstrations: columns, if     |
|                             | they are numbers                                                      |

What robomimic has no place for lies in the group `replaystore`, which it does not look at. Single numbers of
actions are written as rows of one, as robomimic has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.report import Fate, Report, lost
from replaystore.formats.robomimic.writing import KEPT_IN, fill, next_of
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.arrays import Column, Flat
from replaystore.formats.shared.flat.names import own_name
from replaystore.formats.shared.flat.reading import as_json
from replaystore.formats.shared.hdf5.columns import column_of
from replaystore.formats.shared.hdf5.format import Hdf5Format
from replaystore.formats.shared.hdf5.groups import Dataset, Group
from replaystore.formats.shared.hdf5.kept import kept_in
from replaystore.formats.shared.hdf5.writing import NewGroup
from replaystore.formats.shared.kept import Kept
from replaystore.formats.source import Block, Source
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.names import join_path
from replaystore.schema.strict_json import decoded, strict

__all__ = ["Robomimic"]

NUMBERED = re.compile(r"(.*?)(\d{1,18})")
LOOKED_AT = 16
"""Demonstrations that tell whether next observations are the next rows."""
LONG_TEXT = 256
FIRST_MASKS = ("train", "valid", "test")


class Robomimic(Hdf5Format):
    """The format, as `replaystore.formats` knows it."""

    example = "demo.hdf5"

    def source(self, held: Group, path: str) -> Source:
        return _Demos(held, path).source()

    def is_one(self, held: Group) -> bool:
        data = held.get("data")
        if not isinstance(data, Group):
            return False
        if next(_first(data.groups()), None) is None:
            return "env_args" in data.attributes
        return any(
            isinstance(one.get("actions") or one.get("obs"), Dataset | Group)
            for _, one in _first(data.groups())
        )

    def told(self, chosen: Chosen, path: str) -> Report:
        report = chosen.report()
        if "action" not in chosen.fields:
            report.remarks.append("robomimic's own reader wants one array of actions")
        return report

    def put(self, root: NewGroup, chosen: Chosen) -> None:
        fill(root, chosen)


def _first(groups: Iterator[tuple[str, Group]]) -> Iterator[tuple[str, Group]]:
    return (pair for _, pair in zip(range(1), groups, strict=False))


# --- reading


class _Demos:
    """The demonstrations of a file."""

    def __init__(self, root: Group, path: str) -> None:
        self._root, self._path, self._data = root, path, root.group("data")
        self._names = sorted(self._data, key=_order)
        self._metadata: dict[str, Any] = {}
        self._fates: dict[str, Fate] = {}
        self._remarks: list[str] = []
        self._columns: dict[str, NDArray[Any]] = {}
        self._attributes = list(self._found_attributes())
        self._paths = {
            where: rows
            for name in self._names[:1]
            for where, rows in self._data.group(name).walk()
            if rows.kind == "numbers" and rows.shape
        }
        self._lengths = [self._length(number) for number in range(len(self._names))]
        self._kept = self._usable(kept_in(root, KEPT_IN))
        self._splits = self._masks()

    def _found_attributes(self) -> Iterator[dict[str, Any]]:
        """Those of each demonstration; of long texts, such as models of MuJoCo, the first one, and None for
        what differs from it."""
        first: dict[str, Any] = {}
        for name in self._names:
            given = self._data.group(name).attributes
            first = first or given
            for key, value in given.items():
                if isinstance(value, str) and len(value) > LONG_TEXT:
                    given[key] = first[key] if first.get(key) == value else None
            yield given

    def _length(self, number: int) -> int:
        """Steps of a demonstration."""
        said = self._attributes[number].get("num_samples")
        if isinstance(said, int) and said >= 0:
            return said
        return self._demo(number).dataset(self._main()).rows

    def _main(self) -> str:
        if not self._paths:
            raise FormatError(f"{self._path}, 'data/{self._names[0]}' has no arrays of steps")
        return "actions" if "actions" in self._paths else next(iter(self._paths))

    def _demo(self, number: int) -> Group:
        return self._data.group(self._names[number])

    def _usable(self, kept: Kept | None) -> Kept | None:
        if kept is not None and kept.length.tolist() != self._lengths:
            self._remarks.append("it was changed by other software: what was kept beside it is left out")
            return None
        return kept

    def source(self) -> Source:
        kept = self._kept
        if kept is not None:
            schema, environment, metadata = kept.schema, kept.environment, kept.metadata
            self._columns = {**self._columns, **kept.columns}
            self._places, self._following = kept.places, self._next_places(kept.schema, kept.places)
        elif not self._names:
            raise FormatError(f"{self._path} has no demonstrations in it")
        else:
            self._places, self._following = self._found_places()
            schema = self._schema()
            environment, metadata = self._about()
        return Source(
            schema,
            self._blocks,
            environment=environment,
            metadata=metadata or None,
            splits=sorted({name for name in self._splits if name}),
            columns={name: values.dtype for name, values in self._columns.items()},
            steps=sum(self._lengths),
            fields=self._fates,
            remarks=self._remarks,
        )

    # --- fields

    def _found_places(self) -> tuple[dict[str, str], dict[str, str]]:
        """Of each field its dataset, and of each observation that of what follows."""
        count, places, following = self._lengths[0], dict[str, str](), dict[str, str]()
        for path, rows in self._paths.items():
            top, _, rest = path.partition("/")
            if rows.rows != count:
                self._fates[path] = lost("it has no row for each step")
            elif top == "obs" and rest:
                places[join_path("observation", *rest.split("/"))] = path
            elif top == "next_obs" and rest:
                following[join_path("observation", *rest.split("/"))] = path
            elif path in ("actions", "rewards"):
                places[path.removesuffix("s")] = path
            else:
                places[own_name(path)] = path
        for where, rows in self._demo(0).walk():
            if where not in self._paths and rows.kind != "empty":
                self._fates[where] = lost("its values are no numbers")
        observed = {name for name in places if name.startswith("observation/")}
        if following and not (following.keys() == observed and self._follows(places, following)):
            places |= {own_name(path): path for path in following.values()}
            following = {}
            self._remarks.append("next_obs is not the next row: it is a field of its own")
        return places, following

    def _follows(self, places: Mapping[str, str], following: Mapping[str, str]) -> bool:
        """Whether what is called the next observation is the next row, in the first demonstrations."""
        for number in range(min(LOOKED_AT, len(self._names))):
            for name, path in following.items():
                left, right = self._demo(number).dataset(path), self._demo(number).dataset(places[name])
                if (left.dtype, left.shape) != (right.dtype, right.shape):
                    return False
                some = min(left.rows, 64)
                if left.read(0, some - 1).tobytes() != right.read(1, some).tobytes():
                    return False
        return True

    @staticmethod
    def _next_places(schema: Schema, places: Mapping[str, str]) -> dict[str, str]:
        return {name: next_of(places[name]) for name in schema.names("observation")}

    def _schema(self) -> Schema:
        fields = {}
        for name, path in self._places.items():
            rows, top = self._paths[path], name.partition("/")[0]
            role = top if top in ("observation", "action", "reward", "info") else "extra"
            fields[name] = Field(rows.dtype, rows.shape[1:], role)  # type: ignore[arg-type]
        return Schema(fields)

    # --- what is beside them

    def _about(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """The environment, and the metadata."""
        found = {name: as_json(value) for name, value in self._data.attributes.items() if name != "total"}
        environment = None
        try:
            arguments = decoded(found.get("env_args") or "null")
        except ValueError:
            arguments = None
        if isinstance(arguments, dict):
            found["env_args"] = strict(arguments)
            if isinstance(arguments.get("env_name"), str):
                environment = {"id": arguments["env_name"]}
        self._demo_attributes(found)
        return environment, {name: value for name, value in found.items() if value is not None}

    def _demo_attributes(self, metadata: dict[str, Any]) -> None:
        """Attributes of demonstrations: the same for all, or numbers, or lost."""
        for name in self._attributes[0]:
            values = [given.get(name) for given in self._attributes]
            if name == "num_samples":
                continue
            if all(isinstance(value, int | float) for value in values):
                self._columns[name] = np.array(values, np.int64 if type(values[0]) is int else None)
            elif isinstance(values[0], str) and all(value == values[0] for value in values):
                metadata[f"demo/{name}"] = values[0]
            else:
                self._fates[f"attribute {name}"] = lost("each demonstration has another one")

    def _masks(self) -> list[str]:
        """The split of each demonstration."""
        found, mask = [""] * len(self._names), self._root.get("mask")
        if not isinstance(mask, Group):
            return found
        number = {name: place for place, name in enumerate(self._names)}
        called = self._kept.more.get("masks", {}) if self._kept is not None else {}
        order = [name for name in FIRST_MASKS if name in mask]
        for name in [*order, *(name for name in mask if name not in order)]:
            members = [number[one] for one in mask.dataset(name).texts() if one in number]
            if any(found[place] for place in members):
                column = np.zeros(len(found), np.bool_)
                column[members] = True
                self._columns[f"mask_{name}"] = column
            else:
                for place in members:
                    found[place] = str(called.get(name, name))
        return found

    # --- steps

    def _blocks(self, max_bytes: int) -> Iterator[Block]:
        strange = 0
        for number in range(len(self._names)):
            demo = self._flat(number)
            if not demo.count:
                continue
            for block in demo.blocks(max_bytes):
                yield self._told(block, number)
            strange += bool(demo.remarks)
        if strange:
            self._remarks.append(
                f"{strange} demonstrations are several trajectories: in the middle the next observation "
                "is not "
                "that of the next row"
            )

    def _told(self, block: Block, number: int) -> Block:
        """A block with what is known of its trajectory."""
        if self._kept is not None:
            block = self._kept.told(block, number)
        if not block.begins:
            return block
        row = {name: values[number] for name, values in self._columns.items()}
        return replace(block, split=self._splits[number], row=row)

    def _flat(self, number: int) -> Flat:
        demo, count = self._demo(number), self._lengths[number]

        def column(path: str, declared: Field | None) -> Column:
            rows = demo.dataset(path)
            if rows.kind != "numbers" or rows.rows != count:
                raise FormatError(f"{rows.where} has not {count} rows of numbers, as its demonstration has")
            found = column_of(rows)
            return found if declared is None else _shaped(found, declared.dtype, declared.shape)

        fields = self._kept.schema.fields if self._kept is not None else {}
        columns = {name: column(path, fields.get(name)) for name, path in self._places.items()}
        following = {name: column(path, fields.get(name)) for name, path in self._following.items()}
        stops = None if self._kept is None else np.array([count])
        return Flat(columns, following=following, stops=stops)


def _shaped(column: Column, dtype: np.dtype[Any], shape: tuple[Any, ...]) -> Column:
    """A column with rows of another shape, of as many numbers."""
    if column.dtype != dtype or int(np.prod(column.shape)) != int(np.prod(shape)):
        raise FormatError(
            f"{column.where} has rows of {column.dtype} of shape {column.shape}, not of {dtype}"
        )
    if column.shape == shape:
        return column

    def read(start: int, stop: int) -> NDArray[Any]:
        values = column.read(start, stop)
        return values.reshape(len(values), *shape)

    return replace(column, shape=shape, read=read)


def _order(name: str) -> tuple[str, int, str]:
    found = NUMBERED.fullmatch(name)
    return (found[1], int(found[2]), name) if found else (name, -1, name)
