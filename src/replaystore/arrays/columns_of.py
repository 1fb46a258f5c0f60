"""The columns of a store: mapped or read in place where they are raw, decoded where they are coded. Raw ones
that are far are read a chunk at a time, and compared with their checksums, where chunks are kept on the local
disk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

from numpy.typing import NDArray

from replaystore.arrays.state import SEALED, State
from replaystore.columns.changed import ChangedColumn
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.columns.coded import CodedColumn
from replaystore.columns.mapped import raw_column
from replaystore.columns.plain import PlainColumn
from replaystore.columns.raw_chunks import RawChunks
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import crc32c
from replaystore.containers.protocol import ChunkEntry, Codec, Container
from replaystore.errors import ConflictError, CorruptError

__all__ = ["MOST_KEPT", "ArrayColumn", "Store", "open_column", "unfinished_rows"]

ArrayColumn = PlainColumn | CodedColumn | ChangedColumn
MOST_KEPT = 64 << 20
"""Bytes of a raw chunk that is read as a whole for the sake of one row."""


class Store(Protocol):
    """What the columns of a store ask of it."""

    container: Container
    state: State
    cache: ChunkCache | None

    def locate(self, name: str, chunk: int) -> ChunkEntry | None: ...

    def places_of(self, name: str, start: int, stop: int) -> Iterator[tuple[str, int, int]]: ...

    def read_raw(self, name: str, start: int, stop: int) -> bytes: ...

    def checksum(self, name: str, chunk: int) -> int | None: ...

    def moved(self, name: str, chunk: int) -> ChunkEntry | None: ...

    def tail(self, name: str) -> tuple[int, NDArray[Any]]: ...

    def check_generation(self) -> None: ...

    def check_missing(self) -> None: ...


def open_column(store: Store, name: str, spec: ArraySpec, first: int, unit: int) -> PlainColumn | CodedColumn:
    """An empty column of an array, from row `first` on; a run of its raw rows begins with a multiple of
    `unit`."""
    files, generation = store.container.files, store.state.generation
    if spec.codec is not None:
        return _by_chunks(store, name, spec, first, store.container.codec(spec), partial(store.locate, name))
    if store.cache is not None and files.far and spec.chunk_bytes <= min(MOST_KEPT, store.cache.limit):
        return _by_chunks(store, name, spec, first, RawChunks(), partial(_locate_raw, store, name, spec))
    return raw_column(
        files,
        spec,
        name=name,
        first_row=first // unit * unit,
        check=partial(_check_far, store, generation),
        check_missing=store.check_missing,
    )


def _by_chunks(
    store: Store, name: str, spec: ArraySpec, first: int, codec: Codec, locate: Any
) -> CodedColumn:
    return CodedColumn(
        store.container.files,
        spec,
        codec,
        locate,
        partial(store.checksum, name),
        name=name,
        first_row=first,
        on_mismatch=partial(store.moved, name) if spec.codec is not None else partial(_missing, store),
        check=partial(_check_history, store, store.state.generation),
        lookups=partial(store.container.lookups, name) if spec.codec is not None else lambda _: (),
        kept=store.cache,
    )


def _locate_raw(store: Store, name: str, spec: ArraySpec, chunk: int) -> ChunkEntry | None:
    """Where a raw chunk lies, which is in one piece."""
    begin = chunk * spec.chunk_rows
    places = list(store.places_of(name, begin, begin + spec.chunk_rows))
    return ChunkEntry(*places[0]) if len(places) == 1 else None


def unfinished_rows(store: Store, name: str, start: int, rows: int) -> bytes:
    """The bytes of rows [start, rows) of a raw array, which are those of its unfinished chunk."""
    data = store.read_raw(name, start, rows) if rows > start else b""
    if data and crc32c(data) != store.state.partial.get(name, 0):
        store.check_missing()
        raise CorruptError(
            f"{store}: rows {start} to {rows} of {name} are not those that were committed; run "
            "`replaystore verify`"
        )
    return data


def _missing(store: Store, _: int) -> None:
    """Raw chunks are never moved: why one is not as it should be, if the store has gone on."""
    store.check_missing()


def _check_history(store: Store, generation: int) -> None:
    """ConflictError once another history is shown: `refresh` may do that in another thread while this one
    reads."""
    if store.state.generation != generation:
        raise ConflictError(f"{store}: went back to an older commit meanwhile; read again, or refresh")


def _check_far(store: Store, generation: int) -> None:
    """The same of raw rows from far away: of what is sealed there is no other history."""
    if store.state.extra.get(SEALED) is not True:
        store.check_generation()
    _check_history(store, generation)
