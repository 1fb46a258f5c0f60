"""Rows go from store to store as they are stored where that is possible: raw chunks and encoded chunks, with
the checksums they had.

1. Nothing is believed on the way: each chunk that is read is compared with the checksum that was committed,
   so that what arrives is what was recorded, or the copying ends with a CorruptError. (Comparing costs a few
   per cent of copying, the bytes being at hand.)
2. The checksums of chunks that arrive whole are those of the source; nothing is summed up anew from bytes
   that may have changed.
3. In memory at one time: one block of rows or of encoded chunks, and what the target's encoder has in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.appending import BATCH_BYTES
from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.naming import Named
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.records import now
from replaystore.arrays.state import SEALED
from replaystore.arrays.tables import checksums_of
from replaystore.columns.far import Ahead, announce_first
from replaystore.columns.protocol import Place
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import TRAILER, codec_for, crc32c, parse_codec
from replaystore.containers.protocol import ChunkEntry, Extent
from replaystore.errors import CorruptError, StorageError
from replaystore.schema import tree

__all__ = [
    "CheckedChunks",
    "append_encoded",
    "append_raw",
    "append_rows",
    "commit_whole",
    "encoded_chunks",
    "raw_chunks",
    "resealed",
    "same_payload",
    "seal",
    "stored_bytes",
]

BLOCK_BYTES = 4 << 20
"""Encoded bytes read at once."""
RAW_BYTES, FAR_BYTES = 1 << 20, 16 << 20
"""Raw bytes copied at once: as many as the processor has at hand from reading to writing (16 MiB take twice
its time), or as are worth a request."""

Chunk = tuple[bytes, int]
"""The stored bytes of a chunk and their checksum, as `Codec.checksum` has it."""


# --- out of the source


def encoded_chunks(store: StoreReader, name: str, first: int, stop: int) -> Iterator[list[Chunk]]:
    """Complete chunks [first, stop) of a coded array as they are stored, checked, in blocks of a bounded
    size."""
    files, blocks = store.container.files, _blocks(store, name, first, stop)
    if not files.far:
        for block in blocks:
            yield _read(store, name, block)
        return
    announce_first(files, [store.container.lookups(name, range(first, stop))])
    several = list(blocks)
    with Ahead(files, [_place(block) for block in several]) as ahead:
        for block in several:
            ahead.next()
            yield _read(store, name, block)


def _blocks(store: StoreReader, name: str, first: int, stop: int) -> Iterator[list[tuple[int, ChunkEntry]]]:
    """Chunks that lie one behind the other, with where that is."""
    block: list[tuple[int, ChunkEntry]] = []
    for chunk in range(first, stop):
        entry = store.locate(name, chunk)
        if entry is None:
            raise CorruptError(f"{store}: chunk {chunk} of {name} is missing; run `replaystore verify`")
        if block and (
            entry.object != block[-1][1].object or entry.offset != block[-1][1].offset + block[-1][1].length
        ):
            yield block
            block = []
        block.append((chunk, entry))
        if sum(known.length for _, known in block) >= BLOCK_BYTES:
            yield block
            block = []
    if block:
        yield block


def _place(block: Sequence[tuple[int, ChunkEntry]]) -> Place:
    """Where the bytes of chunks lie that lie one behind the other."""
    begin, last = block[0][1], block[-1][1]
    return begin.object, begin.offset, last.offset + last.length - begin.offset


def _read(store: StoreReader, name: str, block: Sequence[tuple[int, ChunkEntry]]) -> list[Chunk]:
    """Chunks that lie one behind the other."""
    files, spec = store.container.files, store.container.specs()[name]
    begin = block[0][1]
    path = files.path(begin.object)
    try:
        data = memoryview(files.read(*_place(block)))
    except FileNotFoundError:
        raise CorruptError(
            f"{path} is missing, and chunks of {name} lie in it; run `replaystore verify`"
        ) from None
    except OSError as error:
        raise StorageError(
            f"{path}: chunks of {name} cannot be read ({error.strerror or error}); check the disk",
            error.errno,
        ) from error
    codec, found = store.container.codec(spec), []
    for chunk, entry in block:
        part = data[entry.offset - begin.offset : entry.offset - begin.offset + entry.length]
        checksum = store.checksum(name, chunk)
        if (
            len(part) != entry.length
            or entry.length <= TRAILER
            or checksum is None
            or codec.checksum(part) != checksum
        ):
            rows = f"rows {chunk * spec.chunk_rows} to {(chunk + 1) * spec.chunk_rows}"
            raise CorruptError(
                f"{path}, byte {entry.offset}: chunk {chunk} of {name} ({rows}) is damaged; "
                "run `replaystore verify`"
            )
        found.append((bytes(part), checksum))
    return found


def raw_chunks(
    store: StoreReader, name: str, first: int, stop: int
) -> Iterator[tuple[int, NDArray[np.uint8], list[int]]]:
    """Complete chunks [first, stop) of a raw array, checked: (number of the first, bytes, checksums), in
    blocks of a bounded size.

    The bytes lie in one buffer: a block is good until the next is asked for."""
    spec, container = store.container.specs()[name], store.container
    unit = container.capabilities.run_rows(spec)
    aligned = first * spec.chunk_rows // unit * unit
    most = FAR_BYTES if container.files.far else RAW_BYTES
    buffer = np.empty(max(1, most // spec.chunk_bytes) * spec.chunk_bytes, np.uint8)
    since, sums = checksums_of(store, name)
    expected = sums.tolist()
    places = [
        (extent.object, extent.offset + at, min(buffer.size, extent.length - at))
        for extent, begin in _raw_extents(store, name, aligned, stop)
        for at in range(max(0, first * spec.chunk_bytes - begin), extent.length, buffer.size)
    ]
    number = first
    with Ahead(container.files, places) as ahead:
        for object_, offset, size in places:
            data = buffer[:size]
            ahead.next()
            found, begin = _read_into(store, name, object_, offset, data), number
            for place in range(0, size, spec.chunk_bytes):
                wrong = place + spec.chunk_bytes > found or not since <= number < since + len(expected)
                if wrong or crc32c(data[place : place + spec.chunk_bytes]) != expected[number - since]:
                    rows = f"rows {number * spec.chunk_rows} to {(number + 1) * spec.chunk_rows} of {name}"
                    raise CorruptError(
                        f"{store}: {rows} have changed since they were committed; run `replaystore verify`"
                    )
                number += 1
            yield begin, data, expected[begin - since : number - since]


def _raw_extents(store: StoreReader, name: str, aligned: int, stop: int) -> Iterator[tuple[Extent, int]]:
    """The extents of a raw array from row `aligned` on, and the byte of the array at which each begins."""
    spec = store.container.specs()[name]
    begin = aligned * spec.row_bytes
    for extent in store.container.extents(name, aligned, stop * spec.chunk_rows):
        yield extent, begin
        begin += extent.length


def _read_into(store: StoreReader, name: str, object_: str, offset: int, data: NDArray[np.uint8]) -> int:
    files = store.container.files
    try:
        return files.read_into(object_, offset, data.data)
    except FileNotFoundError:
        raise CorruptError(
            f"{files.path(object_)} is missing, and rows of {name} lie in it; run `replaystore verify`"
        ) from None


def stored_bytes(store: StoreReader, name: str, chunks: NDArray[np.int64]) -> int:
    """How many bytes these chunks of a coded array take where they are stored; unfinished ones count as
    rows."""
    spec = store.container.specs()[name]
    complete = store.rows(name) // spec.chunk_rows
    entries = (store.locate(name, chunk) for chunk in chunks[chunks < complete].tolist())
    tail = len(store.tail(name)[1]) * spec.row_bytes if (chunks >= complete).any() else 0
    return tail + sum(entry.length for entry in entries if entry is not None)


def same_payload(spec: ArraySpec, kind: str, other: ArraySpec, other_kind: str) -> bool:
    """Whether chunks of two coded arrays of equal chunks differ at most in the trailing checksum that each
    container adds."""
    if spec.codec is None or other.codec is None or spec.codec != other.codec:
        return False
    # HDF5 shuffles and deflates what Zarr has as gzip.
    return kind == other_kind or parse_codec(spec.codec)[0] == "zstd"


def resealed(chunks: Sequence[Chunk], spec: ArraySpec, kind: str) -> list[Chunk]:
    """Chunks of another kind of container with the trailing checksum of this one; `checksum` does not count
    it, so it stays."""
    seal = codec_for("hdf5" if kind == "hdf5" else "zarr", spec).seal
    payloads = [(data[:-TRAILER], checksum) for data, checksum in chunks]
    return [(payload + seal(np.frombuffer(payload, np.uint8)), checksum) for payload, checksum in payloads]


class CheckedChunks:
    """Compares chunks of a raw array with their checksums, each once."""

    def __init__(self, store: StoreReader, name: str) -> None:
        self._store, self._name = store, name
        self._spec = store.container.specs()[name]
        self._rows = store.rows(name)
        self._done: set[int] = set()

    def check(self, column: Any, rows: range) -> None:
        """Compare all chunks that these rows of the column lie in. CorruptError names the first that has
        changed."""
        size = self._spec.chunk_rows
        steps = rows[:: max(1, size // rows.step)]
        self.check_chunks(column, [row // size for row in steps] + [rows[-1] // size] * bool(rows))

    def check_chunks(self, column: Any, chunks: Iterable[int]) -> None:
        """Compare chunks with these numbers. CorruptError names the first that has changed."""
        size = self._spec.chunk_rows
        for chunk in chunks:
            if chunk not in self._done:
                begin, end = chunk * size, min((chunk + 1) * size, self._rows)
                self.compare(chunk, column.rows(begin, end))
                self._done.add(chunk)

    def compare(self, chunk: int, rows: NDArray[Any]) -> int:
        """Compare one chunk, of which these are the rows; the checksum."""
        complete = self._store.checksum(self._name, chunk)
        expected = self._store.state.partial.get(self._name, 0) if complete is None else complete
        if crc32c(np.ascontiguousarray(rows)) != expected:
            begin = chunk * self._spec.chunk_rows
            place = f"{self._store}: rows {begin} to {begin + len(rows)} of {self._name}"
            raise CorruptError(f"{place} have changed since they were committed; run `replaystore verify`")
        return expected


# --- into the target


def append_raw(
    store: ArrayStore, name: str, data: NDArray[np.uint8], checksums: Sequence[int]
) -> Sequence[Extent]:
    """Append the bytes of complete chunks of a raw array, whose checksums these are; it must hold nothing but
    complete chunks so far. Where they lie, for `Storage.write_back`: the sync in the end would wait for all
    of them."""
    array = store._raw[name]
    count = len(checksums) * array.spec.chunk_rows
    if array.rows % array.spec.chunk_rows or data.size != count * array.spec.row_bytes:
        raise ValueError(
            f"{name}: {data.size} bytes are not {len(checksums)} complete chunks behind row {array.rows}"
        )
    with store.lock, store.storage("append"):
        store.container.reserve({name: array.rows + count})
        store.container.write_rows(name, array.rows, data.data)
        places = store.container.extents(name, array.rows, array.rows + count)
        array.rows += count
        store._add_checksums({name: checksums})
    return places


def append_encoded(store: ArrayStore, name: str, chunks: Sequence[Chunk]) -> None:
    """Append complete chunks of a coded array as they are to be stored; it must hold nothing but complete
    chunks so far."""
    array = store._coded[name]
    if array.rows % array.spec.chunk_rows:
        raise ValueError(f"{name}: row {array.rows} is not the first of a chunk")
    with store.lock, store.storage("append"):
        for data, checksum in chunks:
            store._encoder.encoded.setdefault(name, {})[array.rows // array.spec.chunk_rows] = (
                data,
                checksum,
            )
            store._encoder.encoded_bytes += len(data)
            array.rows += array.spec.chunk_rows
        array.kept = array.rows
        if store._encoder.encoded_bytes > BATCH_BYTES:
            store._store_chunks()
        forget_entries(store)


def append_rows(store: ArrayStore, name: str, rows: NDArray[Any]) -> None:
    """Append rows of an array of any kind, table or not."""
    if not len(rows):
        return
    if name in store._table_rows:
        store.append_table({name: rows})
        return
    store.append({name: rows})
    forget_entries(store)


def forget_entries(store: ArrayStore) -> None:
    """Let go of the places of chunks whose shard has its index: the commit that ends a long copying need not
    carry them."""
    with store.lock:
        for name, entries in store._entries.items():
            per_shard = store._coded[name].spec.chunks_per_shard
            indexed = {number // per_shard for number in entries if number % per_shard == per_shard - 1}
            if indexed:
                store._entries[name] = {
                    number: entry for number, entry in entries.items() if number // per_shard not in indexed
                }


# --- sealing


def commit_whole(store: ArrayStore, extra: Mapping[str, Any], attachments: Mapping[str, bytes]) -> None:
    """Commit and seal a new store without ever using tail arrays: unfinished chunks go to their arrays,
    padded.

    A commit that fails here cannot be tried again; the store is to be discarded."""
    tails = {}
    with store.lock:
        for name, array in store._coded.items():
            start = array.rows // array.spec.chunk_rows * array.spec.chunk_rows
            rows = array.chunk[: array.rows - start].reshape(-1).view(array.spec.dtype)
            tails[name] = start, rows.reshape(array.rows - start, *array.spec.shape)
            array.kept = array.rows
        store.commit(extra)
        store._tail_rows.update(tails)
        _seal(store, attachments)


def seal(store: ArrayStore) -> None:
    """Make of a committed store one that nobody writes to again: everything in its arrays, and a log of one
    record.

    If this fails, the store is as it was committed, and can be sealed later."""
    with store.lock:
        for name in store._coded:
            store.tail(name)
        kept = {name: store.attachment(name) for name in store.state.attached}
        _seal(store, {name: data for name, data in kept.items() if data is not None})


def _seal(store: ArrayStore, attachments: Mapping[str, bytes]) -> None:
    """The rows of unfinished chunks are known to the store."""
    chunks = {name: array.rows // array.spec.chunk_rows for name, array in store._coded.items()}
    unfinished = {name: chunk for name, chunk in chunks.items() if len(store.tail(name)[1])}
    store.publish()
    with store.storage("seal"):
        checksums = {name: _stored_checksum(store, name, chunk) for name, chunk in unfinished.items()}
    with store.storage("seal"):
        # One record makes the store a sealed one. Until it is on the disk nothing has changed, here or there.
        state = store.state
        sealed = replace(
            state,
            commit=state.commit + 1,
            parent=state.commit,
            time=now(),
            extra={**store.state.extra, SEALED: True},
            partial=store.state.partial | checksums,
            tails={},
            entries={},
            attached=dict(attachments),
            pruned=state.commit + 1,
            names={} if state.name is None else {state.name: Named(state.commit + 1, dict(state.first))},
            arrays={name: spec for name, spec in store.state.arrays.items() if not tree.is_journal(name)},
        )
        store._start_log(sealed)
        with store.state_lock:
            store.state = sealed
        store.container.seal()


def _stored_checksum(store: ArrayStore, name: str, chunk: int) -> int:
    """The checksum of a chunk that `publish` has padded and stored."""
    entry = store.container.entry(name, chunk)
    if entry is None:
        raise CorruptError(f"{store}: chunk {chunk} of {name} was not stored; close and reopen the store")
    data = store.container.files.read(entry.object, entry.offset, entry.length)
    return store.container.codec(store.container.specs()[name]).checksum(data)
