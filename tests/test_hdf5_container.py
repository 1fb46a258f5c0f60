"""The HDF5 container: what is acknowledged survives kills, power loss and full disks, and plain HDF5 tools read the file at any time."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray

from replaystore.backends import ArraySpec, ChunkEntry, Container, Extent, hdf5_copy, hdf5_transaction
from replaystore.backends.files import Files, MemoryFiles
from replaystore.backends.hdf5 import Hdf5Container
from replaystore.backends.hdf5_arrays import array
from replaystore.backends.hdf5_overlay import Pieces, lookup3
from replaystore.errors import (
    AlreadyExistsError,
    CorruptError,
    FormatError,
    FormatVersionError,
    NotFoundError,
    ReplayStoreError,
    SchemaError,
    StorageError,
    UnsupportedError,
)

_protocols: list[type[Container]] = [Hdf5Container]

NAME = "a.h5"
OBS, FLAG, IMAGE, ZIMAGE = "steps/observation/pose", "steps/terminated", "steps/camera", "steps/depth"
SPECS = {
    OBS: ArraySpec(np.dtype("f4"), (16,), 64),
    FLAG: ArraySpec(np.dtype(bool), (), 4096),
    IMAGE: ArraySpec(np.dtype("u1"), (8, 8, 3), 8, codec="gzip:1"),
    ZIMAGE: ArraySpec(np.dtype("u2"), (4,), 8, codec="zstd:1"),
}
ALL = {
    **{f"steps/{code}": ArraySpec(np.dtype(code), (3,), 32) for code in ("i1", "u2", "f2", "f8", "c8", "c16", "?")},
    "parts/start": ArraySpec(np.dtype("i8"), (), 128, chunks_per_shard=64, journaled=True, dimension="part"),
    "trajectories/score": ArraySpec(np.dtype("f8"), (), 128, journaled=True, mutable=True, dimension="trajectory"),
    "steps/%2F": ArraySpec(np.dtype("u1"), (5, 2), 3, codec="gzip:9"),
    **SPECS,
}


def rows_of(spec: ArraySpec, count: int, seed: int = 0) -> NDArray[Any]:
    data = np.random.default_rng(seed).integers(0, 2 if spec.dtype.kind == "b" else 100, (count, *spec.shape))
    return data.astype(spec.dtype)


def flat(rows: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def encoded(container: Hdf5Container, name: str, seed: int) -> bytes:
    spec = ALL[name]
    return container.codec(spec).encode(flat(rows_of(spec, spec.chunk_rows, seed)))


def read_rows(container: Hdf5Container, name: str, stop: int) -> bytes:
    extents = container.extents(name, 0, stop)
    return b"".join(container.files.read(extent.object, extent.offset, extent.length) for extent in extents)


def read_chunk(container: Hdf5Container, name: str, chunk: int) -> bytes:
    spec, entry = container.specs()[name], container.entry(name, chunk)
    assert entry is not None
    out = np.empty(spec.chunk_bytes, np.uint8)
    container.codec(spec).decode(container.files.read(entry.object, entry.offset, entry.length), out)
    return out.tobytes()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    found = Files(tmp_path / "store", writable=True)
    yield found
    found.close()


@pytest.fixture
def container(files: Files) -> Hdf5Container:
    made = Hdf5Container.create(files, NAME, {"format_version": [1, 0]})
    made.create_arrays(ALL)
    return made


def reader_of(container: Hdf5Container) -> Hdf5Container:
    return Hdf5Container.open(Files(container.files.root, writable=False), NAME, writable=False)


def plain(container: Hdf5Container) -> Any:
    return h5py.File(container.files.path(NAME), "r", locking=False)


# --- what is stored is read


def test_specs_are_read_as_they_were_made(container: Hdf5Container) -> None:
    assert dict(container.specs()) == ALL
    assert dict(reader_of(container).specs()) == ALL
    assert all(spec.dtype.byteorder in "<|=" for spec in reader_of(container).specs().values())


def test_big_endian_dtypes_are_stored_little_endian(container: Hdf5Container) -> None:
    container.create_arrays({"steps/b": ArraySpec(np.dtype(">f4"), (), 8)})
    assert container.specs()["steps/b"].dtype == np.dtype("<f4") == reader_of(container).specs()["steps/b"].dtype


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
            assert read_rows(container, name, done) == read_rows(reader, name, done) == flat(written[name][:done]).tobytes()
    container.publish(dict.fromkeys(raw, done), {})
    with plain(container) as file:
        for name in raw:
            assert file[name].dtype == ALL[name].dtype
            np.testing.assert_array_equal(file[name][:], written[name])
            assert file[name].dims[0].label == ALL[name].dimension


def test_coded_chunks_are_read_by_us_and_by_plain_h5py(container: Hdf5Container) -> None:
    reader = reader_of(container)
    for first in (0, 3):
        chunks = {name: {n: encoded(container, name, n) for n in range(first, first + 3)} for name in (IMAGE, ZIMAGE, "steps/%2F")}
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
        np.testing.assert_array_equal(file[IMAGE][:], np.concatenate([rows_of(ALL[IMAGE], 8, n) for n in (0, 1)]))
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
    """HDF5 fills the end of that chunk with zeros; those bytes are rows that are not committed yet, or an old reader's."""
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
        assert container._index.known(OBS).rows <= 1.5 * rows + 64


