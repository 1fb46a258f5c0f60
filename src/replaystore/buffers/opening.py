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
import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

from replaystore import strangers
from replaystore.arrays import sealing
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
from replaystore.location import Location, resolved
from replaystore.refusals import refusal
from replaystore.storage.local import Files
from replaystore.storage.locks import Lock, lock_place, lock_store
from replaystore.storage.memory import MemoryFiles

__all__ = [
    "DAMAGED",
    "PACKED",
    "REPAIR",
    "NewStore",
    "Replacement",
    "clear",
    "exists",
    "make_container",
    "open_container",
    "open_for_writing",
    "refused",
    "remove",
    "rename_both",
]

PARTIAL, OLD = ".replaystore-partial", ".replaystore-old"
REPAIR, DAMAGED = ".replaystore-repair", ".damaged"
PACKED = ".folder"
"""Added to the name of a zip file that is made: the folder that is packed into it."""
PATIENCE = 5.0
"""Seconds that are waited for a process that is just between two renames."""

_memory: dict[str, Files] = {}


def exists(place: Location) -> bool:
    """Whether something is there."""
    return place.path in _memory if place.backend == "memory" else os.path.lexists(place.path)


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
            folder = os.path.dirname(place.path) or "."
            if writable and place.backend != "memory" and os.access(folder, os.R_OK):
                # It was given its name, perhaps, by a writer that was killed before this.
                Files(folder, writable=True).sync_folder("")
        except BaseException:
            container.close()
            raise
        return container


def open_for_writing(place: Location) -> tuple[Container, Lock]:
    """The container of an existing store, and the lock on it, which is taken first. The errors of
    `open_container`; ConflictError."""
    if place.backend == "zip" or not exists(place):
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
        if place.backend == "hdf5":
            container.carry = lock.carried  # type: ignore[attr-defined]  # of this container alone
    except BaseException:
        lock.release()
        raise
    return container, lock


def _open(place: Location, *, writable: bool) -> Container:
    try:
        return _opened(place, writable=writable)
    except UnsupportedError as error:
        if place.backend == "zip" and (strange := strangers.line(place.path)):
            raise FormatError(strange) from error
        raise
    except FormatError as error:
        strange = (
            ""
            if place.backend == "memory" or isinstance(error, FormatVersionError | CorruptError)
            else strangers.addition(place.path)
        )
        if strange:
            raise FormatError(f"{error}{strange}") from error
        raise


def _opened(place: Location, *, writable: bool) -> Container:
    if place.backend == "hdf5":
        from replaystore.containers.hdf5.container import Hdf5Container

        folder, name = os.path.split(place.path)
        return Hdf5Container.open(Files(folder or ".", writable=writable), name, writable=writable)
    from replaystore.containers.zarr.container import ZarrContainer

    if place.backend == "zip":
        from replaystore.storage.zip import ZipFiles

        if writable:
            raise UnsupportedError(
                f"{place} is a zip file, which is read only: convert it to a .zarr folder to write to it"
            )
        return ZarrContainer.open(ZipFiles(place.path), writable=False)
    files = _memory[place.path] if place.backend == "memory" else Files(place.path, writable=writable)
    return ZarrContainer.open(files, writable=writable)


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
    for new, old in ((PARTIAL, OLD), (REPAIR, DAMAGED)):
        if (
            place.backend != "memory"
            and os.path.lexists(place.path + new)
            and os.path.lexists(place.path + old)
        ):
            return place.path + old
    return None


def _put_back(place: Location) -> None:
    left = _interrupted(place)
    if left is not None and not exists(place):
        folder, name = os.path.split(place.path)
        files = Files(folder or ".", writable=True)
        files.rename(os.path.basename(left), name)
        files.sync_folder("")


# --- making


