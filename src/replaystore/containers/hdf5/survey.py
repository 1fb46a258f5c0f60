"""What a directory says of a file (directory.py), found by the HDF5 library: for files that have none yet,
and to compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore.containers.hdf5.arrays import array, arrays, read_document
from replaystore.containers.hdf5.directory import MOST_DOCUMENT, Directory, Notes
from replaystore.containers.hdf5.front import DIRECTORY, JOURNAL, Header, Slot
from replaystore.containers.hdf5.log import ended
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.places import ANYWHERE, chunk_count, chunk_places
from replaystore.errors import CorruptError

__all__ = ["directory_problems", "survey"]


def survey(file: Any) -> Notes:
    """All of it."""
    notes = Notes(document=read_document(file), ended=ended(file, ANYWHERE))
    for name, spec in arrays(file).items():
        dataset = array(file, name)
        chunks = chunk_count(dataset, spec, ANYWHERE)
        if chunks:
            notes.place(name, chunk_places(dataset, spec, ANYWHERE, range(chunks)))
    return notes


def directory_problems(file: Any, overlay: Overlay, newest: int) -> list[tuple[str, str]]:
    """In what the directory of a state is not what HDF5 says, as (where, what); nothing where there is none.

    `newest`: the commit that the newest segment of the log begins with."""
    slot = Slot.unpack(overlay.read_at(DIRECTORY, Slot.SIZE), 0)
    journal = Header.unpack(overlay.read_at(JOURNAL, Header.SIZE), 0)
    if slot is None or journal is None or slot.sequence != journal.sequence or slot.used > overlay.end:
        return []
    known, found = Directory(), survey(file)
    try:
        known.apply(overlay.read_at(slot.offset, slot.used))
        wrong = [
            f"the places of {name}"
            for name, places in found.places.items()
            if not _holds(known.places(name, known.count(name)), np.concatenate(places))
        ]
    except CorruptError as error:
        return [("the directory", str(error))]
    assert found.document is not None
    if known.document not in (None, found.document) or (
        known.document is None and len(found.document) <= MOST_DOCUMENT
    ):
        wrong.append("the document")
    if {n: was for n, was in found.ended.items() if n < newest} != {
        n: was for n, was in known.segments.items() if n < newest
    }:
        wrong.append("the older segments of the log")
    return [("the directory", f"it says something else than HDF5 of {', '.join(wrong)}")] if wrong else []


def _holds(table: Any, stored: Any) -> bool:
    """Whether a table has these rows; places that `publish` has cut off may be among its others."""
    stored = stored[stored[:, 1] >= 0]
    at = np.searchsorted(table[:, 0], stored[:, 0])
    return bool((at < len(table)).all() and (table[at] == stored).all())
