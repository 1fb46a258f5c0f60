"""Where the encoded chunks of a column lie, and what is read to have them: to be announced, if that is far,
and left out if they are kept on the local disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from replaystore.columns import decoding_pool
from replaystore.columns.checked_chunks import Fetching
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.columns.protocol import Place, Rows
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry, Codec
from replaystore.errors import CorruptError, ReplayStoreError
from replaystore.storage.protocol import Reads

__all__ = ["Located"]


class Located(Fetching):
    """The chunks of a coded column; `CodedColumn` says what is asked of whom."""

    def __init__(
        self,
        files: Reads,
        spec: ArraySpec,
        codec: Codec,
        name: str,
        locate: Callable[[int], ChunkEntry | None],
        checksum: Callable[[int], int | None],
        check: Callable[[], None],
        lookups: Callable[[Sequence[int]], Sequence[Place]],
        kept: ChunkCache | None,
    ) -> None:
        super().__init__(files, spec, codec, name, kept)
        self._locate, self._checksum, self._lookups = locate, checksum, lookups
        self.check = check
        self._known: dict[int, tuple[str, int, int, int]] = {}
        """Chunks that were decoded: object, offset, length, checksum. Complete chunks stay where they are, or
        the column is made anew."""

    def _look_up(self, chunk: int) -> tuple[ChunkEntry | None, int | None]:
        """Where a chunk lies, and its checksum."""
        try:
            return self._locate(chunk), self._checksum(chunk)
        except CorruptError:
            self.check()
            raise

    def chunk_lookups(self, chunks: Sequence[int]) -> Sequence[Place]:
        """What has to be read to find chunks."""
        return self._lookups([chunk for chunk in chunks if chunk not in self._known])

    def chunk_places(self, chunks: Iterable[int], *, decoded: bool = False) -> Iterator[Place]:
        """What is read to have chunks; nothing of those that are kept, or that cannot be. `decoded`: nor of
        those decoded last."""
        for chunk in chunks:
            try:
                entry, checksum = self._look_up(chunk)
            except ReplayStoreError:  # told where they are read
                continue
            place, key = self._asked(chunk, entry, checksum), (self._number, chunk, entry, checksum)
            if place is not None and not (decoded and decoding_pool.shared.cache.get(key) is not None):
                yield place

    def _asked(self, chunk: int, entry: ChunkEntry | None, checksum: int | None) -> Place | None:
        """What is read to have a chunk; nothing if it is kept, or if there can be none."""
        if entry is None or not self._possible(entry):
            return None
        if self._kept is not None and checksum is not None and (self.name, chunk, checksum) in self._kept:
            return None
        return entry.object, entry.offset, entry.length

    def _is_kept(self, chunk: int, out: NDArray[np.uint8]) -> bool:
        """Copy a chunk that was kept to its place; whether it was."""
        known = self._known.get(chunk)
        return (
            self._kept is not None and known is not None and self._kept.get((self.name, chunk, known[3]), out)
        )

    def _read_chunks(self, known: Sequence[tuple[str, int, int, int]]) -> list[bytes]:
        """The stored bytes of chunks; none of those that cannot be read."""
        read = list[bytes]()
        if self.files.far:
            self.files.fetch_ahead(entry[:3] for entry in known)
            for name, offset, length, _ in known:
                try:
                    read.append(self.files.read(name, offset, length))
                except OSError:
                    read.append(b"")
            return read
        for name, group in itertools.groupby(known, key=lambda entry: entry[0]):
            lies = [(offset, length) for _, offset, length, _ in group]
            try:
                read += self.files.read_ranges(name, lies)
            except OSError:
                read += [b""] * len(lies)
        return read

    @property
    def apart(self) -> bool:
        """Of chunks that some rows are wanted of, `contents` are quicker than places for all."""
        return self.codec.apart and self._kept is None

    def contents(self, chunks: Sequence[int]) -> Iterator[Rows | None]:
        """Chunks that were found, decoded one after the other, as items that are rows; None for each that
        could not be. In any thread."""
        entries = [self._known.get(chunk) for chunk in chunks]
        read = iter(self._read_chunks([entry for entry in entries if entry is not None]))
        for entry in entries:
            found = None if entry is None else self.codec.content(next(read), entry[-1], self.chunk_bytes)
            yield None if found is None else found.view(self._item)
