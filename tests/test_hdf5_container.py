"""The HDF5 container: what is stored is read, over growth, publishing and failed writes."""

from __future__ import annotations

import errno
import itertools
import json
import random
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hdf5_story import (
    ALL,
    FLAG,
    IMAGE,
    NAME,
    OBS,
    SPECS,
    ZIMAGE,
    encoded,
    flat,
    plain,
    read_chunk,
    read_rows,
    reader_of,
    rows_of,
)

import replaystore as rs
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.hdf5 import library as hdf5_library
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.hdf5.overlay import Pieces, lookup3
from replaystore.containers.hdf5.rows import LEAST_STEP
from replaystore.containers.protocol import Container
from replaystore.errors import (
    CorruptError,
    SchemaError,
)
from replaystore.storage.local import Files
from replaystore.testing.disks import Disk
from replaystore.testing.faults import RecordingFiles

pytest_plugins = ["hdf5_story"]


_protocols: list[type[Container]] = [Hdf5Container]


# --- what is stored is read


def test_a_new_file_is_on_the_disk_when_it_is_returned(tmp_path: Path) -> None:
    recording, disk = RecordingFiles(), Disk()
    files = recording.files(tmp_path, writable=True)
    Hdf5Container.create(files, "a.h5", {"replaystore": "1.0"})
    files.close()
    for operation in recording.operations:
        disk.do(operation)

    assert disk.synced() == {"a.h5": (tmp_path / "a.h5").read_bytes()}


def test_specs_are_read_as_they_were_made(container: Hdf5Container) -> None:
    assert dict(container.specs()) == ALL
    assert dict(reader_of(container).specs()) == ALL
    assert all(spec.dtype.byteorder in "<|=" for spec in reader_of(container).specs().values())


def test_big_endian_dtypes_are_stored_little_endian(container: Hdf5Container) -> None:
    container.create_arrays({"steps/b": ArraySpec(np.dtype(">f4"), (), 8)})
    assert (
        container.specs()["steps/b"].dtype == np.dtype("<f4") == reader_of(container).specs()["steps/b"].dtype
    )


def test_raw_rows_are_read_as_written_over_growth_and_chunk_borders(container: Hdf5Container) -> None:
    reader = reader_of(container)
    raw = [name for name, spec in ALL.items() if spec.codec is None]
    written = {name: rows_of(ALL[name], 1500, seed) for seed, name in enumerate(raw)}
    done = 0
    for count in (1, 31, 200, 7, 561, 700):
        container.reserve(dict.fromkeys(raw, done + count))
        for name in raw:
            container.write_rows(name, done, flat(written[name][done : done + count]))
        done += count
        for name in raw:
            assert (
                read_rows(container, name, done)
                == read_rows(reader, name, done)
                == flat(written[name][:done]).tobytes()
            )
    container.publish(dict.fromkeys(raw, done), {})
    with plain(container) as file:
        for name in raw:
            assert file[name].dtype == ALL[name].dtype
            np.testing.assert_array_equal(file[name][:], written[name])


def test_coded_chunks_are_read_by_us_and_by_plain_h5py(container: Hdf5Container) -> None:
    reader = reader_of(container)
    for first in (0, 3):
        chunks = {
            name: {n: encoded(container, name, n) for n in range(first, first + 3)}
            for name in (IMAGE, ZIMAGE, "steps/%2F")
        }
        placed = container.write_chunks(chunks)
        for name, numbered in chunks.items():
            for n, data in numbered.items():
                entry = placed[name][n]
                assert container.files.read(entry.object, entry.offset, entry.length) == data
                assert container.entry(name, n) == entry == reader.entry(name, n)
    assert container.entry(IMAGE, 6) is None
    assert reader.entry(IMAGE, 6) is None
    container.publish({IMAGE: 45}, {})
    with plain(container) as file:
        expected = np.concatenate([rows_of(ALL[IMAGE], 8, n) for n in range(6)])[:45]
        np.testing.assert_array_equal(file[IMAGE][:], expected)
        assert file[IMAGE].compression == "gzip"
        assert file[IMAGE].fletcher32


