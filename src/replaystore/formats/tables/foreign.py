"""A table of steps of anybody's, as blocks: which column is what, as far as names and types say it.

Trajectories are told apart by a column of numbers or texts (`episode`, `trajectory_id`, …), which have to lie
together; where there is none they end where `terminated`, `truncated` or `done` say so; where none of these
is there all rows are one. Structs are taken apart, lists that all have one length are arrays, others values
of any length. Columns that no field can hold are left out, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.report import Fate, derived, lost
from replaystore.formats.shared.arrow.fields import values_of
from replaystore.formats.shared.arrow.reading import Table
from replaystore.formats.shared.arrow.values import Leaf, leaf_of, leaves_of, lists, members
from replaystore.formats.shared.cutting import Run, begins_of_ends, begins_of_numbers, cut
from replaystore.formats.shared.table_names import ENDS, NEXT, NUMBERS, named, role
from replaystore.formats.source import Block, Source
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.names import listed
from replaystore.schema.ragged import Ragged
from replaystore.schema.roles import FLAGS, Role
from replaystore.trajectories.columns import TRAJECTORIES

__all__ = ["Foreign"]

PASS_BYTES = 4 << 20


@dataclass(frozen=True)
class _Column:
    """A column that is a field."""

    path: tuple[str, ...]
    name: str
    stored: Field
    """As it is in the file."""
    declared: Field
    """As it becomes."""


class Foreign:
    """Files of others, which have the same columns."""

    def __init__(self, tables: Sequence[Table], path: str) -> None:
        self.tables, self.path = tables, path
        self.fields: dict[str, Fate] = {}
        self.remarks: list[str] = []
        if any("pandas" in table.metadata for table in tables):
            self.remarks.append("what is no number (null) in a column of floats is NaN, as pandas has it")
        leaves = [leaf for name, type_ in tables[0].types.items() for leaf in leaves_of(name, type_)]
        names = named(keys for keys, _ in leaves)
        types = {keys: leaf_of(type_) for keys, type_ in leaves}
        shapes = _Shapes(tables, types)
        found: dict[str, _Column] = {}
        for keys, type_ in leaves:
            name, leaf = names[keys], types[keys]
            shape = None if leaf is None else shapes.of(keys, leaf)
            if leaf is None or shape is None:
                self.fields[name] = lost(f"no field holds {type_}")
            elif 0 in shape:
                self.fields[name] = lost("its values are empty")
            else:
                column = _column(keys, name, leaf, shape, set(names.values()))
                found[column.name] = column
        self.next = {
            "observation" + name.removeprefix(NEXT): column
            for name, column in found.items()
            if name == NEXT or name.startswith(NEXT + "/")
        }
        self._drop_next(found)
        self.number = self._number(found)
        self.columns = found
        if not found:
            raise FormatError(
                f"{path} has no column that a field can hold: check which file it is"
                + (f" ({listed(self.fields)})" if self.fields else "")
            )

    def _drop_next(self, found: dict[str, _Column]) -> None:
        """Next observations are no fields, if they are of the same form as the observations."""
        same = {
            name: (column.stored.dtype, column.stored.shape, column.stored.text)
            for name, column in found.items()
            if column.declared.role == "observation"
        }
        theirs = {
            name: (column.stored.dtype, column.stored.shape, column.stored.text)
            for name, column in self.next.items()
        }
        if not self.next or same != theirs:
            self.next = {}
            return
        for column in self.next.values():
            del found[column.name]
            self.fields[column.name] = derived("the observation of the next step, or what followed the last")

    def _number(self, found: dict[str, _Column]) -> _Column | None:
        """What trajectories are told apart by."""
        column = next((found[name] for name in NUMBERS if name in found and _tells(found[name])), None)
        if column is None and not any(name in found for name in (*FLAGS, *ENDS)):
            self.remarks.append(
                f"all rows are one trajectory: no column tells them apart ({', '.join(NUMBERS[:6])}, …), and "
                "none says where they end (terminated, truncated, done)"
            )
        if column is not None and not column.stored.text:
            del found[column.name]
            self.fields[column.name] = derived("a column of the table of trajectories")
        return column

    @property
    def table(self) -> dict[str, str]:
        """The columns of the table of trajectories: what told them apart, if it is a number."""
        column = self.number
        if column is None or column.stored.text:
            return {}
        name = f"{column.name}_id" if column.name in (*TRAJECTORIES, "open") else column.name
        return {name: column.stored.dtype.name}

    def source(self, steps: int | None) -> Source:
        """As a format gives it."""
        schema = Schema({name: column.declared for name, column in self.columns.items()})

        def blocks(max_bytes: int) -> Iterator[Block]:
            return cut(self._runs(max_bytes))

        return Source(
            schema, blocks, columns=self.table, steps=steps, fields=self.fields, remarks=self.remarks
        )

    def _runs(self, max_bytes: int) -> Iterator[Run]:
        used = [*self.columns.values(), *self.next.values(), *([self.number] if self.number else [])]
        tops = list(dict.fromkeys(column.path[0] for column in used))
        ordered, ended, row = _Ordered(self.path), True, 0
        for table in self.tables:
            for batch in table.batches(max_bytes, tops):
                taken = _Taken(batch, table.path, row)
                columns = {name: taken.field(column) for name, column in self.columns.items()}
                numbers: Any = None
                if self.number is not None:
                    numbers = _plain_numbers(taken.field(self.number))
                    begins = begins_of_numbers(numbers, ordered.last)
                    ordered.see(numbers[begins], numbers[-1], row)
                else:
                    ends = _ends(columns, batch.num_rows)
                    begins = begins_of_ends(ends, before=ended)
                    ended = bool(ends[-1])
                following = {name: taken.field(column) for name, column in self.next.items()}
                told = dict.fromkeys(self.table, numbers)
                yield Run(columns, begins, following=following or None, table=told)
                row += batch.num_rows


class _Taken:
    """The columns of some rows."""

    def __init__(self, batch: Any, path: str, row: int) -> None:
        self.batch, self.path, self.row = batch, path, row
        self._structs: dict[tuple[str, ...], dict[str, Any]] = {}

    def field(self, column: _Column) -> Any:
        """The values of one."""
        array = self.batch[column.path[0]]
        for depth in range(1, len(column.path)):
            above = column.path[:depth]
            if above not in self._structs:
                self._structs[above] = members(array, self._where(above))
            array = self._structs[above][column.path[depth]]
        where = self._where(column.path)
        values = values_of(array, column.stored, where, nan=True)
        return values if column.declared.dtype == column.stored.dtype else _flags(values, where)

    def _where(self, path: tuple[str, ...]) -> str:
        return f"{self.path}, column {'.'.join(path)!r}, rows from {self.row} on"


class _Ordered:
    """What told trajectories apart so far, none of which may come again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.last: Any = None
        self._most: Any = None
        self._seen: set[Any] | None = None
        self._before: list[Any] = []

    def see(self, new: NDArray[Any], last: Any, row: int) -> None:
        """FormatError: one of these was there before."""
        self.last = last
        for value in new.tolist():
            if self._seen is None and (self._most is None or value > self._most):
                self._most = value
                self._before.append(value)
                continue
            if self._seen is None:
                self._seen = set(self._before)
                self._before = []
            if value in self._seen:
                raise FormatError(
                    f"{self.path}: the rows of trajectory {value!r:.80} do not lie together (some are at row "
                    f"{row} or after): sort the table by what tells trajectories apart, and by time"
                )
            self._seen.add(value)


