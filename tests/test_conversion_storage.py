"""How a converted buffer is stored: chunks copied as they are, codecs, layouts; damage stays behind."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import pytest
from conversions import assert_clean, at, chunk_bytes, contents, record

import replaystore as rs
from replaystore import errors
from replaystore.storage import local as files
from replaystore.testing import samples

pytest_plugins = ["conversions"]

pytestmark = pytest.mark.usefixtures("_nothing_in_memory")


@pytest.mark.parametrize(("source", "target"), [("a.zarr", "b.h5"), ("a.h5", "b.zarr"), ("a.zarr", "b.zarr")])
def test_copied_rows_are_on_their_way_to_the_disk_before_the_sync(
    tmp_path: Path, source: str, target: str
) -> None:
    """All whole chunks of raw fields, each byte of them; and where the system cannot do that, the copy is the
    same one."""
    record(at(tmp_path, source), steps=300)
    asked: list[int] = []

    def begin(fd: int, offset: int, length: int, flags: int) -> int:
        assert os.fstat(fd).st_size >= offset + length, "what it is asked for is not written yet"
        asked.append(length)
        return -1  # refused: nothing depends on it

    with patch.object(files, "_range_writer", lambda: begin):
        rs.convert(at(tmp_path, source), at(tmp_path, target))
    with rs.open(at(tmp_path, target)) as buffer:
        raw = [
            spec
            for name, spec in buffer._store.specs().items()
            if name.startswith("steps/") and spec.codec is None
        ]
        whole = sum(spec.chunk_bytes * (len(buffer) // spec.chunk_rows) for spec in raw)
    assert sum(asked) >= whole > 0
    with patch.object(files, "_range_writer", lambda: None):
        rs.convert(at(tmp_path, source), at(tmp_path, "plain" + Path(target).suffix))
    for name in (target, "plain" + Path(target).suffix):
        assert contents(at(tmp_path, source)).difference(contents(at(tmp_path, name))) == ""


@pytest.mark.parametrize(
    ("source", "target", "same"),
    [("a.zarr", "b.zarr", True), ("a.h5", "b.h5", True), ("a.zarr", "b.h5", False)],
)
def test_encoded_chunks_are_copied_and_not_made_anew(
    tmp_path: Path, source: str, target: str, same: bool
) -> None:
    first, second = str(tmp_path / source), str(tmp_path / target)
    record(first, storage=samples.storage("zstd:7"))  # whose bytes are not those of zstd:1

    report = rs.convert(first, second)

    before, after = (chunk_bytes(location, "steps/observation/camera") for location in (first, second))
    assert len(before) > 20
    if same:
        assert after == before
    else:
        assert [chunk[:-4] for chunk in after] == [chunk[:-4] for chunk in before]
        assert after != before
    assert report.recoded == []
    assert "observation/camera" in report.copied


@pytest.mark.parametrize("rows", [4 * 128 - 4, 4 * 128, 4 * 128 + 1, 2 * 4 * 128])
def test_shards_that_are_exactly_full_are_copied_whole(tmp_path: Path, rows: int) -> None:
    first, second, third = (str(tmp_path / name) for name in ("a.zarr", "b.zarr", "c.h5"))
    with rs.create(first, samples.small(), storage=samples.storage("zstd:1")) as buffer:
        buffer.append(samples.columns(buffer.schema, rows, 4))

    rs.convert(first, second)
    rs.convert(first, third)

    assert contents(first).difference(contents(second)) == ""
    assert contents(first).difference(contents(third)) == ""
    assert_clean(second)
    assert_clean(third)


def test_a_default_codec_becomes_the_default_of_the_other_container(tmp_path: Path) -> None:
    first, second, third = (str(tmp_path / name) for name in ("a.zarr", "b.h5", "c.zarr"))
    schema = rs.Schema({"observation": rs.Field("u1", (40, 130), "observation")})
    with rs.create(first, schema) as buffer:
        buffer.append({"observation": np.arange(300 * 5200, dtype=np.uint8).reshape(300, 40, 130)})

    forth = rs.convert(first, second)
    back = rs.convert(second, third)

    assert forth.notes == ["zstd:1 became gzip:1: observation"]
    assert back.notes == ["gzip:1 became zstd:1: observation"]
    with h5py.File(second) as file:  # without any plugin
        assert file["steps/observation"][299, 0, 0] == 299 * 5200 % 256
    assert chunk_bytes(first, "steps/observation") == chunk_bytes(third, "steps/observation")


def test_an_archive_in_hdf5_is_deflated_better_and_goes_back_to_the_default_of_zarr(tmp_path: Path) -> None:
    live, first, second, third = (str(tmp_path / name) for name in ("a.h5", "b.h5", "c.zarr", "d.h5"))
    schema = rs.Schema(
        {
            "observation": rs.Field("u1", (40, 130), "observation"),
            "reward": rs.Field("f4", (), "reward"),
            "terminated": rs.Field("?", (), "terminated"),
        }
    )
    images = np.arange(300 * 5200, dtype=np.uint8).reshape(300, 40, 130)
    flags, rewards = np.arange(300) == 299, np.zeros(300, "f4")
    with rs.create(live, schema) as buffer:
        buffer.append(
            {"observation": images, "reward": rewards, "terminated": flags}, final_observation=images[:1]
        )
    rs.convert(live, first, layout="archive")
    rs.convert(first, second)
    rs.convert(second, third)

    coded = ["steps/observation", "steps/reward", "steps/terminated", "final/observation"]
    for location, codec in ((first, "gzip:3"), (second, "zstd:1"), (third, "gzip:3")):
        with rs.open(location) as buffer:
            assert {buffer._store.specs()[name].codec for name in coded} == {codec}
            assert np.array_equal(buffer["observation"][:], images)
    with rs.open(live) as buffer:
        found = [buffer._store.specs()[name].codec for name in coded]
    assert found == ["gzip:1", None, None, "gzip:1"]
    with h5py.File(first) as file:  # without any plugin
        assert np.array_equal(file["steps/observation"][:], images)


@pytest.mark.parametrize("codec", ["raw", "zstd", "zstd:3", "gzip:9"])
@pytest.mark.parametrize("target", ["b.zarr", "b.h5"])
def test_coded_fields_can_be_coded_otherwise(tmp_path: Path, target: str, codec: str) -> None:
    first, second, third = str(tmp_path / "a.zarr"), str(tmp_path / target), str(tmp_path / "c.zarr")
    record(first, storage=samples.storage("zstd:2"))
    wanted = None if codec == "raw" else "zstd:1" if codec == "zstd" else codec

    report = rs.convert(first, second, codec=codec)
    rs.convert(second, third)  # without saying so again

    assert report.recoded == ["observation/camera"]
    assert report.notes == [f"zstd:2 became {wanted or 'raw'}: observation/camera"]
    for location in (second, third):
        with rs.open(location) as buffer:
            assert buffer._store.specs()["steps/observation/camera"].codec == wanted
            assert buffer._store.specs()["steps/info/wide"].codec is None
        assert contents(first).difference(contents(location)) == ""
        assert_clean(location)


def test_a_layout_given_by_name_stores_all_fields_its_way(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    record(first)

    rs.convert(first, second, layout="live")

    with rs.open(second) as buffer:
        assert {spec.codec for name, spec in buffer._store.specs().items() if name.startswith("steps/")} == {
            None
        }


@pytest.mark.parametrize(("source", "target"), [("a.zarr", "b.h5"), ("a.h5", "b.zarr"), ("a.zarr", "b.zarr")])
def test_damage_in_the_source_does_not_reach_the_target(tmp_path: Path, source: str, target: str) -> None:
    first, second = str(tmp_path / source), tmp_path / target
    record(first)
    with rs.open(first) as buffer:
        extents = buffer._store.container.extents("steps/info/wide", 0, 64)
        path, place = buffer._store.container.files.path(extents[0].object), extents[0].offset + 5
    flip(path, place)

    with pytest.raises(errors.CorruptError, match="rows 0 to 8 of steps/info/wide have changed"):
        rs.convert(first, second)
    with pytest.raises(errors.CorruptError, match="rows 0 to 8 of steps/info/wide have changed"):
        rs.convert(first, second, where="length > 3")

    assert sorted(os.listdir(tmp_path)) == sorted(
        {source, *(name for name in os.listdir(tmp_path) if name == source + ".lock")}
    )


def test_a_damaged_encoded_chunk_does_not_reach_the_target(tmp_path: Path) -> None:
    first = str(tmp_path / "a.zarr")
    record(first)
    with rs.open(first) as buffer:
        entry = buffer._store.locate("steps/observation/camera", 2)
        assert entry is not None
        path = buffer._store.container.files.path(entry.object)
    flip(path, entry.offset + 3)

    for codec in (None, "raw"):
        with pytest.raises(
            errors.CorruptError,
            match=(
                r"chunk 2 of steps/observation/camera \(rows 8 "
                r"to 12\)"
            ),
        ):
            rs.convert(first, tmp_path / "b.zarr", codec=codec)
    assert os.listdir(tmp_path) == ["a.zarr"]


def flip(path: str, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 16]))
