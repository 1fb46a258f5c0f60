"""The only way to the HDF5 library: reading a consistent state of a file, changing it in one transaction,
finding objects by hard links.

Only plain things count: objects reached by hard links whose bytes lie in this file. Soft and external links,
external storage and virtual datasets can make a reader open other files; they are never followed.
"""

from __future__ import annotations

import functools
import io
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import h5py  # type: ignore[import-untyped]
import numpy as np

from replaystore.containers.hdf5.front import USERBLOCK
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.states import Version
from replaystore.containers.hdf5.transaction import TransactionFile
from replaystore.errors import CorruptError, ReplayStoreError, StorageError
from replaystore.interrupts import signals_wait

__all__ = [
    "ALIGNMENT",
    "LIBVER",
    "Hdf5File",
    "child",
    "group",
    "library",
    "origins",
    "remove",
    "text_attribute",
]

ALIGNMENT = 4096
"""Rows lie on pages, so that they can be mapped."""
LIBVER = ("v110", "v110")
"""What HDF5 1.10 and everything later reads; files of "latest" are not."""

Result = TypeVar("Result")


class Hdf5File(TransactionFile):
    """A transaction file, as HDF5 sees it."""

    def look(self, action: Callable[[Any, Overlay], Result]) -> tuple[Result, Version]:
        """What `action` finds in a consistent state of the file, and the version of that state."""

        def read(overlay: Overlay) -> Result:
            with library(self.path, overlay, "r") as file:
                return action(file, overlay)

        return self.read(read)

    def change(self, action: Callable[[Any, Overlay], Result], *, aligned: bool = True) -> Result:
        """One transaction: all that `action` does, or nothing."""
        overlay = self.begin()
        with library(self.path, overlay, "r+", aligned=aligned) as file:
            result = action(file, overlay)
        if not overlay.cancelled:
            self.commit(overlay)
        return result


@contextmanager
def library(path: str, overlay: Overlay, mode: str, *, aligned: bool = True, **options: Any) -> Iterator[Any]:
    """The library's view of an overlay, opened with these options. CorruptError: it cannot make sense of
    it."""
    options |= dict.fromkeys(("alignment_threshold", "alignment_interval"), ALIGNMENT if aligned else 1)
    try:
        with signals_wait(), h5py.File(overlay, mode, libver=LIBVER, **options) as file:
            yield file
    except BaseException as error:  # h5py raises nearly every exception that there is
        # A frame that somebody keeps with the error keeps HDF5's settings for `overlay`, too, and if those
        # are there still when the interpreter has ended, the library's own ending calls it, which is the end
        # of the process.
        traceback.clear_frames(error.__traceback__)
        if not isinstance(error, Exception):
            raise
        if overlay.failure is None:
            if isinstance(error, CorruptError):
                raise CorruptError(f"{path}: {error}") from error
            if isinstance(error, MemoryError):
                raise StorageError(
                    f"{path}: there is not enough memory to read what it says of itself; run "
                    "`replaystore verify`"
                ) from None
            if isinstance(error, ReplayStoreError):
                raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CorruptError(
                f"{path}: HDF5 cannot read it ({reason[0]}); run `replaystore verify`"
            ) from error
    if overlay.failure is not None:
        raise overlay.failure


# --- links


def child(owner: Any, name: str) -> Any:
    """The object that a hard link of a group names; None: there is none."""
    key = name.encode()
    try:
        hard = owner.links.get_info(key).type == h5py.h5l.TYPE_HARD
    except (KeyError, RuntimeError):
        if key in owner:
            raise
        return None
    return h5py.h5o.open(owner, key) if hard else None


def group(file: Any, path: str, *, make: bool = False) -> Any:
    """A group, reached by hard links alone. CorruptError: it is not there."""
    found = file.id
    for part in path.split("/") if path else ():
        owner, found = found, child(found, part)
        if found is None and make:
            remove(owner, part)
            found = h5py.h5g.create(owner, part.encode())
        if not isinstance(found, h5py.h5g.GroupID):
            raise CorruptError(f"the group {path} is missing; run `replaystore verify`")
    return found


def remove(owner: Any, name: str) -> None:
    """Remove a link of a group, of any kind; no error if it is not there."""
    if name.encode() in owner:
        owner.unlink(name.encode())


def text_attribute(owner: Any, name: str, limit: int) -> str:
    """A scalar string attribute of fixed length, read only if it is one: an attribute may declare any type
    and size."""
    attribute = h5py.h5a.open(owner, name.encode())
    kind = attribute.get_type()
    if (
        attribute.shape != ()
        or not isinstance(kind, h5py.h5t.TypeStringID)
        or kind.is_variable_str()
        or kind.get_size() > limit
    ):
        raise CorruptError(
            f"the attribute `{name}` is not a string of fixed length; run `replaystore verify`"
        )
    value = np.empty((), f"S{kind.get_size()}")
    attribute.read(value)
    return bytes(value[()]).decode()


# --- addresses


@dataclass(frozen=True)
class Origins:
    """What is to be added to addresses that the library reports, to count from the first byte of the file."""

    iterated: int
    asked: int
    contiguous: int


@functools.cache
def origins() -> Origins:
    """Some versions of the library leave out the user block, and not in every call; a small file shows it."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", userblock_size=512, libver=LIBVER) as file:
        chunked = file.create_dataset(
            "chunked", data=np.arange(100, dtype=np.uint8), chunks=(100,), maxshape=(None,)
        ).id
        whole = file.create_dataset("whole", data=np.arange(100, 200, dtype=np.uint8)).id
        file.flush()
        found: list[Any] = []
        chunked.chunk_iter(found.append)
        reported = found[0].byte_offset, chunked.get_chunk_info_by_coord((0,)).byte_offset, whole.get_offset()
    data = memory.getvalue()
    true = [data.find(bytes(range(first, first + 100))) for first in (0, 0, 100)]
    return Origins(*(USERBLOCK * (place != report) for place, report in zip(true, reported, strict=True)))
