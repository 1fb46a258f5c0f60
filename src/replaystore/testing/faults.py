"""Files that fail, or that remember what was done to them. Give them to a store with `using`.

`Faults` says at which of the primitive operations that change something (create, write, resize, sync_file,
sync_folder, rename, remove) what happens; all files made by `Faults.files` share it, and are counted
together.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from replaystore import registry
from replaystore.storage.local import Files
from replaystore.storage.places import LocalPlaces

__all__ = ["FailingFiles", "Faults", "Operation", "RecordingFiles", "UnsyncedFiles", "using"]

GROWING = ("create", "write", "rename")
"""What a full disk refuses."""


@contextmanager
def using(files: Callable[..., Files]) -> Iterator[None]:
    """Stores on a disk that are opened meanwhile use these files."""
    with registry.using("storage", registry.PLAIN, LocalPlaces(files)):
        yield


@dataclass
class Faults:
    """What goes wrong, and when."""

    kill_at: int | None = None
    """Kill the process at the operation of this number, from 1 on."""
    kill_phase: float = 0.0
    """How much of that operation is done before: 0 nothing, 1 all of it; in between, a part of what is to be
    written."""
    full_at: int | None = None
    """From the operation of this number on, there is no space left."""
    failing: tuple[str, ...] = GROWING
    """What is refused then."""
    error: int = errno.ENOSPC
    count: int = 0
    """Operations so far."""

    def files(self, root: str | os.PathLike[str], *, writable: bool) -> FailingFiles:
        """Files that these faults happen to."""
        return FailingFiles(root, writable=writable, faults=self)

    def happens(self, operation: str) -> float | None:
        """Count an operation: how much of it is done before the fault, or None if there is none."""
        self.count += 1
        if self.count == self.kill_at:
            return self.kill_phase
        if self.full_at is not None and self.count >= self.full_at and operation in self.failing:
            return self.kill_phase
        return None

    def strike(self) -> None:
        """Kill the process, or refuse."""
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # until it arrives
        raise OSError(self.error, os.strerror(self.error))


class _OneByOne(Files):
    """Files that are synced in order, so that operations can be counted."""

    def sync_files(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.sync_file(name)

    def sync_folders(self, folders: Iterable[str]) -> None:
        for folder in list(folders):
            self.sync_folder(folder)


class UnsyncedFiles(Files):
    """Files whose folders are not synced, where nobody cuts the power and there are thousands."""

    def sync_folder(self, folder: str) -> None:
        """Nothing."""


class FailingFiles(_OneByOne):
    """Files to which `faults` happen."""

    def __init__(self, root: str | os.PathLike[str], *, writable: bool, faults: Faults) -> None:
        super().__init__(root, writable=writable)
        self.faults = faults

    def create(self, name: str) -> None:
        self._do("create", lambda: Files.create(self, name))

    def write(self, name: str, offset: int, data: Any) -> None:
        done = self.faults.happens("write")
        if done is None:
            super().write(name, offset, data)
            return
        part = bytes(memoryview(data).cast("B"))
        super().write(name, offset, part[: int(len(part) * done)])
        self.faults.strike()

    def resize(self, name: str, size: int) -> None:
        self._do("resize", lambda: Files.resize(self, name, size))

    def sync_file(self, name: str) -> None:
        self._do("sync_file", lambda: Files.sync_file(self, name))

    def sync_folder(self, folder: str) -> None:
        self._do("sync_folder", lambda: Files.sync_folder(self, folder))

    def rename(self, old: str, new: str) -> None:
        self._do("rename", lambda: Files.rename(self, old, new))

    def exchange(self, one: str, other: str) -> bool:
        found: list[bool] = []
        self._do("rename", lambda: found.append(Files.exchange(self, one, other)))
        return found == [True]

    def remove(self, name: str) -> None:
        self._do("remove", lambda: Files.remove(self, name))

    def _do(self, operation: str, action: Callable[[], None]) -> None:
        done = self.faults.happens(operation)
        if done is None or (done == 1 and self.faults.count == self.faults.kill_at):
            action()
        if done is not None:
            self.faults.strike()


@dataclass(frozen=True)
class Operation:
    """One primitive operation."""

    kind: str
    name: str
    other: str = ""
    """rename: the new name; exchange: the other one."""
    offset: int = 0
    """write: where; resize: the size."""
    data: bytes = b""


@dataclass
class RecordingFiles:
    """Makes files that note every operation in `operations`. Marks of one's own may be put between them."""

    operations: list[Operation] = field(default_factory=list)
    below: str | None = None
    """Names in operations are relative to this folder, whatever the files are below. None: to the folder of
    the files."""

    def files(self, root: str | os.PathLike[str], *, writable: bool) -> Files:
        """Files that are recorded."""
        folder = "." if self.below is None else os.path.relpath(root, self.below)
        return _RecordedFiles(root, writable=writable, operations=self.operations, folder=folder)


class _RecordedFiles(_OneByOne):
    def __init__(
        self, root: str | os.PathLike[str], *, writable: bool, operations: list[Operation], folder: str
    ) -> None:
        super().__init__(root, writable=writable)
        self._operations = operations
        self._folder = folder

    def create(self, name: str) -> None:
        super().create(name)
        self._note("create", name)

    def write(self, name: str, offset: int, data: Any) -> None:
        super().write(name, offset, data)
        self._note("write", name, offset=offset, data=bytes(memoryview(data).cast("B")))

    def resize(self, name: str, size: int) -> None:
        super().resize(name, size)
        self._note("resize", name, offset=size)

    def sync_file(self, name: str) -> None:
        super().sync_file(name)
        self._note("sync_file", name)

    def sync_folder(self, folder: str) -> None:
        super().sync_folder(folder)
        self._note("sync_folder", folder)

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self._note("rename", old, other=self._name(new))

    def exchange(self, one: str, other: str) -> bool:
        done = super().exchange(one, other)
        if done:
            self._note("exchange", one, other=self._name(other))
        return done

    def remove(self, name: str) -> None:
        there = self.exists(name)
        super().remove(name)
        if there:
            self._note("remove", name)

    def _remove_folder(self, folder: str) -> None:
        there = self.exists(folder)
        super()._remove_folder(folder)
        if there and not self.exists(folder):
            self._note("remove", folder)

    def _name(self, name: str) -> str:
        return os.path.normpath(os.path.join(self._folder, name)).replace(os.sep, "/")

    def _note(self, kind: str, name: str, **more: Any) -> None:
        self._operations.append(Operation(kind, self._name(name), **more))
