"""Columns against plain NumPy arrays: mapped, read, decoded; growing, dropping and damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from replaystore.backends import PAGE, ArraySpec, ChunkEntry, Extent
from replaystore.backends.codecs import ChunkCodec, codec_for, crc32c, hdf5_filters
from replaystore.backends.files import Files, MemoryFiles
from replaystore.chunks import Rows, StoredColumn, coded, mapped
from replaystore.chunks.coded import CodedColumn, DecodedChunks
from replaystore.chunks.mapped import MappedColumn, PlainColumn, raw_column
from replaystore.errors import CorruptError, EvictedError, SchemaError, StorageError

DTYPES = ["bool", "u1", "i2", "f4", "i8", "f8", "c16"]
ROW = ArraySpec(np.dtype("f4"), (16,), 64)
"""64 bytes: 64 rows are a page."""
needs_maps = pytest.mark.skipif(not isinstance(raw_column(MemoryFiles("probe"), ROW), MappedColumn), reason="no mapping on this system")


def ints(*rows: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


def random_rows(spec: ArraySpec, count: int, seed: int = 0) -> Rows:
    data = np.random.default_rng(seed).integers(0, 2 if spec.dtype.kind == "b" else 256, (count, spec.row_bytes), np.uint8)
    if not spec.row_bytes:
        return np.empty((count, *spec.shape), spec.dtype)
    return data.reshape(-1).view(spec.dtype).reshape(count, *spec.shape)


def same(one: Rows, other: Rows) -> bool:
    """Equal to the bit, NaNs too."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@st.composite
def specs(draw: st.DrawFn, codec: str | None = None, least: int = 0) -> ArraySpec:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=least, max_side=6))
    return ArraySpec(dtype, shape, draw(st.integers(1, 9)), codec=codec)


def check_reads(column: StoredColumn, model: Rows, first: int, data: st.DataObject) -> None:
    """Whatever is asked of a column is what the model (all rows from 0 on) has."""
    stop = len(model)
    assert (column.first, column.stop) == (first, stop)
    low = data.draw(st.integers(first, stop))
    high = data.draw(st.integers(low, stop))
    assert same(column.read(low, high), model[low:high])
    view = column.rows(low, high)
    assert same(view, model[low:high])
    assert not view.flags.writeable
    numbers = data.draw(st.lists(st.integers(first, stop - 1), max_size=30)) if first < stop else []
    assert same(column.take(ints(*numbers)), model[ints(*numbers)])
    out = np.empty((len(numbers), *column.shape), column.dtype)
    assert column.take(ints(*numbers), out) is out
    assert same(out, model[ints(*numbers)])


# --- raw rows


class Shards:
    """Raw rows in files of `shard_rows` rows each, behind `offset` bytes of something else."""

    def __init__(self, files: Files, spec: ArraySpec, shard_rows: int, offset: int) -> None:
        self.files, self.spec, self.shard_rows, self.offset = files, spec, shard_rows, offset
        self.rows = 0

    def append(self, rows: Rows) -> None:
        while len(rows):
            shard, inside = divmod(self.rows, self.shard_rows)
            if not inside:
                self.files.create(f"c/{shard}")
            part = rows[: self.shard_rows - inside]
            self.files.write(f"c/{shard}", self.offset + inside * self.spec.row_bytes, part.tobytes())
            self.rows += len(part)
            rows = rows[len(part) :]

    def extents(self, start: int, stop: int) -> list[Extent]:
        found = []
        while start < stop:
            shard, inside = divmod(start, self.shard_rows)
            count = min(stop - start, self.shard_rows - inside)
            found.append(Extent(f"c/{shard}", self.offset + inside * self.spec.row_bytes, count * self.spec.row_bytes))
            start += count
        return found


