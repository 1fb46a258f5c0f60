"""A storage that only reads (five methods, no descriptors, nothing to map) is enough for columns and stores;
and what opening a store asks of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore import errors
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.sealing import check_metadata
from replaystore.columns.coded import CodedColumn
from replaystore.columns.mapped import raw_column
from replaystore.columns.plain import PlainColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import codec_for
from replaystore.containers.protocol import ChunkEntry, Extent
from replaystore.containers.zarr.container import ZarrContainer
from replaystore.location import parse
from replaystore.schema import document as documents
from replaystore.storage.local import Files
from replaystore.storage.protocol import Maps, Reads, Writes
from replaystore.testing import samples
from replaystore.views.reader import BufferReader

RAW = ArraySpec(np.dtype("<f4"), (3,), chunk_rows=8, chunks_per_shard=4)


class Counted(Reads):
    """Objects by name, which count what is asked of them: what a client of an object store is."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.requests: Counter[str] = Counter()

    def path(self, name: str) -> str:
        return f"counted:{name}"

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.requests["read"] += 1
        found = self._object(name)
        return found[offset:] if length is None else found[offset : offset + length]

    def size(self, name: str) -> int:
        self.requests["size"] += 1
        return len(self._object(name))

    def exists(self, name: str) -> bool:
        self.requests["exists"] += 1
        return any(known == name or known.startswith(name + "/") for known in self.objects)

    def list(self, folder: str = "") -> list[str]:
        self.requests["list"] += 1
        prefix = folder + "/" if folder else ""
        return sorted({name[len(prefix) :].split("/")[0] for name in self.objects if name.startswith(prefix)})

    def _object(self, name: str) -> bytes:
        if name not in self.objects:
            raise FileNotFoundError(2, "No such object", name)
        return self.objects[name]

    @classmethod
    def of(cls, folder: Path) -> Counted:
        files = Files(folder, writable=False)
        return cls({name: files.read(name) for name in files.walk()})


def opened(files: Reads) -> BufferReader:
    container = ZarrContainer.open(files, "", writable=False)
    check_metadata(container)
    store = StoreReader(container, StoreReader.load(container))
    return BufferReader(parse("a.zarr"), store, documents.parse(container.document(), "a.zarr"))


@pytest.fixture(params=["live", "archive"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with rs.create(tmp_path / "live.zarr", samples.small()) as buffer:
        buffer.append(samples.columns(buffer.schema, 300, seed=1))
    rs.convert(tmp_path / "live.zarr", tmp_path / "archive.zarr", layout="archive")
    return tmp_path / f"{request.param}.zarr"


def test_the_storage_of_these_tests_only_reads() -> None:
    files = Counted({})

    assert not isinstance(files, Maps)
    assert not isinstance(files, Writes)
    with pytest.raises(errors.UnsupportedError, match="can only be read"):
        ZarrContainer.open(files, "", writable=True)


def test_what_a_storage_need_not_bring_is_made_of_what_it_has() -> None:
    files = Counted({"b": b"01234567", "a/c": b"x", "a/d/e": b"y"})

    assert list(files.walk()) == ["a/c", "a/d/e", "b"]
    assert files.read_ranges("b", [(6, 9), (0, 2)]) == [b"67", b"01"]
    target = bytearray(3)
    assert files.read_into("b", 6, memoryview(target)) == 2
    assert target == b"67\0"
    assert files.read_whole("b", 8) == b"01234567"
    with pytest.raises(errors.CorruptError, match="has 8 bytes, and at most 7"):
        files.read_whole("b", 7)


def test_raw_rows_are_read_where_nothing_can_be_mapped() -> None:
    rows = np.random.default_rng(0).random((40, 3), np.float32)
    files = Counted({"one": b"head" + rows[:32].tobytes(), "two": rows[32:].tobytes()})
    column = raw_column(files, RAW, name="steps/x")
    column.extend([Extent("one", 4, 384), Extent("two", 0, 96)], 40)

    assert type(column) is PlainColumn
    assert not column.mapped
    assert np.array_equal(column.read(0, 40), rows)
    assert np.array_equal(column.rows(30, 35), rows[30:35])
    files.requests.clear()
    places = np.array([39, 3, 3, 12])
    assert np.array_equal(column.take(places), rows[places])
    assert files.requests["read"] == 2  # neighbours are read along: one for each object
    with pytest.raises(errors.CorruptError, match="counted:two: 96 bytes"):
        column.extend([Extent("two", 96, 12)], 41)
    files.objects["two"] = files.objects["two"][:50]
    with pytest.raises(errors.CorruptError, match="ends before byte"):
        column.read(32, 40)
    del files.objects["two"]
    with pytest.raises(errors.CorruptError, match="counted:two: missing"):
        column.read(32, 40)


def test_coded_rows_are_read_where_nothing_can_be_mapped() -> None:
    spec = ArraySpec(np.dtype("<f4"), (3,), chunk_rows=8, codec="zstd:1")
    rows, codec = np.random.default_rng(0).random((40, 3), np.float32), codec_for("zarr", spec)
    chunks = [codec.encode(rows[begin : begin + 8].tobytes()) for begin in range(0, 40, 8)]
    places = np.cumsum([0, *map(len, chunks)]).tolist()
    files = Counted({"shard": b"".join(chunks)})
    column = CodedColumn(
        files,
        spec,
        codec,
        lambda chunk: ChunkEntry("shard", places[chunk], len(chunks[chunk])),
        lambda chunk: codec.checksum(chunks[chunk]),
        name="steps/x",
    )
    column.set_tail(40, np.empty((0, 3), np.float32))

    assert np.array_equal(column.read(0, 40), rows)
    assert files.requests == {"read": 1}  # chunks that lie side by side
    assert np.array_equal(column.take(np.array([39, 0, 20])), rows[[39, 0, 20]])
    files.objects["shard"] = files.objects["shard"][:-1]
    with pytest.raises(errors.CorruptError, match="chunk 4"):
        CodedColumn.read(column, 32, 40)
    column.close()


def test_a_store_reads_as_from_its_folder(folder: Path) -> None:
    view = opened(Counted.of(folder))

    with rs.open(folder) as expected:
        found, right = view.read(slice(None)), expected.read(slice(None))
        assert found.keys() == right.keys()
        assert all(found[name].tobytes() == right[name].tobytes() for name in right)
        assert np.array_equal(view.trajectories["length"], expected.trajectories["length"])
        rows = np.array([299, 0, 77])
        assert np.array_equal(view["reward"][rows], expected["reward"][rows])


def test_an_archive_is_opened_by_its_consolidated_metadata(
    tmp_path: Path,
) -> None:
    with rs.create(tmp_path / "live.zarr", samples.small()) as buffer:
        buffer.close()
    rs.convert(tmp_path / "live.zarr", tmp_path / "a.zarr", layout="archive")
    files = Counted.of(tmp_path / "a.zarr")
    assert sum(name.endswith("/zarr.json") for name in files.objects) > 25

    opened(files)

    assert files.requests.total() < 25, files.requests


def test_an_array_that_the_consolidated_metadata_describe_otherwise_is_damage(tmp_path: Path) -> None:
    with rs.create(tmp_path / "live.zarr", samples.small()) as buffer:
        buffer.close()
    rs.convert(tmp_path / "live.zarr", tmp_path / "a.zarr", layout="archive")
    files = Counted.of(tmp_path / "a.zarr")
    files.objects["zarr.json"] = files.objects["zarr.json"].replace(b'"float32"', b'"float64"')

    with pytest.raises(errors.CorruptError, match=r"zarr\.json"):
        opened(files)
