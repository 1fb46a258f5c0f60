"""From a location to a container: what exists is opened, what is new appears whole or not at all, and a
writer holds the lock.

A new store is made beside its place, under `<name>.replaystore-partial`, and gets its name when it is
complete and durable. Whoever makes it holds the place (`lock_place`) and, from the beginning until it is
replaced, the store that is there (`lock_store`).

1. Under the name is at every moment the old store or the new one. A file replaces a file at once; two folders
   change places at once, and the old one is removed under the new one's first name. Where the system cannot
   do that, the old one gets the name `<name>.replaystore-old` first; whoever finds it there, beside the new
   one, and nothing under the name, gives it its name back.
2. What a killed process left beside a store is removed by the next one that makes a store of this name, and
   by nobody else.
3. A symbolic link stays: what it names is replaced.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from replaystore import not_stores
from replaystore.arrays import sealing
from replaystore.containers.located import (
    create_container,
    existing_container,
    exists,
    lock_place,
    lock_store,
    resolved,
)
from replaystore.containers.protocol import Container
from replaystore.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptError,
    FormatError,
    FormatVersionError,
    NotFoundError,
    ReplayStoreError,
    StorageError,
    UnsupportedError,
)
from replaystore.location import Location
from replaystore.refusals import refusal
from replaystore.storage.locks import Lock
from replaystore.storage.places import places_of

__all__ = [
    "DAMAGED",
    "PACKED",
    "REPAIR",
    "NewStore",
    "Replacement",
    "open_container",
    "open_for_writing",
    "refused",
]

PARTIAL, OLD = ".replaystore-partial", ".replaystore-old"
REPAIR, DAMAGED = ".replaystore-repair", ".damaged"
PACKED = ".folder"
"""Added to the name of a zip file that is made: the folder that is packed into it."""
PATIENCE = 5.0
"""Seconds that are waited for a process that is just between two renames."""


# --- opening


def open_container(place: Location, *, writable: bool) -> Container:
    """The container of an existing store. NotFoundError: nothing there; FormatError, CorruptError: not a
    store, or damaged."""
    if not exists(place):
        _settle(resolved(place))
        if not exists(place):
            raise NotFoundError(f"{place} does not exist: check the path, or make it with replaystore.create")
    if writable:
        place = resolved(place)
    with refused(f"{place} cannot be opened"):
        try:
            container = _open(place, writable=writable)
        except (ReplayStoreError, OSError):
            if exists(place) and _interrupted(resolved(place)) is None:
                raise
            _settle(resolved(place))  # it has lost its name meanwhile, for the moment
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


def _open(place: Location, *, writable: bool) -> Container:
    try:
        return existing_container(place, writable=writable)
    except UnsupportedError as error:
        if _is_on_disk(place) and (strange := not_stores.line(place.path)):
            raise FormatError(strange) from error
        raise
    except FormatError as error:
        damaged = isinstance(error, FormatVersionError | CorruptError)
        strange = not_stores.addition(place.path) if _is_on_disk(place) and not damaged else ""
        if strange:
            raise FormatError(f"{error}{strange}") from error
        raise


def _is_on_disk(place: Location) -> bool:
    return places_of(place).on_disk


@contextlib.contextmanager
def refused(what: str, advice: str = "") -> Iterator[None]:
    """An error of the system is one of ours that begins with `what`, and ends with the advice."""
    try:
        yield
    except ReplayStoreError:
        raise
    except OSError as error:
        raise StorageError(f"{what}: {refusal(error, what)}{advice and '; '}{advice}", error.errno) from error


def _settle(place: Location) -> None:
    """Give a store its name back that was being replaced when a process was killed."""
    left = _interrupted(place)
    end = time.monotonic() + PATIENCE
    while left is not None and not exists(place) and time.monotonic() < end:
        try:
            lock = lock_place(place)
        except ConflictError:  # somebody is just replacing it
            time.sleep(0.01)
            continue
        except StorageError as error:
            raise NotFoundError(
                f"{place} does not exist, because a process was killed while it replaced it: what was there "
                f"is {left}, and cannot get "
                f"its name back ({error}); rename it"
            ) from None
        try:
            with refused(f"{left} cannot get its name back"):
                _put_back(place)
        finally:
            lock.release()


def _interrupted(place: Location) -> str | None:
    """The name of the store that was there, if it was being replaced."""
    places = places_of(place)
    for new, old in ((PARTIAL, OLD), (REPAIR, DAMAGED)):
        if places.exists(place.path + new) and places.exists(place.path + old):
            return place.path + old
    return None


def _put_back(place: Location) -> None:
    left = _interrupted(place)
    if left is not None and not exists(place):
        places_of(place).move(left, place.path)


# --- making


class Replacement:
    """The right to put something at a place. It is made at `partial`; `swap` gives it the name, and `end`
    follows, whatever happened.

    AlreadyExistsError: something is there, and is not to be replaced, or is no store; ConflictError: somebody
    writes to it, or makes one too, for which `wait` waits; StorageError."""

    def __init__(self, place: Location, *, overwrite: bool, wait: bool = False) -> None:
        self._check_new(place, overwrite)
        self.place = place = resolved(place)
        self.partial = replace(place, path=place.path + PARTIAL)
        self._overwrite = overwrite
        self._replaced: Lock | None = None
        self._process = os.getpid()
        self._ended = False
        with refused(
            f"{place} cannot be made", ("choose another place, or make its folder one that can be written to")
        ):
            self._folders = places_of(place).make_room(place.path)
        self._lock = lock_place(place, wait=wait)
        try:
            with refused(f"{place} cannot be made"):
                _put_back(place)
                self._check_new(place, overwrite)
                self._hold()
                self._clear()
        except BaseException:
            self.end()
            raise

    @staticmethod
    def _check_new(place: Location, overwrite: bool) -> None:
        if exists(place) and not overwrite:
            raise AlreadyExistsError(
                f"{place} exists: choose another name, open it, or pass overwrite=True (--overwrite)"
            )

    def _hold(self) -> None:
        """Only a store of ours that nobody writes to is replaced."""
        if exists(self.place):
            open_container(self.place, writable=False).close()
            if not places_of(self.place).packed_from:
                self._replaced = lock_store(self.place, replace=True)

    def _clear(self) -> None:
        """Remove what is beside the place."""
        for name in (PARTIAL, PARTIAL + PACKED, OLD, sealing.ASIDE):
            places_of(self.place).remove(self.place.path + name)

    def swap(self, *, sealed: bool = False) -> None:
        """Give what was made the name, durably. `sealed`: with a manifest beside it. StorageError: what was
        there is there still."""
        place, places = self.place, places_of(self.place)
        if self._replaced is not None:
            self._replaced.check()
        else:
            self._check_new(place, self._overwrite)  # somebody else may have put something there meanwhile
            self._hold()
        with refused(f"{place} cannot be made"):
            with sealing.without_sidecar(place):
                places.put(self.partial.path, place.path, aside=place.path + OLD)
            places.sync_name(place.path, self._folders)
        if sealed:
            sealing.write_sidecar(place)

    def end(self) -> None:
        """Remove what is left beside the place, and let others have it. What cannot be removed is left to the
        next one."""
        if self._ended or self._process != os.getpid():  # a forked child has no part in this
            return
        self._ended = True
        # What interrupts this would keep the locks for as long as its traceback lives.
        with contextlib.ExitStack() as held:
            held.callback(self._lock.release)
            if self._replaced is not None:
                held.callback(self._replaced.release)
            with contextlib.suppress(OSError):
                if _interrupted(self.place) is None or exists(self.place):
                    self._clear()


class NewStore:
    """A store that is being made, in `container`. `finish` puts it in its place and closes it; `discard`
    removes what there is of it."""

    def __init__(
        self, place: Location, document: Mapping[str, Any], *, overwrite: bool, wait: bool = False
    ) -> None:
        if places_of(place).packed_from:
            raise UnsupportedError(
                f"{place}: a zip file cannot be written to as a buffer grows: make a .zarr folder, and "
                "convert it when done"
            )
        self._replacement = Replacement(place, overwrite=overwrite, wait=wait)
        try:
            with refused(f"{place} cannot be made"):
                self.container = create_container(self._replacement.partial, document, called=place.path)
        except BaseException:
            self._replacement.end()
            raise

    def finish(self, *, sealed: bool = False) -> None:
        """Give the store its name. Everything in it must be durable by now. `sealed`: if it lies in one file,
        with a manifest beside it."""
        self.container.close()
        self._replacement.swap(sealed=sealed and self.container.capabilities.one_file)
        self._replacement.end()

    def discard(self) -> None:
        """Remove what there is of it."""
        with contextlib.suppress(OSError):
            self.container.close()
        self._replacement.end()
