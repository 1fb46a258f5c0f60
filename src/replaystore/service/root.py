"""The folder that is served: stores by their paths below it.

Invariants:
1. No path leads out of the root, and no link is followed on the way: `..`, hidden names and links name
   nothing.
2. A store is named by its suffix, which no folder on the way to it has: where a path ends is known without
   looking.
3. What is told to others names places by their paths below the root.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from replaystore import registry
from replaystore.errors import NotFoundError, StorageError
from replaystore.location import Location, parse

__all__ = ["STORE", "Root", "has_suffix"]

LONGEST = 1024
"""Characters of a path."""


def _suffixes() -> tuple[str, ...]:
    """Those of stores in the file system."""
    found = [*registry.registered("containers").values(), *registry.registered("storage").values()]
    return tuple(sorted({suffix.lower() for known in found for suffix in known.suffixes}))


_SUFFIXES = _suffixes()
STORE = rf"(?:[^/@]+/)*?[^/@]+?(?i:{'|'.join(map(re.escape, _SUFFIXES))})"
"""What the path of a store looks like."""


def has_suffix(name: str) -> bool:
    """Whether a name is that of a store."""
    return name.lower().endswith(_SUFFIXES) and name.lower() not in _SUFFIXES


class Root:
    """The stores below a folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """NotFoundError: there is no such folder."""
        given = os.fspath(folder)
        if not os.path.isdir(given):
            raise NotFoundError(f"{given} is no folder: make it, or give another one to serve")
        self.folder = os.path.realpath(given)

    def hide(self, text: str) -> str:
        """A message without where the root is."""
        return text if self.folder == "/" else text.replace(self.folder + "/", "").replace(self.folder, ".")

    def path(self, store: str) -> str:
        """Where a store of this path lies, or would. NotFoundError: none can."""
        *folders, name = store.split("/")
        wrong = any(
            not part
            or part[0] == "."
            or set(part) & {"\0", "\\", "@"}
            or len(part.encode("utf-8", "replace")) > 255
            for part in (*folders, name)
        )
        if wrong or len(store) > LONGEST or not has_suffix(name) or any(map(has_suffix, folders)):
            raise _none(store)
        path, parts = self.folder, (*folders, name)
        for depth, part in enumerate(parts, start=1):
            path = os.path.join(path, part)
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise _none(store) from error
            if stat.S_ISLNK(mode) or (depth < len(parts) and not stat.S_ISDIR(mode)):
                raise _none(store)
        return path

    def place(self, store: str) -> Location:
        """A store that there is. NotFoundError: there is none."""
        path = self.path(store)
        if not os.path.lexists(path):
            raise _none(store)
        return parse(path)

    def exists(self, store: str) -> bool:
        """Whether anything has this path. NotFoundError: nothing can."""
        return os.path.lexists(self.path(store))

    def stores(self) -> Iterator[str]:
        """The paths of what looks like a store, sorted."""
        yield from self._below("")

    def _below(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(os.path.join(self.folder, folder)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(
                f"{folder or 'the root'} cannot be read ({error.strerror}): check its permissions",
                error.errno,
            ) from error
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name[0] == "." or entry.is_symlink() or set(entry.name) & {"\\", "@"}:
                continue
            if has_suffix(entry.name):
                yield path
            elif entry.is_dir(follow_symlinks=False):
                yield from self._below(path)


def _none(store: str) -> NotFoundError:
    return NotFoundError(f"there is no store {store!r:.200}: GET /v1/stores lists those there are")
