"""Making a store that appears whole, under its name, or not at all; where stores are packed, it is made
elsewhere first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from replaystore.buffers.left_behind import PACKED, refused
from replaystore.buffers.opening import open_container
from replaystore.buffers.replacing import NewStore, Replacement
from replaystore.containers.located import create_container, is_one_file, size_of_file
from replaystore.containers.protocol import Container
from replaystore.location import Location
from replaystore.schema import tree
from replaystore.schema.document import Document
from replaystore.storage.places import places_of
from replaystore.storage.zip_directory import MOST_DEFLATED

__all__ = ["Contents", "Proving", "make", "size_of"]

SHORT = 64 << 10
"""Bytes of coded rows that are read whole for the sake of one."""


class Contents(Protocol):
    """What goes into a new store."""

    def document(self) -> Document:
        """Its document."""

    def fill(self, container: Container, document: Document) -> None:
        """Bring everything else to it, and make it durable."""


Proving = Callable[[Location], object]
"""Looks at a store that is complete and has no name yet, at the place that is given. If it raises, there is
none."""


def make(
    place: Location,
    contents: Contents,
    *,
    overwrite: bool,
    wait: bool = False,
    prove: Proving | None = None,
) -> None:
    """Make the store, and have it looked at before it gets its name. If anything goes wrong, there is none,
    and what was there is there still.

    AlreadyExistsError: something is there, and is not to be replaced; ConflictError: somebody writes to it,
    or makes one too, for which `wait` waits."""
    if places_of(place).packed_from:
        _make_packed(place, contents, overwrite=overwrite, wait=wait, prove=prove)
        return
    document = contents.document()
    new = NewStore(place, document.to_json(), overwrite=overwrite, wait=wait)
    try:
        contents.fill(new.container, document)
        if prove is not None:
            prove(new.partial)
        new.finish(sealed=document.layout.name == "archive")
    except BaseException:
        new.discard()
        raise


def _make_packed(
    place: Location, contents: Contents, *, overwrite: bool, wait: bool, prove: Proving | None
) -> None:
    """Make a folder beside the file and pack it."""
    document = contents.document()
    replacement = Replacement(place, overwrite=overwrite, wait=wait)
    partial, places = replacement.partial.path, places_of(place)
    try:
        with refused(f"{place} cannot be made"):
            folder = replace(place, storage=places.packed_from, path=partial + PACKED)
            container = create_container(folder, document.to_json(), called=folder.path)
        try:
            contents.fill(container, document)
            places.pack(
                container.files,
                partial,
                leave_out=frozenset({container.lock_name}),
                deflate=_deflated(container),
            )
        finally:
            container.close()
        if prove is not None:
            prove(replacement.partial)
        replacement.swap(sealed=document.layout.name == "archive")
    finally:
        replacement.end()


def _deflated(container: Container) -> Callable[[str], int]:
    """The most bytes of a file, by its name, that may be compressed: raw rows are mapped, coded ones are read
    a few at a time, and everything else is read whole."""
    rows = {
        f"{name}/": 0 if spec.codec is None else SHORT
        for name, spec in container.specs().items()
        if not (spec.journaled or tree.is_journal(name))
    }

    def most(name: str) -> int:
        if name.endswith(container.metadata_name):
            return MOST_DEFLATED
        return next((limit for array, limit in rows.items() if name.startswith(array)), MOST_DEFLATED)

    return most


def size_of(place: Location) -> int:
    """The bytes that a store takes."""
    if is_one_file(place):
        return size_of_file(place)
    container = open_container(place, writable=False)
    files = container.files
    try:
        return sum(files.size(name) for name in files.walk())
    finally:
        container.close()
