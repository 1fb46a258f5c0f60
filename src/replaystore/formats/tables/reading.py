"""A table of steps that replaystore wrote (layout.py), as blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from replaystore.errors import FormatError, SchemaError
from replaystore.formats.report import Fate, lost
from replaystore.formats.shared.arrow.fields import check_column, complex_of, values_of
from replaystore.formats.shared.arrow.reading import Table, json_in
from replaystore.formats.shared.arrow.values import numbers, ragged, there
from replaystore.formats.shared.cutting import Run, begins_of_numbers
from replaystore.formats.tables.layout import KEY, Layout
from replaystore.schema.field import Field

__all__ = ["Own", "own_layout"]


def own_layout(table: Table) -> Layout | None:
    """What a file says of the whole; None: replaystore did not write it. FormatError: it does not fit."""
    said = json_in(table.metadata, KEY, table.path)
    if said is None:
        return None
    return Layout.from_json(said, table.path)


class Own:
    """A file that replaystore wrote."""

    def __init__(self, table: Table, layout: Layout) -> None:
        self.path = table.path
        self.fields: dict[str, Fate] = {}
        """Of fields that are no more in the file."""
        missing = [name for name in layout.schema.fields if name not in table.types]
        if missing:
            self.fields = dict.fromkeys(missing, lost("the file has no such column any more"))
            kept = [name for name in layout.schema.fields if name in table.types]
            if not kept:
                raise FormatError(f"{self.path} has none of the columns of its fields: it is damaged")
            layout = _with_schema(layout, kept)
        self.layout = layout
        for name, declared in layout.schema.fields.items():
            check_column(declared, table.types[name], f"{self.path}, column {name!r}")
        self.columns = [name for name in layout.types("file") if name in table.types]
        if layout.number not in table.types:
            raise FormatError(
                f"{self.path} has no column {layout.number!r} any more, which says where trajectories begin: "
                "write it again"
            )

    def runs(self, table: Table, max_bytes: int) -> Iterator[Run]:
        """All rows."""
        layout, before = self.layout, None
        for batch in table.batches(max_bytes, self.columns):
            columns = {
                name: values_of(batch[name], declared, f"{self.path}, column {name!r}")
                for name, declared in layout.schema.fields.items()
            }
            number = numbers(batch[layout.number], f"{self.path}, column {layout.number!r}")
            begins = begins_of_numbers(number, before)
            before = number[-1]
            final_rows, finals = self._finals(batch)
            yield Run(
                columns,
                begins,
                final_rows,
                finals,
                told=self._told(batch),
                table=self._table(batch),
            )

    def _finals(self, batch: Any) -> tuple[Any, dict[str, Any]]:
        names = [name for name in self.layout.observed if self.layout.after(name) in self.columns]
        rows = np.zeros(0, np.int64)
        found: dict[str, Any] = {}
        for name in names:
            column = self.layout.after(name)
            where = f"{self.path}, column {column!r}"
            mine = there(batch[column])
            if found and not np.array_equal(rows, mine):
                raise FormatError(f"{where}: has values in other rows than its siblings: the file is damaged")
            rows = mine
            found[name] = _sparse_of(batch[column], self.layout.schema.fields[name], where)
        return rows, found

    def _told(self, batch: Any) -> dict[str, Any]:
        layout = self.layout
        names = {name: layout.about(name) for name in layout.told} | {name: name for name in layout.flags}
        found: dict[str, Any] = {}
        for name, column in names.items():
            if column not in self.columns:
                continue
            where = f"{self.path}, column {column!r}"
            kind = {"split": str, "env": int, "seed": int}.get(name, bool)
            found[name] = ragged(batch[column], where) if kind is str else numbers(batch[column], where, ())
            if kind is int and found[name].dtype.kind not in "iu":
                raise FormatError(f"{where}: holds {found[name].dtype}, and must hold integers")
        return found

    def _table(self, batch: Any) -> dict[str, Any]:
        return {
            name: numbers(batch[column], f"{self.path}, column {column!r}", ()).astype(dtype, copy=False)
            for name, dtype in self.layout.columns.items()
            if (column := self.layout.about(name)) in self.columns
        }


def _with_schema(layout: Layout, names: Sequence[str]) -> Layout:
    return replace(layout, schema=layout.schema.select(names))


def _sparse_of(array: Any, declared: Field, where: str) -> Any:
    """The values of a column that has some, one row each."""
    array = array.drop_null()
    if declared.ragged:
        return values_of(array, declared, where)
    try:
        if not declared.shape and declared.dtype.kind != "c":
            return numbers(array, where, ())
        if len(array) == 0:
            return np.zeros((0, *declared.shape), declared.dtype)
        flat = ragged(array, where)
        values = flat.named
        if declared.dtype.kind == "c":
            values = complex_of(values, declared.dtype)
        return values.reshape(len(array), *declared.shape).astype(declared.dtype, copy=False)
    except (ValueError, SchemaError) as error:
        raise FormatError(f"{where}: has no values of shape {declared.shape}: it is damaged") from error
