"""Where stores lie, by name: on a disk, packed in zip files, or in the memory of this process.

A `Places` is what is registered as storage (`replaystore.registry`): it gives the files of a store, and knows
how something that was made beside a name takes that name, durably, and who may write. It knows nothing of
what is in the files. Paths are those of locations.

The smallest one that can be plugged in has `files`, `new_files`, `exists`, `remove` and `move`: see `Places`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from replaystore.errors import ArgumentError, ConflictError, UnsupportedError
from replaystore.location import Location
from replaystore.registry import load
from replaystore.storage.local import Files
from replaystore.storage.locks import FileLock, Lock, busy, is_locked
from replaystore.storage.protocol import Reads, Storage

__all__ = ["LocalPlaces", "MemoryPlaces", "Places", "ZipPlaces", "places_of"]

PLACE_LOCK = ".replaystore-lock"
"""Added to a name: what is held by whoever makes or replaces what has the name."""


def places_of(place: Location) -> Places:
    """The storage that a location is in."""
    found: Places = load("storage", place.storage)
    return found


class Places:
    """What all storage does; the defaults are those of storage that only this process sees, and that needs no
    syncing."""

    on_disk = False
    """Paths are those of the file system, and other software finds a store there."""
    shared_between_processes = False
    """Another process finds the same under the same path."""
    links = False
    """A second store that shares the files of the first can be made beside it, as `repair` does."""
    only_read = False
    """Nothing is made, moved or written here, and what is there is known when it is read: asking first would
    take a request."""
    packed_from = ""
    """The name of the storage where a store is made before it is packed into this one, which is then read
    only; empty: stores are made and written here."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    # --- to be implemented

    def exists(self, path: str) -> bool:
        """Whether something has the name."""
        raise NotImplementedError

    def files(self, path: str, *, writable: bool) -> Reads:
        """The files of the store of this name, which exists: a `Storage`, if they may be written to.

        Who has read from a file goes on with that one when another takes its name, until `forget` or
        `close`: so a reader keeps what it shows when a writer goes back."""
        raise NotImplementedError

    def new_files(self, path: str, *, called: str) -> Storage:
        """No files yet, of a new store of this name, which messages call `called`: it has another name in the
        end."""
        raise NotImplementedError

    def remove(self, path: str) -> None:
        """Remove what has the name, if anything; who has it open may go on reading."""
        raise NotImplementedError

    def move(self, old: str, new: str) -> None:
        """Give what has the name `old` the name `new`, replacing what has that, at once and durably."""
        raise NotImplementedError

    # --- may be implemented

    def beside(self, path: str, *, writable: bool) -> tuple[Any, str]:
        """Of storage in which a store can be one file: the files that lie beside it, and its name there.
        They are `Files` if they may be written to, and else what `Reads`."""
        raise UnsupportedError(f"{path}: a store of one file cannot lie here: use a .zarr location")

    def look(self, path: str, members: Sequence[str]) -> tuple[bytes | None, list[str]]:
        """Of storage whose paths are addresses: the first bytes of what has the name, and which of these it
        holds, if it is a folder; None and nothing: there is none."""
        raise NotImplementedError

    def resolved(self, path: str) -> str:
        """Where what has this name really lies: what a link names."""
        return path

    def identity(self, path: str) -> object:
        """The same for all names of one store."""
        return self, path

    def served_buffer(self) -> Any:
        """Of storage whose stores a server writes: the class of a buffer that has it do so; None: whoever
        writes writes the files."""
        return None

    def create_served(self, place: Location, said: Mapping[str, Any]) -> None:
        """Of such storage: have the server make a store, of which this is said (as `replaystore.create` takes
        it, the schema as JSON)."""
        raise NotImplementedError

    def with_token(self, place: Location, token: str) -> Location:
        """The place, with a token that is sent to its server. ArgumentError: it has none that takes one."""
        raise ArgumentError(f"{place} is on no server of `replaystore serve`: leave out token")

    def make_room(self, path: str) -> list[str]:
        """Make what has to be there before something gets this name (folders); what was made, the lowest
        first."""
        return []

    def put(self, partial: str, path: str, *, aside: str) -> None:
        """Give what was made at `partial` the name, at once; what has it may be given the name `aside`
        meanwhile, or is left at `partial`. OSError: all is as it was."""
        self.move(partial, path)

    def sync_name(self, path: str, made: Sequence[str] = (), *, if_allowed: bool = False) -> None:
        """Make it durable that something has this name, and the folders that were made for it."""

    def pack(
        self, files: Reads, path: str, *, leave_out: frozenset[str], deflate: Callable[[str], int]
    ) -> None:
        """Of storage with `packed_from`: make a store of files, durably. `deflate`: the most bytes of a
        file, by its name, that may be compressed, so that it cannot be mapped."""
        raise NotImplementedError

    def refuse_writing(self, place: Location) -> None:
        """UnsupportedError if no store here is written to."""

    def lock_store(self, place: Location, *, inside: str, replace: bool = False) -> Lock:
        """Become the writer of a store, or who replaces it: hold its file `inside`, or the store itself if
        that is empty.

        ConflictError: somebody has it; StorageError: it cannot be locked (ENOENT: there is none)."""
        return ProcessLock(self._held, place.path, busy(place, _other(replace)))

    def lock_place(self, place: Location, *, wait: bool = False) -> Lock:
        """Become the one who makes or replaces what has the name. `wait`: until nobody else does, where that
        can be. ConflictError, StorageError."""
        return ProcessLock(self._held, place.path + PLACE_LOCK, busy(place))

    def is_written(self, path: str, *, inside: str) -> bool:
        """Whether somebody may have the store open for writing. False: not known."""
        return True