def model_run(data: st.DataObject, spec: ArraySpec, shard_rows: int, offset: int, expected: bool | None) -> None:
    files, spec = MemoryFiles("test"), dataclasses.replace(spec, chunk_rows=shard_rows, chunks_per_shard=1)
    shards = Shards(files, spec, shard_rows, offset)
    column = raw_column(files, spec, name="steps/x")
    model, first = random_rows(spec, 0), 0
    for step in range(data.draw(st.integers(1, 5))):
        added = random_rows(spec, data.draw(st.integers(0, 3 * shard_rows)), step)
        shards.append(added)
        model = np.concatenate([model, added])
        begin = column.stop
        if data.draw(st.booleans()):  # from the beginning of the shard, as a container gives them
            begin = max(first, column.stop // shard_rows * shard_rows)
        column.extend(shards.extents(begin, len(model)), len(model), start=begin)
        if data.draw(st.booleans()) and spec.row_bytes:
            row = data.draw(st.integers(0, len(model) + 2))
            column.drop_before(row)
            first = max(first, row // shard_rows * shard_rows)
            assert column.first == first
            if row >= len(model):
                if first > len(model):
                    return
                assert column.stop == first
                column.extend(shards.extents(first, len(model)), len(model))
        if expected is not None and first < len(model):
            assert column.mapped is expected
        check_reads(column, model, first, data)


@needs_maps
@settings(max_examples=40, deadline=None)
@given(data=st.data(), spec=specs(least=1))
def test_rows_of_aligned_shards_are_one_mapped_array(data: st.DataObject, spec: ArraySpec) -> None:
    shard_rows = PAGE // math.gcd(PAGE, spec.row_bytes)
    if shard_rows * spec.row_bytes <= 1 << 20:
        model_run(data, spec, shard_rows, PAGE, expected=True)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), spec=specs(), shard_rows=st.integers(1, 50), offset=st.sampled_from([0, 7, PAGE]))
def test_rows_that_are_not_aligned_are_read_all_the_same(data: st.DataObject, spec: ArraySpec, shard_rows: int, offset: int) -> None:
    model_run(data, spec, shard_rows, offset, expected=None)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), spec=specs(least=1))
def test_rows_may_lie_in_pieces_of_any_length(data: st.DataObject, spec: ArraySpec) -> None:
    files = MemoryFiles("test")
    model = random_rows(spec, data.draw(st.integers(1, 40)))
    files.create("a")
    raw, extents, place = model.tobytes(), [], 0
    while place < len(raw):
        length = data.draw(st.integers(1, len(raw)))
        offset = files.size("a") + data.draw(st.integers(0, 3))
        files.write("a", offset, raw[place : place + length])
        extents.append(Extent("a", offset, len(raw[place : place + length])))
        place += length
    column = raw_column(files, spec)
    column.extend(extents, len(model))
    check_reads(column, model, 0, data)


def test_far_rows_are_read_in_bounded_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "READ_BLOCK", 1000)
    model = random_rows(ROW, 4000)
    files = Files(tmp_path, writable=True)
    files.create("a")
    files.write("a", 0, model.tobytes())
    column = PlainColumn(files, ROW)
    column.extend([Extent("a", 0, model.nbytes)], 4000)
    asked: list[int] = []
    read = files.read

    def recorded(name: str, offset: int, length: int) -> bytes:
        asked.append(length)
        return read(name, offset, length)

    monkeypatch.setattr(files, "read", recorded)
    numbers = np.random.default_rng(0).integers(0, 4000, 300)
    assert same(column.take(numbers), model[numbers])
    assert same(column.read(3, 3999), model[3:3999])
    assert max(asked) <= 1000
    asked.clear()
    assert same(column.take(ints(0, 1, 2, 3999)), model[[0, 1, 2, 3999]])
    assert asked == [192, 64]
    files.close()


def grown(files: Files, rows: int, *, offset: int = 0) -> tuple[PlainColumn, Shards, Rows]:
    """A column of `rows` rows in shards of 128 rows, two pages."""
    shards, model = Shards(files, ROW, 128, offset), random_rows(ROW, rows)
    shards.append(model)
    column = raw_column(files, ROW, name="steps/x")
    column.extend(shards.extents(0, rows), rows)
    return column, shards, model


