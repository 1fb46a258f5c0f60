"""The columns of a buffer that is read while another process adds to it, for whoever goes on from commit to
commit: rows that are added appear by themselves, for a good while.

Files are mapped a good way ahead, so that for most commits it is enough to look whether each has the rows.

Invariant: no row is shown that is not in its file: pages behind the end of a file kill the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replaystore.arrays.columns_of import ArrayColumn
from replaystore.columns.mapped import MappedColumn
from replaystore.views.shown import Shown

if TYPE_CHECKING:
    from replaystore.arrays.reading import StoreReader
    from replaystore.columns.values import Values
    from replaystore.schema.fields import Schema

__all__ = ["CommitColumns"]


class CommitColumns:
    """The columns of the commit that is shown, which may become another one."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._columns: dict[str, ArrayColumn] = {}
        self._reach = self._drops = 0
        """Up to which row, and until which row has left a ring, the columns are good."""

    @property
    def schema(self) -> Schema:
        """What one step holds."""
        return self._shown.schema

    @property
    def store(self) -> StoreReader:
        """The arrays."""
        return self._shown.store

    def stored_column(self, stored: str) -> ArrayColumn:
        """The column of a stored array; good until `go_on` says otherwise."""
        column = self._columns[stored] = self._shown.stored_column(stored)
        store = self.store
        stop, first = store.rows(stored), store.first(stored)
        if isinstance(column, MappedColumn):
            unit = store.container.capabilities.run_rows(store.spec(stored))
            reach, drops = column.look_ahead(-(-stop // unit) * unit), (first // unit + 1) * unit
        else:
            reach, drops = 0, 0
        if len(self._columns) == 1:
            self._reach, self._drops = reach, drops
        self._reach, self._drops = min(self._reach, reach), min(self._drops, drops)
        return column

    def values_of(self, name: str) -> Values:
        """The values of a field of any length, as of the commit; to be asked for anew after each."""
        return self._shown.values_of(name)

    def go_on(self) -> bool:
        """The commit has become a newer one, after no rollback; whether columns have to be asked for anew."""
        store = self.store
        stop, first = store.rows("steps"), store.first("steps")
        if stop <= self._reach and first < self._drops:
            columns = self._columns.values()
            if all(isinstance(column, MappedColumn) and column.holds(stop) for column in columns) and not any(
                store.changes(stored) for stored in self._columns
            ):
                return False
        self._columns.clear()
        return True
