"""Storage that is far away, for tests: the files of a disk, read as if each question were a request over a
network that has no listing. It counts requests, and rounds of requests that wait for one another.

    with far_disk() as asked:
        replaystore.open("a.zarr")
    assert asked.rounds <= 3
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from replaystore import registry
from replaystore.errors import UnsupportedError
from replaystore.registry import PLAIN
from replaystore.storage.local import Files
from replaystore.storage.places import LocalPlaces
from replaystore.storage.protocol import Reads

__all__ = ["Asked", "FarFiles", "FarPlaces", "far_disk"]

Place = tuple[str, int, int | None]


@dataclass
class Asked:
    """What was asked."""

    rounds: int = 0
    requests: int = 0
    bytes: int = 0
    names: Counter[str] = field(default_factory=Counter)
    """How often by the name of the file."""

    def note(self, *names: str) -> None:
        """A round of requests for these."""
        self.rounds += 1
        self.requests += len(names)
        self.names.update(names)


class FarFiles(Reads):
    """The files of a folder, far away."""

    far, lists = True, False

    def __init__(self, files: Files, asked: Asked) -> None:
        self._files, self._asked = files, asked
        self._ahead: dict[Place, bytes | OSError] = {}

    def path(self, name: str) -> str:
        return self._files.path(name)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        found = self._ahead.pop((name, offset, length), None)
        if isinstance(found, OSError):
            raise found
        if found is None:
            self._asked.note(name)
            found = self._fetch(name, offset, length)
        return found

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self.fetch_ahead((name, *found) for found in ranges)
        return [self.read(name, *found) for found in ranges]

    def fetch_ahead(self, places: Iterable[Place]) -> None:
        wanted = [place for place in dict.fromkeys(places) if place not in self._ahead]
        if wanted:
            self._asked.note(*(name for name, _, _ in wanted))
        for name, offset, length in wanted:
            try:
                self._ahead[name, offset, length] = self._fetch(name, offset, length)
            except OSError as error:
                self._ahead[name, offset, length] = error

    def _fetch(self, name: str, offset: int, length: int | None) -> bytes:
        self._files.forget(name)  # the file that has the name now
        found = self._files.read(name, offset, length)
        self._asked.bytes += len(found)
        return found

    def size(self, name: str) -> int:
        self._asked.note(name)
        self._files.forget(name)
        return self._files.size(name)

    def exists(self, name: str) -> bool:
        self._asked.note(name)
        return self._files.exists(name)

    def list(self, folder: str = "") -> list[str]:
        raise UnsupportedError(f"{self.path(folder)}: what is there cannot be listed")

    def forget(self, name: str) -> None:
        for place in [place for place in self._ahead if place[0] == name]:
            del self._ahead[place]

    def close(self) -> None:
        self._ahead.clear()
        self._files.close()


class FarPlaces(LocalPlaces):
    """Stores on a disk, which are written as usual and read from far away."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.asked = asked

    def files(self, path: str, *, writable: bool) -> Reads:
        files = self._make(path, writable=writable)
        return files if writable else FarFiles(files, self.asked)

    def beside(self, path: str, *, writable: bool) -> tuple[Any, str]:
        files, name = super().beside(path, writable=writable)
        return files if writable else FarFiles(files, self.asked), name


@contextmanager
def far_disk() -> Iterator[Asked]:
    """Stores that are opened for reading meanwhile, in the process, are far away."""
    asked = Asked()
    with registry.using("storage", PLAIN, FarPlaces(asked)):
        yield asked