def maps_of(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@needs_maps
def test_views_outlive_growth_the_column_and_the_files(tmp_path: Path) -> None:
    files = Files(tmp_path, writable=True)
    column, shards, model = grown(files, 100)
    view = column.rows(10, 90)
    shards.append(random_rows(ROW, 500, 1))
    column.extend(shards.extents(100, 600), 600)
    assert same(view, model[10:90])
    part = view[5:7, 3]
    del column, view
    files.close()
    for name in files.walk():
        os.unlink(files.path(name))
    gc.collect()
    assert same(part, model[15:17, 3])


@linux
@needs_maps
def test_a_range_is_unmapped_when_nothing_refers_to_it_any_more(tmp_path: Path) -> None:
    files = Files(tmp_path, writable=True)
    column, _, model = grown(files, 300)
    view = column.rows(0, 300).reshape(-1)[::2]
    cycle: list[Any] = [view]
    cycle.append(cycle)
    del column, view
    gc.collect()
    assert maps_of(tmp_path)
    assert same(cycle[0], model.reshape(-1)[::2])
    del cycle
    gc.collect()
    assert not maps_of(tmp_path)
    files.close()


@linux
@needs_maps
def test_adjacent_extents_of_a_file_are_one_map(tmp_path: Path) -> None:
    files = Files(tmp_path, writable=True)
    model = random_rows(ROW, 64 * 50)
    files.create("a")
    files.write("a", 0, model.tobytes())
    column = raw_column(files, ROW)
    for chunk in range(50):
        column.extend([Extent("a", chunk * PAGE, PAGE)], chunk * 64 + 64)
    assert column.mapped
    assert len(maps_of(tmp_path)) == 1
    assert same(column.read(0, 3200), model)
    files.close()


@linux
@needs_maps
def test_dropped_shards_are_let_go_of_once_their_views_are_gone(tmp_path: Path) -> None:
    files = Files(tmp_path, writable=True)
    column, _, model = grown(files, 500)
    view = column.rows(5, 6)
    column.drop_before(300)
    assert column.first == 256
    files.remove("c/0")
    files.remove("c/1")
    assert same(view, model[5:6])
    assert any("c/0 (deleted)" in line for line in maps_of(tmp_path))
    del view
    assert not any("deleted" in line for line in maps_of(tmp_path))
    assert same(column.read(256, 500), model[256:])
    assert same(column.take(ints(256, 499)), model[[256, 499]])
    with pytest.raises(EvictedError, match=r"steps/x: row 255 has been dropped, the first row is now 256; refresh"):
        column.take(ints(300, 255))
    with pytest.raises(EvictedError):
        column.read(0, 10)
    files.close()


def test_a_row_that_lies_in_two_runs_keeps_both() -> None:
    files, model = MemoryFiles("test"), random_rows(ROW, 6)
    for name, part in (("a", slice(0, 128)), ("b", slice(128, 200)), ("c", slice(200, 384))):
        files.create(name)
        files.write(name, 0, model.tobytes()[part])
    column = raw_column(files, ROW)
    column.extend([Extent("a", 0, 128), Extent("b", 0, 72), Extent("c", 0, 184)], 6)
    column.drop_before(4)
    assert (column.first, column.stop) == (2, 6)
    assert same(column.read(2, 6), model[2:])


@needs_maps
def test_a_store_that_outgrows_its_reservation_gets_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "RESERVE_AT_LEAST", PAGE)
    monkeypatch.setattr(mapped, "RESERVE_TIMES", 2)
    files = Files(tmp_path, writable=True)
    column, shards, model = grown(files, 64)
    views, starts = [], set()
    for step in range(60):
        more = random_rows(ROW, 50, step)
        begin = len(model)
        model = np.concatenate([model, more])
        shards.append(more)
        column.extend(shards.extents(begin, len(model)), len(model))
        views.append(column.rows(0, len(model)))
        starts.add(views[-1].ctypes.data)
        assert column.mapped
    assert 3 <= len(starts) <= 8
    assert all(same(view, model[: len(view)]) for view in views)
    files.close()


@needs_maps
def test_where_addresses_are_scarce_only_what_is_needed_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "RESERVE_AT_LEAST", 1 << 50)
    files = MemoryFiles("test")
    column, shards, model = grown(files, 300)
    assert column.mapped
    shards.append(model)
    column.extend(shards.extents(300, 600), 600)
    assert same(column.read(0, 600), np.concatenate([model, model]))
    monkeypatch.setattr(mapped, "RESERVE_TIMES", 1 << 40)
    monkeypatch.setattr(mapped, "_pages", lambda _: 1 << 60)
    with pytest.raises(StorageError, match="raise the limit of address space"):
        grown(MemoryFiles("other"), 300)


