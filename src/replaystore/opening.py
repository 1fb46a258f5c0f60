"""From a location to a container: what exists is opened, what is new appears whole or not at all, and a writer holds the lock.

A new store is made beside its place, under the name `<name>.partial`, and renamed when its first commit is durable; a process that is
killed meanwhile leaves only that, and the next `create` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import weakref
from collections.abc import Mapping
from typing import Any

import filelock

from replaystore.backends import Container
from replaystore.backends.files import Files, MemoryFiles
from replaystore.errors import AlreadyExistsError, ConflictError, NotFoundError, ReplayStoreError, StorageError, UnsupportedError
from replaystore.location import Location

__all__ = ["Lock", "NewStore", "exists", "lock_path", "open_container", "remove"]

_memory: dict[str, Files] = {}
_memory_locks: set[str] = set()
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """The right to write to a store. Held by one process at a time; released when the process ends, however it ends."""

    def __init__(self, place: Location, path: str) -> None:
        self._place = place
        self._lock: filelock.BaseFileLock | None = None
        busy = f"{place} is open for writing elsewhere: close it there first, or open it for reading"
        if place.backend == "memory":
            if place.path in _memory_locks:
                raise ConflictError(busy)
            _memory_locks.add(place.path)
            return
        lock = filelock.FileLock(path, timeout=0, is_singleton=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            if not os.path.exists(path):  # where no file can be made, filelock waits for a folder
                raise StorageError(
                    f"{place} cannot be opened for writing: {path} cannot be made; choose another place", errno.ENOENT
                ) from None
            raise ConflictError(busy) from None
        except OSError as error:
            raise StorageError(
                f"{place} cannot be opened for writing: {error.strerror or error}; open it with mode='r'", error.errno
            ) from None
        self._lock = lock
        _held.add(self)

    def release(self) -> None:
        if self._place.backend == "memory":
            _memory_locks.discard(self._place.path)
        elif self._lock is not None:
            self._lock.release()
            self._lock = None

    def forget_in_child(self) -> None:
        """A forked child shares the lock's descriptor, and would hold the lock for as long as it lives: close it there."""
        descriptor = getattr(getattr(self._lock, "_context", None), "lock_file_fd", None)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._lock = None


def _after_fork() -> None:
    for lock in list(_held):
        lock.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def lock_path(place: Location) -> str:
    """The file that a writer of a folder or an HDF5 file locks."""
    if place.backend == "zarr":
        from replaystore.backends.zarr import ZarrContainer

        return os.path.join(place.path, ZarrContainer.lock_name)
    return place.path + ".lock"


def exists(place: Location) -> bool:
    """Whether something is there."""
    return place.path in _memory if place.backend == "memory" else os.path.lexists(place.path)


def open_container(place: Location, *, writable: bool) -> Container:
    """The container of an existing store. NotFoundError: nothing there; FormatError, CorruptError: not a store, or damaged."""
    if not exists(place):
        raise NotFoundError(f"{place} does not exist: check the path, or make it with replaystore.create")
    try:
        container = _open(place, writable=writable)
        folder = os.path.dirname(place.path) or "."
        if writable and place.backend != "memory" and os.access(folder, os.R_OK):
            Files(folder, writable=True).sync_folder("")  # it was given its name, perhaps, by a writer that was killed before this
        return container
    except ReplayStoreError:
        raise
    except OSError as error:
        raise StorageError(f"{place} cannot be opened: {error.strerror or error}", error.errno) from error


def _open(place: Location, *, writable: bool) -> Container:
    if place.backend == "hdf5":
        from replaystore.backends.hdf5 import Hdf5Container

        folder, name = os.path.split(place.path)
        return Hdf5Container.open(Files(folder or ".", writable=writable), name, writable=writable)
    from replaystore.backends.zarr import ZarrContainer

    if place.backend == "zip":
        from replaystore.backends.zip import ZipFiles

        if writable:
            raise UnsupportedError(f"{place} is a zip file, which is read only: convert it to a .zarr folder to write to it")
        return ZarrContainer.open(ZipFiles(place.path), writable=False)
    files = _memory[place.path] if place.backend == "memory" else Files(place.path, writable=writable)
    return ZarrContainer.open(files, writable=writable)


