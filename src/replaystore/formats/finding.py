"""Which format a file has. What the user named comes first, then content, then suffixes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

from replaystore import registry
from replaystore.errors import PluginError, ReplayStoreError
from replaystore.formats.format import Format
from replaystore.location import expanded, names_store
from replaystore.registry.recognizing import recognizes

__all__ = ["Way", "able", "find", "find_target", "local_path", "named"]

Way = Literal["reads", "writes"]
"""What a format can do, as `Format` calls it."""


def named(name: str, way: Way | None = None) -> Format:
    """The format of this name. SchemaError: there is none, and the message lists those there are; if it is
    known what it is wanted for, those that can do that."""
    if way is not None and name not in {**registry.registered("formats"), **registry.broken("formats")}:
        raise registry.unknown("formats", name, able(way))
    found = registry.load("formats", name)
    if isinstance(found, type) and issubclass(found, Format):
        found = found()
    if not isinstance(found, Format):
        raise PluginError(
            f"the format {name!r} is no replaystore.formats.Format: upgrade the package it is of"
        )
    return found


def able(way: Way) -> list[str]:
    """The names of the formats that can be read, or written; of one that lacks something that is not known,
    and it is among them."""
    return [name for name in registry.registered("formats") if _is_able(name, way)]


def _is_able(name: str, way: Way) -> bool:
    try:
        return bool(getattr(named(name), way)())
    except ReplayStoreError:
        return True


def find(location: object) -> str | None:
    """The name of the format whose file lies there; None: a store, or nothing that is known.

    Content comes before suffixes, and suffixes of stores before those of formats."""
    path = local_path(location)
    if path is None:
        return None
    for entry in _content(path):
        if recognizes(entry.name, path):
            return entry.name
    if names_store(path):
        return None
    by_suffix = list(registry.by_suffix("formats", path))
    for entry in by_suffix:
        if len(by_suffix) == 1 or recognizes(entry.name, path):
            return entry.name
    if by_suffix and not os.path.isfile(path):
        return by_suffix[0].name
    if by_suffix:  # it is none of them: of ours, the one for anything says best what is wrong
        return [entry for entry in by_suffix if entry.package == by_suffix[0].package][-1].name
    if not os.path.exists(path) or next(registry.by_content("containers", path), None) is not None:
        return None
    return next((name for name in registry.registered("formats") if recognizes(name, path)), None)


def find_target(location: object) -> str | None:
    """The name of the format that a new file there is to have; None: it is to be a store.

    Its suffix decides. A folder that holds a file of a format is named for it, so that it can be refused."""
    path = local_path(location)
    if path is None or names_store(path):
        return None
    entry = next(registry.by_suffix("formats", path), None)
    if entry is not None:
        return entry.name
    return find(path) if os.path.isdir(path) else None


def local_path(location: object) -> str | None:
    """A path to something that may be a file of other software; None: it is none."""
    if not isinstance(location, str | os.PathLike):
        return None
    path = os.fspath(expanded(location))
    if not isinstance(path, str) or "\0" in path or registry.by_scheme(path) is not None:
        return None
    return path


def _content(path: str) -> Iterator[registry.Entry]:
    try:
        yield from registry.by_content("formats", path)
    except OSError:  # whoever opens it says so
        return
