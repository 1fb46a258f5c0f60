"""Columns of raw rows against plain NumPy arrays: mapped or read, growing, dropped, replaced."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from columns import ROW, check_reads, ints, needs_maps, random_rows, same, specs
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_shards import Shards, grown, linux, maps_of

from replaystore.columns import mapped, plain
from replaystore.columns.mapped import raw_column
from replaystore.columns.plain import PlainColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import PAGE, Extent
from replaystore.errors import CorruptError, EvictedError, SchemaError, StorageError
from replaystore.storage.local import Files
from replaystore.storage.memory import MemoryFiles


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
        def _place(self, name: str) -> tuple[int, int, int]:
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