def test_a_published_partial_chunk_is_superseded_and_published_again(container: Hdf5Container) -> None:
    chunk = {n: rows_of(ALL[IMAGE], 8, n) for n in range(3)}
    reader = reader_of(container)
    for length in (5, 8, 13, 13, 16, 24):
        last = (length - 1) // 8
        partial = chunk[last].copy()
        partial[length - last * 8 :] = 0
        placed = container.write_chunks({IMAGE: {last: container.codec(ALL[IMAGE]).encode(flat(partial))}})
        container.publish({IMAGE: length}, placed)
        with plain(container) as file:
            np.testing.assert_array_equal(file[IMAGE][:], np.concatenate(list(chunk.values()))[:length])
        if length % 8 == 0:
            assert read_chunk(reader, IMAGE, last) == flat(chunk[last]).tobytes()


def test_publish_brings_the_index_back_to_the_entries_it_is_given(container: Hdf5Container) -> None:
    old = container.write_chunks({IMAGE: {0: encoded(container, IMAGE, 0), 1: encoded(container, IMAGE, 1)}})
    container.write_chunks({IMAGE: {1: encoded(container, IMAGE, 8), 2: encoded(container, IMAGE, 9)}})
    container.publish({IMAGE: 16}, old)
    with plain(container) as file:
        np.testing.assert_array_equal(
            file[IMAGE][:], np.concatenate([rows_of(ALL[IMAGE], 8, n) for n in (0, 1)])
        )
    assert read_chunk(container, IMAGE, 1) == flat(rows_of(ALL[IMAGE], 8, 1)).tobytes()
    assert container.entry(IMAGE, 2) is None


def test_publish_needs_no_filter_plugin(container: Hdf5Container) -> None:
    placed = container.write_chunks({ZIMAGE: {n: encoded(container, ZIMAGE, n) for n in range(3)}})
    container.publish({ZIMAGE: 19}, placed)
    container.write_chunks({ZIMAGE: {2: encoded(container, ZIMAGE, 7)}})
    container.publish({ZIMAGE: 22}, {})
    with plain(container) as file:
        assert file[ZIMAGE].shape == (22, 4)
    assert read_chunk(container, ZIMAGE, 2) == flat(rows_of(ALL[ZIMAGE], 8, 7)).tobytes()


def test_rows_in_the_chunk_that_publish_cuts_stay(container: Hdf5Container) -> None:
    """HDF5 fills the end of that chunk with zeros; those bytes are rows that are not committed yet, or an old
    reader's."""
    large = ArraySpec(np.dtype("f8"), (512,), 512)  # 2 MiB, more than HDF5 keeps in its chunk cache
    container.create_arrays({"steps/large": large})
    rows = {"steps/large": rows_of(large, 700), OBS: rows_of(ALL[OBS], 700)}
    container.reserve(dict.fromkeys(rows, 700))
    for name, data in rows.items():
        container.write_rows(name, 0, flat(data))
    before = {name: container.extents(name, 0, 700) for name in rows}
    container.publish({"steps/large": 100, OBS: 100}, {})
    for name, data in rows.items():
        found = b"".join(container.files.read(e.object, e.offset, e.length) for e in before[name])
        assert found == flat(data).tobytes()
        with plain(container) as file:
            np.testing.assert_array_equal(file[name][:], data[:100])
    container.reserve(dict.fromkeys(rows, 300))
    for name, data in rows.items():
        container.write_rows(name, 100, flat(data[100:300]))
        assert read_rows(container, name, 300) == flat(data[:300]).tobytes()


def test_growth_takes_few_transactions_and_makes_few_runs(container: Hdf5Container) -> None:
    transactions = 0
    for rows in range(64, 64 * 500, 64):
        before = container._file._sequence
        container.reserve({OBS: rows, "steps/f8": rows})
        transactions += container._file._sequence - before
    assert transactions < 30
    extents = container.extents(OBS, 0, 64 * 499)
    assert len(extents) < 30
    assert sum(extent.length for extent in extents) == 64 * 499 * ALL[OBS].row_bytes
    assert all(extent.offset % 4096 == 0 for extent in extents)