def test_new_space_reads_as_zeros_even_after_a_failed_write(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
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
    for document in ({"a": "x" * 300_000, "ü": [1, 2.5, None]}, {}, {"b": {"c": "\ud800\n\0"}}, {"d": "y" * 300_000}):
        container.replace_document(document)
        assert container.document() == reader.document() == document
        with plain(container) as file:
            assert json.loads(file.attrs["replaystore"]) == document
    with pytest.raises(SchemaError, match="JSON"):
        container.replace_document({"x": float("nan")})
    assert reader.document() == {"d": "y" * 300_000}


# --- the log


def test_records_follow_each_other_over_pieces_and_segments(container: Hdf5Container) -> None:
    reader = reader_of(container)
    assert container.segments() == reader.segments() == []
    container.begin_segment(0, b"base")
    stream = b"base"
    for size in (10, 60_000, 70_000, 1, 300_000, 5):
        record = random.Random(size).randbytes(size)
        container.append_record(record)
        stream += record
        for one in (container, reader):
            assert one.read_segment(0) == stream
            assert one.read_segment(0, 65_000) == stream[65_000:]
    container.begin_segment(6, b"six")
    container.append_record(b"seven")
    for one in (container, reader, reader_of(container)):
        assert one.segments() == [0, 6]
        assert one.read_segment(0) == stream
        assert one.read_segment(0, 100_000) == stream[100_000:]
        assert one.read_segment(6) == b"sixseven"
        assert one.read_segment(6, 100) == b""
        with pytest.raises(NotFoundError, match="commit 3"):
            one.read_segment(3)


def test_a_cut_record_is_forgotten(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"wrong")
    container.cut_segment(0, 4)
    assert reader_of(container).read_segment(0) == b"base"
    container.append_record(b"ok")
    assert reader_of(container).read_segment(0) == b"baseok"
    with pytest.raises(CorruptError, match="no byte 100"):
        container.cut_segment(0, 100)


def test_a_cut_may_go_back_to_an_older_segment(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"a" * 70_000)
    container.begin_segment(5, b"five")
    container.begin_segment(9, b"nine")
    reader = reader_of(container)
    assert reader.segments() == [0, 5, 9]
    with pytest.raises(CorruptError, match="no byte 99999"):
        container.cut_segment(0, 99_999)
    container.cut_segment(0, 30_000)
    container.append_record(b"more")
    for one in (container, reader, reader_of(container)):
        assert one.segments() == [0]
        assert one.read_segment(0) == b"base" + b"a" * 29_996 + b"more"


def test_after_power_loss_no_record_follows_that_was_cut(tmp_path: Path) -> None:
    files = RecordingFiles(tmp_path / "live")
    container = Hdf5Container.create(files, NAME, {})
    container.begin_segment(0, b"base")
    container.append_record(b"old1")
    container.append_record(b"old2")
    container.sync()
    disk = Disk()
    for operation in files.operations:
        disk.do(operation)
    files.operations.clear()
    container.cut_segment(0, 4)
    container.append_record(b"new1")
    for operation in files.operations:
        disk.do(operation)
    chance, found = random.Random(0), set()
    for _ in range(40):
        put(tmp_path / "crash", disk.crash(lambda count: chance.randint(0, count)))
        found.add(Hdf5Container.open(Files(tmp_path / "crash", writable=False), NAME, writable=False).read_segment(0))
    assert found == {b"base", b"basenew1"} | ({b"baseold1"} & found)


def test_a_sealed_file_has_no_older_segments_and_no_tails(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"x" * 100_000)
    container.begin_segment(3, b"newest")
    container.create_arrays({"journal/tail/0": SPECS[FLAG], "journal/tail/1": SPECS[FLAG]})
    container.seal()
    for one in (container, reader_of(container)):
        assert one.segments() == [3]
        assert one.read_segment(3) == b"newest"
        assert dict(one.specs()) == ALL
    with plain(container) as file:
        assert list(file["journal"]) == ["log"]
        assert list(file["journal/log"]) == ["3"]


def test_arrays_that_no_commit_knows_of_are_trimmed(container: Hdf5Container) -> None:
    container.create_arrays({"steps/left/over": ALL[OBS], "journal/tail/0": SPECS[FLAG]})
    container.trim(dict.fromkeys(ALL, 0))
    assert dict(container.specs()) == {**ALL, "journal/tail/0": SPECS[FLAG]} == dict(reader_of(container).specs())
    with plain(container) as file:
        assert "left" not in file["steps"]


def test_segments_from_the_new_one_on_are_replaced(container: Hdf5Container) -> None:
    for commit in (0, 5, 9):
        container.begin_segment(commit, b"old%d" % commit)
    container.begin_segment(5, b"new")
    assert container.segments() == reader_of(container).segments() == [0, 5]
    assert reader_of(container).read_segment(5) == b"new"
    assert reader_of(container).read_segment(0) == b"old0"
    container.begin_segment(12, b"newer")
    assert container.segments() == reader_of(container).segments() == [0, 5, 12]


def test_reading_the_end_of_the_log_needs_no_hdf5(container: Hdf5Container, monkeypatch: pytest.MonkeyPatch) -> None:
    container.begin_segment(0, b"base")
    reader = reader_of(container)
    assert reader.segments() == [0]
    monkeypatch.setattr(h5py, "File", None)
    container.append_record(b"more")
    assert reader.segments() == [0]
    assert reader.read_segment(0, 4) == b"more"


# --- refusals


def test_what_is_not_ours_is_refused_with_a_clear_error(tmp_path: Path, container: Hdf5Container) -> None:
    files = Files(tmp_path, writable=True)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "folder.h5").mkdir()
    data = Path(container.files.path(NAME)).read_bytes()
    (tmp_path / "newer.h5").write_bytes(data.replace(b"HDF5 1\n", b"HDF5 2\n", 1))
    for writable in (False, True):
        for name in ("foreign.h5", "empty.h5", "text.h5", "folder.h5"):
            with pytest.raises(FormatError, match="not a replaystore HDF5 file"):
                Hdf5Container.open(files, name, writable=writable)
        with pytest.raises(FormatVersionError, match="upgrade"):
            Hdf5Container.open(files, "newer.h5", writable=writable)
        with pytest.raises(NotFoundError, match=r"absent\.h5"):
            Hdf5Container.open(files, "absent.h5", writable=writable)
    with pytest.raises(AlreadyExistsError, match=r"text\.h5"):
        Hdf5Container.create(files, "text.h5", {})


def test_a_reader_writes_nothing(container: Hdf5Container) -> None:
    reader = reader_of(container)
    writes: list[Callable[[], object]] = [
        lambda: reader.create_arrays({"x": ALL[OBS]}),
        lambda: reader.reserve({OBS: 10}),
        lambda: reader.append_record(b"x"),
        lambda: reader.begin_segment(0, b"x"),
        lambda: reader.replace_document({}),
        lambda: reader.publish({OBS: 0}, {}),
        lambda: reader.fork({OBS: 0}),
        lambda: reader.trim({}),
        reader.seal,
    ]
    for write in writes:
        with pytest.raises(UnsupportedError, match="reading only"):
            write()


