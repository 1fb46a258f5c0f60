"""What a server says that something is wrong with: the same errors as here."""

from __future__ import annotations

import errno
import json

from replaystore import errors
from replaystore.errors import ReplayStoreError, StorageError

__all__ = ["error_of"]

_KNOWN = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, ReplayStoreError) and kind is not ReplayStoreError
}
FULL = 507
LONGEST = 2000
"""Characters of a message."""


def error_of(status: int, body: bytes, where: str) -> ReplayStoreError | None:
    """The error that an answer tells of, about what is `where`; None: it is none of ours that can be
    raised."""
    try:
        told = json.loads(body)
        kind, message = _KNOWN[told["error"]], str(told["message"])[:LONGEST]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    said = f"{where}: {message}"
    if issubclass(kind, StorageError):
        return kind(said, errno.ENOSPC if status == FULL else None)
    return kind(said)
