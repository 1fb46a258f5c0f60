"""Files that have no name in any folder, and are gone with the process."""

from __future__ import annotations

import builtins
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from replaystore.storage.local import Files
from replaystore.storage.protocol import Reads

__all__ = ["MemoryFiles"]

SMALL_BYTES = 1 << 16
"""Files in memory up to this size take no descriptor."""
MEMORY_FOLDER = "/dev/shm"  # noqa: S108  # files there are unlinked as soon as they are made


class MemoryFiles(Files):
    """Files that have no name in any folder: they are gone with the process.

    A small file is an array of bytes. A larger one, and one that is to be mapped, is an unlinked temporary
    file, in memory where the system has a folder for that (Linux: /dev/shm), so that a store takes few
    descriptors and yet can be mapped like any other."""

    def __init__(self, label: str) -> None:
        super().__init__(label, writable=True)
        self._small: dict[str, bytearray] = {}

    def identity(self) -> object:
        """These files have no name that others could take."""
        return None

    def path(self, name: str) -> str:
        return f"memory:{self.root}/{name}" if name else f"memory:{self.root}"

    def real_path(self, name: str) -> str:
        return self.path(name)

    def descriptor(self, name: str) -> int:
        with self._lock:
            if name in self._small:
                folder = MEMORY_FOLDER if os.path.isdir(MEMORY_FOLDER) else None
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(self._small[name])
                    file.flush()
                    self._open[name] = os.dup(file.fileno())
                del self._small[name]
            try:
                return self._open[name]
            except KeyError:
                raise FileNotFoundError(2, "No such file", self.path(name)) from None

    def exists(self, name: str) -> bool:
        return any(known == name or known.startswith(name + "/") for known in self.walk())

    def list(self, folder: str = "") -> list[str]:
        prefix = folder + "/" if folder else ""
        return sorted({name[len(prefix) :].split("/")[0] for name in self.walk() if name.startswith(prefix)})

    def walk(self) -> Iterator[str]:
        with self._lock:
            return iter(sorted([*self._small, *self._open]))

    def _below(self, top: str) -> tuple[builtins.list[str], builtins.list[str]]:
        return [name for name in self.walk() if name.startswith(top + "/")], []

    def create(self, name: str) -> None:
        with self._lock:
            self.remove(name)
            self._small[name] = bytearray()

    def read_whole(self, name: str, most: int) -> bytes:
        return self.read(name, 0, self._bounded(name, self.size(name), most))

    read_ranges, read_into = Reads.read_ranges, Reads.read_into

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._lock:
            small = self._small.get(name)
            if small is not None:
                return bytes(small[offset:] if length is None else small[offset : offset + length])
        return super().read(name, offset, length)

    def size(self, name: str) -> int:
        with self._lock:
            return len(self._small[name]) if name in self._small else super().size(name)

    def write(self, name: str, offset: int, data: Any) -> None:
        with self._lock:
            small = self._small.get(name)
            if small is None or offset + len(data) > SMALL_BYTES:
                super().write(name, offset, data)
            else:
                small.extend(bytes(max(0, offset - len(small))))
                small[offset : offset + len(data)] = data

    def resize(self, name: str, size: int) -> None:
        with self._lock:
            small = self._small.get(name)
            if small is None or size > SMALL_BYTES:
                super().resize(name, size)
            else:
                del small[size:]
                small.extend(bytes(size - len(small)))

    def sync_file(self, name: str) -> None:
        """Nothing outlives the process."""

    def write_back(self, name: str, offset: int, length: int) -> None:
        """Nothing outlives the process."""

    def sync_folder(self, folder: str) -> None:
        """Nothing outlives the process."""

    def sync_files(self, names: Iterable[str]) -> None:
        """Nothing outlives the process."""

    def sync_folders(self, folders: Iterable[str]) -> None:
        """Nothing outlives the process."""

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            self.remove(new)
            if old in self._small:
                self._small[new] = self._small.pop(old)
            else:
                self._open[new] = self._open.pop(old)

    def remove(self, name: str) -> None:
        with self._lock:
            self._small.pop(name, None)
            found = self._open.pop(name, None)
            if found is not None:
                self._close(found)

    def forget(self, name: str) -> None:
        """Nothing to forget: the descriptor is the file."""

    def close(self) -> None:
        """Keep the files: the store can be opened again while the process lives."""