@needs_maps
def test_a_file_replaced_by_a_copy_does_not_change_what_is_seen_already(tmp_path: Path) -> None:
    files = Files(tmp_path, writable=True)
    column, _, model = grown(files, 150)
    view = column.rows(0, 150)
    changed = model[128:].copy()
    changed[10:] = 0
    files.replace("c/1", changed.tobytes())
    column.extend([Extent("c/1", 0, 22 * 64)], 150, start=128)
    assert same(view, model)
    assert same(column.read(128, 150), changed)
    assert same(column.read(0, 128), model[:128])
    before = column.rows(0, 150)
    files.replace("c/0", bytes(8192))
    column.extend([Extent("c/0", 0, 8192), Extent("c/1", 0, 22 * 64)], 150, start=0)
    assert same(before[:128], model[:128])
    assert not column.read(0, 128).any()
    assert same(column.read(128, 150), changed)
    files.close()


@needs_maps
def test_a_column_may_become_shorter_and_grow_again() -> None:
    files = MemoryFiles("test")
    column, _, model = grown(files, 300)
    view = column.rows(0, 300)
    column.extend([Extent("c/1", 0, 22 * 64)], 150, start=128)
    with pytest.raises(SchemaError, match=r"rows 0 to 151 are not among rows 0 to 150"):
        column.read(0, 151)
    files.rename("c/1", "old")  # a forked file has the rows kept and then others
    files.create("c/1")
    files.write("c/1", 0, np.concatenate([model[128:150], model[:106]]).tobytes())
    column.extend([Extent("c/1", 0, 128 * 64)], 256, start=128)
    assert same(column.read(0, 256), np.concatenate([model[:150], model[:106]]))
    assert same(view, model)


def test_one_extent_out_of_line_makes_the_column_read_instead() -> None:
    files = MemoryFiles("test")
    column, _, model = grown(files, 128)
    files.create("odd")
    files.write("odd", 0, b"?" + model.tobytes())
    column.extend([Extent("odd", 1, model.nbytes)], 256)
    assert not column.mapped
    assert same(column.read(0, 256), np.concatenate([model, model]))
    assert same(column.take(ints(255, 0, 128)), model[[127, 0, 0]])


def test_more_runs_than_a_process_can_map_are_read_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MOST_MAPS", 3)
    files = MemoryFiles("test")
    column, shards, _ = grown(files, 300)
    shards.append(random_rows(ROW, 200, 3))
    column.extend(shards.extents(300, 500), 500)
    assert not column.mapped
    assert same(column.read(300, 500), random_rows(ROW, 200, 3))


def test_a_system_that_cannot_map_ranges_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    files = MemoryFiles("test")
    column, _, model = grown(files, 300)
    assert type(column) is PlainColumn
    assert not column.mapped
    assert same(column.rows(0, 300), model)


