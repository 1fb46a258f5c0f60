"""Checks of rows: every complete chunk against its checksum, unfinished ones against the commit record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from replaystore.arrays.reading import StoreReader
from replaystore.arrays.tables import checksums_of
from replaystore.checking.arrays import check_indexes
from replaystore.checking.findings import Findings
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import crc32c
from replaystore.containers.protocol import ChunkEntry
from replaystore.errors import CorruptError, ReplayStoreError

__all__ = ["check_coded", "check_raw"]

BLOCK_BYTES = 8 << 20


def check_raw(findings: Findings, store: StoreReader, name: str, spec: ArraySpec) -> None:
    rows = store.rows(name)
    unit = store.container.capabilities.run_rows(spec)
    first = store.kept(name) // unit * unit
    since, checksums = checksums_of(store, name)
    complete = rows // spec.chunk_rows
    if since + len(checksums) != complete:
        findings.problem(name, f"{len(checksums)} checksums for {complete - since} complete chunks")
        return
    first = max(first, since * spec.chunk_rows)
    per_block = max(1, BLOCK_BYTES // max(1, spec.chunk_bytes))
    for block in range(first // spec.chunk_rows, complete, per_block):
        last = min(block + per_block, complete)
        for chunk, found in _checksums(findings, store, name, spec, block, last):
            if found != int(checksums[chunk - since]):
                findings.problem(
                    f"{name}, chunk {chunk}",
                    f"rows {chunk * spec.chunk_rows} to {(chunk + 1) * spec.chunk_rows} have changed",
                )
                findings.damage(name, chunk * spec.chunk_rows)
    start = max(complete * spec.chunk_rows, first)
    if start < rows:
        try:
            what = (
                "have changed"
                if store.raw_checksum(name, start, rows) != store.state.partial.get(name, 0)
                else None
            )
        except (ReplayStoreError, OSError) as error:
            what = f"cannot be read: {error}"
        findings.count((rows - start) * spec.row_bytes)
        if what is not None:
            findings.problem(name, f"rows {start} to {rows}, those of the unfinished chunk, {what}")
            findings.damage(name, start)
    check_indexes(findings, store.container, name, spec, first, rows)


def _checksums(
    findings: Findings, store: StoreReader, name: str, spec: ArraySpec, block: int, last: int
) -> Iterator[tuple[int, int]]:
    """Those of the chunks of a raw array as they are; one that cannot be read is a problem."""
    try:
        if last - block == 1:
            yield block, store.raw_checksum(name, block * spec.chunk_rows, last * spec.chunk_rows)
            findings.count(spec.chunk_bytes)
            return
        data = memoryview(store.read_raw(name, block * spec.chunk_rows, last * spec.chunk_rows))
    except (ReplayStoreError, OSError) as error:
        if last - block == 1:
            findings.problem(f"{name}, chunk {block}", str(error))
            findings.damage(name, block * spec.chunk_rows)
            return
        for chunk in range(block, last):
            yield from _checksums(findings, store, name, spec, chunk, chunk + 1)
        return
    findings.count(len(data))
    for chunk in range(block, last):
        at = (chunk - block) * spec.chunk_bytes
        yield chunk, crc32c(data[at : at + spec.chunk_bytes])


def check_coded(findings: Findings, store: StoreReader, name: str, spec: ArraySpec) -> None:
    rows = store.rows(name)
    codec = store.container.codec(spec)
    since, checksums = checksums_of(store, name)
    complete = rows // spec.chunk_rows
    first = store.kept(name) // spec.chunk_rows
    if since + len(checksums) != complete:
        findings.problem(name, f"{len(checksums)} checksums for {complete - since} complete chunks")
        return

    def check(chunk: int, data: bytes | str) -> str | None:
        if isinstance(data, str):
            return data
        if codec.checksum(data) != int(checksums[chunk - since]):
            return "its stored bytes have changed"
        try:
            codec.decode(data, np.empty(spec.chunk_bytes, np.uint8))
        except CorruptError as error:
            return str(error)
        return None

    per_block = max(1, BLOCK_BYTES // max(1, spec.chunk_bytes))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for block in range(first, complete, per_block):
            chunks = range(block, min(block + per_block, complete))
            for chunk, what in zip(
                chunks,
                pool.map(check, chunks, _stored(store, name, chunks)),
                strict=True,
            ):
                if what is not None:
                    findings.problem(f"{name}, chunk {chunk}", what)
                    findings.damage(name, chunk * spec.chunk_rows)
            findings.count(len(chunks) * spec.chunk_bytes)
    try:
        _, tail = store.tail(name)
    except CorruptError as error:
        findings.problem(name, str(error))
        findings.damage(name, complete * spec.chunk_rows)
    else:
        if len(tail) and findings.published.get(name) == rows:
            findings.guarded(
                name, lambda: _check_last(findings, store, name, spec, complete, tail.tobytes()), rows=False
            )
    check_indexes(findings, store.container, name, spec, first * spec.chunk_rows, rows)


def _stored(store: StoreReader, name: str, chunks: range) -> list[bytes | str]:
    """The stored bytes of each chunk, or why they cannot be had."""
    files, entries = store.container.files, [_entry(store, name, chunk) for chunk in chunks]
    files.fetch_ahead([entry for entry in entries if isinstance(entry, ChunkEntry)])
    found: list[bytes | str] = []
    for entry in entries:
        try:
            data = entry if isinstance(entry, str) else files.read(*entry)
        except (ReplayStoreError, OSError) as error:
            data = str(error)
        short = isinstance(entry, ChunkEntry) and isinstance(data, bytes) and len(data) != entry.length
        found.append("it reaches past the end of its file" if short else data)
    return found


def _entry(store: StoreReader, name: str, chunk: int) -> ChunkEntry | str:
    """Where a chunk lies, or why that is not known."""
    try:
        return store.locate(name, chunk) or "it is missing"
    except (ReplayStoreError, OSError) as error:
        return str(error)


def _check_last(
    findings: Findings, store: StoreReader, name: str, spec: ArraySpec, chunk: int, rows: bytes
) -> None:
    """The unfinished chunk as other software sees it, filled up, is what it is."""
    entry, shown = store.container.entry(name, chunk), np.zeros(spec.chunk_bytes, np.uint8)
    if entry is not None:
        store.container.codec(spec).decode(
            store.container.files.read(entry.object, entry.offset, entry.length), shown
        )
    if entry is None or shown[: len(rows)].tobytes() != rows:
        findings.problem(
            name,
            "what other software sees of its last rows is not what the commit says",
            "run `replaystore publish`",
        )
