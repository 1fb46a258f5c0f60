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

from collections.abc import Iterable

import google_crc32c

from replaystore.containers.hdf5.front import (
    APPLIED,
    JOURNAL,
    MOST_PAYLOAD,
    REGION,
    USERBLOCK,
    Head,
    Header,
    pack_marker,
)
from replaystore.containers.hdf5.journal import payload_of, show_end, superblock
from replaystore.containers.hdf5.overlay import Overlay, Pieces
from replaystore.containers.hdf5.states import StateFile
from replaystore.errors import CorruptError, StorageError, UnsupportedError
from replaystore.storage.local import Files

__all__ = ["TransactionFile"]

DIRECT = 4096
"""Writes of at least this size into new space are not copied through the journal; it holds their checksums.
Encoded chunks and log records never are, whatever their size: readers find them without looking at the
journal."""
GAP = 8
"""How far beyond the true end the library sees the end of the file."""
ROOM = USERBLOCK - REGION
"""What fits into the user block of a journal payload."""

_UNKNOWN = "and what is on the disk is unknown; close the store and open it again"


class TransactionFile(StateFile):
    """One file in this form. The one writer begins with `recover`; readers use what a `StateFile` has."""

    def __init__(self, files: Files, name: str, *, follow: bool) -> None:
        super().__init__(files, name, follow=follow)
        self.failed: OSError | None = None
        """Why a sync failed: what is on the disk is unknown, and nothing more is written."""
        self.unfinished = False
        """A transaction may have happened, but is not known to be in place: `recover` before anything
        else."""
        self._sequence = 0
        self._floor = 0
        """The size at opening: nothing that was there is ever cut off, even if it is not known what it is
        for."""

    @property
    def transactions(self) -> int:
        """The number of the newest transaction, after `recover`."""
        return self._sequence

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
