"""Buffers of other software: one module for each format, with the same names in each, imported when it is
used.

    sniff(path)                   whether a path names such a file, by its name alone (or, of a folder, by
                                  what is in it)
    read(path)                    a context manager that gives a `Source`: schema, tables, and rows while the
                                  file is open
    write(buffer, path, options)  write a buffer; what became of it, and what was lost or made up
    replaceable(path)             whether there is such a file, and not something else that is never
                                  overwritten

How a ring of another project becomes a buffer (all of them work alike):

1. Rows are stored oldest first, once each, those that were never written not at all. Trajectories are the
   source's own, or what its rows show beyond doubt; rows of none belong to none.
2. A field gets the name of Gymnasium (`observation`, `action`, `reward`) where it means the same. Where it
   means nearly the same (`dones`) it keeps its own name and its dtype, as an extra field, so that it is not
   misread.
3. The state of the ring is kept in the document, under `extensions[<project>]`: capacity, size, position, and
   how many rows there were, so that it can be told what the ring would be after more rows
   (`replaystore.views.ring`). In Zarr, the buffer is itself a ring of that capacity; in HDF5, which has no
   rings, it is only recorded.
4. Therefore, written back, the file is as it was: all numbers, all positions, the order of trajectories, rows
   of no trajectory.

Any other buffer can be written too. `write` lists what had to be made up, and what the format cannot hold.
"""

from __future__ import annotations

import importlib
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, cast

from replaystore.location import SUFFIXES

if TYPE_CHECKING:
    from replaystore.formats.shared.export import Options, Written
    from replaystore.formats.source import Source
    from replaystore.views.reader import BufferReader

__all__ = ["FORMATS", "Format", "of"]

FORMATS = {
    "active_rlhf": "replaystore.formats.active_rlhf.pickles",
    "velora": "replaystore.formats.velora.files",
}
"""What a format is called → its module."""


class Format(Protocol):
    """What each module has."""

    NAME: str
    """What such a file is, with its article."""
    EXAMPLE: str
    """What such a file is usually called."""

    def sniff(self, path: str) -> bool: ...
    def read(self, path: str) -> AbstractContextManager[Source]: ...
    def write(self, buffer: BufferReader, path: str, options: Options) -> Written: ...
    def replaceable(self, path: str) -> bool: ...


def of(location: object) -> tuple[str, Format] | None:
    """The name and module of the format that a path names; None if it is none of these."""
    if not isinstance(location, str | os.PathLike):
        return None
    path = os.fspath(location)
    if (
        not isinstance(path, str)
        or path.startswith("memory:")
        or path.rstrip("/" + os.sep).lower().endswith(tuple(SUFFIXES))
    ):
        return None
    for name, module in FORMATS.items():
        known = cast("Format", importlib.import_module(module))
        if known.sniff(path):
            return name, known
    return None