class NewStore:
    """A store that is being made, in `container`. `finish` puts it in its place and closes it; `discard` removes what there is of it."""

    def __init__(self, place: Location, document: Mapping[str, Any], *, overwrite: bool) -> None:
        if place.backend == "zip":
            raise UnsupportedError(
                f"{place}: a zip file cannot be written to as a buffer grows: make a .zarr folder, and convert it when done"
            )
        if exists(place):
            if not overwrite:
                raise AlreadyExistsError(f"{place} exists: choose another name, open it, or pass overwrite=True (--overwrite)")
            _check_replaceable(place)
        self._place = place
        self._partial = place if place.backend == "memory" else Location(place.backend, place.path + ".partial")
        try:
            self._folders = [] if place.backend == "memory" else _make_folders(os.path.dirname(place.path))
            self._lock = Lock(place, "") if place.backend == "memory" else Lock(self._partial, self._partial.path + ".lock")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise StorageError(
                f"{place} cannot be made: {reason}; choose another place, or make its folder one that can be written to", error.errno
            ) from error
        try:
            _clear(self._partial)
            self.container = self._create(document)
        except BaseException as error:
            self._clean_up()
            if isinstance(error, OSError) and not isinstance(error, ReplayStoreError):
                raise StorageError(f"{place} cannot be made: {error.strerror or error}", error.errno) from error
            raise

    def _create(self, document: Mapping[str, Any]) -> Container:
        path = self._partial.path
        if self._place.backend == "hdf5":
            from replaystore.backends.hdf5 import Hdf5Container

            return Hdf5Container.create(Files(os.path.dirname(path) or ".", writable=True), os.path.basename(path), document)
        from replaystore.backends.zarr import ZarrContainer

        if self._place.backend == "memory":
            files: Files = MemoryFiles(path)
            _memory[path] = files
        else:
            os.makedirs(path)
            files = Files(path, writable=True)
        return ZarrContainer.create(files, document)

    def finish(self) -> None:
        """Give the store its name. Everything in it must be durable by now."""
        self.container.close()
        place = self._place
        try:
            if place.backend != "memory":
                folder, name = os.path.split(place.path)
                files = Files(folder or ".", writable=True)
                replaced = Location(place.backend, place.path + ".old")
                _clear(replaced)
                if os.path.isdir(place.path):  # which nothing can be renamed to; a file is replaced at once
                    files.rename(name, name + ".old")
                try:
                    files.rename(name + ".partial", name)
                except BaseException:
                    if exists(replaced):
                        self._put_back(files, name)
                    raise
                files.sync_folder("")
                for made in self._folders:
                    Files(os.path.dirname(made) or ".", writable=True).sync_folder("")
                _clear(replaced)
        except OSError as error:
            raise StorageError(f"{place} cannot be made: {error.strerror or error}", error.errno) from error
        self._release()

    def _put_back(self, files: Files, name: str) -> None:
        try:
            files.rename(name + ".old", name)
        except OSError as error:
            old = f"{self._place}.old"
            raise StorageError(
                f"{old} is what was at {name}, and cannot get its name back: {error.strerror}; rename it", error.errno
            ) from error

    def discard(self) -> None:
        """Remove what there is of it."""
        self.container.close()
        self._clean_up()

    def _clean_up(self) -> None:
        _clear(self._partial)
        self._release()

    def _release(self) -> None:
        self._lock.release()
        if self._place.backend != "memory":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._partial.path + ".lock")


def _make_folders(folder: str) -> list[str]:
    """Make a folder and those above it that are not there; what was made, the lowest first."""
    missing = []
    while folder and not os.path.exists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    if folder and not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    if missing:
        os.makedirs(missing[0], exist_ok=True)
    return missing


def _check_replaceable(place: Location) -> None:
    """Only a store of ours that nobody writes to is replaced."""
    container = open_container(place, writable=False)
    path = container.files.path(container.lock_name)
    container.close()
    Lock(place, path).release()


def _clear(place: Location) -> None:
    """Remove what is there, if anything."""
    if place.backend == "memory":
        _memory.pop(place.path, None)  # a reader may still have it open
    elif os.path.isdir(place.path) and not os.path.islink(place.path):
        shutil.rmtree(place.path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.path)


def remove(place: Location) -> None:
    """Remove a store from memory; those on disk are the user's to remove."""
    _memory.pop(place.path, None)