def test_room_is_as_large_as_asked_for_at_first_and_at_most_half_more_later(container: Hdf5Container) -> None:
    container.reserve({OBS: 640})
    assert container._index.known(OBS).rows == 640
    for rows in range(641, 20000, 100):
        container.reserve({OBS: rows})
        assert container._index.known(OBS).rows <= max(1.5 * rows, rows + LEAST_STEP * 64) + 64


def test_a_short_recording_makes_no_large_file(tmp_path: Path) -> None:
    """Room is a hole, but `ls`, copies and uploads see all of it."""
    schema = rs.Schema(
        {"observation": rs.Field("f4", (17,), "observation"), "reward": rs.Field("f4", (), "reward")}
    )
    with rs.create(tmp_path / "a.h5", schema) as buffer:
        for _ in range(10):
            buffer.append({"observation": np.ones((1000, 17), "f4"), "reward": np.ones(1000, "f4")})
            buffer.commit()
    assert (tmp_path / "a.h5").stat().st_size < 6e6


def test_opening_for_writing_does_not_look_up_every_chunk(tmp_path: Path) -> None:
    """Of a coded array there may be hundreds of thousands."""
    schema = rs.Schema({"observation": rs.Field("f4", (3,), "observation")})
    with rs.create(
        tmp_path / "a.h5", schema, storage={"observation": {"codec": "gzip:1", "chunk_rows": 8}}
    ) as buffer:
        buffer.append({"observation": np.ones((101, 3), "f4")})
    with rs.open(tmp_path / "a.h5", "r+") as buffer:
        container: Any = buffer._store.container
        assert container._index.get("steps/observation") is None
        buffer.publish()
        assert container._index.get("steps/observation") is None


def test_new_space_reads_as_zeros_even_after_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path, writable=True)
    container = Hdf5Container.create(files, NAME, {})
    container.create_arrays(SPECS)
    size = files.size(NAME)
    real, count = files.write, iter(range(100))

    def fail(name: str, offset: int, data: Any) -> None:
        if next(count) == 2:  # two chunks are in place, their journal is not
            raise OSError(errno.ENOSPC, "No space left on device")
        real(name, offset, data)

    for _ in range(3):
        count = iter(range(100))
        with monkeypatch.context() as patch:
            patch.setattr(files, "write", fail)
            with pytest.raises(OSError, match="No space"):
                container.write_chunks({IMAGE: {0: b"x" * 3000, 1: b"y" * 3000}})
    assert files.size(NAME) < size + 7000
    container.reserve({OBS: 640})
    assert read_rows(container, OBS, 640) == bytes(640 * 64)


def test_a_reader_notices_that_reserved_room_was_given_up_and_taken_anew(container: Hdf5Container) -> None:
    container.reserve({OBS: 6400})
    container.write_rows(OBS, 0, flat(rows_of(ALL[OBS], 64)))
    reader = reader_of(container)
    assert read_rows(reader, OBS, 64) == flat(rows_of(ALL[OBS], 64)).tobytes()
    container.publish({OBS: 64}, {})
    container.reserve({OBS: 6400})
    container.write_rows(OBS, 64, flat(rows_of(ALL[OBS], 6336, 1)))
    expected = flat(rows_of(ALL[OBS], 64)).tobytes() + flat(rows_of(ALL[OBS], 6336, 1)).tobytes()
    for rows in (100, 200, 6400):
        assert read_rows(reader, OBS, rows) == expected[: rows * 64]


def test_extents_begin_anywhere_and_end_with_the_last_row(container: Hdf5Container) -> None:
    container.reserve({OBS: 200})
    container.reserve({FLAG: 5000})
    container.reserve({OBS: 600})
    whole = container.extents(OBS, 0, 600)
    assert sum(extent.length for extent in whole) == 600 * 64
    tail = container.extents(OBS, 192, 200)
    assert [extent.length for extent in tail] == [8 * 64]
    places = [extent.offset + i for extent in whole for i in range(0, extent.length, 4096)]
    assert tail[0].offset == places[3]
    assert container.extents(OBS, 64, 64) == []
    with pytest.raises(CorruptError, match="before 9000"):
        container.extents(OBS, 0, 9000)
    with pytest.raises(SchemaError, match="row 3"):
        container.extents(OBS, 3, 9)
    with pytest.raises(SchemaError, match="reserved room"):
        container.write_rows(OBS, 100000, memoryview(bytes(64)))


