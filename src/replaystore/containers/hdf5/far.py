"""An HDF5 file that is read from far: each question is a request, none of which sees the file at the same
moment as another, and nobody keeps a file that another has replaced.

* What the front said when it was last looked at (`head`) stands for the file until the next look.
* Bytes that the HDF5 library asks for come out of blocks of one state. Blocks are asked for, then which
  transaction is the newest; only if that is the one of this state are they given to the library, and kept.
* Another file under the name is known by the record that the newest segment of the log began with, which has
  the name of the store and its checksum (`watched`).
* The directory says what else only the library would find (directory.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from replaystore.containers.checks import MOST_NUMBER
from replaystore.containers.hdf5.directory import Directory
from replaystore.containers.hdf5.front import JOURNAL, REGION, Front, Header, Slot
from replaystore.containers.hdf5.library import Hdf5File
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.states import ATTEMPTS, BURST, Version
from replaystore.containers.records import HEADER_BYTES
from replaystore.errors import ConflictError, CorruptError, NotFoundError, ReplayStoreError, StorageError

__all__ = ["FarFile"]

BLOCK = 1 << 17
"""Bytes of a block: what the library looks at lies scattered over the file, a few hundred bytes here and
there."""
MOST_BLOCKS = 512
MOST_DIRECTORY = 1 << 30

Result = TypeVar("Result")


class FarFile(Hdf5File):
    """The file `name` of files that are far."""

    keeps = True

    def __init__(self, files: Any, name: str) -> None:
        super().__init__(files, name, follow=False)
        self._base: tuple[int, bytes] | None = None
        """Where the newest segment of the log was seen to begin, and with what."""
        self._begun = False
        """It was seen just now, and nothing was read since that is not checked otherwise."""
        self._blocks: tuple[Version, dict[int, bytes]] = ((), {})
        self._directory: tuple[tuple[int, int], int, Directory] | None = None

    # --- which file it is

    @property
    def watched(self) -> Sequence[tuple[str, int, int]]:
        """What `head` reads."""
        mark = [] if self._base is None or self._begun else [(self.name, self._base[0], HEADER_BYTES)]
        return [(self.name, 0, REGION), *mark]

    def _front(self) -> Front:
        watched = self.watched
        if len(watched) > 1:
            self.files.fetch_ahead(watched)
        try:
            block = self.files.read(self.name, 0, REGION)
            if len(watched) > 1:
                self.check_base()
        except FileNotFoundError as error:  # it has gone while it was read from, perhaps
            raise NotFoundError(f"{self.path} does not exist; check the path") from error
        self._begun = False
        return Front.unpack(block, self.path)

    def check_base(self) -> None:
        """Notice another file under the name."""
        if self._base is not None:
            offset, known = self._base
            if self.files.read(self.name, offset, HEADER_BYTES) != known:
                self.generation += 1
                self._base, self._blocks, self._directory, self._seen = None, ((), {}), None, 0

    def begins(self, offset: int, data: bytes) -> None:
        """The newest segment of the log begins here, with these bytes."""
        if len(data) >= HEADER_BYTES:
            self._base, self._begun = (offset, data[:HEADER_BYTES]), True

    def version(self) -> Version:
        if self.looked is None:
            self.head()
        assert self.looked is not None
        return (self.generation, *self.looked.version[1:])

    def _turn(self) -> None:
        """Each request is of the file that has the name."""

    def known_size(self) -> int:
        """Reading tells."""
        return MOST_NUMBER

    # --- the directory

    def slot(self) -> Slot | None:
        """Where the directory lies, as of the last look."""
        looked = self.looked
        found = Slot.unpack(looked.block) if looked is not None else None
        current = looked is not None and found is not None and found.sequence == looked.transactions
        return found if current and found is not None and found.used <= MOST_DIRECTORY else None

    def directory(self) -> Directory | None:
        slot = self.slot()
        if slot is None:
            return None
        place, known = (self.generation, slot.offset), self._directory
        if known is None or known[0] != place or known[1] > slot.used:
            known = place, 0, Directory()
        _, used, found = known
        if used < slot.used:
            data = self.files.read(self.name, slot.offset + used, slot.used - used)
            self._directory = None
            try:
                if len(data) < slot.used - used:
                    return None
                found.apply(data)
            except CorruptError:  # the library knows the same; `verify` tells of this
                return None
        self._directory = place, slot.used, found
        return found

    # --- what the library reads

    def read(self, action: Callable[[Overlay], Result]) -> tuple[Result, Version]:
        for attempt in range(ATTEMPTS):
            if attempt > BURST:
                time.sleep(0.0001 * min(attempt, 50))
            front, pieces = self._state()
            version = self._version(front.journal)
            before, known = self._blocks
            blocks = _Blocks(self, front, known if before == version else {})
            try:
                if before[:1] == version[:1]:
                    blocks.fetch(number for number in known if number not in blocks.known)
                end = self._end(blocks.read, front, pieces)
                result = action(Overlay(blocks.read, end, pieces))
            except StorageError:  # the server was asked often enough
                raise
            except (ReplayStoreError, OSError):
                if self._version(self._front().journal) == version:
                    raise
                self._blocks = version, blocks.known
                continue
            self._blocks = version, blocks.known
            return result, version
        raise self._restless()

    def unchanged(self, header: bytes, generation: int) -> bool:
        """Whether the newest transaction is still the one of this journal header."""
        places = [(JOURNAL, Header.SIZE)]
        if self._base is not None:
            places.append((self._base[0], HEADER_BYTES))
        self.files.fetch_ahead((self.name, *place) for place in places)
        now = self.files.read(self.name, *places[0])
        self.check_base()
        return now == header and generation == self.generation


class _Blocks:
    """Blocks of one state of a file."""

    def __init__(self, file: FarFile, front: Front, known: dict[int, bytes]) -> None:
        self.known = dict(known)
        self._file = file
        self._header = front.block[JOURNAL : JOURNAL + Header.SIZE]
        self._generation = file.generation

    def fetch(self, numbers: Iterable[int]) -> None:
        wanted = list(numbers)
        if not wanted:
            return
        file = self._file
        found = file.files.read_ranges(file.name, [(number * BLOCK, BLOCK) for number in wanted])
        if not file.unchanged(self._header, self._generation):
            raise ConflictError(f"{file.path} was changed while it was read; try again")
        if len(self.known) + len(found) > MOST_BLOCKS:
            self.known.clear()
        self.known.update(zip(wanted, found, strict=True))

    def read(self, offset: int, length: int) -> bytes:
        first, last = offset // BLOCK, (offset + max(length, 1) - 1) // BLOCK
        self.fetch(number for number in range(first, last + 1) if number not in self.known)
        pieces = []
        for number in range(first, last + 1):
            start = number * BLOCK
            pieces.append(self.known[number][max(0, offset - start) : offset + length - start])
        return b"".join(pieces)
