"""Columns of encoded rows against plain NumPy arrays: decoded, cached and damaged."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pytest
from columns import Coded, Counting, check_reads, failing, ints, random_rows, same, specs
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.columns import coded, decoding_pool
from replaystore.columns.coded import CodedColumn
from replaystore.columns.decoding_pool import DecodedChunks
from replaystore.columns.protocol import Rows
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import codec_for
from replaystore.containers.protocol import ChunkEntry
from replaystore.errors import CorruptError, EvictedError, SchemaError, StorageError
from replaystore.storage.local import Files
from replaystore.storage.memory import MemoryFiles

pytest_plugins = ["columns"]

pytestmark = pytest.mark.usefixtures("_fresh_cache")


@pytest.fixture
def wide() -> ArraySpec:
    """Chunks of 512 KiB: two make a job."""
    return ArraySpec(np.dtype("f4"), (32, 32), 128, codec="zstd:1")


def compressible(spec: ArraySpec, count: int) -> Rows:
    rows: Rows = (
        (np.arange(count * math.prod(spec.shape)) // 50).astype(spec.dtype).reshape(count, *spec.shape)
    )
    return rows


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    spec=st.sampled_from(["zstd:1", "gzip:1"]).flatmap(specs),
    kind=st.sampled_from(["zarr", "hdf5"]),
    gap=st.integers(0, 2),
    limit=st.sampled_from([0, 500, 1 << 20]),
    job=st.sampled_from([1, 300, 1 << 20]),
)
def test_coded_rows_are_the_rows_that_were_encoded(
    data: st.DataObject, spec: ArraySpec, kind: Literal["zarr", "hdf5"], gap: int, limit: int, job: int
) -> None:
    files = MemoryFiles("test")
    decoding_pool.shared.cache = DecodedChunks(limit)
    rows = random_rows(spec, data.draw(st.integers(0, 60)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded, "JOB_BYTES", job)
        column = (
            Coded(files, kind, spec, rows, gap=gap).column()
            if spec.row_bytes
            else empty_items(files, spec, rows)
        )
        first = 0
        for _ in range(3):
            check_reads(column, rows, first, data)
            first = data.draw(st.integers(first, len(rows)))
            column.drop_before(first)
        assert decoding_pool.shared.cache.size <= limit


def empty_items(files: Files, spec: ArraySpec, rows: Rows) -> CodedColumn:
    """Rows without bytes have no chunks."""
    column = CodedColumn(files, spec, codec_for("zarr", spec), lambda _: None, lambda _: None)
    column.set_tail(len(rows) // 2, rows[len(rows) // 2 :])
    return column


def test_small_reads_one_after_another_decode_each_chunk_once(wide: ArraySpec) -> None:
    rows = compressible(wide, 128 * 4)
    store = Coded(MemoryFiles("test"), "zarr", wide, rows)
    codec = Counting(store.codec)
    column = store.column(codec=codec)
    for start in range(0, len(rows), 10):
        assert same(column.read(start, min(start + 10, len(rows))), rows[start : start + 10])
    assert codec.decoded == 4
    assert same(column.take(ints(*range(500, 0, -7))), rows[500:0:-7])
    assert codec.decoded == 4
    column.close()
    column.read(0, 1)
    assert codec.decoded == 5


def test_a_large_read_decodes_in_place_and_fills_no_cache(wide: ArraySpec) -> None:
    rows = compressible(wide, 128 * 6 + 5)
    store = Coded(MemoryFiles("test"), "zarr", wide, rows)
    column = store.column()
    assert same(column.read(0, len(rows)), rows)
    assert decoding_pool.shared.cache.size == 0
    assert same(column.read(1, len(rows)), rows[1:])
    assert decoding_pool.shared.cache.size == wide.chunk_bytes


def test_the_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    cache = DecodedChunks(100)
    keys = [(0, number, ChunkEntry("a", number, 1), None) for number in range(4)]
    chunks = [np.full(40, number, np.uint8) for number in range(4)]
    cache.put(keys[0], chunks[0])
    cache.put(keys[1], chunks[1])
    cache.put(keys[1], chunks[1])
    assert cache.size == 80
    assert cache.get(keys[0]) is chunks[0]
    cache.put(keys[2], chunks[2])
    assert cache.get(keys[1]) is None
    assert cache.get(keys[0]) is chunks[0]
    cache.put(keys[3], np.zeros(101, np.uint8))
    assert cache.get(keys[3]) is None
    cache.forget(1)
    assert cache.size == 80
    cache.forget(0)
    assert cache.size == 0
    assert cache.get(keys[0]) is None


def test_few_encoded_chunks_are_in_memory_at_once(wide: ArraySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = compressible(wide, 128 * 60)
    store = Coded(MemoryFiles("test"), "zarr", wide, rows)
    read_bytes, lock, waiting, most = store.files.read, threading.Lock(), [0], [0]

    def read(name: str, offset: int, length: int) -> bytes:
        with lock:
            waiting[0] += sum(
                entry.object == name and offset <= entry.offset < offset + length
                for entry in store.entries.values()
            )
            most[0] = max(most[0], waiting[0])
        return read_bytes(name, offset, length)

    def before() -> None:
        with lock:
            waiting[0] -= 1

    monkeypatch.setattr(store.files, "read", read)
    column = store.column(codec=Counting(store.codec, before))
    assert same(column.read(0, len(rows)), rows)
    assert waiting[0] == 0
    assert most[0] <= 2 * decoding_pool.shared.workers


def test_several_threads_may_read_one_column(wide: ArraySpec) -> None:
    rows = compressible(wide, 128 * 8 + 3)
    column = Coded(MemoryFiles("test"), "hdf5", wide, rows).column()
    numbers = [np.random.default_rng(seed).integers(0, len(rows), 50) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(column.take, numbers))
        whole = list(pool.map(lambda start: column.read(start, len(rows)), range(6)))
    assert all(same(one, rows[where]) for one, where in zip(taken, numbers, strict=True))
    assert all(same(one, rows[start:]) for start, one in enumerate(whole))


@pytest.mark.parametrize("chunks", [1, 8])
def test_a_missing_chunk_is_an_error_and_not_fill_values(wide: ArraySpec, chunks: int) -> None:
    store = Coded(MemoryFiles("test"), "zarr", wide, compressible(wide, 128 * chunks))
    column = store.column()
    entry = store.entries.pop(chunks - 1)
    message = (
        rf"chunk {chunks - 1} of steps/x \(rows {128 * chunks - 128} to {128 * chunks}\) is missing; "
        r"run `replaystore verify`"
    )
    with pytest.raises(CorruptError, match=message):
        column.read(0, 128 * chunks)
    with pytest.raises(CorruptError, match=message):
        column.take(ints(0, 128 * chunks - 1))
    store.entries[chunks - 1] = ChunkEntry("nowhere", entry.offset, entry.length)
    with pytest.raises(
        CorruptError,
        match=(
            r"memory:test/nowhere, byte \d+: chunk .* is missing: no "
            r"such file"
        ),
    ):
        column.read(0, 128 * chunks)


def test_swapped_flipped_and_cut_chunks_are_found_and_named(wide: ArraySpec) -> None:
    rows = compressible(wide, 128 * 8)
    store = Coded(MemoryFiles("test"), "zarr", wide, rows)
    column, good = store.column(), dict(store.entries)
    store.entries[2] = good[3]
    with pytest.raises(
        CorruptError,
        match=(
            rf"test/c/0, byte {good[3].offset}: chunk 2 of steps/x .* is not "
            r"the one that was committed"
        ),
    ):
        column.read(0, len(rows))
    store.checksums[2] = None  # not known: another chunk's rows cannot be told from its own
    assert same(column.read(256, 384), rows[384:512])
    store.entries[2] = ChunkEntry("c/0", good[2].offset, good[2].length - 1)
    with pytest.raises(CorruptError, match=r"chunk 2 of steps/x .* is damaged: the stored checksum"):
        column.read(250, 300)
    for offset, length in ((0, 1 << 60), (0, 0), (-1, 10)):
        store.entries[2] = ChunkEntry("c/0", offset, length)
        with pytest.raises(CorruptError, match=f"chunk 2 of steps/x .* cannot have {length} bytes"):
            column.read(250, 300)
    store.entries[2] = good[2]
    store.files.resize("c/1", good[7].offset + good[7].length - 1)
    with pytest.raises(
        CorruptError,
        match=(
            rf"test/c/1, byte {good[7].offset}: chunk 7 of steps/x .* lies "
            r"past the end of the file"
        ),
    ):
        column.read(0, len(rows))
    assert same(column.read(0, 128 * 7), rows[: 128 * 7])


def test_chunks_are_looked_for_once_more_when_the_store_has_moved_on(wide: ArraySpec) -> None:
    rows = compressible(wide, 128 * 8)
    store = Coded(MemoryFiles("test"), "zarr", wide, rows)
    good, asked = dict(store.entries), list[int]()

    def moved(chunk: int) -> ChunkEntry | None:
        asked.append(chunk)
        store.entries[chunk] = good[chunk]
        return good[chunk]

    column = store.column(on_mismatch=moved)
    store.entries[1] = good[2]
    del store.entries[4]
    store.entries[6] = ChunkEntry("gone", 0, 100)
    assert same(column.read(0, len(rows)), rows)
    assert sorted(asked) == [1, 4, 6]
    store.entries[1] = good[2]
    assert same(column.take(ints(130, 3)), rows[[130, 3]])
    assert asked[3:] == [1]


def test_a_chunk_that_is_still_wrong_when_looked_for_again_is_an_error(wide: ArraySpec) -> None:
    store = Coded(MemoryFiles("test"), "zarr", wide, compressible(wide, 128 * 8))
    asked: list[int] = []

    def again(chunk: int) -> ChunkEntry | None:
        asked.append(chunk)
        return store.entries[chunk] if len(asked) == 1 else None

    column = store.column(on_mismatch=again)
    store.entries[1] = store.entries[2]
    for _ in range(2):
        with pytest.raises(CorruptError, match=r"chunk 1 of steps/x .* is not the one"):
            column.read(0, 128 * 8)
    assert asked == [1, 1]


def test_rolled_back_rows_do_not_come_from_the_cache(wide: ArraySpec) -> None:
    rows = compressible(wide, 256)
    store = Coded(MemoryFiles("test"), "zarr", wide, rows)
    column = store.column()
    assert same(column.read(3, 5), rows[3:5])
    store.files.remove("c/0")
    store.store(0, rows[::-1][:128])  # another chunk in the same place
    assert same(column.read(3, 5), rows[::-1][3:5])


def test_a_disk_that_fails_is_a_storage_error(wide: ArraySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Coded(MemoryFiles("test"), "zarr", wide, compressible(wide, 256))
    monkeypatch.setattr(store.files, "read", failing)
    with pytest.raises(StorageError, match="chunks of steps/x cannot be read"):
        store.column().read(0, 256)


def test_after_an_error_no_thread_is_still_at_work(wide: ArraySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Coded(MemoryFiles("test"), "zarr", wide, compressible(wide, 128 * 8))
    read, started, decoding = store.files.read, [0], threading.Event()

    def fails_at_first(name: str, offset: int, length: int) -> bytes:
        if offset == store.entries[0].offset and name == "c/0":
            decoding.wait(1)  # for another thread to be at work, where there is one
            failing()
        return read(name, offset, length)

    def slowly() -> None:
        started[0] += 1
        decoding.set()
        threading.Event().wait(0.1)

    decoding_pool.shared.workers = 2
    monkeypatch.setattr(store.files, "read", fails_at_first)
    codec = Counting(store.codec, slowly)
    column = store.column(codec=codec)
    column._reading = contextlib.nullcontext()  # type: ignore[assignment]
    with pytest.raises(StorageError):
        column.read(0, 128 * 8)
    assert codec.decoded == started[0] > 0


def test_a_tail_has_to_continue_the_column(wide: ArraySpec) -> None:
    store = Coded(MemoryFiles("test"), "zarr", wide, compressible(wide, 300))
    column = store.column(first_row=128)
    assert column.first == 128
    with pytest.raises(EvictedError, match="row 127 has been dropped"):
        column.read(127, 130)
    for first, rows in (
        (256, np.empty((1, 32, 31), "f4")),
        (256, np.empty((1, 32, 32), "f8")),
        (126, np.empty((1, 32, 32), "f4")),
    ):
        with pytest.raises(SchemaError, match="do not continue rows of float32"):
            column.set_tail(first, rows)
    column.set_tail(100, store.rows[100:200])  # of a ring: rows that it has dropped
    assert (column.first, column.stop) == (128, 200)
    assert same(column.take(ints(128, 199)), store.rows[[128, 199]])
    column.set_tail(250, store.rows[250:260])  # rows that a chunk holds too
    assert same(column.read(200, 260), store.rows[200:260])
    column.drop_before(400)
    assert (column.first, column.stop) == (400, 400)


FORK = """
import os
import numpy as np
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry
from replaystore.containers.codecs import codec_for
from replaystore.storage.memory import MemoryFiles
from replaystore.columns import coded, decoding_pool

spec = ArraySpec(np.dtype("f4"), (1024,), 256, codec="zstd:1")
files, codec = MemoryFiles("test"), codec_for("zarr", spec)
rows = np.arange(2048 * 1024, dtype="f4").reshape(2048, 1024)
files.create("a")
entries = {}
for chunk in range(8):
    data = codec.encode(rows[chunk * 256 : chunk * 256 + 256])
    entries[chunk] = ChunkEntry("a", files.size("a"), len(data))
    files.write("a", files.size("a"), data)
column = coded.CodedColumn(files, spec, codec, entries.get, lambda chunk: None)
column.set_tail(2048, rows[:0])
assert np.array_equal(column.read(0, 2048), rows)
decoding_pool.shared.cache._lock.acquire()  # as if another thread were in it
decoding_pool.shared._lock.acquire()
child = os.fork()
if not child:
    os._exit(0 if np.array_equal(column.read(1, 2047), rows[1:2047]) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_gets_threads_and_locks_of_its_own() -> None:
    assert (
        subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=False, timeout=60).returncode == 0
    )