@needs_maps
def test_members_of_a_larger_file_are_mapped_where_they_are_aligned(tmp_path: Path) -> None:
    rows = random_rows(ROW, 128)

    class Members(Files):
        def place(self, name: str) -> tuple[int, int, int]:
            return self.descriptor("whole"), int(name), rows.nbytes

        def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            return super().read("whole", int(name) + offset, length)

    files = Members(tmp_path, writable=True)
    files.create("whole")
    for place in (PAGE, 10 * PAGE + 1):
        files.write("whole", place, rows.tobytes())
        column = raw_column(files, ROW)
        column.extend([Extent(str(place), 0, rows.nbytes // 2)], 64)
        column.extend([Extent(str(place), rows.nbytes // 2, rows.nbytes // 2)], 128)
        assert column.mapped is (place == PAGE)
        assert same(column.read(0, 128), rows)
    with pytest.raises(CorruptError, match="it was cut"):
        column.extend([Extent(str(PAGE), rows.nbytes, 64)], 129)
    files.close()


SIGBUS = """
import sys
import numpy as np
from replaystore.backends import ArraySpec, Extent
from replaystore.backends.files import Files
from replaystore.chunks.mapped import raw_column
from replaystore.errors import CorruptError

files = Files(sys.argv[1], writable=True)
spec = ArraySpec(np.dtype("f4"), (16,), 64)
files.create("a")
files.write("a", 0, bytes(3 * 4096))
column = raw_column(files, spec, name="steps/x")
column.extend([Extent("a", 0, 4096)], 64)
files.resize("a", 2 * 4096 - 1)
for column in (column, raw_column(files, spec, name="steps/x")):
    rows = column.stop
    try:
        column.extend([Extent("a", rows * 64, (192 - rows) * 64)], 192)
    except CorruptError as error:
        print(error)
    print(column.read(0, column.stop).sum(), column.stop)
"""


def test_a_file_that_was_cut_is_an_error_and_does_not_kill_the_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SIGBUS, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60)
    path = tmp_path / "a"
    assert done.stdout.splitlines() == [
        f"{path}: 8191 bytes, but rows of steps/x lie in bytes 4096 to 12288: it was cut; restore it from a copy",
        "0.0 64",
        f"{path}: 8191 bytes, but rows of steps/x lie in bytes 0 to 12288: it was cut; restore it from a copy",
        "0.0 0",
    ]


def test_a_missing_file_is_named() -> None:
    files = MemoryFiles("test")
    with pytest.raises(CorruptError, match=r"memory:test/c/0: missing, and rows of steps/x lie in it"):
        raw_column(files, ROW, name="steps/x").extend([Extent("c/0", 0, 64)], 1)


def test_a_file_cut_or_removed_under_a_column_that_reads_is_named(tmp_path: Path) -> None:
    files = Files(tmp_path, writable=True)
    files.create("a")
    files.write("a", 0, bytes(6400))
    column = PlainColumn(files, ROW, name="steps/x")
    column.extend([Extent("a", 0, 6400)], 100)
    files.resize("a", 6399)
    assert column.read(0, 99).shape == (99, 16)
    with pytest.raises(CorruptError, match=r"a: ends before byte 6400, where rows of steps/x lie"):
        column.take(ints(99))
    files.remove("a")
    with pytest.raises(CorruptError, match=r"a: missing, and rows of steps/x lie in it"):
        column.read(0, 1)


def failing(*_: Any) -> Any:
    raise OSError(5, "Input/output error")


def test_what_the_disk_refuses_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles("test")
    files.create("a")
    files.write("a", 0, bytes(6400))
    column = PlainColumn(files, ROW, name="steps/x")
    column.extend([Extent("a", 0, 6400)], 100)
    monkeypatch.setattr(files, "read", failing)
    with pytest.raises(StorageError, match="rows of steps/x cannot be read"):
        column.read(0, 1)
    monkeypatch.setattr(files, "descriptor", failing)
    with pytest.raises(StorageError, match="cannot be opened"):
        column.extend([Extent("a", 0, 64)], 101)


def raw_and_coded() -> list[StoredColumn]:
    files = MemoryFiles("test")
    column, _, model = grown(files, 100)
    spec = ArraySpec(ROW.dtype, ROW.shape, 32, codec="zstd:1")
    coded_column = Coded(files, "zarr", spec, model).column()
    return [column, coded_column]


@pytest.mark.parametrize("which", [0, 1])
def test_requests_that_make_no_sense_are_refused(which: int) -> None:
    column = raw_and_coded()[which]
    for start, stop in ((-1, 5), (5, 4), (0, 101), (101, 101)):
        with pytest.raises(SchemaError, match="are not among rows 0 to 100"):
            column.read(start, stop)
        with pytest.raises(SchemaError, match="are not among rows 0 to 100"):
            column.rows(start, stop)
    for number in (-1, 100, 2**62, -(2**63), 2**63 - 1):
        with pytest.raises(SchemaError, match="are not among rows 0 to 100"):
            column.take(ints(5, number))
    bad: list[Any] = [np.array([1], np.int32), np.array([[1]]), np.array([1.0]), np.array([True])]
    for numbers in bad:
        with pytest.raises(SchemaError, match="row numbers are a flat int64 array"):
            column.take(numbers)
    outs = [
        np.empty((1, 16), "f8"),
        np.empty((2, 16), "f4"),
        np.empty((1, 8), "f4"),
        np.empty((1, 32), "f4")[:, ::2],
        np.empty((16, 1), "f4").T,
    ]
    outs[-1] = np.asfortranarray(np.empty((1, 16), ">f4"))
    frozen = np.empty((1, 16), "f4")
    frozen.flags.writeable = False
    for out in (*outs, frozen):
        with pytest.raises(SchemaError, match="has to be a writable C-contiguous array of float32"):
            column.take(ints(1), out)
    assert column.take(ints()).shape == (0, 16)
    assert column.read(100, 100).shape == (0, 16)


def test_extents_have_to_fit_the_rows() -> None:
    files = MemoryFiles("test")
    column, shards, model = grown(files, 100)
    for extents, rows, start in (
        ([Extent("c/0", 6400, 64)], 102, None),
        ([Extent("c/0", 0, 65)], 1, 0),
        ([Extent("c/0", 0, 64)], 102, 101),
        ([], 99, None),
    ):
        with pytest.raises(SchemaError):
            column.extend(extents, rows, start=start)
    for extent in (Extent("c/0", -64, 64), Extent("c/0", 6400, 64)):
        with pytest.raises(CorruptError, match="it was cut"):
            column.extend([extent], 101)
    assert same(column.read(0, 100), model)
    assert shards.rows == column.stop == 100


@needs_maps
def test_reading_and_extending_at_once_is_safe() -> None:
    files = MemoryFiles("test")
    column, shards, model = grown(files, 1)
    rows = random_rows(ROW, 3000, 5)
    rows[0] = model[0]
    wrong: list[int] = []
    done = threading.Event()

    def read() -> None:
        generator = np.random.default_rng()
        while not done.is_set():
            stop = column.stop
            numbers = generator.integers(0, stop, 16)
            if not (same(column.take(numbers), rows[numbers]) and same(column.rows(stop // 2, stop), rows[stop // 2 : stop])):
                wrong.append(stop)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for stop in range(11, 3000, 10):
        begin = column.stop
        shards.append(rows[begin:stop])
        column.extend(shards.extents(begin, stop), stop)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


# --- coded rows


class Coded:
    """Encoded chunks of some rows; the rows of the last chunk, if it is not full, are the tail."""

    def __init__(self, files: Files, kind: Literal["zarr", "hdf5"], spec: ArraySpec, rows: Rows, *, gap: int = 0) -> None:
        self.files, self.spec, self.rows = files, spec, rows
        self.codec = codec_for(kind, spec)
        self.entries: dict[int, ChunkEntry] = {}
        self.checksums: dict[int, int | None] = {}
        self.full = len(rows) // spec.chunk_rows
        for chunk in range(self.full):
            self.store(chunk, rows[chunk * spec.chunk_rows : (chunk + 1) * spec.chunk_rows], gap)

    def store(self, chunk: int, rows: Rows, gap: int = 0) -> None:
        name = f"c/{chunk // 4}"
        if not self.files.exists(name):
            self.files.create(name)
        data, offset = self.codec.encode(rows), self.files.size(name) + gap
        self.files.write(name, offset, data)
        self.entries[chunk] = ChunkEntry(name, offset, len(data))
        self.checksums[chunk] = self.codec.checksum(data)

    def column(self, **options: Any) -> CodedColumn:
        codec = options.pop("codec", self.codec)
        column = CodedColumn(self.files, self.spec, codec, self.entries.get, self.checksums.get, name="steps/x", **options)
        column.set_tail(self.full * self.spec.chunk_rows, self.rows[self.full * self.spec.chunk_rows :])
        return column


class Counting:
    """A codec that counts."""

    def __init__(self, codec: ChunkCodec, before: Callable[[], None] = lambda: None) -> None:
        self.codec, self.before, self.decoded = codec, before, 0
        self.encode, self.checksum, self.decode_if = codec.encode, codec.checksum, codec.decode_if

    def decode(self, data: Any, out: NDArray[np.uint8], *, checked: bool = False) -> None:
        self.before()
        self.codec.decode(data, out, checked=checked)
        self.decoded += 1


@pytest.fixture(autouse=True)
def _fresh_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded, "_shared", coded._Shared())


@pytest.fixture
def wide() -> ArraySpec:
    """Chunks of 512 KiB: two make a job."""
    return ArraySpec(np.dtype("f4"), (32, 32), 128, codec="zstd:1")


def compressible(spec: ArraySpec, count: int) -> Rows:
    rows: Rows = (np.arange(count * math.prod(spec.shape)) // 50).astype(spec.dtype).reshape(count, *spec.shape)
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
    coded._shared.cache = DecodedChunks(limit)
    rows = random_rows(spec, data.draw(st.integers(0, 60)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded, "JOB_BYTES", job)
        column = Coded(files, kind, spec, rows, gap=gap).column() if spec.row_bytes else empty_items(files, spec, rows)
        first = 0
        for _ in range(3):
            check_reads(column, rows, first, data)
            first = data.draw(st.integers(first, len(rows)))
            column.drop_before(first)
        assert coded._shared.cache.size <= limit


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
    assert coded._shared.cache.size == 0
    assert same(column.read(1, len(rows)), rows[1:])
    assert coded._shared.cache.size == wide.chunk_bytes


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
            waiting[0] += sum(entry.object == name and offset <= entry.offset < offset + length for entry in store.entries.values())
            most[0] = max(most[0], waiting[0])
        return read_bytes(name, offset, length)

    def before() -> None:
        with lock:
            waiting[0] -= 1

    monkeypatch.setattr(store.files, "read", read)
    column = store.column(codec=Counting(store.codec, before))
    assert same(column.read(0, len(rows)), rows)
    assert waiting[0] == 0
    assert most[0] <= 2 * coded._shared.workers


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
    message = rf"chunk {chunks - 1} of steps/x \(rows {128 * chunks - 128} to {128 * chunks}\) is missing; run `replaystore verify`"
    with pytest.raises(CorruptError, match=message):
        column.read(0, 128 * chunks)
    with pytest.raises(CorruptError, match=message):
        column.take(ints(0, 128 * chunks - 1))
    store.entries[chunks - 1] = ChunkEntry("nowhere", entry.offset, entry.length)
    with pytest.raises(CorruptError, match=r"memory:test/nowhere, byte \d+: chunk .* is missing: no such file"):
        column.read(0, 128 * chunks)


def test_swapped_flipped_and_cut_chunks_are_found_and_named(wide: ArraySpec) -> None:
    rows = compressible(wide, 128 * 8)
    store = Coded(MemoryFiles("test"), "zarr", wide, rows)
    column, good = store.column(), dict(store.entries)
    store.entries[2] = good[3]
    with pytest.raises(CorruptError, match=rf"test/c/0, byte {good[3].offset}: chunk 2 of steps/x .* is not the one that was committed"):
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
    with pytest.raises(CorruptError, match=rf"test/c/1, byte {good[7].offset}: chunk 7 of steps/x .* lies past the end of the file"):
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

    coded._shared.workers = 2
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
    for first, rows in ((256, np.empty((1, 32, 31), "f4")), (256, np.empty((1, 32, 32), "f8")), (127, np.empty((1, 32, 32), "f4"))):
        with pytest.raises(SchemaError, match="do not continue rows of float32"):
            column.set_tail(first, rows)
    column.set_tail(250, store.rows[250:260])  # rows that a chunk holds too
    assert same(column.read(200, 260), store.rows[200:260])
    column.drop_before(400)
    assert (column.first, column.stop) == (400, 400)


FORK = """
import os
import numpy as np
from replaystore.backends import ArraySpec, ChunkEntry
from replaystore.backends.codecs import codec_for
from replaystore.backends.files import MemoryFiles
from replaystore.chunks import coded

spec = ArraySpec(np.dtype("f4"), (1024,), 256, codec="zstd:1")
files, codec, rows = MemoryFiles("test"), codec_for("zarr", spec), np.arange(2048 * 1024, dtype="f4").reshape(2048, 1024)
files.create("a")
entries = {}
for chunk in range(8):
    data = codec.encode(rows[chunk * 256 : chunk * 256 + 256])
    entries[chunk] = ChunkEntry("a", files.size("a"), len(data))
    files.write("a", files.size("a"), data)
column = coded.CodedColumn(files, spec, codec, entries.get, lambda chunk: None)
column.set_tail(2048, rows[:0])
assert np.array_equal(column.read(0, 2048), rows)
coded._shared.cache._lock.acquire()  # as if another thread were in it
coded._shared._lock.acquire()
child = os.fork()
if not child:
    os._exit(0 if np.array_equal(column.read(1, 2047), rows[1:2047]) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_gets_threads_and_locks_of_its_own() -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=False, timeout=60).returncode == 0


# --- files of other libraries


@needs_maps
def test_shards_that_zarr_python_wrote_are_read_mapped_and_decoded(tmp_path: Path) -> None:
    spec = ArraySpec(np.dtype("f4"), (16,), 64, 4, codec="zstd:1")
    rows = random_rows(spec, 256 * 2 + 64 * 3)
    codecs: dict[str, list[Any]] = {"raw": [BytesCodec()], "coded": [BytesCodec(), ZstdCodec(level=1), Crc32cCodec()]}
    for name, inner in codecs.items():
        array: Any = zarr.create_array(
            store=str(tmp_path / name),
            shape=rows.shape,
            dtype="f4",
            chunks=(256, 16),
            filters=None,
            compressors=None,
            serializer=ShardingCodec(chunk_shape=(64, 16), codecs=inner, index_location="start"),
        )
        array[:] = rows
    files = Files(tmp_path, writable=True)
    entries: dict[str, dict[int, ChunkEntry]] = {"raw": {}, "coded": {}}
    for name, found in entries.items():
        for chunk in range(11):
            index = np.frombuffer(files.read(f"{name}/c/{chunk // 4}/0", 0, 64), "<u8").reshape(4, 2)
            offset, length = index[chunk % 4].tolist()
            found[chunk] = ChunkEntry(f"{name}/c/{chunk // 4}/0", offset, length)
    column = CodedColumn(files, spec, codec_for("zarr", spec), entries["coded"].get, lambda _: None)
    column.set_tail(len(rows), rows[:0])
    assert same(column.read(0, len(rows)), rows)
    assert same(column.take(ints(5, 700, 5)), rows[[5, 700, 5]])

    raw = raw_column(files, spec)
    extents = []
    for shard in range(3):  # its index is not padded to a page as ours is: move the chunks
        data = files.read(f"raw/c/{shard}/0")
        chunks = [data[entry.offset : entry.offset + entry.length] for number, entry in entries["raw"].items() if number // 4 == shard]
        index = np.full((4, 2), 2**64 - 1, "<u8")
        index[: len(chunks)] = [(PAGE + number * PAGE, PAGE) for number in range(len(chunks))]
        head = index.tobytes() + crc32c(index).to_bytes(4, "little")
        files.replace(f"raw/c/{shard}/0", head.ljust(PAGE, b"\0") + b"".join(chunks))
        extents.append(Extent(f"raw/c/{shard}/0", PAGE, len(chunks) * PAGE))
    raw.extend(extents, len(rows))
    assert raw.mapped
    assert same(raw.read(0, len(rows)), rows)
    assert same(raw.take(ints(5, 700, 255, 256)), rows[[5, 700, 255, 256]])
    assert np.array_equal(zarr.open_array(str(tmp_path / "raw"), mode="r")[:], rows, equal_nan=True)
    files.close()


@needs_maps
def test_chunks_of_an_hdf5_file_are_read_mapped_and_decoded(tmp_path: Path) -> None:
    spec = ArraySpec(np.dtype("f4"), (16,), 64, codec="gzip:2")
    rows = random_rows(spec, 64 * 20)
    entries: dict[str, dict[int, ChunkEntry]] = {}
    with h5py.File(tmp_path / "a.h5", "w", alignment_threshold=PAGE, alignment_interval=PAGE) as file:
        file.create_dataset("raw", data=rows, chunks=(64, 16))
        file.create_dataset("coded", data=rows, chunks=(64, 16), compression="gzip", compression_opts=2, shuffle=True, fletcher32=True)
        assert [code for code, _, _ in hdf5_filters(spec)] == [2, 1, 3]
        for name in ("raw", "coded"):
            found = entries[name] = {}
            file[name].id.chunk_iter(
                lambda info, found=found: found.update({info.chunk_offset[0] // 64: ChunkEntry("a.h5", info.byte_offset, info.size)})
            )
    files = Files(tmp_path, writable=False)
    column = CodedColumn(files, spec, codec_for("hdf5", spec), entries["coded"].get, lambda _: None)
    column.set_tail(len(rows), rows[:0])
    assert same(column.read(0, len(rows)), rows)
    raw = raw_column(files, spec)
    raw.extend([Extent("a.h5", entries["raw"][chunk].offset, entries["raw"][chunk].length) for chunk in range(20)], len(rows))
    assert raw.mapped
    assert same(raw.read(0, len(rows)), rows)
    files.close()
