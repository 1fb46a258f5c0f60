"""Space that removed pieces of the log of an HDF5 file have left, which later ones get: HDF5 gives none back.

Invariant: who asks for room is given what was free before its transaction. What the transaction itself sets
free is in use until it has happened, and room is written to before that.
"""

from __future__ import annotations

from typing import Any

import h5py  # type: ignore[import-untyped]

from replaystore.containers.hdf5.library import child, group, make_room, origins, remove
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.schema.tree import LOG

__all__ = ["USED", "free_pieces", "room_for_record", "set_free"]

USED = "used"
"""The attribute of a segment's first piece that says how much of it counts."""
FREE, MOST_TIMES = "free.", 8
"""The names of pieces of the log whose space can be used again, and how much larger one may be than what is
asked for."""


def set_free(owner: Any, name: str) -> None:
    """A piece of the log that nothing refers to any more, whose space a later one may have."""
    found = child(owner, name)
    if isinstance(found, h5py.h5d.DatasetID) and found.get_offset() is not None:
        if h5py.h5a.exists(found, USED.encode()):
            h5py.h5a.delete(found, USED.encode())
        owner.links.move(name.encode(), owner, f"{FREE}{found.get_offset()}".encode())
    else:
        remove(owner, name)


def free_pieces(owner: Any) -> dict[str, int]:
    """The pieces whose space can be used again, and their sizes."""
    free = {key: child(owner, key) for key in map(bytes.decode, owner) if key.startswith(FREE)}
    return {
        key: int(piece.get_storage_size())
        for key, piece in free.items()
        if isinstance(piece, h5py.h5d.DatasetID) and piece.get_offset() is not None
    }


def room_for_record(
    file: Any, overlay: Overlay, name: str, size: int, record: bytes, free: dict[str, int]
) -> tuple[int, int]:
    """A piece of the log that begins with a record, (offset, length): space that an older one had, or new.

    What was in it is wiped out, since where a head is damaged whatever is valid behind what it counts does
    count."""
    owner = group(file, LOG, make=True)
    remove(owner, name)
    fits = min(((length, key) for key, length in free.items() if length >= size), default=None)
    if fits is None or fits[0] > MOST_TIMES * size:
        piece = make_room(file, name, size)
        overlay.direct.append((piece[0], record))
        return piece
    length, key = fits
    del free[key]
    offset = int(child(owner, key).get_offset()) + origins().contiguous
    owner.links.move(key.encode(), owner, name.encode())
    overlay.direct.append((offset, record + bytes(length - len(record))))
    return offset, length
