"""Making a store that appears whole, under its name, or not at all: a folder, an HDF5 file, or a zip file of a folder."""

from __future__ import annotations

import os
from typing import Protocol

from replaystore import sealing
from replaystore.backends import Container
from replaystore.backends.files import Files
from replaystore.document import Document
from replaystore.errors import AlreadyExistsError
from replaystore.location import Location
from replaystore.opening import NewStore, exists, open_container

__all__ = ["Contents", "make", "size_of"]


class Contents(Protocol):
    """What goes into a new store."""

    def document(self) -> Document:
        """Its document."""

    def fill(self, container: Container, document: Document) -> None:
        """Bring everything else to it, and make it durable."""


def make(place: Location, contents: Contents, *, overwrite: bool) -> None:
    """Make the store. If anything goes wrong, there is none, and what was there is there still.

    AlreadyExistsError: something is there, and is not to be replaced."""
    if place.backend == "zip":
        _make_zip(place, contents, overwrite=overwrite)
        return
    document = contents.document()
    new = NewStore(place, document.to_json(), overwrite=overwrite)
    try:
        contents.fill(new.container, document)
        sealing.remove_sidecar(place)
        new.finish()
    except BaseException:
        new.discard()
        raise
    if document.layout.name == "archive" and place.backend == "hdf5":
        sealing.write_sidecar(place)


def _make_zip(place: Location, contents: Contents, *, overwrite: bool) -> None:
    """Make a folder beside the zip file and pack it."""
    from replaystore.backends.zip import pack

    if exists(place):
        if not overwrite:
            raise AlreadyExistsError(f"{place} exists: choose another name, or pass overwrite=True (--overwrite)")
        open_container(place, writable=False).close()  # only a store of ours is replaced
    document = contents.document()
    new = NewStore(Location("zarr", place.path + ".folder"), document.to_json(), overwrite=True)
    try:
        contents.fill(new.container, document)
        sealing.remove_sidecar(place)
        pack(new.container.files, place.path, leave_out=frozenset({new.container.lock_name}))
    finally:
        new.discard()
    if document.layout.name == "archive":
        sealing.write_sidecar(place)


def size_of(place: Location) -> int:
    """The bytes that a store takes."""
    if place.backend in ("hdf5", "zip"):
        return os.path.getsize(place.path)
    container = open_container(place, writable=False)
    files: Files = container.files
    try:
        return sum(files.size(name) for name in files.walk())
    finally:
        container.close()
