"""Making a store that appears whole, under its name, or not at all: a folder, an HDF5 file, or a zip file of
a folder."""

from __future__ import annotations

import os
from typing import Protocol

from replaystore.buffers.opening import PACKED, NewStore, Replacement, make_container, open_container, refused
from replaystore.containers.protocol import Container
from replaystore.location import Location
from replaystore.schema.document import Document

__all__ = ["Contents", "make", "size_of"]


class Contents(Protocol):
    """What goes into a new store."""

    def document(self) -> Document:
        """Its document."""

    def fill(self, container: Container, document: Document) -> None:
        """Bring everything else to it, and make it durable."""


def make(place: Location, contents: Contents, *, overwrite: bool, wait: bool = False) -> None:
    """Make the store. If anything goes wrong, there is none, and what was there is there still.

    AlreadyExistsError: something is there, and is not to be replaced; ConflictError: somebody writes to it,
    or makes one too, for which `wait` waits."""
    if place.backend == "zip":
        _make_zip(place, contents, overwrite=overwrite, wait=wait)
        return
    document = contents.document()
    new = NewStore(place, document.to_json(), overwrite=overwrite, wait=wait)
    try:
        contents.fill(new.container, document)
        new.finish(sealed=document.layout.name == "archive")
    except BaseException:
        new.discard()
        raise


def _make_zip(place: Location, contents: Contents, *, overwrite: bool, wait: bool) -> None:
    """Make a folder beside the zip file and pack it."""
    from replaystore.storage.zip import pack

    document = contents.document()
    replacement = Replacement(place, overwrite=overwrite, wait=wait)
    try:
        with refused(f"{place} cannot be made"):
            container = make_container(
                Location("zarr", replacement.partial.path + PACKED), document.to_json()
            )
        try:
            contents.fill(container, document)
            pack(container.files, replacement.partial.path, leave_out=frozenset({container.lock_name}))
        finally:
            container.close()
        replacement.swap(sealed=document.layout.name == "archive")
    finally:
        replacement.end()


def size_of(place: Location) -> int:
    """The bytes that a store takes."""
    if place.backend in ("hdf5", "zip"):
        return os.path.getsize(place.path)
    container = open_container(place, writable=False)
    files = container.files
    try:
        return sum(files.size(name) for name in files.walk())
    finally:
        container.close()
