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

from replaystore.containers.hdf5.directory import Directory, Notes, room_for
from replaystore.containers.hdf5.front import DIRECTORY, USERBLOCK, Slot
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.states import Version
from replaystore.containers.hdf5.transaction import TransactionFile
from replaystore.errors import CorruptError, ReplayStoreError, StorageError
from replaystore.interrupts import signals_wait
from replaystore.schema.tree import LOG

__all__ = [
    "ALIGNMENT",
    "LIBVER",
    "Hdf5File",
    "child",
    "group",
    "library",
    "make_room",
    "origins",
    "remove",
    "text_attribute",
]

ALIGNMENT = 4096
"""Rows lie on pages, so that they can be mapped."""
DATASET = "directory"
"""The name of the directory's bytes, beside the segments of the log."""
LIBVER = ("v110", "v110")
"""What HDF5 1.10 and everything later reads; files of "latest" are not."""

Result = TypeVar("Result")


class Hdf5File(TransactionFile):
    """A transaction file, as HDF5 sees it."""

    survey: Callable[[Any], Notes]
    """All that a directory says of a file, found by the library."""
    keeps = False
    """What the front says is kept until it is looked at again: each look is a request."""

    def directory(self) -> Directory | None:
        """What there is to be known without the library as of the last look; None: nothing, or the library
        is as quick."""
        return None

    def look(self, action: Callable[[Any, Overlay], Result]) -> tuple[Result, Version]:
        """What `action` finds in a consistent state of the file, and the version of that state."""

        def read(overlay: Overlay) -> Result:
            with library(self.path, overlay, "r") as file:
                return action(file, overlay)

        return self.read(read)

    def change(self, action: Callable[[Any, Overlay], Result], *, aligned: bool = True) -> Result:
        """One transaction: all that `action` does, or nothing."""
        overlay, slot = self.begin(), self._slot()
        with library(self.path, overlay, "r+", aligned=aligned) as file:
            # Of a new file, which is empty, all is soon said; what comes next is added as ever.
            new = b"" if self.transactions else self._surveyed(file)
            result = action(file, overlay)
            if not overlay.cancelled:
                self._write_directory(file, overlay, slot, new)
        if not overlay.cancelled:
            self.commit(overlay)
        return result

    def _write_directory(self, file: Any, overlay: Overlay, slot: Slot | None, new: bytes) -> None:
        """Bring the directory to what the file is after this transaction. `new`: what was to be said of a new
        file before it."""
        record = overlay.notes.record() if slot is not None or new else b""
        if slot is None or slot.used + len(record) > slot.room:
            said = overlay.read_at(slot.offset, slot.used) if slot is not None else new
            record = (_rewritten(said + record) if said else b"") or self._surveyed(file)
            if not record:
                return
            slot = Slot(0, *make_room(file, DATASET, room_for(record)), 0)
        if record:
            overlay.direct.append((slot.offset + slot.used, record))
        written = Slot(self.transactions + 1, slot.offset, slot.room, slot.used + len(record))
        overlay.front[DIRECTORY] = written.pack()

    def forget_directory(self) -> None:
        """Let the next transaction write the directory anew."""
        self.files.write(self.name, DIRECTORY, bytes(Slot.SIZE))

    def _surveyed(self, file: Any) -> bytes:
        """A directory, written anew from what the library finds; empty: it cannot tell."""
        try:
            return self.survey(file).record(whole=True)
        except Exception:  # noqa: BLE001  # damage is for whoever needs what is damaged, and for `verify`
            return b""

    def _slot(self) -> Slot | None:
        """Where the directory lies; None: there is none, or older software has written to the file since."""
        found = Slot.unpack(self.files.read(self.name, DIRECTORY, Slot.SIZE), 0)
        return found if found is not None and found.sequence == self.transactions else None


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


def _rewritten(data: bytes) -> bytes:
    """The records of a directory as one; empty: they are damaged."""
    known = Directory()
    try:
        known.apply(data)
        return known.notes().record(whole=True)
    except CorruptError:
        return b""


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


def make_room(file: Any, name: str, length: int) -> tuple[int, int]:
    """Bytes beside the log, in place of what has their name, that are not written to yet: (offset,
    length)."""
    owner = group(file, LOG, make=True)
    remove(owner, name)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    made = h5py.h5d.create(owner, name.encode(), h5py.h5t.STD_U8LE, h5py.h5s.create_simple((length,)), plist)
    return made.get_offset() + origins().contiguous, length


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
