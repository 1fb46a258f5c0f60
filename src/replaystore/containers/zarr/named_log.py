"""The commit log of a Zarr folder that cannot be listed, read: what segments there are says a file.

Each look is one request where nothing has changed. The newest segment is read with the look that finds it,
since only that tells whether it has its name already; and with it, the first time, the metadata of the store,
which are read after the name of the store was and before it is asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from replaystore.containers.checks import MOST_JSON
from replaystore.containers.zarr.metadata import MANIFEST, SHOWN
from replaystore.containers.zarr.segments import MOST_NAMES, SEGMENTS, Named, named_by
from replaystore.errors import CorruptError, FormatError, NotFoundError, UnsupportedError
from replaystore.schema.tree import LOG
from replaystore.storage.protocol import FIRST_BYTES, Reads

__all__ = ["NamedLog"]

LOOKS = 16
"""How often it is looked again where the newest segment is gone, and others are named meanwhile."""
MOST_BYTES = 4 << 20
"""Of a segment, which are asked for at once: few have more than one."""


class NamedLog:
    """The segments that `files` are said to have."""

    watched: Sequence[tuple[str, int, int]] = ((SEGMENTS, 0, FIRST_BYTES),)
    """What a look reads, to be announced with other things (`Reads.fetch_ahead`)."""

    def __init__(self, files: Reads, metadata_name: str) -> None:
        self._files, self._metadata_name = files, metadata_name
        self._store: str | None = None
        self._there = -1
        """The newest segment that was seen to have its name."""
        self._first: list[int] | None = None
        self._newest: tuple[int, bytes] | None = None
        self._announced: list[str] = []

    def identity(self) -> str:
        """The name of the store that had the place at the last look."""
        if self._store is None:
            self._first = self._look()
        assert self._store is not None, "a look says it"
        return self._store

    def segments(self) -> list[int]:
        """Look what there is. (The look that `identity` needed counts as one.)"""
        found, self._first = self._first, None
        return self._look() if found is None else found

    def read(self, commit: int, start: int) -> bytes | None:
        """The bytes of a segment from `start` on; None: there may be more than is read at once. CorruptError:
        it is missing."""
        if self._newest is not None and self._newest[0] == commit and not start:
            data, self._newest = self._newest[1], None
            return data
        name = f"{LOG}/{commit}"
        try:
            data = self._files.read(name, start, MOST_BYTES)
        except FileNotFoundError:
            raise CorruptError(
                f"{self._files.path(name)}: this segment of the commit log is missing; "
                "run `replaystore verify`"
            ) from None
        return data if len(data) < MOST_BYTES else None

    def announce(self, starts: Mapping[int, int], *, look: bool) -> None:
        """These segments are going to be read from there on, after a look, perhaps. What was announced before
        and not read is forgotten: it says what was."""
        for name in self._announced:
            self._files.forget(name)
        places = [(f"{LOG}/{commit}", start, MOST_BYTES) for commit, start in starts.items()]
        self._announced = [name for name, _, _ in places]
        self._files.fetch_ahead([*(self.watched if look else ()), *places])

    def _look(self) -> list[int]:
        begun = self._store is None
        self._files.fetch_ahead([*self.watched, *([(MANIFEST, 0, FIRST_BYTES)] if begun else [])])
        named = self._named()
        for _ in range(LOOKS):
            if named.store != self._store:
                self._store, self._there, self._newest = named.store, -1, None
            found = list(named.segments)
            if found[-1] <= self._there or self._read_newest(found[-1], begun=begun):
                break
            before, named = named, self._named()
            if named == before:
                found.pop()  # it has not got its name yet
                break
        if not found:
            raise CorruptError(f"{self._files.path('')}: there is no commit log; run `replaystore repair`")
        return found

    def _named(self) -> Named:
        try:
            return named_by(self._files.read_whole(SEGMENTS, MOST_NAMES), self._files.path(SEGMENTS))
        except FileNotFoundError:
            where = self._files.path("")
            self._check_ours(where)
            raise UnsupportedError(
                f"{where} has no {SEGMENTS}, without which a store is not read where nothing can be "
                "listed; open it once for writing, where it lies"
            ) from None

    def _read_newest(self, commit: int, *, begun: bool) -> bool:
        """Read a segment that was not seen before; whether it is there."""
        name = f"{LOG}/{commit}"
        own = [(self._metadata_name, 0, FIRST_BYTES)] if begun and self._metadata_name else []
        self._files.fetch_ahead([(name, 0, MOST_BYTES), *own])
        try:
            data = self._files.read(name, 0, MOST_BYTES)
        except FileNotFoundError:
            return False
        self._newest = (commit, data) if len(data) < MOST_BYTES else None
        self._there = commit
        return True

    def _check_ours(self, where: str) -> None:
        """NotFoundError, FormatError: what has no commit log was never a store."""
        if not self._metadata_name:
            return
        try:
            metadata = self._files.read_whole(self._metadata_name, MOST_JSON)
        except FileNotFoundError:
            raise NotFoundError(
                f"{where} is no store: it has no {self._metadata_name}; check the address"
            ) from None
        if SHOWN.encode() in metadata:
            raise FormatError(
                f"{where} is a copy of what a zarr_store() showed, and no store: open it with Zarr, or copy "
                "the store itself with `replaystore convert`"
            )
        if b'"replaystore"' not in metadata:
            raise FormatError(
                f"{where} is a Zarr hierarchy, but not a replaystore store: no attribute `replaystore`; "
                "check the address, which may be that of a part of a store"
            )
