"""What other software has no place for: a Zarr group `replaystore` that lies beside what it reads, and that
it does not look at.

| in the group                          | what it is                                                        |
|---------------------------------------|-------------------------------------------------------------------|
| attributes                            | the schema, splits, metadata, environment, and what the format    |
|                                       | itself notes                                                      |
| `table/length`, `env`, `seed`, …      | a row for each trajectory; `split` is a place in the splits       |
| `columns/<name>`                      | columns of the user's, in the same order                          |
| `final/<number>`                      | final observations, by fields in their order; `table/final` says  |
|                                       | which row of them, or -1                                          |

What is read is checked against the file that it lies beside: other software may have gone on with that, and
then nothing of the group is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, ReplayStoreError, SchemaError
from replaystore.formats.blocks import chosen_fields
from replaystore.formats.options import Options
from replaystore.formats.shared.zarr import ZarrArray, ZarrTree
from replaystore.formats.shared.zarr_writing import NewArray, Sink, put_group
from replaystore.formats.source import Block
from replaystore.schema.fields import Schema
from replaystore.schema.names import escape, unescape
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["GROUP", "HELD", "Beside", "Noted", "read_beside"]

GROUP = "replaystore"
HELD = ("env", "seed", "split", "final_observation", "metadata", "environment", "terminated", "truncated")
"""What the group holds, as `beside_fields` names it; columns of the user's, too."""
VERSION = 1
_TABLE: Mapping[str, np.dtype[Any]] = {
    "length": np.dtype("<i8"),
    "env": np.dtype("<i8"),
    "seed": np.dtype("<i8"),
    "split": np.dtype("<i4"),
    "terminated": np.dtype("?"),
    "truncated": np.dtype("?"),
    "final": np.dtype("<i8"),
}
MOST_ROW = 1 << 20
"""Bytes of a value of a column of the user's."""


class Beside:
    """The group, written while the blocks of `blocks_of` go by."""

    def __init__(
        self,
        sink: Sink,
        buffer: BufferReader,
        options: Options,
        notes: Mapping[str, Any],
        *,
        prefix: str = "",
        finals: bool = True,
    ) -> None:
        """`notes`: what the format notes for itself; `finals`: whether final observations are written, and
        not only which of them are known."""
        self._sink, self._path = sink, prefix + GROUP
        names = chosen_fields(buffer, options)
        schema = buffer.schema.select(names)
        self._attributes = {
            "version": VERSION,
            "schema": schema.to_json(),
            "metadata": dict(buffer.document.user),
            "environment": buffer.environment,
            **notes,
        }
        self._rows: dict[str, list[Any]] = {name: [] for name in _TABLE}
        table = buffer.trajectories
        self._user = {
            name: np.asarray(table[name])
            for name in table.columns
            if name not in TRAJECTORIES and name != "open"
        }
        self._columns: dict[str, list[Any]] = {name: [] for name in self._user}
        self._splits = [""]
        observed = [name for name in schema.names("observation") if name not in schema.ragged]
        self._finals = {
            name: NewArray(
                sink,
                f"{self._path}/final/{number}",
                schema.fields[name].dtype,
                schema.fields[name].shape,
            )
            for number, name in enumerate(observed if finals else ())
        }
        self._final = 0

    @property
    def splits(self) -> list[str]:
        return self._splits

    def add(self, block: Block) -> None:
        """Note what a block says of its trajectory."""
        rows = self._rows
        if block.begins:
            if block.split not in self._splits:
                self._splits.append(block.split)
            begun = {"length": 0, "env": block.env, "seed": block.seed, "final": -1}
            begun |= {"split": self._splits.index(block.split), "terminated": False, "truncated": False}
            for name, value in begun.items():
                rows[name].append(value)
            for name, values in self._columns.items():
                values.append(block.row[name])
        rows["length"][-1] += len(block)
        if block.ends:
            rows["terminated"][-1], rows["truncated"][-1] = bool(block.terminated), bool(block.truncated)
            if block.final is not None:
                rows["final"][-1] = self._final
                self._final += 1
                for name, array in self._finals.items():
                    array.append(np.asarray(block.final[name])[None])

    def close(self) -> None:
        """Write what was noted."""
        put_group(self._sink, self._path, {**self._attributes, "splits": self._splits})
        for group in ("table", "columns", "final"):
            put_group(self._sink, f"{self._path}/{group}")
        arrays = {f"table/{name}": np.array(self._rows[name], dtype) for name, dtype in _TABLE.items()}
        for name, column in self._user.items():
            values = np.array(self._columns[name], column.dtype).reshape(-1, *column.shape[1:])
            arrays[f"columns/{escape(name)}"] = values
        for name, values in arrays.items():
            array = NewArray(self._sink, f"{self._path}/{name}", values.dtype, values.shape[1:])
            array.append(values)
            array.close()
        for array in self._finals.values():
            array.close()


