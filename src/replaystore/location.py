"""Where a store lies: "runs/a.zarr", "a.zarr.zip", "a.h5", "memory:a", "https://server/a.zarr",
"replay://server/a.zarr" → storage, container and path. It knows no name itself: the registry does.

A suffix that is known decides, so that a name means the same before and after the store exists; what exists
and is of another kind is refused. Where there is no suffix that we know, the content of what exists is asked.
Nothing is opened for writing, and paths are kept as given (relative ones stay relative), but for `~` at their
beginning, which is the user's folder: a shell does not see to it where a path stands in quotes, or in a
program. `./~` is a folder of that name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from replaystore import not_stores, registry, urls
from replaystore.errors import ArgumentError, FormatError, StorageError, UnsupportedError
from replaystore.registry import PLAIN, Entry

__all__ = ["Location", "expanded", "names_store", "parse", "shown"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://?")  # at least two characters: one is a Windows drive
# Path("s3://a") is s3:/a.
_ONE_SLASH_SCHEMES = frozenset(
    {"s3", "gs", "gcs", "az", "abfs", "http", "https", "file", "ftp", "sftp", "hf", "r2"}
)


@dataclass(frozen=True)
class Location:
    """A store's storage and container, by the names that they are registered under, and its path there."""

    storage: str
    container: str
    path: str

    @property
    def text(self) -> str:
        """What names it, for whoever opens it again."""
        storage = registry.entry("storage", self.storage)
        return f"{storage.schemes[0]}:{self.path}" if storage.schemes and not storage.urls else self.path

    def __str__(self) -> str:
        """For messages: without the query of an address, which may give access."""
        return shown(self.text)

    def __repr__(self) -> str:
        return f"Location({self.storage!r}, {self.container!r}, {shown(self.path)!r})"


def parse(location: str | os.PathLike[str] | Location) -> Location:
    """What a location names; a `Location` is returned as it is.

    ArgumentError: not a location, or its suffix and content name nothing that we know; FormatError: what is
    there is of another kind than the suffix says; UnsupportedError: a URL of a kind that is not read;
    StorageError: what is there cannot be read.
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
    storage = registry.by_scheme(text)
    if storage is not None:
        return _at_address(text, storage) if storage.urls else _in_scheme(text, storage)
    _refuse_url(text)
    text = expanded(text)
    path = text.rstrip("/" + os.sep) or text
    found = _by_suffix(path)
    if found is None:
        found = _sniff(path)
    else:
        _check_kind(path, found)
    return _located(found, path)


def expanded(path: Any) -> Any:
    """A local path that begins with `~` or `~name`, as the path that it means; anything else as it is."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    return os.path.expanduser(text) if isinstance(text, str) and text.startswith("~") else path


def shown(location: str) -> str:
    """A location as it may be stored and shown: of an address, without what follows its `?`, which may give
    access."""
    storage = registry.by_scheme(location)
    return urls.shown(location) if storage is not None and storage.urls else location


def names_store(location: object) -> bool:
    """Whether a text or path names a store by its scheme or suffix, whatever is there."""
    if not isinstance(location, str | os.PathLike):
        return False
    text = os.fspath(location)
    return isinstance(text, str) and (registry.by_scheme(text) is not None or _by_suffix(text) is not None)


def _in_scheme(text: str, storage: Entry) -> Location:
    scheme, _, path = text.partition(":")
    if not path:
        raise ArgumentError(f"{text!r} names no store: write '{scheme}:name'")
    container = storage.container
    if not container:
        found = next(registry.by_suffix("containers", path), None)
        if found is None:
            raise ArgumentError(f"{text!r} does not say how it is stored: use one of the suffixes {_known()}")
        container = found.name
    return Location(storage.name, container, path)


