"""Datasets of HDF5 as columns of steps, and small ones as metadata."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore.formats.shared.flat.arrays import Column
from replaystore.formats.shared.flat.reading import as_json
from replaystore.formats.shared.hdf5.groups import Dataset

__all__ = ["column_of", "fits", "small_values"]

MOST_VALUES = 1024
"""Numbers of an array that is kept as metadata."""


def fits(rows: Dataset | None, count: int, dtype: np.dtype[Any], shape: tuple[Any, ...]) -> bool:
    """Whether a dataset has so many rows of this kind."""
    return (
        rows is not None and rows.kind == "numbers" and (rows.dtype, rows.shape) == (dtype, (count, *shape))
    )


def column_of(rows: Dataset) -> Column:
    """A dataset as a column of steps."""
    return Column(rows.dtype, rows.shape[1:], rows.rows, rows.read, rows.where)


def small_values(rows: Dataset) -> Any:
    """A text, a number, or a short list of them, as JSON; None: it is something else."""
    if rows.kind == "texts" and len(rows.shape) <= 1:
        if int(rows.lengths().sum()) > 1 << 20:
            return None
        texts = rows.texts()
        return texts if rows.shape else texts[0]
    if rows.kind != "numbers" or int(np.prod(rows.shape, dtype=np.float64)) > MOST_VALUES:
        return None
    return as_json(rows.read())
