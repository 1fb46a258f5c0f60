"""An HDF5 file that changes only by whole transactions, none of which the HDF5 library writes itself.

The library works on an `Overlay`: it reads the file, and what it writes is collected in memory. When it has
closed the overlay, the complete change is known, and only then is it brought to the disk, with a redo journal
that lies before the HDF5 bytes, in the user block that HDF5 tools skip. A full disk is therefore an exception
before anything happened, never a library stopped half way, and the bytes on disk are at every moment those of
a cleanly closed HDF5 file, or become so by replaying the journal.

front.py says what lies where in the user block.

Invariants:
1. Transaction n is in place and synced before anything of the journal of n + 1 is written.
2. A transaction has happened if its journal is whole, and has not if it is torn; replaying one that is in
   place changes nothing.
3. No byte below the end of the HDF5 bytes (`end`) is overwritten but by replaying a journal, by rows, or by
   log records: the library is shown an end a little beyond the true one, so that it never finds the last
   bytes free and gives them away again.
4. What a failed transaction left beyond `end` is cut off before the next one, so new space reads as zeros.
5. A reader that finds the journal whole and not applied sees its bytes over the file's; it starts anew if
   another transaction came in between. It takes no lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import google_crc32c

from replaystore.containers.hdf5.front import (
    APPLIED,
    HEADS,
    JOURNAL,
    MOST_PAYLOAD,
    REGION,
    USERBLOCK,
    Front,
    Head,
    Header,
    pack_marker,
)
from replaystore.containers.hdf5.journal import COUNT, INLINE, entries_of, payload_of, show_end, superblock
from replaystore.containers.hdf5.overlay import Overlay, Pieces
from replaystore.errors import ConflictError, CorruptError, ReplayStoreError, StorageError, UnsupportedError
from replaystore.storage.local import Files

__all__ = ["TransactionFile", "Version"]

DIRECT = 4096
"""Writes of at least this size into new space are not copied through the journal; it holds their checksums.
Encoded chunks and log records never are, whatever their size: readers find them without looking at the
journal."""
GAP = 8
"""How far beyond the true end the library sees the end of the file."""
ROOM = USERBLOCK - REGION
"""What fits into the user block of a journal payload."""
ATTEMPTS = 200
BURST = 20
"""Attempts without a pause between them."""
BLOCK = 8 << 20

_UNKNOWN = "and what is on the disk is unknown; close the store and open it again"

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


class TransactionFile:
    """One file in this form. Readers use `read`, `head` and `version`; the one writer also the rest, after
    `recover`."""

    def __init__(self, files: Files, name: str, *, follow: bool) -> None:
        self.files = files
        self.name = name
        self.path = files.path(name)
        self.generation = 0
        """Counts how often another file has taken the name, and was turned to (`follow`: what a reader
        does)."""
        self.failed: OSError | None = None
        """Why a sync failed: what is on the disk is unknown, and nothing more is written."""
        self.unfinished = False
        """A transaction may have happened, but is not known to be in place: `recover` before anything
        else."""
        self.damaged: list[str] = []
        """The records of the front that were not intact when `head` last looked."""
        self.mended = False
        """`recover` found such records, and replayed a journal, perhaps, that was in place: heads may be
        older than the log."""
        self._following = follow
        self._sequence = 0
        self._seen = 0
        self._floor = 0
        """The size at opening: nothing that was there is ever cut off, even if it is not known what it is
        for."""

    # --- reading

    def _front(self) -> Front:
        return Front.unpack(self.files.read(self.name, 0, REGION), self.path)

    def _payload(self, header: Header) -> Pieces | None:
        """What a journal says is to be written; None if it is torn."""
        if header.place + header.length > self.files.size(self.name):
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
            try:
                block, end = superblock(self._bytes, pieces, self.path)
                size, needed = (
                    self.files.size(self.name),
                    front.pending.old_end if pieces and front.pending else end,
                )
                fetched = self._fetched(wanted, front)
                if wanted and self._version(self._front().journal) != version:
                    continue
                if size < needed:
                    raise CorruptError(
                        f"{self.path} is cut short: {size} bytes are left of {needed}; restore it from a copy"
                    )
                if size > end:  # perhaps a copy made while the file grew
                    end = show_end(pieces, block, size)
                result = action(Overlay(fetched.read, end, pieces))
            except (ReplayStoreError, OSError) as error:
                failure = error
            if (failure is None and not fetched.missed) or self._version(self._front().journal) == version:
                if failure is not None:
                    raise failure
                return result, version
            wanted |= dict.fromkeys(fetched.missed)
        raise self._restless()

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
            front = self._front()
            block = front.block
            if front.pending is not None:
                front, pieces = self._state()
                overlaid = bytearray(front.block)
                pieces.lay_over(0, overlaid)
                block = bytes(overlaid)
            found = [head for slot in HEADS if (head := Head.unpack(block, slot)) is not None]
            whole = len(found) == len(HEADS) and front.journal is not None and front.applied
            self.damaged = [] if whole else front.damaged
            best = max(found, key=lambda head: head.sequence, default=None)
            if best is not None and not best.inside(self.files.size(self.name)):
                found.remove(best)
                best = max(found, key=lambda head: head.sequence, default=None)
            if (best.sequence if best else 0) >= self._seen:  # otherwise a slot was read while it was written
                break
            time.sleep(0.0001 * attempt)
        self._seen = best.sequence if best else 0
        return best

    # --- writing

    def check(self) -> None:
        """StorageError after a failed sync."""
        if self.failed is not None:
            reason = self.failed.strerror or self.failed
            raise StorageError(
                f"{self.path}: a sync failed earlier ({reason}), {_UNKNOWN}", self.failed.errno
            )

    def sync(self) -> None:
        """Make everything durable. After a failure nothing is tried again: the system may have thrown the
        bytes away."""
        self.check()
        try:
            self.files.sync_file(self.name)
        except OSError as error:
            self.failed = error
            raise StorageError(
                f"{self.path}: a sync failed ({error.strerror or error}), {_UNKNOWN}", error.errno
            ) from error

    def recover(self) -> None:
        """Finish or forget what an interrupted transaction left. To be called before the first write."""
        self.check()
        front, pieces = self._state()
        header = front.pending
        self.mended = self.mended or bool(front.damaged)
        if header is not None:
            if pieces:
                self.sync()  # after a kill the journal may be in the system's memory only
                self._apply(pieces, header.new_end)
            self._mark(header.sequence)
        self._sequence = max(front.applied, front.journal.sequence if front.journal else 0)
        # It was damaged: the next transaction's is told from none by its number.
        if front.journal is None and self._sequence:
            self.files.write(
                self.name, JOURNAL, Header(self._sequence, USERBLOCK, USERBLOCK, REGION, 0, 0).pack()
            )
        elif header is None and front.damaged:
            self._mark(self._sequence)
        if not self.unfinished:
            self._floor = self.files.size(self.name)
        self.unfinished = False

    def begin(self) -> Overlay:
        """A file for the library to change; `commit` makes the change, dropping the overlay forgets it."""
        self.check()
        pieces = Pieces()
        block, end = superblock(self._bytes, pieces, self.path)
        size = self.files.size(self.name)
        if size < end:
            raise CorruptError(
                f"{self.path} is cut short: {size} bytes are left of {end}; restore it from a copy"
            )
        end = max(end, self._floor)
        if size > end:
            self.files.resize(self.name, end)
        overlay = Overlay(self._bytes, show_end(pieces, block, end + GAP), pieces)
        overlay.start = end
        return overlay

    def commit(self, overlay: Overlay) -> None:
        """Make a change durable and put it in place. OSError: it did not happen, or (`unfinished`) `recover`
        decides it."""
        self.check()
        old_end, new_end = overlay.start, overlay.end
        if new_end < old_end + GAP:
            raise CorruptError(
                f"{self.path}: HDF5 gave up space that is in use ({new_end} of {old_end} "
                "bytes); the file is damaged"
            )
        pieces = overlay.pieces
        pieces.cut(new_end)
        straight, journaled = list(overlay.direct), Pieces()
        for offset, data in pieces:
            if offset in overlay.chunks or (offset >= old_end and len(data) >= DIRECT):
                straight.append((offset, data))
            else:
                journaled.write(offset, data)
        for offset, data in overlay.front.items():
            journaled.write(offset, data)
        for offset, data in straight:
            self.files.write(self.name, offset, data)
        payload = payload_of(journaled, straight)
        place = REGION
        if len(payload) > ROOM:
            beyond = max(new_end, self.files.size(self.name))
            place = beyond + (-beyond) % 4096
        if len(payload) > MOST_PAYLOAD:
            raise UnsupportedError(
                f"{self.path}: {len(payload)} bytes of HDF5's metadata change at once; "
                "add fewer arrays in one call"
            )
        header = Header(
            self._sequence + 1, old_end, new_end, place, len(payload), google_crc32c.value(payload)
        )
        self.files.write(self.name, place, payload)
        self.unfinished = True
        self.files.write(self.name, JOURNAL, header.pack())
        self.sync()
        self._apply(journaled, new_end)
        self._mark(header.sequence)
        self._sequence = header.sequence
        self.unfinished = False

    def _apply(self, pieces: Iterable[tuple[int, bytes]], end: int) -> None:
        start, run = 0, b""
        for offset, data in pieces:  # neighbours in one write
            if run and start + len(run) == offset:
                run += data
                continue
            if run:
                self.files.write(self.name, start, run)
            start, run = offset, data
        if run:
            self.files.write(self.name, start, run)
        if self.files.size(self.name) < end:
            self.files.resize(self.name, end)
        self.sync()

    def _mark(self, sequence: int) -> None:
        """Say that a transaction is in place. If this is lost, it is replayed, which changes nothing."""
        self.files.write(self.name, APPLIED, pack_marker(sequence))

    def write_head(self, head: Head) -> None:
        """Name the newest state of the log; durable with the next `sync`."""
        self.check()
        self.files.write(self.name, head.slot, head.pack())
        self._seen = head.sequence
