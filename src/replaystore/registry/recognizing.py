"""Which format a file or folder of other software has, as the code of the formats themselves finds: what a
message says of something that is no store.

1. Asked are those that its content or suffix fits, in their order; they are imported for that.
2. Of a format that lacks a package, or is a plug-in that fails, nothing can be said: it is passed over.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import Any

from replaystore import registry
from replaystore.errors import CorruptError, MissingDependencyError, ReplayStoreError
from replaystore.registry.entry import Entry

__all__ = ["around", "readable", "recognizes", "refusal"]

LEVELS = 4
"""So many folders above something may be those of the dataset that it is a part of."""


def recognizes(name: str, path: str) -> bool:
    """Whether a file is of the format of this name."""
    try:
        return bool(_loaded(name).recognizes(path))
    except ReplayStoreError:
        return False
    except Exception:
        if registry.entry("formats", name).package == "replaystore":
            raise
        return False


def readable(path: str) -> Entry | None:
    """The format that can read what lies there. OSError: it cannot be looked at."""
    return next((known for known in registry.find("formats", path) if _reads(known, path)), None)


def _reads(known: Entry, path: str) -> bool:
    return recognizes(known.name, path) and _loaded(known.name).reads() and _error(known, path) is None


def refusal(path: str) -> ReplayStoreError | None:
    """Why those that it seems to be of cannot read something: the error of the one that fits, or that it is
    damaged, or that a package is missing. None: it may be anything. OSError."""
    found = (_error(known, path) for known in registry.find("formats", path))
    errors = [error for error in found if error is not None]
    for kind in (CorruptError, MissingDependencyError):
        for error in errors:
            if isinstance(error, kind):
                return error
    alike = len(errors) == 1 or (os.path.isfile(path) and len({str(error) for error in errors}) == 1)
    return errors[0] if alike else None


def _error(known: Entry, path: str) -> ReplayStoreError | None:
    """Why a format cannot read something; None: it can, or it is a plug-in that fails."""
    try:
        format_ = _loaded(known.name)
        if not format_.reads():
            return None
        with format_.read(path):
            return None
    except ReplayStoreError as error:
        return error
    except Exception:
        if known.package == "replaystore":
            raise
        return None


def around(path: str) -> tuple[str, Entry] | None:
    """The folder of the whole dataset that something is a part of, and the format of it."""
    found, above = None, os.path.abspath(path)
    for _ in range(LEVELS):
        above, member = os.path.split(above)
        known = _dataset(above, member)
        found = found if known is None else (above, known)
    return found if found is None or os.path.isabs(path) else (os.path.relpath(found[0]), found[1])


def _dataset(folder: str, member: str) -> Entry | None:
    """The format of datasets in folders that a folder with such a member is of."""
    try:
        fitting = list(registry.by_content("formats", folder))
    except OSError:  # it says nothing of what lies in it
        return None
    for known in fitting:
        if recognizes(known.name, folder):
            format_ = _loaded(known.name)
            if format_.folder and _holds(format_.holds, member):
                return known
    return None


def _holds(patterns: tuple[str, ...], member: str) -> bool:
    return not patterns or any(fnmatchcase(member, pattern) for pattern in patterns)


def _loaded(name: str) -> Any:
    found = registry.load("formats", name)
    return found() if isinstance(found, type) else found
