"""What a location names: the storage and the container that are registered under its names, and what both
say together.

Whoever holds a `Location` asks here; nobody compares its names with any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from replaystore.containers.protocol import Capabilities, Container
from replaystore.location import Location
from replaystore.registry import load
from replaystore.storage.locks import Lock
from replaystore.storage.places import places_of
from replaystore.storage.protocol import Reads, Storage

__all__ = [
    "ContainerType",
    "container_type",
    "create_container",
    "existing_container",
    "exists",
    "is_one_file",
    "is_written",
    "lock_place",
    "lock_store",
    "remove",
    "resolved",
    "same",
    "size_of_file",
]


class ContainerType(Protocol):
    """What is registered as a container: most simply, its class.

    `files` are a `Storage`, or `Reads` for what is read only (`replaystore.storage.protocol`). A container of
    one file gets those of the folder that it lies in, to write to which are
    `replaystore.storage.local.Files`."""

    capabilities: Capabilities
    lock_name: str
    """The file in a store of many files that a writer locks; it is made for that. Of a store in one file,
    that one is locked."""

    def open(self, files: Any, name: str, /, *, writable: bool) -> Container:
        """An existing store: all that lies in `files`; if it is one file, the one of this name there.

        FormatError: it is none of this container; CorruptError: it is damaged."""

    def create(self, files: Any, name: str, document: Mapping[str, Any], /) -> Container:
        """An empty store with a document, where nothing is."""

    def for_repair(self, files: Any, name: str, /) -> Container:
        """An existing store, for writing, whatever its document is like. UnsupportedError: such stores cannot
        be repaired."""


def container_type(place: Location) -> ContainerType:
    """What a store there is kept in. PluginError, MissingDependencyError."""
    found: ContainerType = load("containers", place.container)
    return found


def is_one_file(place: Location) -> bool:
    """Whether a store there is one file of its name, beside which others can lie."""
    return bool(places_of(place).packed_from) or container_type(place).capabilities.one_file


def exists(place: Location) -> bool:
    """Whether something is there."""
    return places_of(place).exists(place.path)


def remove(place: Location) -> None:
    """Remove what is there, if anything."""
    places_of(place).remove(place.path)


def resolved(place: Location) -> Location:
    """Where a new store goes: to what a symbolic link names, so that the link stays."""
    path = places_of(place).resolved(place.path)
    return place if path == place.path else replace(place, path=path)


def same(one: Location, other: Location) -> bool:
    """Whether both name the same store, in whatever way."""
    return places_of(one).identity(one.path) == places_of(other).identity(other.path)


def existing_container(place: Location, *, writable: bool, repairing: bool = False) -> Container:
    """The container of a store that exists. `repairing`: for writing, whatever its document is like."""
    places, kind = places_of(place), container_type(place)
    if writable:
        places.refuse_writing(place)
    files: Reads
    if kind.capabilities.one_file:
        files, name = places.beside(place.path, writable=writable)
    else:
        files, name = places.files(place.path, writable=writable), ""
    return kind.for_repair(files, name) if repairing else kind.open(files, name, writable=writable)


def create_container(place: Location, document: Mapping[str, Any], *, called: str) -> Container:
    """An empty container; messages call it `called`, since it has another name in the end."""
    places, kind = places_of(place), container_type(place)
    files: Storage
    if kind.capabilities.one_file:
        files, name = places.beside(place.path, writable=True)
    else:
        files, name = places.new_files(place.path, called=called), ""
    return kind.create(files, name, document)


def size_of_file(place: Location) -> int:
    """The bytes of a store that is one file."""
    files, name = places_of(place).beside(resolved(place).path, writable=False)
    try:
        size: int = files.size(name)
        return size
    finally:
        files.close()


# --- who may write


def lock_store(place: Location, *, replace: bool = False) -> Lock:
    """Become the writer of a store, or who replaces it. ConflictError: somebody writes to it; StorageError:
    it cannot be locked (ENOENT: there is none); CorruptError: its lock is a link."""
    return places_of(place).lock_store(place, inside=_lock_inside(place), replace=replace)


def lock_place(place: Location, *, wait: bool = False) -> Lock:
    """Become the one who makes or replaces what is at a place. The same errors."""
    return places_of(place).lock_place(place, wait=wait)


def is_written(place: Location) -> bool:
    """Whether somebody is known to have a store open for writing, or may have. False where the system does
    not tell."""
    return places_of(place).is_written(place.path, inside=_lock_inside(place))


def _lock_inside(place: Location) -> str:
    return "" if is_one_file(place) else container_type(place).lock_name
