"""Files that appear under their names when they are complete and durable: all of them, or none."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import BinaryIO, Self

from replaystore.errors import AlreadyExistsError, ReplayStoreError, StorageError

__all__ = ["NewFiles"]


class NewFiles:
    """New files, in `files` while they are written; leaving `with` without an exception puts them in place, otherwise nothing changes.

    Of several the first appears first: whoever finds the last one finds all. What a symbolic link names is replaced, and not the link.
    AlreadyExistsError: one is there, and is not to be replaced; StorageError.
    """

    def __init__(self, paths: Sequence[str], *, overwrite: bool) -> None:
        self.files: list[BinaryIO] = []
        for path in paths:
            if os.path.lexists(path) and not overwrite:
                raise AlreadyExistsError(f"{path} exists: choose another name, or pass overwrite=True (--overwrite)")
            if os.path.isdir(path):
                raise AlreadyExistsError(f"{path} is a folder: choose another name")
            if os.path.exists(path) and not os.path.isfile(path):
                raise AlreadyExistsError(f"{path} is no regular file, and is not replaced: choose another name")
        self.paths = [os.path.realpath(path) if os.path.islink(path) else path for path in paths]

    def __enter__(self) -> Self:
        with self._storage():
            try:
                for path in self.paths:
                    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
                    self.files.append(open(path + ".partial", "wb"))  # closed by __exit__
            except OSError:
                self._discard()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._discard()
            if isinstance(error, OSError) and not isinstance(error, ReplayStoreError):
                raise self._error(error) from error
            return
        with self._storage():
            try:
                for file in self.files:
                    file.flush()
                    os.fsync(file.fileno())
                    file.close()
                self._place()
            except OSError:
                self._discard()
                raise

    def _place(self) -> None:
        """Old files go, the last one first, so that a kill leaves no old file beside a new one under the names."""
        old = [path for path in reversed(self.paths) if os.path.lexists(path)] if len(self.paths) > 1 else []
        moved: list[str] = []
        placed: list[str] = []
        try:
            for path in old:
                os.rename(path, path + ".old")
                moved.append(path)
            for path in self.paths:
                os.replace(path + ".partial", path)
                placed.append(path)
        except OSError:
            for path in placed:
                os.unlink(path)
            for path in reversed(moved):
                os.rename(path + ".old", path)
            raise
        for path in moved:
            os.unlink(path + ".old")
        for folder in {os.path.dirname(path) or "." for path in self.paths}:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _discard(self) -> None:
        for file in self.files:
            with contextlib.suppress(OSError):  # what cannot be flushed is given up
                file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> StorageError:
        reason = error.strerror or error
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "a folder in its path is a file"
        advice = (
            "make room, or choose another disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose a place that can be written to"
        )
        return StorageError(f"{' and '.join(self.paths)} cannot be written: {reason}; {advice}", error.errno)
