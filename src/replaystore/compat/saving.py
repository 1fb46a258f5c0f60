"""Saving buffers to stores: whole the first time, then only what is new.

The first `save` to a place writes the buffer to a new store, which replaces what was there when it is
complete. What a later `save` to the same place does, in the same process:

* It appends the rows that were added since, brings changed scores and splits to the table of trajectories,
  and commits.
* It writes the store anew if that would not be the buffer: rows were set or tensors replaced, more rows were
  added than the ring holds, trajectories were removed or are longer than the ring, or somebody else has
  changed the store.
* In Zarr the store is a ring of the buffer's capacity, whose dropped rows give their space back. HDF5 has no
  rings: the file grows by what is added, and is written anew when it holds more than twice the capacity.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import open as open_buffer
from replaystore.buffers.making import make
from replaystore.compat.checks import checked_path
from replaystore.compat.memory_ring import TensorRing
from replaystore.compat.ring_slots import Layout
from replaystore.compat.stored import StoredRing
from replaystore.containers.located import same
from replaystore.converting.imports import RingImport
from replaystore.converting.options import How
from replaystore.errors import ConflictError, FormatError, NotFoundError
from replaystore.formats.source import RingSource
from replaystore.location import Location, names_store, parse
from replaystore.storage.places import places_of

__all__ = ["Saved", "Subject", "open_ring", "store_of"]

GROWTH = 2
"""A store that is no ring is written anew beyond so many times the capacity."""


def store_of(path: str | os.PathLike[str]) -> Location | None:
    """The store that a path names by its suffix; None if it names none. SchemaError: it is no path."""
    text = checked_path(path)
    return parse(text) if names_store(text) else None


def open_ring(place: Location, layout: Layout, mode: Literal["r", "r+"], device: torch.device) -> StoredRing:
    """A buffer in a store. The errors of `replaystore.open`; UnsupportedError: it holds something else."""
    buffer = open_buffer(place, mode)
    try:
        return StoredRing(buffer, layout, device)
    except BaseException:
        buffer.abandon()
        raise


@dataclass(frozen=True)
class Subject:
    """A buffer that is saved."""

    ring: TensorRing | StoredRing
    source: Callable[[], RingSource]
    """What a new store of it is to hold."""
    append_since: Callable[[Buffer, int], bool]
    """Append the last so many rows to a store that has those before; False, with nothing done, if they cannot
    be appended."""
    reconcile: Callable[[Buffer], bool]
    """Bring what else has changed to a store that has all rows; False if that is not possible."""


@dataclass
class _Mark:
    """What a store had when this process left it."""

    token: str
    commit: int
    written: int
    changes: int


class Saved:
    """The stores that one buffer was saved to."""

    def __init__(self) -> None:
        self._marks: dict[object, _Mark] = {}

    def save(self, place: Location, subject: Subject) -> None:
        """Save to a store. ConflictError: it is open for writing elsewhere, or was loaded for reading;
        StorageError."""
        ring, key = subject.ring, places_of(place).identity(place.path)
        if isinstance(ring, StoredRing):
            if same(ring.buffer.whereabouts, place):
                commit_in_place(ring, subject)
            else:
                _write(place, subject)
            return
        ring.notice()
        mark = self._marks.pop(key, None)
        if mark is None or not self._continue(place, subject, ring, mark):
            mark = _Mark(_write(place, subject), 0, 0, 0)
        mark.commit, mark.written, mark.changes = _commit_of(place), ring.written, ring.changes
        self._marks[key] = mark

    def _continue(self, place: Location, subject: Subject, ring: TensorRing, mark: _Mark) -> bool:
        """Bring what is new to a store; False if it has to be written anew."""
        count = ring.written - mark.written
        if ring.changes != mark.changes or not 0 <= count <= ring.capacity or places_of(place).packed_from:
            return False
        try:
            buffer = open_buffer(place, "r+")
        except (NotFoundError, FormatError, ConflictError):
            # Who writes to it may be another who saves, and is waited for.
            return False
        try:
            grown = buffer.capacity is None and len(buffer) + count > GROWTH * ring.capacity
            same = buffer.commit_id == mark.commit and _token(buffer) == mark.token
            if grown or not same or not subject.append_since(buffer, count):
                buffer.abandon()
                return False
            buffer.commit()
            done = subject.reconcile(buffer)
        except BaseException:
            buffer.abandon()
            raise
        buffer.close()
        return done


def commit_in_place(ring: StoredRing, subject: Subject) -> None:
    """Bring everything that has changed to the store that a buffer was loaded from."""
    ring.check_writable()
    ring.flush()
    if ring.edited or not subject.reconcile(ring.buffer):
        ring.replace(lambda: _write(ring.buffer.whereabouts, subject))
    else:
        ring.look()


def _write(place: Location, subject: Subject) -> str:
    """Write a new store; what it is known by."""
    source, token = subject.source(), uuid.uuid4().hex
    source.details["saved"] = token
    make(place, RingImport(source, place, How()), overwrite=True, wait=True)
    return token


def _token(buffer: Buffer) -> Any:
    return (buffer.provenance.get("source") or {}).get("saved")


def _commit_of(place: Location) -> int:
    with open_buffer(place) as buffer:
        return buffer.commit_id