@dataclass
class Noted:
    """What the group says, checked."""

    schema: Schema
    splits: list[str]
    metadata: dict[str, Any]
    environment: dict[str, Any] | None
    notes: Mapping[str, Any]
    """All attributes."""
    table: Mapping[str, NDArray[Any]]
    """`length`, `env`, `seed`, `split`, `terminated`, `truncated`, `final`: arrays of one length."""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    finals: Mapping[str, ZarrArray] = field(default_factory=dict)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Of the columns of the user's."""
        return {name: values.dtype for name, values in self.columns.items()}

    def beginning(self, row: int) -> dict[str, Any]:
        """What a block that begins this trajectory says of it."""
        table = self.table
        return {
            "env": int(table["env"][row]),
            "seed": int(table["seed"][row]),
            "split": self.splits[table["split"][row]],
            "row": {name: values[row] for name, values in self.columns.items()},
        }

    def ending(self, row: int) -> dict[str, Any]:
        """What a block that ends it says, but for the final observation."""
        return {name: bool(self.table[name][row]) for name in ("terminated", "truncated")}

    def final(self, row: int) -> Mapping[str, NDArray[Any]] | None:
        """The final observation; None: nobody knows."""
        at = int(self.table["final"][row])
        if at < 0 or not self.finals:
            return None
        return {name: array.read(at, at + 1)[0] for name, array in self.finals.items()}


def read_beside(
    tree: ZarrTree, lengths: Sequence[int] | NDArray[Any], prefix: str = ""
) -> Noted | str | None:
    """What the group says of trajectories of these lengths; None: there is no group; a text: why it is not
    believed."""
    path = prefix + GROUP
    if not tree.is_group(path):
        return None
    try:
        return _noted(tree, path, np.asarray(lengths, np.int64))
    except (ReplayStoreError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ReplayStoreError) and not isinstance(error, FormatError | SchemaError):
            raise
        return f"the group {GROUP!r} beside it was left out: {error}"


def _noted(tree: ZarrTree, path: str, lengths: NDArray[np.int64]) -> Noted:
    attributes = tree.attributes(path)
    if attributes.get("version") != VERSION:
        raise FormatError(f"it is of version {attributes.get('version')!r:.40}, which is not known")
    table: dict[str, NDArray[Any]] = {}
    for name, dtype in _TABLE.items():
        array = tree.array(f"{path}/table/{name}")
        if array.count != len(lengths) or array.dtype != dtype or array.shape:
            raise FormatError("it is of other trajectories: other software has gone on with the file")
        table[name] = array.read(0, array.count)
    if not np.array_equal(table["length"], lengths):
        raise FormatError("it is of other trajectories: other software has gone on with the file")
    splits, metadata = attributes["splits"], attributes["metadata"]
    environment = attributes["environment"]
    if not isinstance(splits, list) or not all(isinstance(one, str) for one in splits):
        raise FormatError("its splits are no names")
    if not isinstance(metadata, dict) or not isinstance(environment, dict | None):
        raise FormatError("its metadata are none")
    if len(lengths) and not ((table["split"] >= 0) & (table["split"] < len(splits))).all():
        raise FormatError("a split has no name")
    if len(lengths) and int(table["env"].min()) < 0:
        raise FormatError("an environment has no number")
    schema = Schema.from_json(attributes["schema"])
    columns = dict(_columns(tree, f"{path}/columns", len(lengths)))
    finals = _finals(tree, f"{path}/final", schema, table["final"])
    return Noted(schema, splits, metadata, environment, attributes, table, columns, finals)


def _columns(tree: ZarrTree, path: str, count: int) -> Iterator[tuple[str, NDArray[Any]]]:
    for child in tree.children(path):
        array, name = tree.array(child), unescape(child.rpartition("/")[2])
        if array.count != count or array.row_bytes > MOST_ROW or name in TRAJECTORIES or name == "open":
            raise FormatError(f"the column {name!r:.80} is not one of these trajectories")
        yield name, array.read(0, count)


def _finals(tree: ZarrTree, path: str, schema: Schema, at: NDArray[np.int64]) -> dict[str, ZarrArray]:
    """The arrays of final observations, if there are any."""
    if not tree.is_group(path) or not tree.children(path):
        return {}
    names = enumerate(schema.names("observation"))
    found = {name: tree.array(f"{path}/{number}") for number, name in names}
    for name, array in found.items():
        declared = schema.fields[name]
        if (array.dtype, array.shape) != (declared.dtype, declared.shape) or (
            len(at) and int(at.max()) >= array.count
        ):
            raise FormatError(f"the final observations of {name!r:.80} are not those of these trajectories")
    return found
