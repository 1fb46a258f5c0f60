"""Rows of `parts` and `trajectories/` on their way to a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.copying import append_rows
from replaystore.schema import tree
from replaystore.trajectories.assembler import Pending
from replaystore.trajectories.columns import PARTS
from replaystore.trajectories.parts import Parts

__all__ = ["put_tables", "store_tables"]


def store_tables(store: ArrayStore, pending: Pending) -> None:
    """Hand the rows of tables that are pending to a store."""
    if pending.parts:
        store.append_table({tree.PARTS: np.concatenate(pending.parts)})
    if pending.trajectories:
        rows = pending.columns()
        for stored, spec in store.table_specs().items():
            if not tree.is_trajectories(stored):
                continue
            name = tree.column_of(stored)
            if name in rows:
                values = rows[name].astype(spec.dtype).reshape(pending.ended, *spec.shape)
            else:
                blank = np.nan if spec.dtype.kind == "f" else 0
                values = np.full((pending.ended, *spec.shape), blank, spec.dtype)
                for at, number in enumerate(rows["trajectory"].tolist() if pending.rows else ()):
                    if name in pending.rows.get(number, {}):
                        values[at] = pending.rows[number][name]
            store.append_table({stored: values})
    pending.parts, pending.trajectories, pending.rows, pending.ended = [], [], {}, 0


def put_tables(store: ArrayStore, parts: Parts, columns: Mapping[str, NDArray[Any]]) -> None:
    """Append whole tables to a new store: its parts, and the columns of its ended trajectories by name.

    The caller answers for the rows that they speak of, and for what the commit keeps (`NOTHING` has its
    keys)."""
    specs = store.container.specs()
    append_rows(store, tree.PARTS, np.stack([getattr(parts, name) for name in PARTS], axis=1))
    for name, column in columns.items():
        stored = tree.trajectories(name)
        append_rows(store, stored, np.asarray(column, specs[stored].dtype))
