"""Consistent states of an HDF5 file that a writer may be changing, read without a lock.

The writer changes the file by whole transactions (transaction.py), through a journal. A state is what the
file is between two of them: its bytes, and over them those of a journal that is not known to be in place.
Bytes of two states are never given to the HDF5 library together: which transaction was the last is compared
after reading, before anything is believed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import google_crc32c

from replaystore.containers.hdf5.front import HEADS, JOURNAL, REGION, Front, Head, Header
from replaystore.containers.hdf5.journal import COUNT, INLINE, entries_of, show_end, superblock
from replaystore.containers.hdf5.overlay import Overlay, Pieces
from replaystore.errors import ConflictError, CorruptError, ReplayStoreError
from replaystore.storage.local import Files

__all__ = ["StateFile", "Version"]

ATTEMPTS = 200
BURST = 20
"""Attempts without a pause between them."""
BLOCK = 8 << 20

Result = TypeVar("Result")
Version = tuple[int, ...]
"""Says which transaction was the last; equal as long as nothing but rows and log records changed."""


class _Fetched:
    """Bytes of one state of a file, and those that had to be read besides."""

    def __init__(self, known: Mapping[tuple[int, int], bytes], besides: Callable[[int, int], bytes]) -> None:
        self._known = known
        self._besides = besides
        self.missed: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        found = self._known.get((offset, length))
        if found is None:
            self.missed.append((offset, length))
            found = self._besides(offset, length)
        return found


@dataclass(frozen=True)
class Looked:
    """What the front was."""

    block: bytes
    """With what a pending journal lays over it."""
    version: Version
    transactions: int
    """How many have happened."""


class StateFile:
    """One file in this form, read: `read`, `head` and `version`."""

    def __init__(self, files: Files, name: str, *, follow: bool) -> None:
        self.files = files
        self.name = name
        self.path = files.path(name)
        self.generation = 0
        """Counts how often another file has taken the name, and was turned to (`follow`: what a reader
        does)."""
        self.damaged: list[str] = []
        """The records of the front that were not intact when `head` last looked."""
        self.mended = False
        """A writer found such records, and replayed a journal, perhaps, that was in place: heads may be older
        than the log."""
        self.looked: Looked | None = None
        """The front when `head` last looked."""
        self._following = follow
        self._seen = 0

    def _front(self) -> Front:
        return Front.unpack(self.files.read(self.name, 0, REGION), self.path)

    def _payload(self, header: Header) -> Pieces | None:
        """What a journal says is to be written; None if it is torn."""
        if header.place + header.length > self.known_size():
            return None
        payload = self.files.read(self.name, header.place, header.length)
        if len(payload) < COUNT.size or google_crc32c.value(payload) != header.crc:
            return None
        entries, place = entries_of(payload, header.new_end)
        pieces = Pieces()
        for offset, length, crc in entries:
            if crc == INLINE:
                pieces.write(offset, payload[place : place + length])
                place += length
            elif self._checksum(offset, length) != crc:
                return None
        return pieces

    def _checksum(self, offset: int, length: int) -> int:
        found = 0
        for at in range(offset, offset + length, BLOCK):
            found = google_crc32c.extend(
                found, self.files.read(self.name, at, min(BLOCK, offset + length - at))
            )
        return int(found)

    def known_size(self) -> int:
        """The size of the file, against which places are checked before they are read."""
        return self.files.size(self.name)

    def _bytes(self, offset: int, length: int) -> bytes:
        return self.files.read(self.name, offset, length)

    def _state(self) -> tuple[Front, Pieces]:
        """The front, and what a pending journal lays over the file."""
        for _ in range(ATTEMPTS):
            front = self._front()
            header = front.pending
            if header is None:
                return front, Pieces()
            pieces = self._payload(header)
            if pieces is not None:
                return front, pieces
            again = self._front()
            if again.journal == header and again.applied == front.applied:
                return front, Pieces()  # torn: it did not happen
        raise self._restless()

    def _restless(self) -> ConflictError:
        return ConflictError(f"{self.path} was changed again and again while it was read; try again")

    def version(self) -> Version:
        """Changes with every transaction and when another file takes the name. Cheap."""
        self._turn()
        return self._version(Header.unpack(self.files.read(self.name, JOURNAL, Header.SIZE), 0))

    def _version(self, journal: Header | None) -> Version:
        return (self.generation, journal.sequence, journal.crc) if journal else (self.generation, 0, 0)

    def _turn(self) -> None:
        """Turn to the file that now has the name: a writer may have put a copy there."""
        if not self._following:
            return
        try:
            named = os.stat(self.files.real_path(self.name))
        except OSError:  # removed, or in memory: what is open stays
            return
        with self.files.borrowed(self.name) as descriptor:
            opened = os.fstat(descriptor)
        if (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
            self.files.forget(self.name)
            self.generation += 1
            self._seen = 0

    def read(self, action: Callable[[Overlay], Result]) -> tuple[Result, Version]:
        """What `action` finds in a consistent state of the file, and the version of that state.

        Beside a busy writer the library is too slow to read one state: it is stopped where the state changes,
        and what it has read so far is then fetched at once the next time. It soon reads little else, since a
        transaction changes little."""
        wanted: dict[tuple[int, int], None] = {}
        for attempt in range(ATTEMPTS):
            if attempt > BURST:
                time.sleep(0.0001 * min(attempt, 50))
            self._turn()
            front, pieces = self._state()
            version = self._version(front.journal)
            failure: Exception | None = None
            missed: list[tuple[int, int]] = []
            try:
                end = self._end(self._bytes, front, pieces)
                fetched = self._fetched(wanted, front)
                if wanted and self._version(self._front().journal) != version:
                    continue
                missed = fetched.missed
                result = action(Overlay(fetched.read, end, pieces))
            except (ReplayStoreError, OSError) as error:
                failure = error
            if (failure is None and not missed) or self._version(self._front().journal) == version:
                if failure is not None:
                    raise failure
                return result, version
            wanted |= dict.fromkeys(missed)
        raise self._restless()

    def _end(self, read: Callable[[int, int], bytes], front: Front, pieces: Pieces) -> int:
        """Where the HDF5 bytes of a state end; `pieces` then show the library that end. CorruptError: the
        file is shorter."""
        block, end = superblock(read, pieces, self.path)
        size, needed = self.files.size(self.name), front.pending.old_end if pieces and front.pending else end
        if size < needed:
            raise CorruptError(
                f"{self.path} is cut short: {size} bytes are left of {needed}; restore it from a copy"
            )
        # It is longer: perhaps a copy made while the file grew.
        return show_end(pieces, block, size) if size > end else end

    def _fetched(self, wanted: Iterable[tuple[int, int]], front: Front) -> _Fetched:
        """Bytes that the library is given: never some of one state and some of another, which it may not
        survive."""
        places, header, generation = (
            list(wanted),
            front.block[JOURNAL : JOURNAL + Header.SIZE],
            self.generation,
        )

        def besides(offset: int, length: int) -> bytes:
            data, now = self.files.read_ranges(self.name, [(offset, length), (JOURNAL, Header.SIZE)])
            if now != header or self.generation != generation:
                raise self._restless()
            return data

        found = self.files.read_ranges(self.name, places) if places else []
        return _Fetched(dict(zip(places, found, strict=True)), besides)

    def head(self) -> Head | None:
        """The newest valid head; None before the first segment of the log. Cheap."""
        self._turn()
        best: Head | None = None
        for attempt in range(20):
            front, pieces = self._front(), None
            block = front.block
            if front.pending is not None:
                front, pieces = self._state()
                overlaid = bytearray(front.block)
                pieces.lay_over(0, overlaid)
                block = bytes(overlaid)
            torn = pieces is not None and front.pending is not None and not pieces
            happened = front.applied if torn or front.journal is None else front.journal.sequence
            self.looked = Looked(block, self._version(front.journal), happened)
            found = [head for slot in HEADS if (head := Head.unpack(block, slot)) is not None]
            whole = len(found) == len(HEADS) and front.journal is not None and front.applied
            self.damaged = [] if whole else front.damaged
            best = max(found, key=lambda head: head.sequence, default=None)
            if best is not None and not best.inside(self.known_size()):
                found.remove(best)
                best = max(found, key=lambda head: head.sequence, default=None)
            if (best.sequence if best else 0) >= self._seen:  # otherwise a slot was read while it was written
                break
            time.sleep(0.0001 * attempt)
        self._seen = best.sequence if best else 0
        return best
