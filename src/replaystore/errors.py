"""What can go wrong, grouped by what a caller would do about it.

    ReplayStoreError
    ├ NotFoundError (also a FileNotFoundError)        nothing there: check the path, field, commit or name
    ├ AlreadyExistsError (also a FileExistsError)     choose another name, or remove what is there
    ├ SchemaError (also a ValueError)                 the data do not fit the schema
    │ ├ ArgumentError                                 an argument is wrong: the message says what it may be
    │ └ UnknownFieldError (also a KeyError)           there is no such field, column or key: the message lists
                                                      those there are
    ├ FormatError                                     the file is not what it should be
    │ ├ FormatVersionError                            written by a newer replaystore: upgrade
    │ └ CorruptError                                  damaged: `replaystore verify`, `replaystore repair`
    │   └ ProofError                                  what was written is not what was to be kept: nothing is
                                                      left of it; `--no-proof`
    ├ UnsupportedError (also a NotImplementedError)   cannot be done in this way; the message names one that
                                                      can
    ├ ConflictError                                   another writer, or the store changed under a reader:
                                                      reopen
    ├ StorageError (also an OSError)                  the disk refused: full, read-only, failing
    ├ EvictedError (also an IndexError)               the rows have left the ring: refresh
    ├ MissingDependencyError (also an ImportError)    install the named extra
    └ PluginError                                     another package's storage, container or format cannot
                                                      be used: upgrade or uninstall it

Every message says what was wrong, where (file, field, row), and what to do.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "ArgumentError",
    "ConflictError",
    "CorruptError",
    "EvictedError",
    "FormatError",
    "FormatVersionError",
    "MissingDependencyError",
    "NotFoundError",
    "PluginError",
    "ProofError",
    "ReplayStoreError",
    "ReplayStoreWarning",
    "SchemaError",
    "StorageError",
    "UnknownFieldError",
    "UnsupportedError",
]


class ReplayStoreError(Exception):
    """The root of all errors of this package."""


class NotFoundError(ReplayStoreError, FileNotFoundError):
    """There is nothing under this path, field, commit or name."""

    __str__ = Exception.__str__  # OSError would print an errno tuple


class AlreadyExistsError(ReplayStoreError, FileExistsError):
    """Something is already there, and it is not replaced unasked."""

    __str__ = Exception.__str__


class SchemaError(ReplayStoreError, ValueError):
    """Data do not fit: a wrong shape or dtype, a missing or unknown field."""


class ArgumentError(SchemaError):
    """An argument is none that there can be: a mode, a capacity, a location, a setting of a sampler."""


class UnknownFieldError(SchemaError, KeyError):
    """There is no field, column or key of this name; the message lists those there are."""

    __str__ = Exception.__str__  # KeyError would print it as a string in quotes


class FormatError(ReplayStoreError):
    """The file is not of the format it was taken for."""


class FormatVersionError(FormatError):
    """The file is of a newer major version of the format than this library reads."""


class CorruptError(FormatError):
    """Stored bytes are missing or changed."""


class ProofError(CorruptError):
    """What a conversion has made does not hold what its report says."""


class UnsupportedError(ReplayStoreError, NotImplementedError):
    """This cannot be done, or not in this way."""


class ConflictError(ReplayStoreError):
    """Somebody else holds or changed the store."""


class StorageError(ReplayStoreError, OSError):
    """The operating system refused to read or write. `errno` says why, where it is known."""

    __str__ = Exception.__str__

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class EvictedError(ReplayStoreError, IndexError):
    """These rows have left the ring."""


class MissingDependencyError(ReplayStoreError, ImportError):
    """An optional package is not installed."""


class PluginError(ReplayStoreError):
    """What another package has registered cannot be used, or failed; the message names it."""


class ReplayStoreWarning(UserWarning):
    """Something unexpected that does not stop the work."""
