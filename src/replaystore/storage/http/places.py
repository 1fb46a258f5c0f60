"""Stores on servers, by their addresses: read only, where their writers put them.

`HTTP` has folders and single files, `HTTP_ZIP` the zip files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from replaystore import urls
from replaystore.errors import StorageError, UnsupportedError
from replaystore.location import Location
from replaystore.registry import FIRST_BYTES
from replaystore.storage.http.asking import PATIENCE, Patience
from replaystore.storage.http.files import HttpFiles
from replaystore.storage.locks import Lock
from replaystore.storage.places import Places
from replaystore.storage.protocol import Reads, Storage
from replaystore.storage.zip_reads import ZipReads

__all__ = ["HTTP", "HTTP_ZIP", "HttpPlaces", "HttpZipPlaces"]


class HttpPlaces(Places):
    """Stores at http:// and https:// addresses. `patience`: how long a server is tried."""

    shared_between_processes = only_read = True

    def __init__(self, patience: Patience = PATIENCE) -> None:
        super().__init__()
        self._patience = patience

    def exists(self, path: str) -> bool:
        begin, there = self.look(path, ["zarr.json"])
        return begin is not None or bool(there)

    def below(self, path: str, *, entrance: str = "") -> HttpFiles:
        """The files below an address; `entrance`: those beside it, of which this one has it."""
        return HttpFiles(path, entrance=entrance, patience=self._patience)

    def files(self, path: str, *, writable: bool) -> Reads:
        return self.below(path)

    def beside(self, path: str, *, writable: bool) -> tuple[HttpFiles, str]:
        name = urls.file_name(path)
        return self.below(path, entrance=name), name

    def look(self, path: str, members: Sequence[str]) -> tuple[bytes | None, list[str]]:
        files = self.below(path)
        try:
            files.fetch_ahead([("", 0, FIRST_BYTES), *((name, 0, 1) for name in members)])
            there = [name for name in members if _read(files, name, 1) is not None]
            try:
                return _read(files, "", FIRST_BYTES), there
            except StorageError:  # a folder cannot be read, nearly everywhere
                if not there:
                    raise
                return None, there
        finally:
            files.close()

    def identity(self, path: str) -> object:
        return path

    def is_written(self, path: str, *, inside: str) -> bool:
        return False  # nobody can know

    # --- refused

    def new_files(self, path: str, *, called: str) -> Storage:
        _refuse(path)

    def remove(self, path: str) -> None:
        _refuse(path)

    def move(self, old: str, new: str) -> None:
        _refuse(new)

    def make_room(self, path: str) -> list[str]:
        _refuse(path)

    def refuse_writing(self, place: Location) -> None:
        _refuse(place.path)

    def lock_store(self, place: Location, *, inside: str, replace: bool = False) -> Lock:
        _refuse(place.path)

    def lock_place(self, place: Location, *, wait: bool = False) -> Lock:
        _refuse(place.path)


class HttpZipPlaces(HttpPlaces):
    """Stores packed in zip files that lie on a server."""

    packed_from = "http"

    def files(self, path: str, *, writable: bool) -> Reads:
        return ZipReads(*self.beside(path, writable=writable))


def _read(files: HttpFiles, name: str, length: int) -> bytes | None:
    """The first bytes of a file; None: there is none."""
    try:
        return files.read(name, 0, length)
    except FileNotFoundError:
        return None


def _refuse(url: str) -> NoReturn:
    raise UnsupportedError(
        f"{urls.shown(url)}: stores at http:// and https:// are only read: make it on a local disk, and copy "
        "it to the server"
    )


HTTP, HTTP_ZIP = HttpPlaces(), HttpZipPlaces()
"""As they are registered."""