def test_space_of_old_rows_cannot_be_given_back(container: Hdf5Container) -> None:
    assert not container.capabilities.drop
    with pytest.raises(UnsupportedError, match="Zarr"):
        container.drop_before(OBS, 64)


def test_links_and_storage_outside_the_file_are_never_followed(container: Hdf5Container, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 4096)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["pose"] = np.zeros((4, 4))
        other["pose"].attrs["replaystore"] = np.bytes_(b'{"chunks_per_shard": 1, "dimension": "step"}')
    path = container.files.path(NAME)
    container.close()
    with h5py.File(path, "r+") as file:
        file["steps/outside"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/pose")
        file["elsewhere"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        file["steps/soft"] = h5py.SoftLink("/" + OBS)
        file["steps/circle"] = file["/"]
        file["steps/not_ours"] = np.arange(3)
    reader = reader_of(container)
    assert dict(reader.specs()) == ALL
    with pytest.raises(CorruptError, match="elsewhere"):
        Hdf5Container.open(Files(container.files.root, writable=True), NAME, writable=True)._file.look(
            lambda file, _: array(file, "elsewhere/pose")
        )
    for name in ("external", "virtual"):
        with h5py.File(path, "r+") as file:
            if name == "external":
                made = file.create_dataset("steps/bad", (4096,), "u1", external=[(str(tmp_path / "secret"), 0, 4096)])
            else:
                layout = h5py.VirtualLayout((4, 4), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "pose", (4, 4))
                made = file.create_virtual_dataset("steps/bad", layout)
            made.attrs["replaystore"] = np.bytes_(b'{"chunks_per_shard": 1, "dimension": "step"}')
        with pytest.raises(CorruptError, match="not read"):
            reader_of(container).specs()
        with h5py.File(path, "r+") as file:
            del file["steps/bad"]


def test_a_dataset_that_claims_more_rows_than_the_file_holds_is_refused(container: Hdf5Container) -> None:
    path = container.files.path(NAME)
    container.close()
    with h5py.File(path, "r+") as file:
        file[IMAGE].resize(10**15, axis=0)
        made = file.create_dataset("steps/huge", (0, 16), "f4", chunks=(64, 16), maxshape=(None, 16))
        made.attrs["replaystore"] = np.bytes_(b'{"chunks_per_shard": 1, "dimension": "step"}')
        made.resize(10**15, axis=0)
    reader = reader_of(container)
    with pytest.raises(CorruptError, match="rows"):
        reader.entry(IMAGE, 3)
    with pytest.raises(CorruptError, match="rows"):
        reader.extents("steps/huge", 0, 10**14)


def test_rows_and_chunks_that_hdf5_cannot_have_are_refused(container: Hdf5Container) -> None:
    for spec in (ArraySpec(np.dtype("f4"), (0,), 4), ArraySpec(np.dtype("f8"), (1 << 20,), 1 << 10)):
        with pytest.raises(SchemaError, match="chunks"):
            container.create_arrays({"steps/x": spec})
    assert "steps/x" not in container.specs()


# --- nothing that was committed is overwritten


class GuardedFiles(Files):
    """Refuses writes over bytes that are guarded."""

    guarded: list[tuple[int, int]]

    def write(self, name: str, offset: int, data: Any) -> None:
        stop = offset + len(data)
        assert not any(first < stop and offset < last for first, last in self.guarded), f"bytes {offset} to {stop} are in use"
        super().write(name, offset, data)


def guard(files: GuardedFiles, *places: ChunkEntry | Extent) -> None:
    files.guarded += [(place.offset, place.offset + place.length) for place in places]


@pytest.mark.parametrize("seed", range(6))
def test_stored_bytes_are_never_overwritten(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    files = GuardedFiles(tmp_path, writable=True)
    files.guarded = []
    container = Hdf5Container.create(files, NAME, {})
    container.create_arrays(SPECS)
    container.begin_segment(0, b"base")
    rows, chunks, entries = 0, 0, dict[int, ChunkEntry]()
    content: dict[ChunkEntry, bytes] = {}
    for step in range(40):
        action = chance.choice(["rows", "rows", "chunks", "again", "publish", "document", "segment", "arrays", "reopen"])
        if action == "rows":
            count = chance.randint(1, 200)
            container.reserve({OBS: rows + count, FLAG: rows + count})
            container.write_rows(OBS, rows, flat(rows_of(SPECS[OBS], count, step)))
            guard(files, *container.extents(OBS, rows // 64 * 64, rows + count)[1:])
            rows += count
        elif action in ("chunks", "again"):
            numbers = range(max(0, chunks - 1), chunks) if action == "again" else range(chunks, chunks + chance.randint(1, 4))
            stored = {n: chance.choice([encoded(container, IMAGE, n), bytes([step]) * 700]) for n in numbers}
            placed = container.write_chunks({IMAGE: stored}).get(IMAGE, {})
            guard(files, *placed.values())
            content |= {placed[n]: stored[n] for n in placed}
            entries |= placed
            chunks = max([chunks, *(n + 1 for n in placed)])
        elif action == "publish":
            length = max(0, chunks * 8 - chance.randint(0, 9))
            container.publish({OBS: rows, FLAG: rows, IMAGE: length}, {IMAGE: {n: e for n, e in entries.items() if n * 8 < length}})
            chunks = -(-length // 8)
            entries = {n: e for n, e in entries.items() if n < chunks}
        elif action == "document":
            container.replace_document({"text": "x" * chance.choice([10, 5_000, 100_000])})
        elif action == "segment":
            container.append_record(b"r" * chance.randint(1, 90_000))
            container.begin_segment(step + 1, b"base")
        elif action == "arrays":
            container.create_arrays({f"steps/extra{chance.randint(0, 2)}": SPECS[OBS]})
        else:
            container = Hdf5Container.open(files, NAME, writable=True)
    for entry, data in content.items():
        assert files.read(entry.object, entry.offset, entry.length) == data


def test_a_chunk_of_the_same_size_gets_a_place_of_its_own(container: Hdf5Container) -> None:
    entries = [container.write_chunks({IMAGE: {0: bytes([n]) * 500}})[IMAGE][0] for n in range(4)]
    for n, entry in enumerate(entries):
        assert container.files.read(entry.object, entry.offset, entry.length) == bytes([n]) * 500
    assert container.entry(IMAGE, 0) == entries[-1]


def test_the_last_bytes_of_the_file_are_not_given_away(container: Hdf5Container) -> None:
    entry = container.write_chunks({IMAGE: {0: b"a" * 5000}})[IMAGE][0]
    container.publish({IMAGE: 0}, {})  # HDF5 finds the end of the file free
    other = container.write_chunks({IMAGE: {0: b"b" * 4000}})[IMAGE][0]
    assert other.offset >= entry.offset + entry.length
    assert container.files.read(NAME, entry.offset, entry.length) == b"a" * 5000


def test_forked_readers_keep_the_old_bytes_and_find_the_new(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.reserve({OBS: 128})
    container.write_rows(OBS, 0, flat(rows_of(ALL[OBS], 128, 1)))
    container.publish({OBS: 128}, {})
    reader = reader_of(container)
    extent = reader.extents(OBS, 64, 128)[0]
    assert reader.segments() == [0]
    descriptor = os.open(container.files.path(NAME), os.O_RDONLY)
    container.fork({OBS: 64})
    container.write_rows(OBS, 64, flat(rows_of(ALL[OBS], 64, 2)))
    container.append_record(b"forked")
    assert os.pread(descriptor, extent.length, extent.offset) == flat(rows_of(ALL[OBS], 128, 1)[64:]).tobytes()
    os.close(descriptor)
    assert reader.read_segment(0) == b"baseforked"
    expected = flat(rows_of(ALL[OBS], 128, 1)).tobytes()[: 64 * 64] + flat(rows_of(ALL[OBS], 64, 2)).tobytes()
    assert read_rows(reader, OBS, 128) == expected
    assert dict(reader.specs()) == ALL
    assert os.listdir(container.files.root) == [NAME]


def test_a_reader_that_follows_to_a_copy_forgets_where_chunks_lay(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.reserve({OBS: 640})
    container.write_rows(OBS, 0, flat(rows_of(ALL[OBS], 640, 1)))
    reader = reader_of(container)
    assert read_rows(reader, OBS, 640) == flat(rows_of(ALL[OBS], 640, 1)).tobytes()
    assert dict(reader.specs()) == ALL
    container.fork({OBS: 64})
    container.publish({OBS: 64}, {})
    container.create_arrays({"steps/new": ALL[OBS]})
    container.reserve({OBS: 640})
    container.write_rows(OBS, 64, flat(rows_of(ALL[OBS], 576, 2)))
    assert reader.segments() == [0]
    assert dict(reader.specs()) == {**ALL, "steps/new": ALL[OBS]}
    expected = flat(rows_of(ALL[OBS], 640, 1)).tobytes()[: 64 * 64] + flat(rows_of(ALL[OBS], 576, 2)).tobytes()
    assert read_rows(reader, OBS, 640) == expected


# --- crashes: a story of steps, each durable when it returns, and what a reader may find when it is cut off


@dataclass
class State:
    """What a store holds, as far as a story knows."""

    document: dict[str, Any] = field(default_factory=dict)
    arrays: frozenset[str] = frozenset()
    log: dict[int, bytes] = field(default_factory=dict)
    rows: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def check(self, container: Hdf5Container) -> None:
        assert container.document() == self.document
        assert set(container.specs()) == self.arrays
        assert container.segments() == sorted(self.log)
        for commit, stream in self.log.items():
            assert container.read_segment(commit).startswith(stream)
        for name, rows in self.rows.items():
            assert read_rows(container, name, len(rows) // SPECS[name].row_bytes) == rows
        for (name, number), rows in self.chunks.items():
            assert read_chunk(container, name, number) == rows


Step = Callable[[Hdf5Container, State], State]


def step_arrays(*names: str) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        container.create_arrays({name: SPECS[name] for name in names})
        return replace(state, arrays=state.arrays | set(names))

    return step


def step_segment(commit: int) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        container.begin_segment(commit, b"<%d>" % commit)
        return replace(state, log={**state.log, commit: b"<%d>" % commit})

    return step


def step_commit(rows: int, *, record: int = 50, seed: int = 0) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        known = dict(state.rows)
        for name in (OBS, FLAG):
            start = len(known.get(name, b"")) // SPECS[name].row_bytes
            container.reserve({name: start + rows})
            data = flat(rows_of(SPECS[name], rows, seed)).tobytes()
            container.write_rows(name, start, memoryview(data))
            known[name] = known.get(name, b"") + data
        data = random.Random(seed).randbytes(record)
        container.append_record(data)
        container.sync()
        commit = max(state.log)
        return replace(state, rows=known, log={**state.log, commit: state.log[commit] + data})

    return step


def step_chunks(*numbers: int, seed: int = 0) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        container.write_chunks({name: {n: encoded(container, name, n + seed) for n in numbers} for name in (IMAGE, ZIMAGE)})
        new = {(name, n): flat(rows_of(SPECS[name], 8, n + seed)).tobytes() for n in numbers for name in (IMAGE, ZIMAGE)}
        return replace(state, chunks={**state.chunks, **new})

    return step


def step_document(size: int) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        document = {"text": "x" * size}
        container.replace_document(document)
        return replace(state, document=document)

    return step


def step_publish(container: Hdf5Container, state: State) -> State:
    chunks = 1 + max((n for _, n in state.chunks), default=-1)
    lengths = {name: len(rows) // SPECS[name].row_bytes for name, rows in state.rows.items()}
    coded = {name: max(0, chunks * 8 - 3) for name in (IMAGE, ZIMAGE)}
    container.publish(lengths | coded, {})
    return state


def step_fork(container: Hdf5Container, state: State) -> State:
    container.fork({OBS: 1})
    return state


def step_cut(container: Hdf5Container, state: State) -> State:
    commit = max(state.log)
    container.cut_segment(commit, 3)
    return replace(state, log={**state.log, commit: state.log[commit][:3]})


STORY: list[Step] = [
    step_arrays(*SPECS),
    step_segment(0),
    step_commit(100, seed=1),
    step_chunks(0, 1),
    step_commit(50, seed=2),
    step_commit(1, seed=3, record=70_000),
    step_document(3_000),
    step_publish,
    step_commit(300, seed=4),
    step_chunks(1, 2, seed=5),
    step_segment(7),
    step_document(150_000),
    step_commit(10, seed=6),
    step_fork,
    step_cut,
    step_commit(3, seed=7),
    step_publish,
]


class RecordingFiles(Files):
    """Notes every primitive operation."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, writable=True)
        self.operations: list[tuple[Any, ...]] = []

    def create(self, name: str) -> None:
        super().create(name)
        self.operations.append(("create", name))

    def write(self, name: str, offset: int, data: Any) -> None:
        super().write(name, offset, data)
        self.operations.append(("write", name, offset, bytes(data)))

    def resize(self, name: str, size: int) -> None:
        super().resize(name, size)
        self.operations.append(("resize", name, size))

    def sync_file(self, name: str) -> None:
        super().sync_file(name)
        self.operations.append(("sync_file", name))

    def sync_folder(self, folder: str) -> None:
        super().sync_folder(folder)
        self.operations.append(("sync_folder", folder))

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self.operations.append(("rename", old, new))

    def remove(self, name: str) -> None:
        super().remove(name)
        self.operations.append(("remove", name))


SECTOR = 512


class Inode:
    """A file of a disk that forgets: its durable bytes, and what was done since."""

    def __init__(self, data: bytes = b"") -> None:
        self.durable = data
        self.since: list[tuple[int, bytes | None]] = []
        """(offset, bytes written), or (size, None) of a resize."""

    def after(self, keep: Callable[[int], int]) -> bytes:
        """The bytes after a crash: of n operations on a sector (or on the size), the first keep(n) reached the disk."""
        sizes, touched = [len(self.durable)], dict[int, list[int]]()
        size = len(self.durable)
        for number, (offset, data) in enumerate(self.since):
            first, last = (offset, offset + len(data)) if data is not None else (min(offset, size), max(offset, size))
            size = max(size, last) if data is not None else offset
            if size != sizes[-1]:
                sizes.append(size)
            for sector in range(first // SECTOR, -(-last // SECTOR)):
                touched.setdefault(sector, []).append(number)
        found = bytearray(self.durable) + bytes(max(sizes) - len(self.durable))
        for sector, numbers in touched.items():
            for number in numbers[: keep(len(numbers))]:
                offset, data = self.since[number]
                first, last = max(offset, sector * SECTOR), (sector + 1) * SECTOR
                if data is None:
                    last = min(last, len(found))
                    found[first:last] = bytes(max(0, last - first))
                else:
                    last = min(last, offset + len(data))
                    found[first:last] = data[first - offset : last - offset]
        return bytes(found[: sizes[keep(len(sizes) - 1)]].ljust(sizes[keep(len(sizes) - 1)], b"\0"))

    def sync(self) -> None:
        self.durable, self.since = self.after(lambda count: count), []


class Disk:
    """Replays operations, and says what a crash leaves of them."""

    def __init__(self, content: Mapping[str, bytes] | None = None) -> None:
        self.names = {name: Inode(data) for name, data in (content or {}).items()}
        self.durable = dict(self.names)
        self.pending: list[dict[str, Inode]] = []

    def do(self, operation: tuple[Any, ...]) -> None:
        kind, name, *rest = operation
        if kind == "write":
            self.names[name].since.append((rest[0], rest[1]))
        elif kind == "resize":
            self.names[name].since.append((rest[0], None))
        elif kind == "sync_file":
            self.names[name].sync()
        elif kind == "sync_folder":
            self.durable, self.pending = dict(self.names), []
        else:
            if kind == "create":
                self.names[name] = Inode()
            elif kind == "rename":
                self.names[rest[0]] = self.names.pop(name)
            else:
                self.names.pop(name, None)
            self.pending.append(dict(self.names))

    def crash(self, keep: Callable[[int], int]) -> dict[str, bytes]:
        names = [self.durable, *self.pending][keep(len(self.pending))]
        return {name: inode.after(keep) for name, inode in names.items()}


def everything(count: int) -> int:
    return count


def nothing(_: int) -> int:
    return 0


def put(folder: Path, content: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)


def check_either(folder: Path, before: State, after: State, *, deep: bool = True) -> None:
    """A crashed store is as it was before the step or after it: for a reader, for a writer that recovers, for plain h5py."""
    for writable in (False, True):
        files = Files(folder, writable=writable)
        container = Hdf5Container.open(files, NAME, writable=writable)
        try:
            before.check(container)
        except AssertionError:
            after.check(container)
        container.close()
    if not deep:
        return
    documents = [before.document, after.document]
    with h5py.File(folder / NAME, "r") as file:
        assert json.loads(file.attrs["replaystore"]) in documents
        for name in (OBS, FLAG, IMAGE):
            if name in file:
                assert len(file[name][:]) == file[name].shape[0]
    container = Hdf5Container.open(Files(folder, writable=True), NAME, writable=True)
    step_document(7)(container, before)
    container.create_arrays({"steps/later": SPECS[OBS]})
    container.reserve({"steps/later": 10})
    assert "steps/later" in reader_of(container).specs()
    container.close()


@pytest.fixture
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every byte of a copy is seen."""
    monkeypatch.setattr(hdf5_copy, "FICLONE", 0)


def crash_story(tmp_path: Path, seed: int, *, every: int) -> None:
    chance = random.Random(seed)
    files = RecordingFiles(tmp_path / "live")
    state = State({"format_version": 1})
    container = Hdf5Container.create(files, NAME, state.document)
    disk = Disk()
    for operation in files.operations:
        crashed = disk.crash(lambda count: chance.randint(0, count))
        if NAME in crashed:
            put(tmp_path / "crash", crashed)
            check_either(tmp_path / "crash", state, state)
        disk.do(operation)
    for step in STORY:
        done = len(files.operations)
        after = step(container, state)
        for number, operation in enumerate(files.operations[done:]):
            syncs = operation[0].startswith("sync")
            ways: list[Callable[[int], int]] = []
            if syncs:
                ways = [nothing, lambda count: chance.randint(0, count), lambda count: chance.choice([0, count])]
            elif number % every == seed % every:
                ways = [everything, lambda count: chance.randint(0, count)]
            for way in ways:
                put(tmp_path / "crash", disk.crash(way))
                check_either(tmp_path / "crash", state, after, deep=chance.random() < 0.3)
            disk.do(operation)
        put(tmp_path / "crash", disk.crash(nothing))
        check_either(tmp_path / "crash", after, after)
        state = after


def test_a_journal_that_is_not_in_place_is_read_over_the_file(tmp_path: Path, no_reflinks: None) -> None:
    """As on a medium that cannot be written to. The journal is on the disk, and nothing that it says is in place."""
    files = RecordingFiles(tmp_path / "live")
    state = State({"format_version": 1})
    container = Hdf5Container.create(files, NAME, state.document)
    disk = Disk()
    seen, journal = 0, ("write", NAME, 12288)
    for step in [*STORY, step_segment(8), step_segment(9)]:
        after = step(container, state)
        last = max((number for number, operation in enumerate(files.operations) if operation[:3] == journal), default=-1)
        for number, operation in enumerate(files.operations):
            disk.do(operation)
            if number == last and after.log.keys() != state.log.keys():
                put(tmp_path / "crash", disk.crash(everything))
                reader = Hdf5Container.open(Files(tmp_path / "crash", writable=False), NAME, writable=False)
                after.check(reader)
                reader.close()
                Hdf5Container.open(Files(tmp_path / "crash", writable=True), NAME, writable=True).close()
                recovered = RecordingFiles(tmp_path / "crash")
                after.check(Hdf5Container.open(recovered, NAME, writable=True))
                assert {kind for kind, *_ in recovered.operations} <= {"remove"}
                seen += 1
        files.operations.clear()
        state = after
    assert seen == 4


@pytest.mark.parametrize("seed", range(2))
def test_what_is_acknowledged_survives_kills_and_power_loss(tmp_path: Path, no_reflinks: None, seed: int) -> None:
    crash_story(tmp_path, seed, every=3)


def test_journals_too_large_for_their_region_survive_too(tmp_path: Path, no_reflinks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_transaction, "DIRECT", 1 << 40)
    monkeypatch.setattr(hdf5_transaction, "ROOM", 600)
    crash_story(tmp_path, 7, every=6)


def test_a_crash_during_recovery_is_recovered_from(tmp_path: Path) -> None:
    chance = random.Random(5)
    files = RecordingFiles(tmp_path / "live")
    state = State({"format_version": 1})
    container = Hdf5Container.create(files, NAME, state.document)
    disk = Disk()
    recovered = 0
    for step in STORY[:9]:
        after = step(container, state)
        for operation in files.operations:
            if operation[0] == "sync_file" and operation[1] == NAME:
                for killed in (True, False):  # after a kill the system still holds what is not on the disk; after a power cut it does not
                    way = everything if killed else lambda count: chance.choice([0, count, count])
                    put(tmp_path / "crash", crashed := disk.crash(way))
                    again = RecordingFiles(tmp_path / "crash")
                    Hdf5Container.open(again, NAME, writable=True).close()
                    second = copy.deepcopy(disk) if killed else Disk(crashed)
                    for small in again.operations:
                        if chance.random() < 0.2 or small[0] == "sync_file":
                            put(tmp_path / "again", second.crash(lambda count: chance.randint(0, count)))
                            check_either(tmp_path / "again", state, after, deep=False)
                            recovered += 1
                        second.do(small)
            disk.do(operation)
        files.operations.clear()
        state = after
    assert recovered > 50


# --- errors of the system


class NoSpaceError(OSError):
    """What `FailingFiles` raises."""


class FailingFiles(Files):
    """One write, of those that count, fails; half of it reaches the file."""

    left = -1

    def _strike(self) -> bool:
        self.left -= 1
        return self.left == -1

    def write(self, name: str, offset: int, data: Any) -> None:
        if self._strike():
            super().write(name, offset, bytes(data)[: len(data) // 2])
            raise NoSpaceError(errno.ENOSPC, "No space left on device")
        super().write(name, offset, data)

    def resize(self, name: str, size: int) -> None:
        if self._strike():
            raise NoSpaceError(errno.ENOSPC, "No space left on device")
        super().resize(name, size)


@pytest.mark.parametrize("first", [0, 6, 12])
def test_after_any_failed_write_a_step_can_be_tried_again(tmp_path: Path, no_reflinks: None, first: int) -> None:
    state = State({"format_version": 1})
    Hdf5Container.create(Files(tmp_path / "before", writable=True), NAME, state.document).close()
    failures = 0
    for index, step in enumerate(STORY[: first + 6]):
        for number in range(1000 if index >= first else 0):
            shutil.copytree(tmp_path / "before", tmp_path / "now")
            files = FailingFiles(tmp_path / "now", writable=True)
            container = Hdf5Container.open(files, NAME, writable=True)
            files.left = number
            with suppress(NoSpaceError):
                step(container, state)
            if files.left < 0:
                failures += 1
                check_partial(tmp_path / "now", state)
                after = step(container, state)
                after.check(container)
                after.check(reader_of(container))
            shutil.rmtree(tmp_path / "now")
            if files.left >= 0:
                break
        container = Hdf5Container.open(Files(tmp_path / "before", writable=True), NAME, writable=True)
        state = step(container, state)
        container.close()
    assert failures > 15


def check_partial(folder: Path, before: State) -> None:
    """A reader finds what was there before a failed step, perhaps with more."""
    reader = Hdf5Container.open(Files(folder, writable=False), NAME, writable=False)
    assert set(reader.specs()) >= before.arrays
    for name, rows in before.rows.items():
        assert read_rows(reader, name, len(rows) // SPECS[name].row_bytes) == rows
    for commit, stream in before.log.items():
        assert reader.read_segment(commit)[:3] == stream[:3]
    reader.close()


def test_a_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    for number in range(100):
        files = FailingFiles(tmp_path / "x", writable=True)
        files.left = number
        try:
            Hdf5Container.create(files, NAME, {})
        except NoSpaceError:
            assert os.listdir(tmp_path / "x") == []
        else:
            break
    else:
        pytest.fail("creating a file takes fewer writes than that")


def test_after_a_failed_sync_nothing_is_written_until_the_file_is_opened_anew(
    container: Hdf5Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.begin_segment(0, b"base")

    def fail(name: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(container.files, "sync_file", fail)
        with pytest.raises(OSError, match="Input/output"):
            container.replace_document({"new": 1})
    for write in (
        container.sync,
        lambda: container.append_record(b"x"),
        lambda: container.create_arrays({"steps/x": ALL[OBS]}),
        lambda: container.publish({OBS: 0}, {}),
    ):
        with pytest.raises(StorageError, match="open it again"):
            write()
    again = Hdf5Container.open(container.files, NAME, writable=True)
    assert again.document() in ({"format_version": [1, 0]}, {"new": 1})
    again.append_record(b"more")
    again.sync()


def test_an_error_while_hdf5_reads_is_an_error_and_no_crash(container: Hdf5Container, monkeypatch: pytest.MonkeyPatch) -> None:

    class DiskError(OSError):
        pass

    real = Files.read
    for number in range(60):
        count = iter(range(1000))

        def fail(self: Files, name: str, offset: int = 0, length: int | None = None) -> bytes:
            if next(count) == number:  # noqa: B023 - used at once
                raise DiskError(errno.EIO, "Input/output error")
            return real(self, name, offset, length)

        with monkeypatch.context() as patch:
            patch.setattr(Files, "read", fail)
            with suppress(DiskError):
                container.create_arrays({"steps/x": ALL[OBS]})
        container.create_arrays({"steps/y": ALL[OBS]})
    assert {"steps/x", "steps/y"} < set(reader_of(container).specs())


# --- readers beside a writer


class HookedFiles(Files):
    """Calls something before its operations."""

    hook: Callable[[], None] | None = None

    def _run(self) -> None:
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook()
            self.hook = hook

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if not self.writable:
            self._run()
        return super().read(name, offset, length)

    def write(self, name: str, offset: int, data: Any) -> None:
        self._run()
        super().write(name, offset, data)

    def resize(self, name: str, size: int) -> None:
        self._run()
        super().resize(name, size)

    def sync_file(self, name: str) -> None:
        self._run()


def test_a_reader_sees_each_step_wholly_or_not_at_all(tmp_path: Path) -> None:
    files = HookedFiles(tmp_path, writable=True)
    state = State({"format_version": 1})
    container = Hdf5Container.create(files, NAME, state.document)
    old = reader_of(container)
    seen: list[bool] = []

    def look() -> None:
        chance = random.Random(len(seen))
        reader = reader_of(container) if chance.random() < 0.5 else old
        reader.refresh()
        try:
            state.check(reader)
            seen.append(False)
        except AssertionError:
            expected[0].check(reader)
            seen.append(True)

    for step in STORY:
        other = tmp_path / "other"
        put(other, {NAME: (tmp_path / NAME).read_bytes()})
        expected = [step(Hdf5Container.open(Files(other, writable=True), NAME, writable=True), state)]
        files.hook = look
        after = step(container, state)
        files.hook = None
        state = after
    assert any(seen)
    assert not all(seen)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8, 13, 21, 30, 60])
def test_a_transaction_in_the_middle_of_reading_is_noticed(tmp_path: Path, at: int) -> None:
    container = Hdf5Container.create(Files(tmp_path, writable=True), NAME, {})
    state = State({}, frozenset())
    for step in STORY[:6]:
        state = step(container, state)
    files = HookedFiles(tmp_path, writable=False)
    reader = Hdf5Container.open(files, NAME, writable=False)
    reads = 0

    def transact() -> None:
        nonlocal reads, state
        if reads == at:
            for step in STORY[6:13]:
                state = step(container, state)
        reads += 1

    files.hook = transact
    specs = reader.specs()
    assert set(specs) == set(SPECS)
    rows = read_rows(reader, OBS, 151)
    chunk = read_chunk(reader, IMAGE, 0)
    files.hook = None
    assert state.rows[OBS].startswith(rows)
    assert chunk == state.chunks[IMAGE, 0]
    state.check(reader)


def test_threads_may_read_while_a_writer_grows(container: Hdf5Container) -> None:
    container.begin_segment(0, b"")
    done = threading.Event()

    def watch(own: bool) -> int:
        reader, looks = container if own else reader_of(container), 0
        while not done.is_set():
            rows = len(reader.read_segment(0)) // 8 * 100
            assert read_rows(reader, OBS, rows) == b"".join(flat(rows_of(ALL[OBS], 100, n)).tobytes() for n in range(rows // 100))
            if rows:
                assert read_chunk(reader, IMAGE, rows // 100 - 1) == flat(rows_of(ALL[IMAGE], 8, rows // 100 - 1)).tobytes()
            looks += 1
        return looks

    with ThreadPoolExecutor() as pool:
        watchers = [pool.submit(watch, own) for own in (False, False, True)]
        for n in range(50):
            container.reserve({OBS: (n + 1) * 100})
            container.write_rows(OBS, n * 100, flat(rows_of(ALL[OBS], 100, n)))
            container.write_chunks({IMAGE: {n: encoded(container, IMAGE, n)}})
            container.append_record(b"%8d" % n)
        done.set()
        assert all(watcher.result() for watcher in watchers)


@pytest.mark.parametrize("seed", [10, 20, 30, 49, 58, 59])
def test_a_copy_made_block_by_block_while_the_file_grows_is_a_store(tmp_path: Path, seed: int) -> None:
    """As `cp` makes it: the front first. HDF5's metadata in it are of several moments."""
    chance, small = random.Random(seed), ArraySpec(np.dtype("f4"), (), 16)
    names, rows = [f"steps/{n}" for n in range(4)], 0
    container = Hdf5Container.create(Files(tmp_path / "live", writable=True), NAME, {})
    container.create_arrays(dict.fromkeys(names, small))
    container.begin_segment(0, b"")

    def grow(count: int) -> None:
        nonlocal rows
        container.reserve(dict.fromkeys(names, rows + count))
        for name in names:
            container.write_rows(name, rows, flat(np.arange(rows, rows + count).astype("f4")))
        rows += count
        container.append_record(b"%8d" % rows)
        container.sync()

    grow(chance.choice([10, 100, 1000, 4000]))
    least = rows
    (tmp_path / "copy").mkdir()
    with open(tmp_path / "live" / NAME, "rb") as live, open(tmp_path / "copy" / NAME, "wb") as made:
        while block := os.pread(live.fileno(), 4096, made.tell()):
            made.write(block)
            if chance.choice([0, 260_000]) < made.tell() < 1_600_000 and chance.random() < 0.1:
                grow(chance.choice([10, 100, 1000, 3000]))
    for writable in (False, True):
        found = Hdf5Container.open(Files(tmp_path / "copy", writable=writable), NAME, writable=writable)
        known = int(found.read_segment(0)[-8:])
        assert known >= least
        for name in names:
            assert read_rows(found, name, known) == flat(np.arange(known).astype("f4")).tobytes()
        if writable:
            found.publish(dict.fromkeys(names, known), {})
        found.close()
    with h5py.File(tmp_path / "copy" / NAME) as file:
        for name in names:
            np.testing.assert_array_equal(file[name][:], np.arange(known))


# --- damage


def damaged(folder: Path, data: bytes, state: State) -> bool:
    """Open a damaged store and read all of it; whether the damage was noticed. What is not noticed must be right."""
    (folder / NAME).write_bytes(data)
    noticed, messages = False, list[str]()
    for writable in (False, True):
        try:
            container = Hdf5Container.open(Files(folder, writable=writable), NAME, writable=writable)
            specs = dict(container.specs())
            assert container.document() == state.document
            for name, rows in state.rows.items():
                container.extents(name, 0, len(rows) // SPECS[name].row_bytes)
            for name, number in state.chunks:
                container.entry(name, number)
            assert {name: specs[name] for name in state.arrays if name in specs}.items() <= SPECS.items()
            noticed = noticed or set(specs) != state.arrays
            container.segments()
        except ReplayStoreError as error:
            messages.append(str(error))
    assert all((NAME in message or "chunk" in message) and "\n" not in message for message in messages)
    return noticed or bool(messages)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, bytes, State]:
    container = Hdf5Container.create(Files(tmp_path, writable=True), NAME, {})
    state = State({}, frozenset())
    for step in (step_arrays(*SPECS), step_segment(0), step_commit(70, seed=1), step_chunks(0, 1), step_document(100), step_publish):
        state = step(container, state)
    container.close()
    return tmp_path, (tmp_path / NAME).read_bytes(), state


def test_truncated_files_are_refused_and_never_stop_the_interpreter(small: tuple[Path, bytes, State]) -> None:
    folder, data, state = small
    chance = random.Random(0)
    for length in [0, 5, 19, 600, 20480, 262144, 262192, *(chance.randrange(len(data)) for _ in range(40)), len(data) - 1]:
        assert damaged(folder, data[:length], state)


def test_flipped_bits_of_metadata_are_noticed_or_harmless(small: tuple[Path, bytes, State]) -> None:
    folder, data, state = small
    chance = random.Random(1)
    metadata = [place for place in range(262144, 262144 + 6000) if data[place]] + list(range(24)) + list(range(12288, 12360))
    noticed = 0
    for place in chance.sample(metadata, 250):
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        noticed += damaged(folder, bytes(changed), state)
    assert noticed > 50


def test_flipped_bits_of_a_head_leave_the_other(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"one")
    container.append_record(b"two")
    head = container._log._head
    assert head is not None
    container.files.write(NAME, head.slot + 20, b"\xff")
    assert reader_of(container).read_segment(0) == b"baseone"


def test_a_head_that_points_outside_the_file_is_ignored(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    head = container._log._head
    assert head is not None
    wrong = replace(head, sequence=head.sequence + 1, used=1 << 50, pieces=((1 << 40, 1 << 50),))
    container.files.write(NAME, wrong.slot, wrong.pack())
    assert reader_of(container).read_segment(0) == b"base"


# --- other software


def test_h5dump_reads_the_file_while_it_grows_and_afterwards(container: Hdf5Container) -> None:
    if shutil.which("h5dump") is None:
        pytest.skip("needs h5dump (hdf5-tools)")
    container.begin_segment(0, b"x" * 100)
    container.write_chunks({IMAGE: {0: encoded(container, IMAGE, 0)}})
    for lengths in ({}, {OBS: 100, IMAGE: 5}):
        container.reserve({OBS: 100})
        if lengths:
            container.publish(lengths, {})
        found = subprocess.run(["h5dump", "-d", "/" + IMAGE, container.files.path(NAME)], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        header = subprocess.run(["h5dump", "-H", container.files.path(NAME)], capture_output=True, text=True, check=False)
        assert header.returncode == 0, header.stderr
        assert header.stdout.count("DATASET") == len(ALL) + 1
    assert "( 100, 16 ) / ( H5S_UNLIMITED, 16 )" in header.stdout


def test_another_program_may_change_the_file_in_between(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.reserve({OBS: 64})
    container.write_rows(OBS, 0, flat(rows_of(ALL[OBS], 64, 3)))
    container.publish({OBS: 64}, {})
    container.close()
    with h5py.File(container.files.path(NAME), "r+") as file:
        file.attrs["note"] = "hello"
        file["results/mine"] = np.arange(1000)
    again = Hdf5Container.open(Files(container.files.root, writable=True), NAME, writable=True)
    again.reserve({OBS: 6400})
    again.append_record(b"more")
    assert read_rows(again, OBS, 64) == flat(rows_of(ALL[OBS], 64, 3)).tobytes()
    with plain(again) as file:
        np.testing.assert_array_equal(file["results/mine"][:], np.arange(1000))


def test_a_store_may_live_in_memory() -> None:
    files = MemoryFiles("buffer")
    container = Hdf5Container.create(files, NAME, {"a": 1})
    container.create_arrays(SPECS)
    container.begin_segment(0, b"base")
    container.reserve({OBS: 10})
    container.write_rows(OBS, 0, flat(rows_of(SPECS[OBS], 10)))
    container.fork({OBS: 0})
    reader = Hdf5Container.open(files, NAME, writable=False)
    assert read_rows(reader, OBS, 10) == flat(rows_of(SPECS[OBS], 10)).tobytes()
    assert reader.read_segment(0) == b"base"


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