class Replacement:
    """The right to put something at a place. It is made at `partial`; `swap` gives it the name, and `end`
    follows, whatever happened.

    AlreadyExistsError: something is there, and is not to be replaced, or is no store; ConflictError: somebody
    writes to it, or makes one too, for which `wait` waits; StorageError."""

    def __init__(self, place: Location, *, overwrite: bool, wait: bool = False) -> None:
        self._check_new(place, overwrite)
        self.place = place = resolved(place)
        self.partial = Location(place.backend, place.path + PARTIAL)
        self._overwrite = overwrite
        self._replaced: Lock | None = None
        self._process = os.getpid()
        self._ended = False
        with refused(
            f"{place} cannot be made", ("choose another place, or make its folder one that can be written to")
        ):
            self._folders = [] if place.backend == "memory" else _make_folders(os.path.dirname(place.path))
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
            if self.place.backend in ("zarr", "hdf5"):
                self._replaced = lock_store(self.place, replace=True)

    def _clear(self) -> None:
        """Remove what is beside the place."""
        for name in (
            (PARTIAL, PARTIAL + PACKED, OLD, sealing.ASIDE) if self.place.backend != "memory" else (PARTIAL,)
        ):
            clear(Location(self.place.backend, self.place.path + name))

    def swap(self, *, sealed: bool = False) -> None:
        """Give what was made the name, durably. `sealed`: with a manifest beside it. StorageError: what was
        there is there still."""
        place = self.place
        if self._replaced is not None:
            self._replaced.check()
        elif self.place.backend != "memory":
            self._check_new(place, self._overwrite)  # somebody else may have put something there meanwhile
            self._hold()
        if place.backend == "memory":
            _memory[place.path] = _memory.pop(self.partial.path)
            return
        with refused(f"{place} cannot be made"):
            folder, name = os.path.split(place.path)
            files = Files(folder or ".", writable=True)
            with sealing.without_sidecar(place):
                if os.path.isdir(place.path):  # which nothing can be renamed to; a file is replaced at once
                    if not files.exchange(name + PARTIAL, name):
                        rename_both(files, name + PARTIAL, name, name + OLD)
                else:
                    files.rename(name + PARTIAL, name)
            files.sync_folder("")
            for made in self._folders:
                Files(os.path.dirname(made) or ".", writable=True).sync_folder("")
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


def rename_both(files: Files, new: str, name: str, old: str) -> None:
    """Give something new the name of what is there, which gets another one. OSError: they are as they were,
    or will be when opened."""
    try:
        files.rename(name, old)
        files.rename(new, name)
    except BaseException:
        if files.exists(new) and files.exists(old) and not files.exists(name):
            with contextlib.suppress(OSError):  # whoever opens it tries again
                files.rename(old, name)
        raise


class NewStore:
    """A store that is being made, in `container`. `finish` puts it in its place and closes it; `discard`
    removes what there is of it."""

    def __init__(
        self, place: Location, document: Mapping[str, Any], *, overwrite: bool, wait: bool = False
    ) -> None:
        if place.backend == "zip":
            raise UnsupportedError(
                f"{place}: a zip file cannot be written to as a buffer grows: make a .zarr folder, and "
                "convert it when done"
            )
        self._replacement = Replacement(place, overwrite=overwrite, wait=wait)
        try:
            with refused(f"{place} cannot be made"):
                self.container = make_container(self._replacement.partial, document)
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


def make_container(place: Location, document: Mapping[str, Any]) -> Container:
    """An empty container."""
    if place.backend == "hdf5":
        from replaystore.containers.hdf5.container import Hdf5Container

        folder, name = os.path.split(place.path)
        return Hdf5Container.create(Files(folder or ".", writable=True), name, document)
    from replaystore.containers.zarr.container import ZarrContainer

    if place.backend == "memory":
        files: Files = MemoryFiles(place.path.removesuffix(PARTIAL))
        _memory[place.path] = files
    else:
        os.makedirs(place.path)
        files = Files(place.path, writable=True)
    return ZarrContainer.create(files, document)


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


def clear(place: Location) -> None:
    """Remove what is there, if anything."""
    if place.backend == "memory":
        _memory.pop(place.path, None)  # a reader may still have it open
    elif os.path.isdir(place.path) and not os.path.islink(place.path):
        shutil.rmtree(place.path)
    elif os.path.lexists(place.path):
        os.unlink(place.path)


def remove(place: Location) -> None:
    """Remove a store from memory; those on disk are the user's to remove."""
    _memory.pop(place.path, None)
