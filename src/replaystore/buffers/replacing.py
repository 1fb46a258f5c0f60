"""A new store appears whole or not at all, under a name that was free or a store's.

It is made beside its place, under `<name>.replaystore-partial`, and gets its name when it is complete and
durable. Whoever makes it holds the place (`lock_place`) and, from the beginning until it is replaced, the
store that is there (`lock_store`). What a killed process left there is removed first. A symbolic link stays:
what it names is replaced. left_behind.py says what is under which name meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from replaystore.arrays import sealing
from replaystore.buffers.left_behind import OLD, PACKED, PARTIAL, interrupted, put_back, refused
from replaystore.buffers.opening import open_container
from replaystore.containers.located import create_container, exists, lock_place, lock_store, resolved
from replaystore.errors import AlreadyExistsError, UnsupportedError
from replaystore.location import Location
from replaystore.storage.locks import Lock
from replaystore.storage.places import places_of

__all__ = ["NewStore", "Replacement"]


class Replacement:
    """The right to put something at a place. It is made at `partial`; `swap` gives it the name, and `end`
    follows, whatever happened.

    AlreadyExistsError: something is there, and is not to be replaced, or is no store; ConflictError: somebody
    writes to it, or makes one too, for which `wait` waits; StorageError."""

    def __init__(self, place: Location, *, overwrite: bool, wait: bool = False) -> None:
        self.check(place, overwrite=overwrite)
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
                put_back(place)
                self.check(place, overwrite=overwrite)
                self._hold()
                self._clear()
        except BaseException:
            self.end()
            raise

    @staticmethod
    def check(place: Location, *, overwrite: bool) -> None:
        """AlreadyExistsError: something is there, and is not to be replaced. UnsupportedError: nothing can be
        made there."""
        if places_of(place).only_read:
            places_of(place).refuse_writing(place)
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
            self.check(place, overwrite=self._overwrite)  # somebody may have put something there
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
                if interrupted(self.place) is None or exists(self.place):
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

    @property
    def partial(self) -> Location:
        """Where it is until it gets its name."""
        return self._replacement.partial

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
