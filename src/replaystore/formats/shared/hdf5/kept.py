"""What is kept beside what other software reads (shared/kept.py), in a group of an HDF5 file."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from replaystore.formats.shared.hdf5.groups import Dataset, Group
from replaystore.formats.shared.hdf5.writing import NewGroup
from replaystore.formats.shared.kept import Kept
from replaystore.formats.shared.kept_arrays import arrays_of, kept_of

__all__ = ["kept_in", "put_kept"]


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