class _Shapes:
    """The shapes of lists, which their types do not say: all lists are looked at, once."""

    def __init__(self, tables: Sequence[Table], types: dict[tuple[str, ...], Leaf | None]) -> None:
        self._known: dict[tuple[str, ...], list[tuple[int, int]]] = {}
        unknown = {keys: leaf for keys, leaf in types.items() if leaf is not None and _has_lists(leaf)}
        tops = list(dict.fromkeys(keys[0] for keys in unknown))
        for table in tables if unknown else ():
            row = 0
            for batch in table.batches(PASS_BYTES, tops):
                for keys in unknown:
                    self._look(batch, keys, f"{table.path}, column {'.'.join(keys)!r}, rows from {row} on")
                row += batch.num_rows

    def _look(self, batch: Any, keys: tuple[str, ...], where: str) -> None:
        array = batch[keys[0]]
        for key in keys[1:]:
            array = members(array, where)[key]
        levels = self._known.setdefault(keys, [])
        depth = 0
        while _is_list(array):
            offsets, array = lists(array, where)
            lengths = np.diff(offsets)
            if len(levels) <= depth:
                levels.append((1 << 62, -1))
            if len(lengths):
                least, most = levels[depth]
                levels[depth] = min(least, int(lengths.min())), max(most, int(lengths.max()))
            depth += 1

    def of(self, keys: tuple[str, ...], leaf: Leaf) -> tuple[int | None, ...] | None:
        """The shape of the values of a column; None: there are lists of any length in lists."""
        if not _has_lists(leaf):
            return leaf.shape
        shape = list(leaf.shape)
        for depth, (least, most) in enumerate(self._known.get(keys, [])[: len(shape)]):
            if shape[depth] is None and least == most:
                shape[depth] = least
        return tuple(shape) if None not in shape[1:] else None


