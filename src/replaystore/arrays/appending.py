"""Rows on their way into arrays, before a commit counts them: where they are written, and what is known of
them meanwhile.

* Raw rows go to their place at once; their checksums are carried along.
* Rows of coded arrays gather into chunks, which are encoded in the background and stored when full; at a
  commit the rows of an unfinished chunk go, raw, to a tail array.
* Rows of journaled arrays (tables) wait for the commit record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google_crc32c import extend
from numpy.typing import ArrayLike, NDArray

from replaystore.arrays.encoding import Encoder
from replaystore.arrays.state import Piece, State
from replaystore.arrays.writing import Writing
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import crc32c as value
from replaystore.containers.protocol import ChunkEntry, Codec, Container
from replaystore.schema import tree

__all__ = ["CHECKSUMS_SPEC", "TAIL_SPEC", "Appender", "CodedArray", "RawArray", "of_shard"]

TAIL_BYTES = 4 << 20
"""A tail array is used up to this many bytes, then the other one."""
BATCH_BYTES = 16 << 20
"""Encoded chunks are stored when there are this many bytes of them, or at a commit."""
ATTACHED_BYTES, PLACES_BYTES = 2048, 1 << 16
"""Attachments up to this size are kept in the record itself; so are larger ones that say where values lie: of
an older commit they might be looked for in newer ones, whose values it has not."""
CHECKSUMS_SPEC = ArraySpec(
    np.dtype(np.uint32), (), chunk_rows=1024, chunks_per_shard=4, journaled=True, dimension="chunk"
)
TAIL_SPEC = ArraySpec(np.dtype(np.uint8), (), chunk_rows=1 << 20, dimension="byte")

Flat = NDArray[np.uint8] | bytes
"""The bytes of rows."""


@dataclass
class RawArray:
    spec: ArraySpec
    rows: int
    crc: int = 0
    unsummed: bool = False
    """Its checksums have no array yet: none of its chunks has been complete."""


@dataclass
class CodedArray:
    spec: ArraySpec
    codec: Codec
    rows: int
    chunk: NDArray[np.uint8]
    """The unfinished chunk, as (chunk_rows, row_bytes)."""
    kept: int
    """Rows up to this one are in a tail array or in a stored chunk."""


class Appender(Writing):
    """A store that also takes rows; what it has taken is part of the store when `ArrayStore.commit` says
    so."""

    def __init__(self, container: Container, state: State, *, durable: bool) -> None:
        super().__init__(container, state, durable=durable)
        self._encoder = Encoder()
        self._raw: dict[str, RawArray] = {}
        self._coded: dict[str, CodedArray] = {}
        self._table_rows: dict[str, int] = {}
        self._pending: dict[str, list[bytes]] = {}
        self._changes: dict[str, list[tuple[NDArray[np.int64], NDArray[np.uint8]]]] = {}
        self._entries: dict[str, dict[int, ChunkEntry]] = {}
        self._new_arrays: dict[str, ArraySpec] = {}
        self._checksums_spec = CHECKSUMS_SPEC
        """How the checksums of an array's chunks are stored, from its first complete chunk on."""
        self._new_pieces: dict[str, list[Piece]] = {}
        self._tail_reset = False
        self._tail_slot, self._tail_used = 0, 0
        self._stays: dict[str, int] = {}
        """Of each group: until rows before this one are dropped, there is no space to give back."""
        self._gone: dict[str, int] = {}
        """The row of an array before which this writer has given back the space of all shards."""
        self._watched = False
        self.unstored: dict[str, dict[int, NDArray[np.uint8]]] = {}
        """For who looks at rows that no commit has: full chunks that are not stored yet,"""
        self.fresh: dict[str, dict[int, tuple[ChunkEntry, int]]] = {}
        """and those stored since the last commit, with their checksums."""

    def create_arrays(
        self,
        specs: Mapping[str, ArraySpec],
        *,
        fill: Mapping[str, NDArray[Any]] | None = None,
        lacking: Collection[str] = (),
    ) -> None:
        """Add arrays. In a group that has rows already, the new array gets as many, all of them the one row
        `fill` (default zeros); of those that are `lacking`, which the caller appends, those that are kept.

        They are part of the store from the next commit on."""
        with self.lock, self.storage("create arrays"):
            there = {group: self.next_row(group) for group in {tree.group_of(name) for name in specs}}
            self._create(specs)
        try:
            with self.lock, self.storage("create arrays"):  # room for all of them at once
                self.container.reserve(
                    {name: there[tree.group_of(name)] for name in specs if name in self._raw}
                )
            for name, spec in specs.items():
                stop = self.first(name) if name in lacking else there[tree.group_of(name)]
                self._fill(name, spec, stop, (fill or {}).get(name))
        except BaseException:
            self.forget_arrays(specs)
            raise

    def forget_arrays(self, names: Iterable[str]) -> None:
        """Take arrays that no commit has out of the store; what the container has of them is left over. Of
        coded ones that have rows, nothing else may wait to be stored."""
        for name in names:
            if name in self._coded and self._coded[name].rows:
                self._encoder.discard()
            for stored in (name, tree.checksums(name)):
                for known in (self._raw, self._coded, self._table_rows, self._pending, self._changes):
                    known.pop(stored, None)
                for told in (self._new_arrays, self._entries, self._new_pieces):
                    told.pop(stored, None)

    def _create(self, specs: Mapping[str, ArraySpec]) -> None:
        self.container.create_arrays(specs)
        self._stays, self._gone = {}, {name: row for name, row in self._gone.items() if name not in specs}
        self._new_arrays |= specs
        for name, spec in specs.items():
            if spec.journaled:
                self._table_rows[name] = 0
            elif spec.codec is None:
                self._raw[name] = RawArray(spec, 0, unsummed=not tree.is_journal(name))
            else:
                chunk = np.zeros((spec.chunk_rows, spec.row_bytes), np.uint8)
                self._coded[name] = CodedArray(spec, self.container.codec(spec), 0, chunk, kept=0)

    def _fill(self, name: str, spec: ArraySpec, rows: int, value: NDArray[Any] | None) -> None:
        """Give a new array rows up to this one."""
        step = max(1, (4 << 20) // spec.row_bytes)
        first = self.first(name) if spec.journaled else self.first(name) // spec.shard_rows * spec.shard_rows
        if first and not spec.journaled:  # a ring: shards before its window never exist
            if name in self._raw:
                self._raw[name].rows = first
            else:
                self._coded[name].rows = self._coded[name].kept = first
            self._add_checksums({name: [0] * (first // spec.chunk_rows)})
        elif first and spec.journaled:
            self._table_rows[name] = first
        for start in range(first, rows, step):
            block = np.zeros((min(step, rows - start), *spec.shape), spec.dtype)
            if value is not None:
                block[:] = value
            if spec.journaled:
                self.append_table({name: block})
            else:
                self.append({name: block})

    def append(self, columns: Mapping[str, NDArray[Any] | bytes], count: int = 0) -> None:
        """Append rows to arrays that are not tables; all of them or, if this raises, none. dtype and shape
        must be the arrays'; of a column of bytes, `count` says how many rows they are."""
        with self.lock, self.storage("append"):
            if self._encoder.encoded_bytes > BATCH_BYTES:
                self._store_chunks()
            raw: list[tuple[str, RawArray, Flat, int]] = []
            coded: list[tuple[str, Flat, int]] = []
            room: dict[str, int] = {}
            unsummed: list[str] = []
            data: Flat
            for name, rows in columns.items():
                if isinstance(rows, bytes):
                    data, number = rows, count
                else:
                    flat = rows if rows.flags.c_contiguous else np.ascontiguousarray(rows)
                    data, number = flat.reshape(-1).view(np.uint8), len(rows)
                array = self._raw.get(name)
                if array is None:
                    coded.append((name, data, number))
                    continue
                raw.append((name, array, data, number))
                room[name] = stop = array.rows + number
                if array.unsummed and stop >= array.spec.chunk_rows:
                    unsummed.append(name)
            if unsummed:
                self._add_checksums(dict.fromkeys(unsummed, ()))
            self.container.reserve(room)
            write_rows = self.container.write_rows
            for name, array, data, number in raw:
                if number:  # of values there may be none
                    write_rows(name, array.rows, data if isinstance(data, bytes) else data.data)
            for name, array, data, number in raw:
                chunk_rows = array.spec.chunk_rows
                if number < chunk_rows - array.rows % chunk_rows:  # nearly always
                    array.crc = extend(array.crc, data)
                    array.rows += number
                else:
                    self._complete(name, array, data, number)
            for name, data, number in coded:
                self._gather(name, self._coded[name], data, number)

    def _complete(self, name: str, array: RawArray, data: Flat, count: int) -> None:
        """Count rows that are written, and their checksums, where chunks become complete."""
        spec, done = array.spec, 0
        finished = []
        while done < count:
            room = spec.chunk_rows - array.rows % spec.chunk_rows
            step = min(room, count - done)
            array.crc = extend(array.crc, data[done * spec.row_bytes : (done + step) * spec.row_bytes])
            array.rows += step
            done += step
            if step == room:
                finished.append(array.crc)
                array.crc = 0
        if finished and not tree.is_journal(name):
            self._add_checksums({name: finished})

    def _gather(self, name: str, array: CodedArray, data: Flat, count: int) -> None:
        """Copy rows into the unfinished chunk; full chunks go to the encoder."""
        spec, done = array.spec, 0
        rows: NDArray[np.uint8] = np.ndarray((count, spec.row_bytes), np.uint8, data)
        while done < count:
            at = array.rows % spec.chunk_rows
            step = min(spec.chunk_rows - at, count - done)
            array.chunk[at : at + step] = rows[done : done + step]
            array.rows += step
            done += step
            if at + step == spec.chunk_rows:
                if self._watched:
                    self.unstored.setdefault(name, {})[array.rows // spec.chunk_rows - 1] = array.chunk
                self._encoder.put(
                    name, array.codec, array.rows // spec.chunk_rows - 1, array.chunk.reshape(-1)
                )
                array.chunk = np.empty((spec.chunk_rows, spec.row_bytes), np.uint8)

    def append_table(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows to journaled arrays. They are written by the next commit."""
        for name, rows in columns.items():
            self._pending.setdefault(name, []).append(
                np.ascontiguousarray(rows, self.container.specs()[name].dtype).tobytes()
            )
            self._table_rows[name] += len(rows)

    def set_rows(self, name: str, at: ArrayLike, rows: NDArray[Any]) -> None:
        """Change rows of a mutable table, by the next commit."""
        spec = self.container.specs()[name]
        values = np.ascontiguousarray(rows, spec.dtype).reshape(-1).view(np.uint8).reshape(-1, spec.row_bytes)
        if len(values):
            self._changes.setdefault(name, []).append((np.asarray(at, np.int64), values))

    def _add_checksums(self, checksums: Mapping[str, Sequence[int]]) -> None:
        """Checksums of complete chunks of arrays; none yet: make an array for them, which may fail."""
        stored = {name: tree.checksums(name) for name in checksums}
        missing = [known for known in stored.values() if known not in self._table_rows]
        if missing:
            self._create(dict.fromkeys(missing, self._checksums_spec))
        for name, sums in checksums.items():
            if name in self._raw:
                self._raw[name].unsummed = False
            if sums:
                self.append_table({stored[name]: np.array(sums, np.uint32)})

    def _store_chunks(self) -> None:
        """Store what is encoded; indexes of shards that are complete by it are written too."""
        ready = self._encoder.encoded
        if not ready:
            return
        self._add_checksums(dict.fromkeys(ready, ()))
        placed = self.container.write_chunks(
            {name: {n: data for n, (data, _) in chunks.items()} for name, chunks in ready.items()}
        )
        for name, entries in placed.items():
            if not self.container.capabilities.knows_its_chunks:
                known = self._entries.setdefault(name, {})
                known.update(entries)
                per_shard = self._coded[name].spec.chunks_per_shard
                everything = {**self.state.entries.get(name, {}), **known}
                for shard in sorted({n // per_shard for n in entries if n % per_shard == per_shard - 1}):
                    self.container.write_index(name, shard, of_shard(everything, shard, per_shard))
        for name in placed:  # only now, since all of it is done again if a write fails
            self._add_checksums({name: [checksum for _, checksum in ready[name].values()]})
            fresh, unstored = self.fresh.setdefault(name, {}), self.unstored.get(name, {})
            for number, entry in placed[name].items():
                fresh[number] = entry, ready[name][number][1]
                unstored.pop(number, None)
        self._encoder.stored()

    def watch(self) -> None:
        """From now on keep full chunks until they are stored, for who looks at rows that no commit has."""
        if not self._watched:
            with self.lock, self.storage("store"):
                self._encoder.finish()
                self._store_chunks()
            self._watched = True

    def gathering(self, name: str) -> NDArray[Any]:
        """The chunk of a coded array in which rows gather, whole; the next one takes its place when it is
        full."""
        array = self._coded[name]
        spec = array.spec
        values = array.chunk.reshape(-1).view(spec.dtype.newbyteorder("<"))
        return values.reshape(spec.chunk_rows, *spec.shape)

    def _write_tails(
        self, attachments: Mapping[str, bytes], *, inside: bool = False
    ) -> dict[str, bytes | Piece]:
        """Keep the rows of unfinished chunks, raw, in a tail array; large attachments too (returned: where
        each is), unless they are to stay `inside` the record.

        When the array has grown, all of it goes to the other one; not twice between commits, since the last
        commit still needs one."""
        known = self.container.specs()
        most = {n: PLACES_BYTES if tree.values(n) in known else ATTACHED_BYTES for n in attachments}
        large = {n: data for n, data in attachments.items() if len(data) > most[n] and not inside}
        starts = {
            name: array.rows // array.spec.chunk_rows * array.spec.chunk_rows
            for name, array in self._coded.items()
        }
        waiting = {name: max(starts[name], array.kept) for name, array in self._coded.items()}
        size = sum(
            (array.rows - waiting[name]) * array.spec.row_bytes for name, array in self._coded.items()
        ) + sum(map(len, large.values()))
        # The container may hold one of them, if an earlier writer was killed.
        if size and tree.tail(0) not in self._raw:
            self._create({tree.tail(0): TAIL_SPEC, tree.tail(1): TAIL_SPEC})
        once = sum(array.spec.chunk_bytes for array in self._coded.values()) + sum(map(len, large.values()))
        if size and self._tail_used + size > max(TAIL_BYTES, 4 * once) and not self._tail_reset:
            self._sync_commit()  # the rows of its unfinished chunks are in this one
            self._tail_slot, self._tail_used, self._tail_reset = 1 - self._tail_slot, 0, True
            self._new_pieces = {}
            waiting = starts
            for name, array in self._coded.items():
                # Also if a write fails now: the pieces in the other one count no more.
                array.kept = starts[name]
        for name, begin in waiting.items():
            array = self._coded[name]
            if begin < array.rows:
                data = array.chunk[begin - starts[name] : array.rows - starts[name]].reshape(-1)
                self._new_pieces.setdefault(name, []).append(
                    self._write_tail(begin, array.rows - begin, data.data)
                )
                array.kept = array.rows
        placed = {name: self._write_tail(0, len(data), memoryview(data)) for name, data in large.items()}
        return {name: placed.get(name, data) for name, data in attachments.items()}

    def _write_tail(self, start: int, rows: int, data: memoryview) -> Piece:
        target = tree.tail(self._tail_slot)
        self.container.reserve({target: self._tail_used + len(data)})
        self.container.write_rows(target, self._tail_used, data)
        self._tail_used += len(data)
        return Piece(start, rows, self._tail_slot, self._tail_used - len(data), value(data))

    def _forget_pending(self) -> None:
        """What was waiting for a commit is in it, or given up."""
        self._pending, self._changes, self._entries, self._new_arrays = {}, {}, {}, {}
        self._new_pieces, self._tail_reset = {}, False
        self.unstored, self.fresh = {}, {}
        self._forget_tails()

    def next_row(self, group: str) -> int:
        """Rows of the arrays of a group, uncommitted ones included."""
        prefix = group + "/"
        for arrays in (self._raw, self._coded):
            for name, array in arrays.items():
                if name == group or name.startswith(prefix):
                    return array.rows
        tables = self._table_rows.items()
        return next((rows for name, rows in tables if name == group or name.startswith(prefix)), 0)

    def table_specs(self) -> dict[str, ArraySpec]:
        """The journaled arrays, those of no commit yet included."""
        return {name: spec for name, spec in self.container.specs().items() if name in self._table_rows}

    def _all_rows(self) -> Iterator[tuple[str, int]]:
        """The rows of each array, uncommitted ones included."""
        for arrays in (self._raw, self._coded):
            for name, array in arrays.items():
                yield name, array.rows
        yield from self._table_rows.items()

    def _row_counts(self, group: str) -> dict[str, int]:
        """The rows of each array of a group, uncommitted ones included."""
        return {name: rows for name, rows in self._all_rows() if tree.group_of(name) == group}

    def close(self) -> None:
        """Give up what is not committed, and release everything."""
        self._encoder.close()
        super().close()


def of_shard(entries: Mapping[int, ChunkEntry], shard: int, per_shard: int) -> dict[int, ChunkEntry]:
    """The entries of the chunks of one shard, in order."""
    return {n: entry for n, entry in sorted(entries.items()) if n // per_shard == shard}
