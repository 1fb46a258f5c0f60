"""A file of other software is made and proved beside its place, and then gets its name.

1. Under the name is what was there before, or what was made and proved, and nothing else: whenever the
   process is killed.
2. It is made in a folder beside its place (`WorkingFolder`), under the name that it will have. What a killed
   process left there is removed by the next one that makes something of this name.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence

from replaystore.errors import ReplayStoreError
from replaystore.formats import finding
from replaystore.formats.format import Format
from replaystore.formats.shared.new_files import NewFiles, settle, unwritten
from replaystore.formats.shared.new_folder import NewFolder
from replaystore.location import Location
from replaystore.storage.places import LocalPlaces, places_of
from replaystore.storage.temporary import WorkingFolder, remove_abandoned, sync_folder

__all__ = ["between", "made_beside", "tidy"]


def tidy(target: object) -> None:
    """Remove what conversions to this place left that were killed."""
    if isinstance(target, Location):
        path = target.path if places_of(target).on_disk else None
    else:
        path = finding.local_path(target)
    if path:
        remove_abandoned(_real(path))


@contextlib.contextmanager
def between(path: str = "") -> Iterator[str]:
    """A folder for what becomes what will be at `path`, beside it; without a path, where temporary files lie.
    StorageError: it cannot be made."""
    path = _real(path) if path else os.path.join(tempfile.gettempdir(), "replaystore-converting")
    folder = WorkingFolder(path)
    with contextlib.ExitStack() as stack:
        try:
            LocalPlaces().make_room(path)
            made = stack.enter_context(folder)
        except OSError as error:
            raise unwritten(path, error) from error
        yield made


@contextlib.contextmanager
def made_beside(path: str, format_: Format, *, overwrite: bool) -> Iterator[str]:
    """Where to write what is to be at `path`; it is placed there when `with` is left without an exception.

    AlreadyExistsError: something is there, and is not to be replaced; StorageError."""
    written, real = format_.written(path), _real(path)
    settle(written)
    _check(written, overwrite=overwrite)
    with _storage(path):
        made = LocalPlaces().make_room(real)
    with between(path) as folder, _called(folder, os.path.dirname(_shown(path))):
        staged = os.path.join(folder, os.path.basename(_shown(path)))
        yield staged
        with _storage(path):
            _place(folder, os.path.dirname(_shown(path)), format_.written(staged), overwrite=overwrite)
            for below in made:
                sync_folder(os.path.dirname(below))


def _shown(path: str) -> str:
    """With a last part."""
    path = path.rstrip(os.sep) or path
    return os.path.abspath(path) if os.path.basename(path) in ("", ".", "..") else path


def _real(path: str) -> str:
    """What a link names."""
    path = _shown(path)
    return os.path.realpath(path) if os.path.islink(path) else path


def _check(paths: Sequence[str], *, overwrite: bool) -> None:
    """AlreadyExistsError: one is there, and is not to be replaced."""
    for path in paths:
        if os.path.isdir(path):
            NewFolder(path, overwrite=overwrite)
        else:
            NewFiles([path], overwrite=overwrite)


def _place(folder: str, where: str, written: Sequence[str], *, overwrite: bool) -> None:
    """Give what is in a folder its names: what the format did not speak of first, and the last one last."""
    order = {os.path.basename(path): at for at, path in enumerate(written)}
    names = sorted(os.listdir(folder), key=lambda name: (order.get(name, -1), name))
    files = [name for name in names if not os.path.isdir(os.path.join(folder, name))]
    for name in names:
        if name not in files:
            with NewFolder(os.path.join(where, name), overwrite=overwrite) as new:
                os.rename(os.path.join(folder, name), new.root)
    if files:
        made, places = ([os.path.join(at, name) for name in files] for at in (folder, where))
        with NewFiles(places, overwrite=overwrite, made=made):
            pass


@contextlib.contextmanager
def _storage(path: str) -> Iterator[None]:
    try:
        yield
    except ReplayStoreError:
        raise
    except OSError as error:
        raise unwritten(path, error) from error


@contextlib.contextmanager
def _called(folder: str, where: str) -> Iterator[None]:
    """Errors name what is made as it is going to be called."""
    before, after = os.path.join(folder, ""), os.path.join(where, "")
    try:
        yield
    except (ReplayStoreError, OSError) as error:
        error.args = tuple(
            part.replace(before, after) if isinstance(part, str) else part for part in error.args
        )
        if isinstance(error, OSError) and isinstance(error.filename, str):
            error.filename = error.filename.replace(before, after)
        raise