def _has_lists(leaf: Leaf) -> bool:
    """Whether there are lists whose length the type does not say, beside texts and bytes."""
    of_bytes = leaf.text or leaf.binary
    return None in (leaf.shape[:-1] if of_bytes else leaf.shape)


def _is_list(array: Any) -> bool:
    return hasattr(array.type, "value_type") and not hasattr(array.type, "index_type")


def _column(
    keys: tuple[str, ...], name: str, leaf: Leaf, shape: tuple[int | None, ...], taken: set[str]
) -> _Column:
    stored = _field(leaf, shape, "extra")
    if name in FLAGS and not shape and leaf.dtype.kind in "biuf":
        return _Column(keys, name, stored, Field("bool", (), role(name)))
    called = role(name)
    if called in FLAGS or (stored.ragged and called == "reward"):
        while name in taken:
            name += "_"
        return _Column(keys, name, stored, stored)
    return _Column(keys, name, stored, _field(leaf, shape, called))


def _field(leaf: Leaf, shape: tuple[int | None, ...], called: Role) -> Field:
    return Field.of_text(called) if leaf.text else Field(leaf.dtype, shape, called)


def _flags(values: NDArray[Any], where: str) -> NDArray[np.bool_]:
    """Numbers that are 0 or 1 as bools. FormatError: they are others."""
    flags: NDArray[np.bool_] = values != 0
    if not np.array_equal(flags, values):
        raise FormatError(f"{where}: says whether something is so, and has values that are neither 0 nor 1")
    return flags


def _tells(column: _Column) -> bool:
    """Whether it can tell trajectories apart: one number or text a row."""
    stored = column.stored
    return stored.text or (stored.shape == () and stored.dtype.kind in "iu")


def _plain_numbers(values: Any) -> NDArray[Any]:
    return np.array(values.tolist(), object) if isinstance(values, Ragged) else values


def _ends(columns: dict[str, Any], count: int) -> NDArray[np.bool_]:
    """Where trajectories end, as flags say it."""
    names = [name for name in FLAGS if name in columns] or [name for name in ENDS if name in columns][:1]
    ends = np.zeros(count, np.bool_)
    for name in names:
        values = columns[name]
        if isinstance(values, np.ndarray) and values.shape == (count,):
            ends |= values != 0
    return ends
