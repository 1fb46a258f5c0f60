"""Columns of raw rows against plain NumPy arrays: mapped, read, growing and dropping."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from columns import ROW, Coded, check_reads, failing, ints, needs_maps, random_rows, same, specs
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.columns import mapped, plain
from replaystore.columns.mapped import raw_column
from replaystore.columns.plain import PlainColumn
from replaystore.columns.protocol import Rows, StoredColumn
from replaystore.containers.protocol import PAGE, ArraySpec, Extent
from replaystore.errors import CorruptError, EvictedError, SchemaError, StorageError
from replaystore.storage.local import Files
from replaystore.storage.memory import MemoryFiles

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
            found.append(
                Extent(f"c/{shard}", self.offset + inside * self.spec.row_bytes, count * self.spec.row_bytes)
            )
            start += count
        return found


def model_run(
    data: st.DataObject, spec: ArraySpec, shard_rows: int, offset: int, expected: bool | None
) -> None:
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
def test_rows_that_are_not_aligned_are_read_all_the_same(
    data: st.DataObject, spec: ArraySpec, shard_rows: int, offset: int
) -> None:
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
    monkeypatch.setattr(plain, "READ_BLOCK", 1000)
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
    with pytest.raises(
        EvictedError,
        match=(
            r"steps/x: row 255 has been dropped, the first row is now 256; "
            r"refresh"
        ),
    ):
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
def test_a_store_that_outgrows_its_reservation_gets_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
from replaystore.containers.protocol import ArraySpec, Extent
from replaystore.storage.local import Files
from replaystore.columns.mapped import raw_column
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
    done = subprocess.run(
        [sys.executable, "-c", SIGBUS, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    path = tmp_path / "a"
    assert done.stdout.splitlines() == [
        (
            f"{path}: 8191 bytes, but rows of steps/x lie in bytes 4096 to 12288: it was cut; restore "
            "it from "
            "a copy"
        ),
        "0.0 64",
        (
            f"{path}: 8191 bytes, but rows of steps/x lie in bytes 0 to 12288: it was cut; restore it from "
            "a copy"
        ),
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
            if not (
                same(column.take(numbers), rows[numbers])
                and same(column.rows(stop // 2, stop), rows[stop // 2 : stop])
            ):
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
