"""What is kept beside what other software reads (kept.py), in a Zarr group `replaystore`, at which it does
not look.

| in the group                          | what it is                                                        |
|---------------------------------------|-------------------------------------------------------------------|
| attributes                            | the schema, splits, metadata, environment, `keys`: the places of  |
|                                       | the fields                                                        |
| `table/length`, `env`, `seed`, …      | a row for each trajectory; `split` is a place in the splits       |
| `columns/<name>`                      | columns of the user's, in the same order                          |
| `final/<number>`                      | final observations, by fields in their order; `table/final` says  |
|                                       | which row of them, or -1                                          |

What is read is checked against the file that it lies beside: other software may have gone on with that, and
then nothing of the group is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, ReplayStoreError, SchemaError
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.kept import Kept, check
from replaystore.formats.shared.zarr.tree import ZarrArray, ZarrTree
from replaystore.formats.shared.zarr.writing import NewArray, Sink, put_group
from replaystore.formats.source import Block
from replaystore.schema.fields import Schema
from replaystore.schema.names import escape, unescape
from replaystore.trajectories.columns import TRAJECTORIES

__all__ = ["NewKept", "kept_beside"]

GROUP = "replaystore"
VERSION = 1
TABLE: Mapping[str, np.dtype[Any]] = {
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


class NewKept:
    """The group, written while blocks go by and when they all did."""

    def __init__(self, sink: Sink, chosen: Chosen, *, finals: bool = True) -> None:
        """`finals`: whether final observations are written, and not only which of them are known."""
        self._sink, self._chosen = sink, chosen
        self._finals = {
            name: NewArray(sink, f"{GROUP}/final/{at}", chosen.fields[name].dtype, chosen.fields[name].shape)
            for at, name in enumerate(chosen.observations() if finals else ())
        }

    def add(self, block: Block) -> None:
        """Write the final observation, if a trajectory ends with one."""
        if block.ends and block.final is not None:
            for name, array in self._finals.items():
                array.append(np.asarray(block.final[name])[None])

    def close(self, keys: Mapping[str, Any]) -> None:
        """Write all else. `keys`: of each field its place."""
        kept = self._chosen.kept(keys)
        attributes = {
            "version": VERSION,
            "schema": kept.schema.to_json(),
            "metadata": kept.metadata or {},
            "environment": kept.environment,
            "keys": kept.places,
            "splits": kept.splits,
        }
        put_group(self._sink, GROUP, attributes)
        for group in ("table", "columns", "final"):
            put_group(self._sink, f"{GROUP}/{group}")
        arrays = {f"table/{name}": getattr(kept, name).astype(dtype) for name, dtype in TABLE.items()}
        arrays |= {f"columns/{escape(name)}": values for name, values in kept.columns.items()}
        for name, values in arrays.items():
            array = NewArray(self._sink, f"{GROUP}/{name}", values.dtype, values.shape[1:])
            array.append(values)
            array.close()
        for array in self._finals.values():
            array.close()


def kept_beside(tree: ZarrTree, lengths: Sequence[int] | NDArray[Any]) -> Kept | str | None:
    """What was kept of trajectories of these lengths; None: there is no group; a text: why it is not
    believed."""
    if not tree.is_group(GROUP):
        return None
    try:
        return _kept(tree, np.asarray(lengths, np.int64))
    except (ReplayStoreError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ReplayStoreError) and not isinstance(error, FormatError | SchemaError):
            raise
        return f"the group {GROUP!r} beside it was left out: {error}"


def _kept(tree: ZarrTree, lengths: NDArray[np.int64]) -> Kept:
    attributes = tree.attributes(GROUP)
    if attributes.get("version") != VERSION:
        raise FormatError(f"it is of version {attributes.get('version')!r:.40}, which is not known")
    table: dict[str, Any] = {}
    for name, dtype in TABLE.items():
        array = tree.array(f"{GROUP}/table/{name}")
        if array.count != len(lengths) or array.dtype != dtype or array.shape:
            raise FormatError("it is of other trajectories: other software has gone on with the file")
        table[name] = array.read(0, array.count)
    if not np.array_equal(table["length"], lengths):
        raise FormatError("it is of other trajectories: other software has gone on with the file")
    splits, schema = attributes["splits"], Schema.from_json(attributes["schema"])
    if not isinstance(splits, list) or not all(isinstance(one, str) for one in splits):
        raise FormatError("its splits are no names")
    found = Kept(
        schema,
        attributes.get("keys") or {},
        **table,
        splits=splits,
        columns=dict(_columns(tree, len(lengths))),
        environment=attributes["environment"],
        metadata=attributes["metadata"],
        finals=_finals(tree, schema, table["final"]),
    )
    check(found)
    return found


def _columns(tree: ZarrTree, count: int) -> Iterator[tuple[str, NDArray[Any]]]:
    for child in tree.children(f"{GROUP}/columns"):
        array, name = tree.array(child), unescape(child.rpartition("/")[2])
        if array.count != count or array.row_bytes > MOST_ROW or name in TRAJECTORIES or name == "open":
            raise FormatError(f"the column {name!r:.80} is not one of these trajectories")
        yield name, array.read(0, count)


def _finals(tree: ZarrTree, schema: Schema, at: NDArray[np.int64]) -> dict[str, ZarrArray]:
    """The arrays of final observations, if there are any."""
    path = f"{GROUP}/final"
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