def _at_address(text: str, storage: Entry) -> Location:
    """What lies at an address, by the suffix of its path or by its content."""
    url = urls.checked(text)
    found = _by_suffix(urls.path_of(url)) or _look(url, storage)
    if not found.container:
        return Location(storage.name, found.name, url)
    if found.package != "replaystore" or not storage.packed:
        raise UnsupportedError(
            f"{urls.shown(url)}: {found.what or found.name} is not read from a server: copy it to a disk"
        )
    return Location(storage.packed, found.container, url)


def _look(url: str, storage: Entry) -> Entry:
    """What lies at an address that does not say it."""
    containers = registry.registered("containers").values()
    members = [name for known in containers for name in known.members]
    begin, there = registry.load("storage", storage.name).look(url, members)
    kinds: tuple[registry.Kind, ...] = ("storage", "containers")
    for kind in kinds:
        for known in registry.by_beginning(kind, begin or b""):
            return known
    for known in containers:
        if set(known.members) & set(there):
            return known
    if begin is None:
        raise ArgumentError(
            f"{urls.shown(url)} does not exist: check the address, where stores are only read"
        )
    raise ArgumentError(
        f"{urls.shown(url)} is not a store known by its content: copy it to a local disk, where `replaystore "
        "convert` may know it"
    )


def _located(found: Entry, path: str) -> Location:
    """Of storage, or of a container that lies in plain storage."""
    if found.container:
        return Location(found.name, found.container, path)
    return Location(PLAIN, found.name, path)


def _by_suffix(path: str) -> Entry | None:
    return next(registry.by_suffix("storage", path, "containers"), None)


def _by_content(path: str) -> Entry | None:
    return next(registry.by_content("storage", path), None) or next(
        registry.by_content("containers", path), None
    )


def _known() -> str:
    """The suffixes and schemes of all stores, for messages."""
    entries = [*registry.registered("storage").values(), *registry.registered("containers").values()]
    suffixes = [suffix for known in entries for suffix in known.suffixes]
    suffixes.sort(key=lambda suffix: suffix.endswith(".zip"))  # which only `convert` makes
    schemes = [f"'{scheme}:name'" for known in entries for scheme in known.schemes if not known.urls]
    problems = [*registry.broken("storage").values(), *registry.broken("containers").values()]
    return "; ".join([", or ".join(filter(None, [", ".join(suffixes), *schemes])), *problems])


def _refuse_url(text: str) -> None:
    scheme = _SCHEME.match(text)
    if scheme is None or not (scheme[0].endswith("//") or scheme[1].lower() in _ONE_SLASH_SCHEMES):
        return
    if scheme[1].lower() == "file":
        raise UnsupportedError(f"{text!r} is a URL: give the path itself, without 'file://'")
    raise UnsupportedError(
        f"{text!r}: stores at {scheme[1]}:// cannot be opened: copy it to a local disk and give that path"
    )


def _check_kind(path: str, known: Entry) -> None:
    """Refuse a folder named as a file and a file named as a folder; what does not exist may become either."""
    folder = bool(known.members)
    if (folder and known.magic) or not (folder or known.magic):
        return  # it may be either
    if os.path.isdir(path) if not folder else os.path.isfile(path):
        there, named = ("file", "folder") if folder else ("folder", "file")
        remedy = "move it away, or rename it to what it is"
        raise FormatError(f"{path!r} is a {there}, but its suffix names a {named} ({known.name}): {remedy}")


def _sniff(path: str) -> Entry:
    """What lies there under a name that does not say it."""
    try:
        found = _by_content(path)
        if found is None and not os.path.isdir(path):
            os.stat(path)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise StorageError(
            f"{path!r} cannot be read ({error.strerror or error}): check its permissions"
        ) from error
    if found is not None:
        return found
    if strange := not_stores.line(path):
        raise FormatError(strange)
    if not os.path.exists(path):
        raise ArgumentError(
            f"{path!r} does not exist: check the path; to make a store, use one of the suffixes {_known()}"
        )
    raise ArgumentError(
        f"{path!r} is not a store known by its content: check the path; `replaystore formats` lists what is "
        "read of other software"
    )
