"""The changes of mutable fields: rows of two arrays, as all others, in which steps and to what.

`changes/<field>/step` and `changes/<field>/value` grow with each set of values, and are committed, checked,
rolled back and read as rows are. A commit shows the array of a field with the changes that it counts, the
last one of a step. So that nobody has to read all of them, a *digest* is appended now and then: each changed
step once. `extra` of a commit says where the last one lies: `changes {field: [begin, end]}`; what is shown is
the array, with the changes from `begin` on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.state import State
from replaystore.columns.changed import ChangedColumn
from replaystore.columns.coded import CodedColumn
from replaystore.columns.plain import PlainColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import CorruptError
from replaystore.schema import tree

__all__ = ["CHANGES", "changed_column", "digest_of", "entries_of", "unchanged"]

CHANGES = "changes"
"""The key of `extra` that says where digests lie."""
BLOCK_ROWS = 1 << 20


class Store(Protocol):
    """What is asked of a store."""

    state: State

    def rows(self, name: str) -> int: ...

    def spec(self, name: str) -> ArraySpec: ...

    def read_raw(self, name: str, start: int, stop: int) -> bytes: ...


def digest_of(extra: Mapping[str, Any], name: str, stop: int) -> tuple[int, int]:
    """From where to where the last digest of the changes of an array goes, of which there are so many.
    CorruptError: nowhere."""
    found = extra.get(CHANGES, {})
    begin, end = found.get(name, (0, 0)) if isinstance(found, dict) else (-1, 0)
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end <= stop:
        raise CorruptError(
            f"the commit has {stop} changes of {name}, and a digest of them in {begin!r:.40} to {end!r:.40}; "
            "run `replaystore repair`"
        )
    return begin, end


def changed_column(
    store: Store,
    name: str,
    base: PlainColumn | CodedColumn,
    before: PlainColumn | CodedColumn | ChangedColumn | None,
) -> PlainColumn | CodedColumn | ChangedColumn:
    """The column of an array as of the commit, with its changes; `before` is that of an earlier commit."""
    at, _ = tree.changes_of(name)
    known = before if isinstance(before, ChangedColumn) else None
    stop = store.rows(at) if at in store.state.arrays else 0
    if not stop:
        return base
    begin, end = digest_of(store.state.extra, name, stop)
    if known is not None and begin <= end <= known.until <= stop:
        begin = known.until
    elif known is not None and known.until <= begin:  # the digest says nothing new
        steps, values = entries_of(store, name, known.until, begin)
        known = ChangedColumn(base, steps, values, until=begin, before=known)
        begin = end
    elif known is not None:
        known = None
    steps, values = entries_of(store, name, begin, stop)
    return ChangedColumn(base, steps, values, until=stop, before=known)


def unchanged(
    column: PlainColumn | CodedColumn | ChangedColumn | None,
) -> PlainColumn | CodedColumn | None:
    """What lies under changes, to be brought to another commit."""
    return copy.copy(column.base) if isinstance(column, ChangedColumn) else column


def entries_of(store: Store, name: str, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Changes [start, stop) of an array. CorruptError: of steps that there are not."""
    at, value = tree.changes_of(name)
    spec = store.spec(value)
    steps = np.frombuffer(store.read_raw(at, start, stop), "<i8").astype(np.int64, copy=False)
    values = np.frombuffer(store.read_raw(value, start, stop), spec.dtype)
    if len(steps) and not 0 <= int(steps.min()) <= int(steps.max()) < store.rows(name):
        raise CorruptError(
            f"{store}: {at} has steps from {int(steps.min())} to {int(steps.max())}, where there are "
            f"{store.rows(name)}; run `replaystore repair`"
        )
    return steps, values.reshape(len(steps), *spec.shape)
