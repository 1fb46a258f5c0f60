"""What is refused, and the status that says so: one table for all errors of the library, and one error for
what concerns HTTP alone.

    400 401 403 404 405 406 408 413 416    the request: RefusedError says which
    404   NotFoundError, FormatError       nothing there, or no store
    409   ConflictError, AlreadyExistsError
    410   EvictedError                     it was there
    422   SchemaError, UnsupportedError    it does not fit, or cannot be done
    500   CorruptError, PluginError        the store is damaged, or what was plugged in fails
    501   FormatVersionError, MissingDependencyError
    503   StorageError                     the disk fails
    507   StorageError                     the disk is full
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from replaystore.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptError,
    EvictedError,
    FormatError,
    FormatVersionError,
    MissingDependencyError,
    NotFoundError,
    PluginError,
    ReplayStoreError,
    SchemaError,
    StorageError,
    UnsupportedError,
)

__all__ = ["RefusedError", "status_of"]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
STATUS: tuple[tuple[type[ReplayStoreError], int], ...] = (
    (NotFoundError, 404),
    (AlreadyExistsError, 409),
    (ConflictError, 409),
    (EvictedError, 410),
    (SchemaError, 422),
    (UnsupportedError, 422),
    (FormatVersionError, 501),
    (MissingDependencyError, 501),
    (CorruptError, 500),
    (FormatError, 404),
    (PluginError, 500),
    (StorageError, 503),
)
"""The first that fits."""


class RefusedError(ReplayStoreError):
    """A request is refused, with this status."""

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        kind: str = "RefusedError",
    ) -> None:
        """`kind`: what the error is called in the answer."""
        super().__init__(message)
        self.status, self.headers, self.kind = status, dict(headers or {}), kind


def status_of(error: ReplayStoreError) -> int:
    """The status that an error is answered with."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, StorageError) and error.errno in FULL:
        return 507
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)
