"""Columns of the table of trajectories that are set: the user's own, and the split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.errors import SchemaError, UnsupportedError
from replaystore.schema import tree
from replaystore.views.layout import column_spec

__all__ = ["checked_columns", "set_columns"]


def checked_columns(
    store: ArrayStore, columns: Mapping[str, NDArray[Any]], count: int, split_code: Callable[[str], int]
) -> dict[str, NDArray[Any]]:
    """So many rows of these columns, as they are stored. `split_code`: the number of a split."""
    return {name: _checked(store, name, values, count, split_code) for name, values in columns.items()}


def set_columns(store: ArrayStore, at: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> None:
    """Set these columns, which are checked, in the rows `at`."""
    for name, array in columns.items():
        stored = tree.trajectories(name)
        if stored not in store.state.arrays:
            store.create_arrays({stored: column_spec(array.dtype, store.table_specs())})
        store.set_rows(stored, at, array)


def _checked(
    store: ArrayStore, name: str, values: NDArray[Any], count: int, split_code: Callable[[str], int]
) -> NDArray[Any]:
    """The values of a column, as they are stored."""
    if values.shape != (count,):
        raise SchemaError(
            f"column {name!r} needs one value for each of the {count} ended trajectories, "
            f"not shape {values.shape}"
        )
    if name == "split":
        values = np.array([split_code(str(value)) for value in values.tolist()], np.int32)
    stored = tree.trajectories(name)
    spec = store.container.specs().get(stored)
    if spec is not None and not spec.mutable:
        raise SchemaError(f"column {name!r} is what was recorded, and cannot be changed: choose another name")
    if spec is None or stored not in store.state.arrays:
        if values.dtype.kind not in "biuf":
            raise UnsupportedError(
                f"column {name!r}: columns hold one number or bool each, not {values.dtype}"
            )
    elif values.dtype != spec.dtype:
        raise SchemaError(f"column {name!r} is {spec.dtype}, not {values.dtype}: convert the values")
    return values
