"""Files that appear under their names when they are complete and durable: all of them, or none.

One file replaces another at once. Several cannot, and yet nobody may find some of them old and some new: the
new ones get names that end in `.replaystore-new`, the last one last. From then on they count, and are given
their own names, while the old ones are aside as `.replaystore-old`, so that other software finds either what
belongs together or not all of it. Whoever comes upon such names (`settle`) completes that, or takes it back;
a process may be killed at any moment.

    new files       name of the last     who counts
    no last one     is there             the old ones; others of these names are left over
    the last one    is there or not      the new ones
    no last one     is not there         the old ones that are aside
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, Self

from replaystore.errors import AlreadyExistsError, ReplayStoreError, StorageError
from replaystore.location import Location
from replaystore.registry import PLAIN
from replaystore.storage.places import LocalPlaces
from replaystore.storage.temporary import NewFile, sync_folder

__all__ = ["NewFiles", "held", "listed", "replacing", "settle", "unwritten"]

NEW, OLD = ".replaystore-new", ".replaystore-old"


class NewFiles:
    """New files, in `files` while they are written; leaving `with` without an exception puts them in place,
    otherwise nothing changes.

    What a symbolic link names is replaced, and not the link. Of two who write at the same time, the last
    one's files stay. `made`: files that are complete, in a `WorkingFolder`, and only need their names.
    AlreadyExistsError: one is there, and is not to be replaced; StorageError.
    """

    def __init__(self, paths: Sequence[str], *, overwrite: bool, made: Sequence[str] = ()) -> None:
        self._new: list[NewFile] = []
        self._made = made or [""] * len(paths)
        self._overwrite = overwrite
        for path in paths:
            if os.path.lexists(path) and not overwrite:
                raise _exists(path)
            try:
                mode = os.stat(path).st_mode
            except OSError:  # nothing is there, or another saver has just taken it away
                continue
            if stat.S_ISDIR(mode):
                raise AlreadyExistsError(f"{path} is a folder: choose another name")
            if not stat.S_ISREG(mode):
                raise AlreadyExistsError(
                    f"{path} is no regular file, and is not replaced: choose another name"
                )
        self.paths = _real(paths)

    @property
    def files(self) -> list[IO[bytes]]:
        """To be written to, in the order of the paths."""
        return [new.file for new in self._new]

    def __enter__(self) -> Self:
        with self._storage():
            for path, made in zip(self.paths, self._made, strict=True):
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
                self._new.append(NewFile(path, made))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._fail(error)
            return
        with self._storage():
            for new in self._new:
                new.sync()
            if len(self._new) > 1:
                self._place()
                return
            try:
                self._new[0].put(replace=self._overwrite)
            except FileExistsError:
                raise _exists(self.paths[0]) from None
            sync_folder(os.path.dirname(self.paths[0]))

    def _place(self) -> None:
        with held(self.paths):
            _settle(self.paths)
            found = [path for path in self.paths if os.path.lexists(path)]
            if found and not self._overwrite:
                raise _exists(found[0])
            try:
                for new in self._new[:-1]:
                    new.put(new.path + NEW)
                # The last one says that the others are there: after a power cut, too.
                _sync_folders(self.paths)
                self._new[-1].put(self.paths[-1] + NEW)
                _sync_folders(self.paths[-1:])
            except BaseException:
                _remove(path + NEW for path in reversed(self.paths))
                raise
            try:
                _complete(self.paths)
            except OSError:
                _take_back(self.paths, found)
                raise

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Leave nothing behind. StorageError: it is one of the system."""
        for new in self._new:
            new.discard()
        if isinstance(error, OSError) and not isinstance(error, ReplayStoreError):
            raise unwritten(" and ".join(self.paths), error) from error


def unwritten(where: str, error: OSError) -> StorageError:
    """That something cannot be written, why, and what to do."""
    reason = error.strerror or error
    if isinstance(error, FileExistsError | NotADirectoryError):
        reason = "a folder in its path is a file"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "make room, or choose another disk" if full else "choose a place that can be written to"
    return StorageError(f"{where} cannot be written: {reason}; {advice}", error.errno)


def replacing(last: str) -> bool:
    """Whether somebody replaces files of which this is the last one, or was killed in between."""
    (last,) = _real([last])
    return os.path.lexists(last + NEW) or (os.path.lexists(last + OLD) and not os.path.lexists(last))


def listed(folder: str) -> set[str]:
    """The names of what is in a folder, those too that somebody has just taken to give them to new files."""
    return {name.removesuffix(NEW).removesuffix(OLD) for name in os.listdir(folder)}


def settle(paths: Sequence[str]) -> None:
    """Complete what a killed process left between its renames. StorageError: that cannot be done here."""
    if not replacing(paths[-1]):
        return
    try:
        with held(paths):
            _settle(_real(paths))
    except OSError as error:
        names = " and ".join(path + NEW for path in paths)
        raise StorageError(
            f"{' and '.join(paths)} were being replaced when a process was killed, and that cannot be "
            "completed here "
            f"({error.strerror or error}): open them where they can be written to (the new ones are "
            f"{names}, where these are there)",
            error.errno,
        ) from error


@contextlib.contextmanager
def held(paths: Sequence[str]) -> Iterator[None]:
    """Nobody else replaces these files meanwhile; on a file system without locks, and where nothing can be
    written, they may."""
    lock = None
    with contextlib.suppress(StorageError):
        lock = LocalPlaces().lock_place(Location(PLAIN, "", *_real(paths[:1])), wait=True)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _real(paths: Sequence[str]) -> list[str]:
    return [os.path.realpath(path) if os.path.islink(path) else path for path in paths]


def _settle(paths: Sequence[str]) -> None:
    *_, last = paths
    if os.path.lexists(last + NEW):
        _complete(paths)
    elif replacing(last):
        _restore(paths)
    else:
        _remove(path + suffix for path in paths for suffix in (NEW, OLD))


def _complete(paths: Sequence[str]) -> None:
    """Give the new ones their names. It may be interrupted and begun again at any point."""
    *others, last = paths
    if os.path.lexists(last):
        os.rename(last, last + OLD)
    for path in others:
        if os.path.lexists(path + NEW):
            if os.path.lexists(path):
                os.rename(path, path + OLD)
            os.replace(path + NEW, path)
    _sync_folders(paths)
    os.replace(last + NEW, last)
    _sync_folders(paths)
    with contextlib.suppress(OSError):  # left over
        _remove(path + OLD for path in reversed(paths))


def _take_back(paths: Sequence[str], found: Sequence[str]) -> None:
    """Have the old ones, those that were found, again; what cannot be done is left to whoever comes next."""
    *others, last = paths
    with contextlib.suppress(OSError):
        _remove([last + NEW])
        if last not in found or os.path.lexists(last + OLD):
            _remove([last])
        _remove(path for path in others if path not in found and not os.path.lexists(path + NEW))
        _restore(paths)
        _remove(path + NEW for path in others)


def _restore(paths: Sequence[str]) -> None:
    for path in paths:
        if os.path.lexists(path + OLD):
            os.rename(path + OLD, path)
    _sync_folders(paths)


def _remove(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _sync_folders(paths: Sequence[str]) -> None:
    for folder in {os.path.dirname(path) for path in paths}:
        sync_folder(folder)


def _exists(path: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"{path} exists: choose another name, or pass overwrite=True (--overwrite)")
