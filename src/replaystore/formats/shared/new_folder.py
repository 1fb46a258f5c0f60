"""A folder of files that appears under its name when it is complete and durable, or not at all.

It is made beside its place, as `<name>.replaystore-partial`, by whoever holds the place; what a killed
process left there goes when the next one is begun. A folder that is replaced changes places with the new one
at once, where the system can do that. Where it cannot, the old one is called `<name>.replaystore-old` for a
moment, and whoever makes a folder of this name next gives it its name back. What a symbolic link names is
replaced, and not the link.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from replaystore.errors import AlreadyExistsError, ReplayStoreError
from replaystore.formats.shared.new_files import unwritten
from replaystore.location import Location
from replaystore.registry import PLAIN
from replaystore.storage.locks import Lock
from replaystore.storage.places import LocalPlaces
from replaystore.storage.temporary import sync_folder

__all__ = ["NewFolder"]

PARTIAL, OLD = ".replaystore-partial", ".replaystore-old"


class NewFolder:
    """A new folder. Files are written below `root` inside `with`; leaving it without an exception puts the
    folder in its place, otherwise nothing changes.

    AlreadyExistsError: something is there, and is not to be replaced, or is no folder; ConflictError: another
    process makes one of this name; StorageError. Whether a folder that is replaced is one that may be, is for
    whoever calls to know."""

    def __init__(self, path: str, *, overwrite: bool) -> None:
        shown = path.rstrip(os.sep) or path
        if os.path.lexists(shown):
            if not os.path.isdir(shown):
                raise AlreadyExistsError(f"{path} is a file, where a folder is to be: choose another name")
            if not overwrite:
                raise self._exists(path)
        self.path = os.path.realpath(shown) if os.path.islink(shown) else shown
        self.root = self.path + PARTIAL
        self._overwrite = overwrite
        self._places, self._made = LocalPlaces(), list[str]()
        self._lock: Lock | None = None

    def __enter__(self) -> Self:
        with self._storage():
            self._made = self._places.make_room(self.path)
            self._lock = self._places.lock_place(Location(PLAIN, "", self.path))
            if not os.path.lexists(self.path) and os.path.isdir(self.path + OLD):
                os.rename(self.path + OLD, self.path)
                if not self._overwrite:
                    raise self._exists(self.path)
            self._places.remove(self.root)
            os.mkdir(self.root)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._fail(error)
            return
        with self._storage():
            for folder, _, names in os.walk(self.root, topdown=False):
                for name in names:
                    _sync(os.path.join(folder, name))
                sync_folder(folder)
            if os.path.lexists(self.path) and not self._overwrite:
                raise self._exists(self.path)
            self._places.put(self.root, self.path, aside=self.path + OLD)
            self._places.sync_name(self.path, self._made)
        self._end()

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Leave nothing behind. StorageError: it is one of the system."""
        self._end()
        if isinstance(error, OSError) and not isinstance(error, ReplayStoreError):
            raise unwritten(self.path, error) from error

    def _end(self) -> None:
        """Remove what is beside the place, and let others have it."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            with contextlib.suppress(OSError):  # the next one removes it
                self._places.remove(self.root)
                if os.path.lexists(self.path):
                    self._places.remove(self.path + OLD)
        finally:
            lock.release()

    @staticmethod
    def _exists(path: str) -> AlreadyExistsError:
        return AlreadyExistsError(f"{path} exists: choose another name, or pass overwrite=True (--overwrite)")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
