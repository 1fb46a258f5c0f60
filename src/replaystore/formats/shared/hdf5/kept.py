"""What is kept beside what other software reads (kept.py), in a group of an HDF5 file; and datasets as
columns of steps, or as metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.flat.arrays import Column
from replaystore.formats.shared.flat.reading import as_json
from replaystore.formats.shared.hdf5.groups import Dataset, Group
from replaystore.formats.shared.hdf5.writing import NewGroup
from replaystore.formats.shared.kept import Kept
from replaystore.formats.shared.kept_arrays import arrays_of, kept_of

__all__ = ["column_of", "fits", "kept_in", "put_kept", "small_values"]

MOST_VALUES = 1024
"""Numbers of an array that is kept as metadata."""


def kept_in(root: Group, group: str) -> Kept | None:
    """What was kept in a group; None: nothing. FormatError: it is damaged."""
    found = root.get(group)
    if not isinstance(found, Group):
        return None

    def read(name: str) -> NDArray[Any] | None:
        inside = found.get(name)
        return inside.read() if isinstance(inside, Dataset) and inside.shape else None

    return kept_of(read, found.where)


def put_kept(group: NewGroup, kept: Kept, **attributes: Any) -> None:
    """Put it there, with these attributes of each dataset."""
    for name, values in arrays_of(kept).items():
        group.values(name, values, **attributes)


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
