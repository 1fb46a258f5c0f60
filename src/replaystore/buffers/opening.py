"""From a location to the container of the store that is there, and the lock of its writer."""

from __future__ import annotations

from replaystore import not_stores
from replaystore.buffers.left_behind import interrupted, refused, settle
from replaystore.containers.located import existing_container, exists, lock_store, resolved
from replaystore.containers.protocol import Container
from replaystore.errors import (
    ConflictError,
    CorruptError,
    FormatError,
    FormatVersionError,
    NotFoundError,
    ReplayStoreError,
    UnsupportedError,
)
from replaystore.location import Location
from replaystore.storage.locks import Lock
from replaystore.storage.places import places_of

__all__ = ["open_container", "open_for_writing"]


def open_container(place: Location, *, writable: bool) -> Container:
    """The container of an existing store. NotFoundError: nothing there; FormatError, CorruptError: not a
    store, or damaged."""
    if not places_of(place).only_read and not exists(place):
        settle(resolved(place))
        if not exists(place):
            raise _missing(place)
    if writable:
        place = resolved(place)
    with refused(f"{place} cannot be opened"):
        try:
            container = _open(place, writable=writable)
        except (ReplayStoreError, OSError) as error:
            if places_of(place).only_read:
                if _says_missing(place, error):
                    raise _missing(place) from error
                raise
            if exists(place) and interrupted(resolved(place)) is None:
                raise
            settle(resolved(place))  # it has lost its name meanwhile, for the moment
            container = _open(place, writable=writable)
        try:
            if writable:  # it was given its name, perhaps, by a writer that was killed before this
                places_of(place).sync_name(place.path, if_allowed=True)
        except BaseException:
            container.close()
            raise
        return container


def open_for_writing(place: Location) -> tuple[Container, Lock]:
    """The container of an existing store, and the lock on it, which is taken first. The errors of
    `open_container`; ConflictError."""
    if places_of(place).packed_from or not exists(place):
        open_container(place, writable=True).close()  # which says what is wrong, or finds the store after all
    place = resolved(place)
    try:
        lock = lock_store(place)
    except ConflictError:
        raise
    except ReplayStoreError:
        open_container(place, writable=False).close()  # perhaps it is no store at all
        raise
    try:
        container = open_container(place, writable=True)
        container.carry = lock.carried
    except BaseException:
        lock.release()
        raise
    return container, lock


def _missing(place: Location) -> NotFoundError:
    advice = "" if places_of(place).only_read else ", or make it with replaystore.create"
    return NotFoundError(f"{place} does not exist: check the path{advice}")


def _says_missing(place: Location, error: Exception) -> bool:
    """Whether opening has failed because nothing is there."""
    return isinstance(error, FileNotFoundError | FormatError) and not exists(place)


def _open(place: Location, *, writable: bool) -> Container:
    try:
        return existing_container(place, writable=writable)
    except UnsupportedError as error:
        if _is_on_disk(place) and (strange := not_stores.line(place.path)):
            raise FormatError(strange) from error
        raise
    except FormatError as error:
        damaged = isinstance(error, FormatVersionError | CorruptError)
        if not _is_on_disk(place) or damaged:
            raise
        told = not_stores.of_format(place.path)
        raise FormatError(told or f"{error}{not_stores.addition(place.path)}") from error


def _is_on_disk(place: Location) -> bool:
    return places_of(place).on_disk
