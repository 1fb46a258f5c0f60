"""The commit log of a Zarr folder, a file for each segment, and what of the files is not durable yet.

The files lie in the folder of an empty array, where no Zarr reader looks. Where the folder can be listed, its
files are the segments there are; elsewhere the file that names them says so (segments.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import cast

from replaystore.containers.checks import as_number
from replaystore.containers.records import segment_end
from replaystore.containers.zarr.named_log import NamedLog
from replaystore.containers.zarr.segments import MOST_NAMES, SEGMENTS, Named, named_by, store_of
from replaystore.errors import CorruptError, UnsupportedError
from replaystore.schema.tree import LOG
from replaystore.storage.protocol import Reads, Storage, Writes

__all__ = ["LoggedFiles"]


LOOKS = 16
"""How often it is looked again while a writer goes on."""


class LoggedFiles:
    """Files with a commit log among them."""

    metadata_name = ""

    def __init__(self, files: Reads, *, writable: bool) -> None:
        if writable and not isinstance(files, Writes):
            raise UnsupportedError(f"{files.path('')} can only be read: open it with mode='r'")
        self.files = cast("Storage", files)
        self.path = files.path("")
        self.writable = writable
        self._dirty: dict[str, None] = {}
        self._folders: dict[str, None] = {}
        self._segment: tuple[str, int] | None = None
        self._made: set[str] = set()
        self._ends: dict[str, int] = {}
        self._store = ""
        """The name of the store, if it is known to whoever writes."""
        self._named = None if files.lists else NamedLog(files, self.metadata_name)

    @property
    def watched(self) -> Sequence[tuple[str, int, int]]:
        return () if self._named is None else self._named.watched

    def segments(self) -> list[int]:
        return self._listed() if self._named is None else self._named.segments()

    def _listed(self) -> list[int]:
        return sorted(number for name in self.files.list(LOG) if (number := as_number(name)) is not None)

    def begin_segment(self, commit: int, record: bytes) -> None:
        name, first = f"{LOG}/{commit}", self._segment is None
        self._store = self._store or store_of(record)
        named = Named((*(known for known in self._listed() if known < commit), commit), self._store)
        files = {SEGMENTS: named.to_bytes(), name: record}
        for file, data in files.items():
            self.files.create(file + ".new")
            self.files.write(file + ".new", 0, data)
        self.files.sync_files([file + ".new" for file in files])
        self.files.rename(SEGMENTS + ".new", SEGMENTS)
        self.files.sync_folder(LOG)  # whoever finds the segment in the folder finds it named
        self.files.rename(name + ".new", name)
        # Whatever happens now: it is there, so nothing that goes to an older one would be seen.
        self._segment = name, len(record)
        for folder in (LOG, os.path.dirname(LOG)) if first else (LOG,):  # the first one may have made it
            self._folders[folder] = None
            self.files.sync_folder(folder)
            del self._folders[folder]

    def append_record(self, record: bytes) -> None:
        assert self._segment is not None, "a writer has begun or cut a segment"
        name, end = self._segment
        try:
            self.files.write(name, end, record)
        except OSError:
            # What is left of it is no record, and the next one goes over it, if there is one.
            with suppress(OSError):
                self.files.resize(name, end)
            raise
        self._dirty[name] = None
        self._segment = name, end + len(record)

    def read_segment(self, commit: int, start: int = 0) -> bytes:
        name = f"{LOG}/{commit}"
        if self._named is not None and (known := self._named.read(commit, start)) is not None:
            return known
        if not self.writable:
            self.files.forget(name)  # an older one of this name may have been replaced
        stop = segment_end(
            lambda offset, length: self.files.read(name, offset, length),
            start,
            self.files.size(name),
            self.path,
        )
        return self.files.read(name, start, max(0, stop - start))

    def replace_segments(self, kept: Mapping[int, bytes], removed: Sequence[int]) -> None:
        names = {f"{LOG}/{commit}": record for commit, record in kept.items()}
        for name, record in names.items():
            self.files.create(name + ".new")
            self.files.write(name + ".new", 0, record)
        self.files.sync_files([name + ".new" for name in names])
        for commit in sorted(kept, reverse=True):  # who looks for one of them meanwhile finds the old segment
            self.files.rename(f"{LOG}/{commit}.new", f"{LOG}/{commit}")
        if names:
            self.files.sync_folder(LOG)
        self._name_segments([known for known in self._listed() if known not in removed])
        for commit in removed:
            self.files.remove(f"{LOG}/{commit}")
        self._folders[LOG] = None

    def cut_segment(self, commit: int, length: int) -> None:
        name = f"{LOG}/{commit}"
        listed = self._listed()
        self._name_segments([known for known in listed if known <= commit])
        for later in listed:
            if later > commit:
                self.files.remove(f"{LOG}/{later}")
        if self.files.size(name) > length:
            self.files.resize(name, length)
        self._dirty[name] = None  # whole or cut: a killed writer may not have synced what it says
        self._folders[LOG] = None
        self._segment = name, length

    def _name_segments(self, there: Sequence[int], *, exactly: bool = False) -> bool:
        """Let the file that names the segments say that there are these, durably; whether it did not. Older
        software has not written it. `exactly`: and not one more, which is not there."""
        try:
            named = named_by(self.files.read_whole(SEGMENTS, MOST_NAMES), self.files.path(SEGMENTS))
        except (FileNotFoundError, CorruptError):
            named = None
        self._store = self._store or store_of(self.read_segment(there[-1]))
        wanted = Named(tuple(there), self._store)
        if named is not None and (named == wanted or (named.fits(there) and not exactly)):
            return False
        self.files.replace(SEGMENTS, wanted.to_bytes())
        return True

    def naming_problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with the file that names the segments, where it is there and they can be listed."""
        where = self.files.path(SEGMENTS)
        for _ in range(LOOKS if self.files.lists else 0):
            listed = self._listed()
            try:
                named = named_by(self.files.read_whole(SEGMENTS, MOST_NAMES), where)
            except FileNotFoundError:
                return
            except CorruptError:
                yield where, "what says which segments the commit log has is damaged"
                return
            if named.covers(listed):
                store = store_of(self.read_segment(listed[-1]))
                if store and named.store != store:
                    yield where, "it names the segments of another store"
                return
            if self._listed() == listed:  # otherwise a writer has begun some meanwhile
                told = ", ".join(map(str, named.segments[-3:]))
                yield where, f"the last segments that it names are {told}, not those of the commit log"
                return

    # --- durability

    def sync(self) -> None:
        if self._dirty:
            self.files.sync_files(self._dirty)
            self._dirty.clear()
        if self._folders:
            self.files.sync_folders(self._folders)
            self._folders.clear()

    def _touch(self, file: str) -> None:
        """Make a shard's file if it is not there, and note that it changes."""
        if file not in self._made:
            if not self.files.exists(file):
                self.files.create(file)
            # Of one that is there too: a killed writer made it, perhaps, and did not sync.
            self._note_folders(os.path.dirname(file))
            self._made.add(file)
        self._dirty[file] = None

    def _write(self, name: str, data: bytes) -> None:
        self.files.create(name)
        self.files.write(name, 0, data)
        self._dirty[name] = None

    def _note_folders(self, folder: str) -> None:
        """The entries of a folder, and those of the folders above it, are new."""
        while True:
            self._folders[folder] = None
            if not folder:
                return
            folder = os.path.dirname(folder)