class ProcessLock(Lock):
    """Of a name, among the threads of this process, until it is released or dropped. ConflictError: somebody
    has it."""

    _name = ""

    def __init__(self, held: set[str], name: str, refusal: str) -> None:
        if name in held:
            raise ConflictError(refusal)
        held.add(name)
        self._all, self._name = held, name

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        if self._name:
            self._all.discard(self._name)
        self._name = ""


class MemoryPlaces(Places):
    """Stores that are gone with the process."""

    def __init__(self) -> None:
        super().__init__()
        self._stores: dict[str, Storage] = {}

    def stores(self) -> list[str]:
        """The paths of those that there are."""
        return list(self._stores)

    def exists(self, path: str) -> bool:
        return path in self._stores

    def files(self, path: str, *, writable: bool) -> Reads:
        return self._stores[path]

    def new_files(self, path: str, *, called: str) -> Storage:
        from replaystore.storage.memory import MemoryFiles

        self._stores[path] = MemoryFiles(called)
        return self._stores[path]

    def remove(self, path: str) -> None:
        self._stores.pop(path, None)

    def move(self, old: str, new: str) -> None:
        self._stores[new] = self._stores.pop(old)


class LocalPlaces(Places):
    """Stores in the file system, that are folders or files.

    `make_files` makes what every byte goes through: another one makes disks fail, or remember, in tests."""

    on_disk = shared_between_processes = links = True

    def __init__(self, make_files: Callable[..., Files] = Files) -> None:
        super().__init__()
        self._make = make_files

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def files(self, path: str, *, writable: bool) -> Reads:
        return self._make(path, writable=writable)

    def new_files(self, path: str, *, called: str) -> Storage:
        os.makedirs(path)
        return self._make(path, writable=True)

    def beside(self, path: str, *, writable: bool) -> tuple[Any, str]:
        folder, name = os.path.split(path)
        return self._make(folder or ".", writable=writable), name

    def remove(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)

    def resolved(self, path: str) -> str:
        return os.path.realpath(path) if os.path.islink(path) else path

    def identity(self, path: str) -> object:
        return os.path.realpath(path)

    def make_room(self, path: str) -> list[str]:
        folder, missing = os.path.dirname(path), []
        while folder and not os.path.exists(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        if folder and not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
        if missing:
            os.makedirs(missing[0], exist_ok=True)
        return missing

    def put(self, partial: str, path: str, *, aside: str) -> None:
        files, name = self.beside(path, writable=True)
        new, old = os.path.basename(partial), os.path.basename(aside)
        if os.path.isdir(path):  # which nothing can be renamed to; a file is replaced at once
            if not files.exchange(new, name):
                rename_both(files, new, name, old)
        else:
            files.rename(new, name)

    def move(self, old: str, new: str) -> None:
        files, name = self.beside(new, writable=True)
        files.rename(os.path.basename(old), name)
        files.sync_folder("")

    def sync_name(self, path: str, made: Sequence[str] = (), *, if_allowed: bool = False) -> None:
        folder = os.path.dirname(path) or "."
        if not if_allowed or os.access(folder, os.R_OK):
            self._make(folder, writable=True).sync_folder("")
        for below in made:
            self._make(os.path.dirname(below) or ".", writable=True).sync_folder("")

    def lock_store(self, place: Location, *, inside: str, replace: bool = False) -> Lock:
        other = _other(replace)
        what, advice = (
            ("replaced", f"{other}, or get the permission to write to it")
            if replace
            else ("opened for writing", "open it with mode='r'")
        )
        return FileLock(
            place,
            place.path,
            inside=inside,
            busy=busy(place, other),
            own=bool(inside),
            byte=not inside,
            what=what,
            advice=advice,
        )

    def lock_place(self, place: Location, *, wait: bool = False) -> Lock:
        return FileLock(
            place,
            place.path + PLACE_LOCK,
            own=True,
            wait=wait,
            busy=(
                f"{place} is being made, or open for writing elsewhere: wait until that is done, or choose "
                "another place"
            ),
            what="made",
            advice="choose another place, or make its folder one that can be written to",
        )

    def is_written(self, path: str, *, inside: str) -> bool:
        return is_locked(os.path.join(path, inside) if inside else path)


class ZipPlaces(LocalPlaces):
    """Stores packed in zip files, which lie where other files lie."""

    links = False
    packed_from = "local"

    def files(self, path: str, *, writable: bool) -> Reads:
        from replaystore.storage.zip import ZipFiles

        return ZipFiles(path)

    def beside(self, path: str, *, writable: bool) -> tuple[Any, str]:
        local: Places = load("storage", self.packed_from)
        return local.beside(path, writable=writable)

    def sync_name(self, path: str, made: Sequence[str] = (), *, if_allowed: bool = False) -> None:
        local: Places = load("storage", self.packed_from)
        local.sync_name(path, made, if_allowed=if_allowed)

    def pack(
        self, files: Reads, path: str, *, leave_out: frozenset[str], deflate: Callable[[str], int]
    ) -> None:
        from replaystore.storage.zip import pack

        pack(files, path, leave_out=leave_out, deflate=deflate)

    def refuse_writing(self, place: Location) -> None:
        raise UnsupportedError(
            f"{place} is a zip file, which is read only: convert it to a .zarr folder to write to it"
        )


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


def _other(replace: bool) -> str:
    return "choose another name" if replace else "open it for reading"


LOCAL, ZIP, MEMORY = LocalPlaces(), ZipPlaces(), MemoryPlaces()
"""As they are registered."""
