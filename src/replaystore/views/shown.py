"""What one commit of a store shows: its arrays as columns, its tables, and what followed the last steps of
trajectories that are open in it.

Nothing is read before it is asked for: columns are opened on first use, tables are read whole on first use.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.reading import ArrayColumn, StoreReader
from replaystore.columns.values import Values, value_at
from replaystore.errors import ConflictError, CorruptError, EvictedError
from replaystore.forks import renew_in_children
from replaystore.interrupts import as_storage_errors
from replaystore.location import Location
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.field import arrays_of
from replaystore.schema.fields import Schema
from replaystore.trajectories.checks import check_extra, check_parts, check_table
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.trajectories.opened import COLUMNS, Open, check_numbers, followed, from_numbers
from replaystore.trajectories.parts import Parts
from replaystore.trajectories.table import Trajectories
from replaystore.views.followed import followed_by, has_values, stored_parts

__all__ = ["Shown"]


class Shown:
    """A store as of a commit, which may become another one."""

    def __init__(self, place: Location, store: StoreReader, document: documents.Document) -> None:
        self._place = place
        self._store = store
        self._document = document
        self._columns: dict[str, ArrayColumn] = {}
        """By stored name."""
        self._opening = threading.RLock()
        self.turn = threading.RLock()
        """Held while the commit that is shown changes, and while something is made of several things that it
        shows."""
        renew_in_children(self, "_opening", "turn")
        self._closed = False
        self._moved()
        self._schema = self._visible_schema()

    def _visible_schema(self) -> Schema:
        """The fields that exist as of the commit; a killed writer may have announced one more."""
        fields = self._document.steps.fields
        arrays, specs = set(self._store.state.arrays), self._store.container.specs()
        for name, declared in fields.items():
            for stored, dtype, shape in arrays_of(name, declared):
                spec = specs.get(stored) if stored in arrays else None
                if spec is not None and (spec.dtype != dtype or spec.shape != shape):
                    what = f"{spec.dtype} {spec.shape}, the schema says {dtype} {shape}"
                    raise CorruptError(
                        f"{self._place}: the array {stored} holds {what}; run `replaystore verify`"
                    )
            if declared.ragged and tree.steps(name) in arrays and tree.values(name) not in arrays:
                raise CorruptError(
                    f"{self._place}: there is no array of the values of {name!r}; run `replaystore verify`"
                )
        there = [name for name in fields if tree.steps(name) in arrays]
        return self._document.steps if len(there) == len(fields) else self._document.steps.select(there)

    def _moved(self) -> None:
        """Show the store's commit."""
        self._extra = self._store.state.extra
        check_extra(self._extra, self.where)
        self._first, self._stop = self._store.first("steps"), self._store.rows("steps")
        self._parts: Parts | None = None
        self._whole: Parts | None = None
        self._trajectories: Trajectories | None = None
        self._fields: dict[str, ArrayColumn] = {}
        """The columns of fields that have all rows of the commit; another dict for another commit."""
        self._values: dict[str, Values] = {}
        """The values of fields of any length; another dict likewise."""
        self._finals: dict[str, tuple[NDArray[Any], int]] = {}
        """Final observations that lie in a table, and the number of the first; another dict likewise."""

    @property
    def location(self) -> str:
        """Where it is, for `replaystore.open`."""
        return self._place.text

    @property
    def where(self) -> str:
        """Where it is, for messages: without what gives access to it."""
        return str(self._place)

    @property
    def document(self) -> documents.Document:
        """What the store says of itself."""
        return self._document

    @property
    def store(self) -> StoreReader:
        """The arrays of which a commit is shown."""
        return self._store

    @property
    def schema(self) -> Schema:
        """What one step holds."""
        return self._schema

    def check_open(self) -> None:
        """ConflictError: it is closed."""
        if self._closed:
            raise ConflictError(f"{self._place} is closed: open it again")

    @property
    def parts(self) -> Parts:
        """Which rows belong to which trajectory; rows count from the first step ever written. Rows that were
        dropped are left out."""
        found = self._parts
        if found is None:
            with self.turn:
                found = self._parts = self.whole_parts().since(self._first)
        self.check_open()
        return found

    def whole_parts(self) -> Parts:
        """As `parts`, with the rows of parts that a ring has dropped, as long as the tables tell of them."""
        self.check_open()
        found = self._whole
        if found is None:
            with self.turn:
                found = self._whole = _parts_of(self)
        return found

    @property
    def trajectories(self) -> Trajectories:
        """The table of trajectories: those that have ended, in the order of ending, then those that are open.

        `buffer.trajectories.where("return > 100 and length >= 50")` selects; `buffer.trajectory(i)` reads the
        steps of row i."""
        self.check_open()
        found = self._trajectories
        if found is None:
            with self.turn:
                found = self._trajectories = _table_of(self._table(), self.parts, self.where)
        return found

    def _table(self) -> dict[str, NDArray[Any]]:
        """All columns, of ended trajectories and then of open ones."""
        columns: dict[str, NDArray[Any]] = {  # those that may be set anew are copied
            tree.column_of(name): self._store.table(name).copy() if spec.mutable else self._store.table(name)
            for name, spec in self._store.specs().items()
            if tree.is_trajectories(name)
        }
        opened = [entry for entry in self.opened() if entry.length]
        check_table(columns, self._extra["splits"], self._document.steps.return_shape, self.where)
        count = len(columns["trajectory"])
        for name, known in columns.items() if opened else ():
            known_of_open = {
                "trajectory": [e.trajectory for e in opened],
                "env": [e.env for e in opened],
                "seed": [e.seed for e in opened],
                "terminated": [e.terminated for e in opened],
                "truncated": [e.truncated for e in opened],
            }
            known_of_open |= {
                "length": [e.length for e in opened],
                "split": [e.split for e in opened],
                "return": [e.returned for e in opened],
            }
            blank = np.nan if known.dtype.kind == "f" else 0
            more = np.full((len(opened), *known.shape[1:]), blank, known.dtype)
            more[...] = (
                np.asarray(known_of_open[name], known.dtype).reshape(more.shape)
                if name in known_of_open
                else blank
            )
            columns[name] = np.concatenate([known, more])
        splits = np.array(self._extra["splits"])
        columns["split"] = splits[columns["split"]] if len(columns["split"]) else np.empty(0, splits.dtype)
        shown = [*TRAJECTORIES, *sorted(columns.keys() - TRAJECTORIES.keys())]
        ordered = {name: columns[name] for name in shown if name in columns}
        return ordered | {"open": np.arange(count + len(opened)) >= count}

    def open_numbers(self) -> NDArray[np.int64]:
        """The trajectories that are open, as a commit keeps them (trajectories/opened.py)."""
        kept, shape = self._extra["open"], self._document.steps.return_shape
        try:
            check_numbers(kept, components=math.prod(shape) if shape else None)
        except ValueError as error:
            raise CorruptError(f"{self._place}: {error}; run `replaystore repair`") from None
        if kept.size and int(kept[COLUMNS.index("split")].max()) >= len(self._extra["splits"]):
            raise CorruptError(
                f"{self._place}: an open trajectory is of a split that there is not; run `replaystore repair`"
            )
        found: NDArray[np.int64] = kept
        return found

    def opened(self) -> list[Open]:
        """The trajectories that are open, without their observations."""
        shape = self._document.steps.return_shape
        return from_numbers(self.open_numbers(), components=math.prod(shape) if shape else None)

    def open_trajectories(self) -> list[Open]:
        """The trajectories that are open, with the rows of the observations that follow their last steps: of
        observations of any length, where their values lie."""
        opened = self.opened()
        told = followed(self._extra["open"])
        known = [entry for entry, kept in zip(opened, told, strict=True) if kept]
        names = self.schema.names("observation") if known else ()
        kept_here = {name: self._store.attachment(name) for name in names}
        # The place is a newer commit's by now, which has a row or final observation for it.
        newest = self._store.unpinned() if None in kept_here.values() else None
        view = None if newest is None else Shown(self._place, newest, self._document)
        for name, data in kept_here.items():
            declared = self.schema.fields[name]
            dtype, shape = declared.stored
            for at, entry in enumerate(known):
                if data is not None:
                    if len(data) != len(known) * declared.row_bytes:
                        what = (
                            f"{len(data)} bytes of {name} after the last steps of {len(known)} open "
                            "trajectories"
                        )
                        raise CorruptError(
                            f"{self._place}: the commit keeps {what}; run `replaystore repair`"
                        )
                    row = np.frombuffer(data, dtype, math.prod(shape), at * declared.row_bytes)
                    found: NDArray[Any] | None = row.reshape(shape)
                else:
                    found = None if view is None else followed_by(view, entry, name)
                if found is not None and declared.ragged and not has_values(self._store, name, found):
                    found = None  # it has left the ring, or is of steps that this commit has not
                if found is not None:
                    entry.following = {**(entry.following or {}), name: found}
        for entry in known:
            if entry.following is not None and len(entry.following) < len(self.schema.names("observation")):
                entry.following = None  # a part of an observation is none
        return opened

    def final_observation(self, trajectory: int) -> dict[str, Any] | None:
        """The observation after the last step of a trajectory, named by its number in the table, by field (of
        a text a `str`); None: it is not known."""
        last = int(self.parts.parts_of(trajectory)[-1])
        final = int(self.parts.final[last])
        whose = f"{self._place}: the observation after trajectory {trajectory}"
        if final >= 0:
            return {
                name: value_at(self.final_values(name, np.array([final])), 0, f"{whose}, {name}")
                for name in self.schema.names("observation")
            }
        for entry in self.open_trajectories():
            if entry.trajectory == trajectory and entry.following is not None:
                ragged = self.schema.ragged
                return {
                    name: value_at(self.values_of(name).take(row[None]), 0, f"{whose}, {name}")
                    if name in ragged
                    else row
                    for name, row in entry.following.items()
                }
        return None

    def final_rows(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of `final/` of an observation field: final observations, as `parts.final` numbers them; of one
        of any length, where they lie. EvictedError: they have left the ring."""
        tables = self._finals  # of this commit, whatever another thread goes on to meanwhile
        if name not in tables:
            stored = tree.final(name)
            if not self._store.container.specs()[stored].journaled:
                return self.stored_column(stored).take(rows)
            with self._store.state_lock:
                tables[name] = self._store.table(stored), self._store.first(stored)
        table, first = tables[name]
        if first and len(rows) and rows.min() < first:
            what = f"final observations before {first} have left the ring"
            raise EvictedError(f"{self._place}: {what}; refresh")
        found: NDArray[Any] = table[rows - first]
        return found

    def final_values(self, name: str, rows: NDArray[np.int64]) -> Any:
        """As `final_rows`, and of a field of any length the values themselves, a `Ragged`."""
        found = self.final_rows(name, rows)
        return self.values_of(name).take(found) if name in self.schema.ragged else found

    def values_of(self, name: str) -> Values:
        """The values of a field of any length, as of the commit."""
        known = self._values  # of this commit, whatever another thread goes on to meanwhile
        values = known.get(name)
        if values is None:
            stored = tree.values(name)
            column, first = self.stored_column(stored), self._store.first(stored)
            values = known[name] = Values(column, self._schema.fields[name], first=first)
        return values

    def column(self, name: str) -> ArrayColumn:
        known = self._fields  # of this commit, whatever another thread goes on to meanwhile
        column = known.get(name)
        if column is None:
            column = known[name] = self.stored_column(tree.steps(name))
        return column

    def stored_column(self, stored: str) -> ArrayColumn:
        """The column of a stored array, with all its rows as of the commit."""
        with self._opening, as_storage_errors(f"{self._place}: {stored} cannot be read"):
            return self._up_to_date(stored)

    def column_until(self, stored: str, stop: int) -> ArrayColumn:
        """The column of a stored array that ends with row `stop`, as that of the commit does: at once, if it
        is open already."""
        column = self._columns.get(stored)
        current = column is not None and column.stop == stop and column.until == self._store.changes(stored)
        return column if column is not None and current else self.stored_column(stored)

    def _up_to_date(self, stored: str) -> ArrayColumn:
        store, column = self._store, self._columns.get(stored)
        if (
            column is not None
            and column.first >= store.first(stored)
            and column.stop == store.rows(stored)
            and column.until == store.changes(stored)
        ):
            return column
        # It is kept only if nothing was rolled back or dropped while its files were opened.
        self._columns.pop(stored, None)
        column = self._columns[stored] = store.column(stored, column)
        return column

    def _forget_columns(self) -> None:
        for column in self._columns.values():
            column.close()
        self._columns, self._fields, self._values = {}, {}, {}


def _parts_of(view: Shown) -> Parts:
    stored = stored_parts(view.store)
    opened = [entry for entry in view.opened() if entry.part_length]
    rows = [[e.part_start, e.part_length, e.stride, e.trajectory, e.offset, -1] for e in opened]
    if opened:
        stored = np.concatenate([stored, np.array(rows, np.int64)])
    if not (stored[1:, 0] > stored[:-1, 0]).all():
        stored = stored[np.argsort(stored[:, 0], kind="stable")]
    return check_parts(
        list(np.ascontiguousarray(stored.T)),
        rows=view._stop,
        finals=view.store.state.lengths.get("final", 0),
        where=view.where,
    )


def _table_of(columns: dict[str, NDArray[Any]], parts: Parts, where: str) -> Trajectories:
    kept = np.isin(columns["trajectory"], parts.trajectory)
    known = int(np.count_nonzero(np.diff(parts.trajectory[parts.order]))) + (len(parts) > 0)
    if int(kept.sum()) != known:  # each of them once
        what = f"{known} trajectories have parts, and {int(kept.sum())} rows of the table are about them"
        raise CorruptError(f"{where}: {what}; run `replaystore verify`")
    if not kept.all():
        columns = {name: values[kept] for name, values in columns.items()}
    return Trajectories(columns)
