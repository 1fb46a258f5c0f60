"""Which commit is the newest that is whole, where that need not be the newest of all.

A store that was written without syncs and did not end by being closed: after a power cut any part of what was
written since the newest commit that is known to be synced may be missing, so all of that is compared with its
checksums. The record after a synced commit says that it is; where none does, it is that of the base record.

A folder that was copied while somebody wrote to it: its newest commit may speak of rows that its files do not
have yet. Rows are written before the commit that counts them, so that one of the commits is whole in any
copy, unless the disk was damaged as well. Whether a commit is whole is told by what is cheap to look at: the
sizes of the files, small tables, and the last chunks of raw rows, where a file may have room already for rows
that come later.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from replaystore.arrays.history import ATTEMPTS
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.records import decode_records, replay
from replaystore.arrays.state import Stored
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import crc32c
from replaystore.errors import CorruptError, ReplayStoreError, StorageError
from replaystore.schema import tree

__all__ = ["missing", "newest_sound", "newest_synced", "newest_whole"]

TABLE_BYTES = 1 << 20
"""Tables up to this size are read when a store is opened; of larger ones the file must be long enough."""
CANDIDATES = 256
"""How many commits are looked at."""


def missing(store: StoreReader) -> str:
    """What the files lack of the store's commit, as far as can be told quickly, in one line; empty if
    nothing.

    StorageError, OSError: the system does not let us look, which may pass, so that nothing is said of what is
    there."""
    try:
        for name, spec in store.specs().items():
            if spec.mutable:
                continue
            if spec.journaled:
                _check_table(store, name, spec)
            elif spec.codec is None:
                _check_raw(store, name, spec)
            else:
                _check_coded(store, name, spec)
        for name in store.state.attached:
            if store.attachment(name) is None:
                return f"{store}: what commit {store.state.commit} keeps of open trajectories is overwritten"
    except (ReplayStoreError, OSError) as error:
        if _refused(error):
            raise
        return str(error)
    return ""


def _refused(error: Exception) -> bool:
    """Whether the system refuses to show what is there; a missing file, and what HDF5 says of a damaged one,
    are no refusals."""
    if isinstance(error, StorageError):
        return True
    if isinstance(error, ReplayStoreError) or not isinstance(error, OSError):
        return False
    return "errno = " in str(error) or error.errno not in (None, errno.ENOENT)


def _check_table(store: StoreReader, name: str, spec: ArraySpec) -> None:
    rows, _, first = store.places.tables.get(name, Stored())
    if (rows - first) * spec.row_bytes <= TABLE_BYTES:
        store.table(name)
    else:
        store.container.extents(name, first, rows)


def _check_raw(store: StoreReader, name: str, spec: ArraySpec) -> None:
    """The files are long enough, and the last chunk is the one that was committed."""
    rows, first = store.rows(name), store.first(name) // spec.shard_rows * spec.shard_rows
    if rows <= first:
        return
    complete, rest = divmod(rows, spec.chunk_rows)
    start = complete * spec.chunk_rows
    unit = store.container.capabilities.run_rows(spec)
    if not rest or first < start // unit * unit:  # otherwise the checksum below looks at all of them
        store.container.extents(name, first, rows)
    if rest and store.raw_checksum(name, start, rows) != store.state.partial.get(name, 0):
        raise CorruptError(f"{store}: rows {start} to {rows} of {name} are not those that were committed")
    known = store.checksum(name, complete - 1) if start > first else None
    if known is not None and store.raw_checksum(name, start - spec.chunk_rows, start) != known:
        raise CorruptError(
            f"{store}: rows {start - spec.chunk_rows} to {start} of {name} are not those that were committed"
        )


def _check_coded(store: StoreReader, name: str, spec: ArraySpec) -> None:
    """The chunks of the last two shards lie inside their files, and the tail is there."""
    complete, first = store.rows(name) // spec.chunk_rows, store.first(name) // spec.chunk_rows
    shard = max(0, complete - 1) // spec.chunks_per_shard - 1
    for chunk in range(max(first, shard * spec.chunks_per_shard, 0), complete):
        entry = store.locate(name, chunk)
        if entry is None or store.container.files.size(entry.object) < entry.offset + entry.length:
            raise CorruptError(f"{store}: chunk {chunk} of {name} is missing")
    store.tail(name)


def newest_sound(store: StoreReader) -> int | None:
    """Of a store that was written without syncs: the newest commit all of whose rows are there; None if that
    is its newest one.

    Rows that only newer ones do without are there: their space is given back when a commit that does without
    them is on the disk."""
    base, newest = store.state.base, store.state
    if newest.commit == base:
        return None
    data = store.container.read_segment(base)
    synced = [int(meta["parent"]) for meta, _, _ in decode_records(data) if meta.get("synced")]
    base = max(synced, default=base)
    durable = replay(data, str(store), until=base)
    limits: dict[str, int] = {}
    torn: dict[str, tuple[int, bytes]] = {}
    for name, spec in store.specs().items():
        group = tree.group_of(name)
        if not spec.journaled:
            sound = _sound_rows(store, name, spec, max(durable.lengths.get(group, 0), store.first(name)))
            if spec.codec is None and sound < store.rows(name):  # the first rows of a chunk may be sound
                torn[name] = sound, _prefix(store, name, spec, sound)
                sound += spec.chunk_rows
            limits[group] = min(limits.get(group, sound), sound)
    tried = 0
    for meta, _, _ in reversed(list(decode_records(data))):
        if meta["commit"] == base or tried == CANDIDATES:
            break
        if meta.get("forked") or any(meta["lengths"].get(group, 0) > rows for group, rows in limits.items()):
            continue
        if not all(_is_sound(store, meta, name, start, rows) for name, (start, rows) in torn.items()):
            continue
        tried += 1
        if not missing(StoreReader(store.container, replay(data, str(store), until=meta["commit"]))):
            return None if meta["commit"] == newest.commit else int(meta["commit"])
    return base


def _prefix(store: StoreReader, name: str, spec: ArraySpec, start: int) -> bytes:
    """The rows of a raw chunk, as far as the file has them."""
    stop = min(start + spec.chunk_rows, store.rows(name))
    while stop > start:
        try:
            return store.read_raw(name, start, stop)
        except CorruptError:
            stop = start + (stop - start) // 2
    return b""


def _is_sound(store: StoreReader, meta: Mapping[str, Any], name: str, start: int, data: bytes) -> bool:
    """Whether a commit that ends within a raw chunk has the rows of it, which are `data`, that it speaks
    of."""
    rows = meta["lengths"].get(tree.group_of(name), 0) - start
    length = rows * store.spec(name).row_bytes
    return bool(rows <= 0 or (length <= len(data) and crc32c(data[:length]) == meta["partial"].get(name, 0)))


def newest_synced(store: StoreReader) -> tuple[StoreReader, str]:
    """For a reader: as `newest_whole`, of a store that was written without syncs."""
    for _ in range(ATTEMPTS):
        seen, commit = (store.state.commit, store.state.identity), newest_sound(store)
        if commit is None:
            return store, ""
        if not store.refresh() and (store.state.commit, store.state.identity) == seen:
            found = StoreReader(store.container, store.at(commit, whole=False))
            found.state.dead, found.stays = store.state.dead, True
            return found, "it was written without syncs and not closed, and the disk does not have all of it"
    return store, ""


def _sound_rows(store: StoreReader, name: str, spec: ArraySpec, start: int) -> int:
    """How many rows of an array lie before the first chunk, from row `start` on, that is not sound."""
    for chunk in range(start // spec.chunk_rows, store.rows(name) // spec.chunk_rows):
        try:
            if spec.codec is None:
                found = store.raw_checksum(name, chunk * spec.chunk_rows, (chunk + 1) * spec.chunk_rows)
            else:
                entry = store.locate(name, chunk)
                stored = store.container.files.read(*entry) if entry is not None else b""
                found = store.container.codec(spec).checksum(stored)
        except (ReplayStoreError, OSError, ValueError) as error:
            if _refused(error):
                raise
            return chunk * spec.chunk_rows
        if found != store.checksum(name, chunk):
            return chunk * spec.chunk_rows
    start = max(start, store.rows(name) // spec.chunk_rows * spec.chunk_rows)
    if spec.codec is None and start < store.rows(name):
        try:
            begin = start // spec.chunk_rows * spec.chunk_rows
            if store.raw_checksum(name, begin, store.rows(name)) != store.state.partial.get(name, 0):
                return begin
        except CorruptError:
            return begin
    return store.rows(name)


def newest_whole(store: StoreReader) -> tuple[StoreReader, str]:
    """A reader of the newest commit that is whole, and what the newest of all lacks; empty if it is that one.

    If no commit with steps is whole, it is the newest of all: what can be read of it is read."""
    for _ in range(ATTEMPTS):
        lacking, seen = missing(store), (store.state.commit, store.state.identity)
        if not lacking:
            return store, ""
        store.refresh()
        if (store.state.commit, store.state.identity) == seen:
            break
    else:  # a writer is faster than we look: what it has written is there
        return store, ""
    for known in reversed(store.commits()[:-1][-CANDIDATES:]):
        if known.rows("steps"):
            candidate = StoreReader(store.container, store.at(known.commit))
            candidate.state.dead, candidate.stays = store.state.dead, True
            if not missing(candidate):
                return candidate, lacking
    return store, ""