def test_chunks_that_are_no_whole_pages_have_an_extent_each(container: Hdf5Container) -> None:
    spec = ArraySpec(np.dtype("u1"), (7,), 1000)
    container.create_arrays({"steps/odd": spec})
    rows = rows_of(spec, 4500)
    container.reserve({"steps/odd": 4500})
    container.write_rows("steps/odd", 0, flat(rows))
    assert len(container.extents("steps/odd", 0, 4500)) == 5
    assert read_rows(container, "steps/odd", 4500) == flat(rows).tobytes()


def test_the_document_may_be_large_and_replaced(container: Hdf5Container) -> None:
    reader = reader_of(container)
    for document in (
        {"a": "x" * 300_000, "ü": [1, 2.5, None]},
        {},
        {"b": {"c": "\ud800\n\0"}},
        {"d": "y" * 300_000},
    ):
        container.replace_document(document)
        assert container.document() == reader.document() == document
        with plain(container) as file:
            assert json.loads(file.attrs["replaystore"]) == document
    with pytest.raises(SchemaError, match="JSON"):
        container.replace_document({"x": float("nan")})
    assert reader.document() == {"d": "y" * 300_000}


# --- the parts


def test_pieces_hold_what_was_written_last() -> None:
    chance = random.Random(0)
    for _ in range(200):
        pieces, expected = Pieces(), bytearray(b"." * 60)
        for _ in range(chance.randint(1, 12)):
            offset, length = chance.randrange(40), chance.randint(0, 20)
            data = bytes(chance.choices(b"abcdef", k=length))
            pieces.write(offset, data)
            expected[offset : offset + length] = data
        if chance.random() < 0.5:
            end = chance.randrange(60)
            pieces.cut(end)
            expected[end:] = b"." * (60 - end)
        found = bytearray(b"." * 60)
        pieces.lay_over(0, found)
        assert found == expected
        starts = [(offset, offset + len(data)) for offset, data in pieces]
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(starts))


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"", 0xDEADBEEF), (b"Four score and seven years ago", 0x17770551)],  # the vectors in lookup3.c
)
def test_lookup3_is_the_published_function(data: bytes, value: int) -> None:
    assert lookup3(data) == value


def test_a_file_that_was_rolled_back_may_be_renamed(tmp_path: Path) -> None:
    rows = np.arange(100, dtype="f4").reshape(100, 1)
    schema = rs.Schema({"observation": rs.Field(np.dtype("f4"), (1,), "observation")})
    with rs.create(
        tmp_path / "a.h5", schema, storage={"observation": {"codec": "gzip:1", "chunk_rows": 8}}
    ) as buffer:
        for part in range(0, 100, 20):
            buffer.append({"observation": rows[part : part + 20]})
            buffer.commit()
        buffer.rollback(3)
    (tmp_path / "a.h5").rename(tmp_path / "b.h5")

    with rs.open(tmp_path / "b.h5") as read:
        assert read["observation"][:].tolist() == rows[:60].tolist()


def test_a_store_is_opened_with_the_library_twice(tmp_path: Path) -> None:
    """Once for its document and the names of its log, once for its arrays; each time costs as much as reading
    10 MB."""
    schema = rs.Schema({"reward": rs.Field("float32", (), "reward")})
    with rs.create(tmp_path / "a.h5", schema) as buffer:
        for _ in range(3):
            buffer.append({"reward": np.zeros(100, np.float32)})
            buffer.commit()
    opened = []
    real = hdf5_library.library

    def counted(*arguments: Any, **options: Any) -> Any:
        opened.append(arguments)
        return real(*arguments, **options)

    with patch.object(hdf5_library, "library", counted), rs.open(tmp_path / "a.h5") as buffer:
        assert len(buffer) == 300
        assert buffer.num_trajectories == 1
    assert len(opened) == 2
