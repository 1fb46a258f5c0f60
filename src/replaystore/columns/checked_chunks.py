"""Encoded chunks fetched, checked and decoded to their places, in any thread.

Each thread reads the bytes that it decodes, one job at a time; chunks that lie side by side are read at once.
No chunk is made up: one that is missing, of another checksum, or that does not decode to its size is a
CorruptError. This is the way of `take`, and the second try of a sampler, which decodes several chunks at
once: there `decode_all` in containers/codecs.py compares.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.columns import decoding_pool
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.columns.protocol import Rows, StoredColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry, Codec
from replaystore.errors import CorruptError, StorageError
from replaystore.forks import renew_in_children
from replaystore.storage.protocol import Reads

__all__ = ["Failure", "Fetching", "Piece", "Wanted"]


class Piece(NamedTuple):
    """What a request needs of one chunk."""

    chunk: int
    to: slice | NDArray[np.intp]
    """Which rows of the result."""
    of: slice | NDArray[np.int64]
    """Which rows of the chunk."""
    whole: bool = False
    """All of them, one after another: `to` is a slice."""


Wanted = tuple[Piece, ChunkEntry | None, int | None]
"""With where its chunk lies and what its checksum is, as far as known."""
Failure = tuple[Piece, CorruptError]

_numbers = itertools.count()


class Fetching(StoredColumn):
    """The half of a coded column that any thread may use."""

    def __init__(
        self, files: Reads, spec: ArraySpec, codec: Codec, name: str, kept: ChunkCache | None = None
    ) -> None:
        super().__init__(files, spec, name)
        self.codec = codec
        self._kept = kept
        self.chunk_rows = spec.chunk_rows
        self.chunk_bytes = spec.chunk_bytes
        self._number = next(_numbers)
        self._reading = threading.RLock()
        renew_in_children(self, "_reading")

    def _do(self, job: Sequence[Wanted], items: Rows) -> list[Failure]:
        """Fetch chunks, those that lie side by side at once, and decode them to their places; those that are
        not as they should be."""
        failures: list[Failure] = []
        if self._kept is not None:
            job = [wanted for wanted in job if not self._was_kept(*wanted, items)]
        begin = 0
        for number in range(1, len(job) + 1):
            if number == len(job) or not self._adjoining(job[number - 1][1], job[number][1]):
                self._do_run(job[begin:number], items, failures)
                begin = number
        return failures

    def _was_kept(self, piece: Piece, entry: ChunkEntry | None, checksum: int | None, items: Rows) -> bool:
        """Bring a chunk that was kept to its place; whether it was."""
        if self._kept is None or checksum is None or (self.name, piece.chunk, checksum) not in self._kept:
            return False
        chunk = self._room(piece, items)
        found = self._kept.get((self.name, piece.chunk, checksum), chunk)
        if found:
            self._put(piece, entry, checksum, chunk, items)
        return found

    def _room(self, piece: Piece, items: Rows) -> NDArray[np.uint8]:
        """Where a chunk is decoded to."""
        return items[piece.to].view(np.uint8) if piece.whole else np.empty(self.chunk_bytes, np.uint8)

    def _put(
        self,
        piece: Piece,
        entry: ChunkEntry | None,
        checksum: int | None,
        chunk: NDArray[np.uint8],
        items: Rows,
    ) -> None:
        """What is wanted of a decoded chunk to its place, if it is not there."""
        if not piece.whole:
            chunk.flags.writeable = False
            if entry is not None:
                decoding_pool.shared.cache.put((self._number, piece.chunk, entry, checksum), chunk)
            items[piece.to] = chunk.view(self._item)[piece.of]

    def _possible(self, entry: ChunkEntry | None) -> bool:
        """A chunk may have that size."""
        return (
            entry is not None
            and entry.offset >= 0
            and 0 < entry.length <= self.chunk_bytes + self.chunk_bytes // 8 + 4096
        )

    def _adjoining(self, entry: ChunkEntry | None, other: ChunkEntry | None) -> bool:
        if (
            self.files.far  # each is announced by itself
            or entry is None
            or other is None
            or entry.object != other.object
            or entry.offset + entry.length != other.offset
        ):
            return False
        return self._possible(entry) and self._possible(other)

    def _do_run(self, run: Sequence[Wanted], items: Rows, failures: list[Failure]) -> None:
        """Chunks that lie one behind the other; of those that cannot exist there is one in a run."""
        first, last = run[0][1], run[-1][1]
        if first is None or last is None:
            failures.append((run[0][0], CorruptError(self._damaged(run[0][0].chunk, None, "is missing"))))
            return
        if not self._possible(first):
            failures.append(
                (
                    run[0][0],
                    CorruptError(
                        self._damaged(run[0][0].chunk, first, (f"cannot have {first.length} bytes"))
                    ),
                )
            )
            return
        name, start = first.object, first.offset
        try:
            with self._reading:  # a storage may close a descriptor when it opens another
                data = np.frombuffer(
                    self.files.read(name, start, last.offset + last.length - start), np.uint8
                )
        except FileNotFoundError:
            gone = "is missing: no such file"
            failures += [
                (piece, CorruptError(self._damaged(piece.chunk, entry, gone))) for piece, entry, _ in run
            ]
            return
        except OSError as error:
            raise StorageError(
                f"{self.files.path(name)}: chunks of {self.name} cannot be read ({error}); check the disk"
            ) from error
        for piece, entry, checksum in run:
            assert entry is not None
            try:
                self._decode(
                    piece,
                    entry,
                    checksum,
                    data[entry.offset - start : entry.offset - start + entry.length],
                    items,
                )
            except CorruptError as error:
                failures.append((piece, error))

    def _decode(
        self, piece: Piece, entry: ChunkEntry, checksum: int | None, data: NDArray[np.uint8], items: Rows
    ) -> None:
        if len(data) != entry.length:
            raise CorruptError(self._damaged(piece.chunk, entry, "lies past the end of the file"))
        if checksum is not None and self.codec.checksum(data) != checksum:
            raise CorruptError(
                self._damaged(piece.chunk, entry, ("is not the one that was committed (another crc32c)"))
            )
        chunk = self._room(piece, items)
        try:
            self.codec.decode(data, chunk, checked=checksum is not None)
        except CorruptError as error:
            raise CorruptError(self._damaged(piece.chunk, entry, f"is damaged: {error}")) from error
        if self._kept is not None and checksum is not None:
            self._kept.put((self.name, piece.chunk, checksum), chunk)
        self._put(piece, entry, checksum, chunk, items)

    def _damaged(self, chunk: int, entry: ChunkEntry | None, what: str) -> str:
        place = str(self.files) if entry is None else f"{self.files.path(entry.object)}, byte {entry.offset}"
        begin = chunk * self.chunk_rows
        return (
            f"{place}: chunk {chunk} of {self.name} (rows {begin} to {begin + self.chunk_rows}) {what}; "
            "run `replaystore verify`"
        )
