"""Where a store lies: "runs/a.zarr", "a.zarr.zip", "a.h5", "memory:a" → backend and path.

The suffix decides, so that a name means the same before and after the store exists. Only where there is a
suffix that we do not know is the content of what exists asked. Nothing is opened for writing, and paths are
kept as given (relative ones stay relative, `~` is a name).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from replaystore import strangers
from replaystore.errors import ArgumentError, FormatError, StorageError, UnsupportedError

__all__ = ["SUFFIXES", "Location", "parse", "resolved"]

SUFFIXES = {".zarr.zip": "zip", ".zip": "zip", ".zarr": "zarr", ".hdf5": "hdf5", ".h5": "hdf5"}
"""Suffix → backend; upper and lower case alike. The first that fits decides."""

_FILES = (".pkl", ".pickle", ".safetensors")
"""Suffixes of what `convert` reads and that is no store."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://?")  # at least two characters: one is a Windows drive
# Path("s3://a") is s3:/a.
_ONE_SLASH_SCHEMES = frozenset(
    {"s3", "gs", "gcs", "az", "abfs", "http", "https", "file", "ftp", "sftp", "hf", "r2"}
)


@dataclass(frozen=True)
class Location:
    """A store's backend ("zarr", "zip", "hdf5" or "memory") and its path there (for "memory" its name)."""

    backend: str
    path: str

    def __str__(self) -> str:
        return f"memory:{self.path}" if self.backend == "memory" else self.path


def parse(location: str | os.PathLike[str] | Location) -> Location:
    """The backend and path that a location names; a `Location` is returned as it is.

    ArgumentError: not a location, or its suffix and content name no backend; FormatError: a folder where the
    suffix names a file, or the other way round; UnsupportedError: a URL; StorageError: what is there cannot
    be read.
    """
    if isinstance(location, Location):
        return location
    try:
        text = os.fspath(location)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise ArgumentError(
            f"a location must be a string or a path, not {type(location).__name__} "
            f"{location!r:.80}: give the store's path"
        )
    if not text.strip() or "\0" in text:
        raise ArgumentError(f"{text!r} is not a location: give the store's path, such as 'runs/a.zarr'")
    if text.startswith("memory:"):
        name = text.removeprefix("memory:")
        if not name:
            raise ArgumentError("'memory:' names no store: write 'memory:name'")
        return Location("memory", name)
    _refuse_url(text)
    path = text.rstrip("/" + os.sep) or text
    backend = next((backend for suffix, backend in SUFFIXES.items() if path.lower().endswith(suffix)), None)
    if backend is None:
        return Location(_sniff(path), path)
    _check_kind(path, backend)
    return Location(backend, path)


def resolved(place: Location) -> Location:
    """Where a new store goes: to what a symbolic link names, so that the link stays."""
    if place.backend == "memory" or not os.path.islink(place.path):
        return place
    return Location(place.backend, os.path.realpath(place.path))


def _refuse_url(text: str) -> None:
    scheme = _SCHEME.match(text)
    if scheme is None or not (scheme[0].endswith("//") or scheme[1].lower() in _ONE_SLASH_SCHEMES):
        return
    if scheme[1].lower() == "file":
        raise UnsupportedError(f"{text!r} is a URL: give the path itself, without 'file://'")
    raise UnsupportedError(
        f"{text!r}: stores at {scheme[1]}:// cannot be opened: copy it to a local disk and give that path"
    )


def _check_kind(path: str, backend: str) -> None:
    """Refuse a folder named as a file and a file named as a folder; what does not exist may become either."""
    folder = backend == "zarr"
    if os.path.isdir(path) if not folder else os.path.isfile(path):
        there, named = ("file", "folder") if folder else ("folder", "file")
        remedy = "move it away, or rename it to what it is"
        raise FormatError(f"{path!r} is a {there}, but its suffix names a {named} ({backend}): {remedy}")


def _sniff(path: str) -> str:
    """The backend of what lies there under a name that does not say it."""
    try:
        if os.path.isdir(path):
            found = "zarr" if os.path.isfile(os.path.join(path, "zarr.json")) else None
        else:
            found = _sniff_file(path)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise StorageError(
            f"{path!r} cannot be read ({error.strerror or error}): check its permissions"
        ) from error
    if found is None:
        if strange := strangers.line(path):
            raise FormatError(strange)
        suffixes = f"{', '.join(SUFFIXES)}, or 'memory:name'"
        if not os.path.exists(path):
            raise ArgumentError(
                f"{path!r} does not exist: check the path; to make a store, use one of the "
                f"suffixes {suffixes}"
            )
        stem, suffix = os.path.splitext(path)
        if suffix.lower() in _FILES and os.path.isfile(path):
            remedy = (
                f"of a buffer of active_rlhf or velora, `replaystore convert {path} {stem}.zarr` makes one"
            )
            raise ArgumentError(f"{path!r} is not a store known by its content: {remedy}")
        raise ArgumentError(
            f"{path!r} is not a store known by its content: use one of the suffixes {suffixes}"
        )
    return found


def _sniff_file(path: str) -> str | None:
    if not os.path.isfile(path) and os.path.exists(path):
        return None  # a pipe or device, which reading would disturb
    with open(path, "rb") as file:
        begin = file.read(len(strangers.OWN_HDF5))
        if begin.startswith(strangers.ZIP):
            return "zip"
        if begin == strangers.OWN_HDF5 or begin.startswith(strangers.HDF5):
            return "hdf5"
        size, place = os.fstat(file.fileno()).st_size, 512
        while place < size:  # HDF5 allows any block before its own at 512, 1024, 2048, …
            file.seek(place)
            if file.read(len(strangers.HDF5)) == strangers.HDF5:
                return "hdf5"
            place *= 2
    return None
