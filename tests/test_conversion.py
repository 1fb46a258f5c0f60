"""Converting buffers: what is the same afterwards, what is not, and what a conversion that fails leaves
behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import replaystore as rs
from replaystore import errors
from replaystore.arrays.reading import StoreReader
from replaystore.buffers.opening import remove
from replaystore.location import Location
from replaystore.storage import local as files
from replaystore.storage.local import Files
from replaystore.testing import Contents, samples

NAMES = ["b.zarr", "b.h5", "b.zarr.zip", "memory:b"]


def at(folder: Path, name: str) -> str:
    return name if name.startswith("memory:") else str(folder / name)


@pytest.fixture(autouse=True)
def _nothing_in_memory() -> Any:
    yield
    for name in ("a", "b", "c"):
        remove(Location("memory", name))


def record(location: str, *, steps: int = 120, seed: int = 3, **options: Any) -> None:
    """A recording with all that a buffer can hold: splits, columns of the user's, several parts, open
    trajectories."""
    schema = samples.small()
    options = {"storage": samples.storage("zstd:1"), "metadata": {"note": ["é", 1.5, None]}, **options}
    with rs.create(location, schema, **options) as buffer:
        writer = buffer.writer(3, split="train")
        for number, step in enumerate(samples.recording(schema, 3, steps, seed)):
            samples.play(writer, step, schema)
            if number % 7 == 0:
                buffer.commit()
        buffer.commit()
        writer.close()
        buffer.append(samples.columns(schema, 30, seed), env=5, split="val")
        last = {"camera": np.full((4, 3), 7, np.uint8), "joints": np.array([1, np.nan, -0.0], np.float32)}
        columns = samples.columns(schema, 9, seed + 1, ends=0.0)
        buffer.append(columns, env=6, final_observation=last)
        buffer.commit()
        ended = int((~buffer.trajectories.open).sum())
        buffer.set_trajectory_column("score", np.linspace(-1, 1, ended))
        buffer.set_trajectory_column("kept", np.arange(ended) % 3 == 0)


def contents(location: str) -> Contents:
    with rs.open(location) as buffer:
        return Contents.of(buffer)


def assert_clean(location: str) -> None:
    if not location.startswith("memory:"):
        assert [str(problem) for problem in rs.verify(location).problems] == []


def chunk_bytes(location: str, name: str) -> list[bytes]:
    """The complete chunks of a coded array, as they are stored."""
    with rs.open(location) as buffer:
        store: StoreReader = buffer._store
        entries = [store.locate(name, chunk) for chunk in range(len(store.table("checksums/" + name)))]
        return [
            store.container.files.read(entry.object, entry.offset, entry.length)
            for entry in entries
            if entry is not None
        ]


# --- all of it


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("source", ["a.zarr", "a.h5", "memory:a"])
def test_all_that_a_buffer_shows_is_the_same_in_another_container_and_back(
    tmp_path: Path, source: str, target: str
) -> None:
    first, second, third = at(tmp_path, source), at(tmp_path, target), at(tmp_path, "c.zarr")
    record(first)
    expected = contents(first)

    report = rs.convert(first, second)
    rs.convert(second, third)

    for location in (second, third):
        assert expected.difference(contents(location)) == ""
        assert_clean(location)
        with rs.open(location) as buffer:
            assert buffer.metadata == {"note": ["é", 1.5, None]}
            assert buffer.trajectories.open.any()
            assert buffer.capacity is None
    assert (report.steps, report.trajectories) == (expected.steps, len(expected.stories))
    assert json.loads(json.dumps(report.to_json()))["target"] == second


@pytest.mark.parametrize("target", ["b.zarr", "b.h5", "memory:b"])
def test_a_recording_goes_on_in_the_target_as_it_would_have_in_the_source(
    tmp_path: Path, target: str
) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, target)
    record(first)
    rs.convert(first, second)

    for location in (first, second):
        with rs.open(location, "r+") as buffer:
            buffer.append(samples.columns(buffer.schema, 40, 77), env=6)  # env 6 has an open trajectory
            buffer.append(samples.columns(buffer.schema, 40, 78), env=5)

    assert contents(first).difference(contents(second)) == ""
    assert_clean(second)


def test_the_environment_and_where_it_came_from_are_kept(tmp_path: Path) -> None:
    import gymnasium

    env = gymnasium.make("CartPole-v1")
    first, second, third = (str(tmp_path / name) for name in ("a.zarr", "b.h5", "c.zarr"))
    rs.create(first, env).close()

    rs.convert(first, second)
    rs.convert(second, third)

    with rs.open(first) as a, rs.open(third) as c:
        assert c.environment == a.environment
        assert c.environment is not None
        assert c.environment["id"] == "CartPole-v1"
        assert c.schema == a.schema
        origin = c.provenance["source"]
        assert origin["location"] == second
        assert [entry["source"] for entry in origin["history"]][-1] is None
        assert origin["history"][0]["source"]["location"] == first


@pytest.mark.parametrize("target", ["b.zarr", "b.h5"])
def test_every_dtype_and_every_name_survives(tmp_path: Path, target: str) -> None:
    first, second, third = str(tmp_path / "a.zarr"), str(tmp_path / target), str(tmp_path / "c.zarr")
    schema = samples.every_dtype()
    with rs.create(first, schema) as buffer:
        buffer.append(samples.columns(schema, 300, 1))

    rs.convert(first, second)
    rs.convert(second, third, layout="archive")

    assert contents(first).difference(contents(second)) == ""
    assert contents(first).difference(contents(third)) == ""
    assert_clean(second)
    assert_clean(third)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_buffer_stays_one(tmp_path: Path, name: str) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, name)
    rs.create(first, samples.small()).close()

    report = rs.convert(first, second)

    with rs.open(second) as buffer:
        assert (len(buffer), buffer.num_trajectories, report.steps) == (0, 0, 0)
    assert_clean(second)


def test_an_open_buffer_is_converted_as_of_its_last_commit(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    with rs.create(first, samples.small()) as buffer:
        buffer.append(samples.columns(buffer.schema, 50, 1))
        buffer.commit()
        expected = Contents.of(buffer)
        buffer.append(samples.columns(buffer.schema, 20, 2))

        report = rs.convert(buffer, second)

        assert report.notes == ["20 steps that are not committed are not in it"]
        assert len(buffer) == 50
    assert expected.difference(contents(second)) == ""


def test_an_older_commit_can_be_converted(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.h5")
    record(first)
    with rs.open(first, commit=6) as old:
        expected = Contents.of(old)
        rs.convert(old, second)

    assert 0 < expected.steps < contents(first).steps
    assert expected.difference(contents(second)) == ""
    assert_clean(second)


@pytest.mark.parametrize("target", ["b.zarr", "b.h5", "memory:b"])
def test_a_ring_becomes_its_window(tmp_path: Path, target: str) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, target)
    record(first, steps=300, capacity=333)
    expected = contents(first)

    report = rs.convert(first, second)

    assert (
        "the ring of capacity 333 is written as its window of 333 steps, and is no ring any more"
        in report.notes
    )
    assert expected.steps == 333
    assert expected.difference(contents(second)) == ""
    assert_clean(second)
    with rs.open(second) as buffer:
        assert buffer.parts.start[0] == 0
        assert buffer.provenance["source"]["ring"] == {"capacity": 333}


def test_an_open_trajectory_whose_steps_have_all_left_a_ring_can_be_continued(tmp_path: Path) -> None:
    schema = samples.small().select(["action", "reward", "terminated", "truncated"])
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    with rs.create(first, schema, capacity=100) as buffer:
        buffer.append(samples.columns(schema, 10, 1, ends=0), env=0)
        buffer.append(samples.columns(schema, 5000, 2), env=1)
    rs.convert(first, second)

    with rs.open(second, "r+") as buffer:
        before = buffer.num_trajectories
        buffer.append(samples.columns(schema, 3, 3, ends=0), env=0)
        buffer.commit()
        grown = buffer.trajectories.where("trajectory == 0")

        assert buffer.num_trajectories == before + 1
        assert grown["length"].tolist() == [13]


# --- as it is stored


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


# --- a part of it


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("ring", [None, 260])
def test_selected_trajectories_are_the_same_and_lie_side_by_side(
    tmp_path: Path, target: str, ring: int | None
) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, target)
    record(first, steps=200, capacity=ring)
    expected = contents(first)
    with rs.open(first) as buffer:
        chosen = buffer.trajectories.where("length >= 4 and not open").index.tolist()
        total = len(buffer.trajectories)

    report = rs.convert(first, second, where="length >= 4 and not open")

    found = contents(second)
    assert f"{total - len(chosen)} of {total} trajectories are left out" in report.notes
    assert len(found.stories) == len(chosen) > 10
    for name, column in expected.table.items():
        np.testing.assert_array_equal(found.table[name], column[chosen])
    for story, number in zip(found.stories, chosen, strict=True):
        assert expected.stories[number].columns.keys() == story.columns.keys()
        for name, rows in story.columns.items():
            assert rows.tobytes() == expected.stories[number].columns[name].tobytes()
        same_observation(story.final_observation, expected.stories[number].final_observation)
    with rs.open(second) as buffer:
        parts = buffer.parts
        assert parts.start.tolist() == np.concatenate([[0], np.cumsum(parts.length)[:-1]]).tolist()
        assert parts.trajectory.tolist() == buffer.trajectories["trajectory"].tolist()
        assert buffer.provenance["source"]["selection"] == {"where": "length >= 4 and not open"}
    assert_clean(second)


def same_observation(left: Any, right: Any) -> None:
    assert (left is None) == (right is None)
    for name, value in (left or {}).items():
        assert value.tobytes() == right[name].tobytes()


def test_trajectories_of_a_split_are_chosen_by_its_name(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.h5")
    record(first)

    rs.convert(first, second, split="val", where="length > 1")

    with rs.open(first) as source, rs.open(second) as buffer:
        assert set(buffer.trajectories["split"].tolist()) == {"val"}
        np.testing.assert_array_equal(
            buffer.trajectories["score"], source.trajectories.where("length > 1", split="val")["score"]
        )


def test_a_selected_trajectory_that_is_open_is_cut_off_with_its_final_observation(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    record(first)
    before = contents(first)
    opened = np.flatnonzero(before.table["open"]).tolist()

    report = rs.convert(first, second, where="open")

    after = contents(second)
    assert f"{len(opened)} trajectories that were still open are cut off" in report.notes
    assert len(after.stories) == len(opened) >= 2
    assert not (after.table["open"] | after.table["terminated"] | after.table["truncated"]).any()
    np.testing.assert_array_equal(after.table["return"], before.table["return"][opened])
    for story, number in zip(after.stories, opened, strict=True):
        same_observation(story.final_observation, before.stories[number].final_observation)
    known = next(story.final_observation for story in after.stories if story.final_observation is not None)
    assert known["observation/camera"].tolist() == [[7] * 3] * 4
    with rs.open(second, "r+") as buffer:  # and new ones get new numbers
        buffer.append(samples.columns(buffer.schema, 3, 1), env=6)
        buffer.commit()
        assert len(set(buffer.trajectories["trajectory"].tolist())) == buffer.num_trajectories


def test_a_part_that_ends_with_an_observation_of_its_own_stays_a_part(tmp_path: Path) -> None:
    schema = samples.small()
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    other = {"camera": np.full((4, 3), 9, np.uint8), "joints": np.zeros(3, np.float32)}
    with rs.create(first, schema) as buffer:
        buffer.append(samples.columns(schema, 5, 1, ends=0), final_observation=other)
        buffer.append(samples.columns(schema, 5, 2, ends=0))  # does not begin with it
    expected = contents(first)

    rs.convert(first, second, where="length > 0")

    with rs.open(second) as buffer:
        assert buffer.parts.length.tolist() == [5, 5]
    assert contents(second).following == expected.following


def test_no_trajectory_chosen_is_an_error_that_makes_nothing(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    record(first)

    with pytest.raises(
        errors.SchemaError,
        match=(
            r"nothing is selected: none of .* trajectories has where "
            r"'length > 100000'"
        ),
    ):
        rs.convert(first, second, where="length > 100000")

    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("selected", [None, "length > 2"])
@pytest.mark.parametrize("target", ["b.zarr", "b.h5"])
def test_fields_can_be_left_out(tmp_path: Path, target: str, selected: str | None) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / target)
    record(first)
    wanted = ["observation/camera", "action", "terminated", "truncated"]

    report = rs.convert(
        first, second, fields=["observation/camera", "action", "terminated", "truncated"], where=selected
    )

    assert "fields left out: observation/joints, reward, info/wide" in report.notes
    assert "returns are left out with the reward" in report.notes
    with rs.open(first) as source, rs.open(second) as buffer:
        assert list(buffer.schema.fields) == wanted
        assert "return" not in buffer.trajectories.columns
        assert list(buffer._store.specs()).count("final/observation/joints") == 0
        number = int(np.flatnonzero(buffer.trajectories["length"] > 5)[0])
        name = int(buffer.trajectories["trajectory"][number])
        twin = int(np.flatnonzero(source.trajectories["trajectory"] == name)[0])
        mine, theirs = buffer.trajectory(number), source.trajectory(twin)
        assert mine["observation/camera"].tobytes() == theirs["observation/camera"].tobytes()
        assert mine.final_observation is not None
        assert theirs.final_observation is not None
        assert mine.final_observation.keys() == {"observation/camera"}
    assert_clean(second)


@pytest.mark.parametrize("selected", [None, "length > 2"])
def test_all_observations_can_be_left_out(tmp_path: Path, selected: str | None) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    record(first)

    rs.convert(first, second, fields=["action", "reward"], where=selected)

    assert not any(name.startswith("final/") for name in rs.open(second)._store.specs())
    assert_clean(second)
    with rs.open(second, "r+") as buffer:
        buffer.append({"action": np.zeros(3, np.int64), "reward": np.zeros(3)}, env=6)


# --- refused, interrupted, failed


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    first = str(tmp_path / "a.zarr")
    record(first)
    (tmp_path / "b.zarr").mkdir()

    with pytest.raises(errors.SchemaError, match="is the source itself"):
        rs.convert(first, tmp_path / "." / "a.zarr", overwrite=True)
    with pytest.raises(errors.AlreadyExistsError, match=r"b\.zarr exists"):
        rs.convert(first, tmp_path / "b.zarr")
    with pytest.raises(errors.FormatError, match="not a replaystore store"):
        rs.convert(first, tmp_path / "b.zarr", overwrite=True)
    with pytest.raises(errors.SchemaError, match='codec "lz4" is not known'):
        rs.convert(first, tmp_path / "c.zarr", codec="lz4")
    with pytest.raises(errors.SchemaError, match="all fields of an archive are coded"):
        rs.convert(first, tmp_path / "c.zarr", layout="archive", codec="raw")
    with pytest.raises(errors.SchemaError, match="no layout 'odd'"):
        rs.convert(first, tmp_path / "c.zarr", layout="odd")  # type: ignore[arg-type]
    with pytest.raises(errors.SchemaError, match="nope"):
        rs.convert(first, tmp_path / "c.zarr", fields=["nope"])
    with pytest.raises(errors.SchemaError, match="nope"):
        rs.convert(first, tmp_path / "c.zarr", where="nope > 1")
    with pytest.raises(errors.NotFoundError):
        rs.convert(tmp_path / "missing.zarr", tmp_path / "c.zarr")

    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr"]


@pytest.mark.parametrize("name", ["b.zarr", "b.h5", "b.zarr.zip", "memory:b"])
def test_a_target_is_replaced_when_that_was_asked_for(tmp_path: Path, name: str) -> None:
    first, second, third = str(tmp_path / "a.zarr"), str(tmp_path / "c.zarr"), at(tmp_path, name)
    record(first)
    record(second, seed=9)
    rs.convert(first, third, layout="archive")

    with pytest.raises(errors.AlreadyExistsError):
        rs.convert(second, third)
    rs.convert(second, third, overwrite=True)

    assert contents(second).difference(contents(third)) == ""
    assert not [
        file
        for file in os.listdir(tmp_path)
        if file.endswith((".sha256", ".partial", ".old", ".folder", ".new", ".partial.lock"))
    ]


@pytest.mark.parametrize("name", ["b.zarr", "b.h5", "b.zarr.zip", "memory:b"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, name)
    record(first)
    before = snapshot(tmp_path)
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise error

    with pytest.raises(error):
        rs.convert(first, second, progress=progress)

    assert snapshot(tmp_path) == before
    with pytest.raises(errors.NotFoundError):
        rs.open(second)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def test_progress_grows_to_the_whole(tmp_path: Path) -> None:
    first = str(tmp_path / "a.zarr")
    record(first)
    calls: list[tuple[int, int]] = []

    rs.convert(first, tmp_path / "b.h5", progress=lambda done, total: calls.append((done, total)))

    assert calls == sorted(calls)
    assert len({total for _, total in calls}) == 1
    assert calls[-1][0] == calls[-1][1] > 0


@pytest.mark.parametrize("name", ["b.zarr", "b.h5"])
@pytest.mark.parametrize("operation", ["write", "sync_file", "rename"])
def test_a_disk_that_fails_leaves_no_target_and_the_source_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, operation: str
) -> None:
    first, second = str(tmp_path / "a.zarr"), tmp_path / name
    record(first)
    before = snapshot(tmp_path)
    known: Callable[..., Any] = getattr(Files, operation)
    counted: list[str] = []
    monkeypatch.setattr(
        Files, operation, lambda self, *args, **kw: counted.append(args[0]) or known(self, *args, **kw)
    )
    rs.convert(first, second)
    monkeypatch.undo()
    everything = len(counted)
    assert everything > 0

    for fatal in {everything // 4, everything // 2, everything - 1}:
        for path in (second, Path(f"{second}.lock")):
            subprocess.run(["rm", "-rf", str(path)], check=True)
        count = iter(range(everything + 99))

        def fail(self: Files, *args: Any, fatal: int = fatal, count: Any = count, **kw: Any) -> Any:
            if next(count) >= fatal:
                raise OSError(28, "No space left on device")
            return known(self, *args, **kw)

        with monkeypatch.context() as patch:
            patch.setattr(Files, operation, fail)
            with pytest.raises(errors.StorageError, match="No space left on device"):
                rs.convert(first, second)

        assert snapshot(tmp_path) == before


# --- other software, and how much memory


def test_other_software_reads_what_was_converted(tmp_path: Path) -> None:
    first = str(tmp_path / "a.h5")
    record(first, storage=None)
    expected = contents(first)

    rs.convert(first, tmp_path / "b.zarr")
    rs.convert(first, tmp_path / "c.zarr", layout="archive")
    rs.convert(first, tmp_path / "d.zarr.zip", layout="archive")
    rs.convert(tmp_path / "d.zarr.zip", tmp_path / "e.h5", layout="archive")

    groups = [
        zarr.open_group(tmp_path / "b.zarr", mode="r"),
        zarr.open_consolidated(tmp_path / "c.zarr"),
        zarr.open_group(zarr.storage.ZipStore(tmp_path / "d.zarr.zip", mode="r"), mode="r"),
        h5py.File(tmp_path / "e.h5"),
    ]
    for group in groups:
        for name, rows in expected.columns.items():
            found: NDArray[Any] = np.asarray(group[f"steps/{name}"][:])  # type: ignore[index]
            assert found.tobytes() == rows.tobytes()
        np.testing.assert_array_equal(
            np.asarray(group["trajectories/length"][:]), expected.table["length"][~expected.table["open"]]
        )  # type: ignore[index]
    groups[-1].close()  # type: ignore[attr-defined]


PROGRAM = """
import sys, threading, time
import replaystore as rs
import replaystore.converting.convert, replaystore.containers.hdf5.container, replaystore.storage.zip
import numcodecs.zstd, numcodecs.fletcher32, h5py

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) // 1024

base, peak, done = anonymous(), 0, False

def poll():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.005)

thread = threading.Thread(target=poll)
thread.start()
report = rs.convert(sys.argv[1], sys.argv[2], layout=sys.argv[3] or None, where=sys.argv[4] or None)
done = True
thread.join()
print(peak - base)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_memory_is_bounded_however_large_the_buffer_is(tmp_path: Path) -> None:
    first = str(tmp_path / "a.zarr")
    schema = rs.Schema(
        {"observation": rs.Field("u1", (84, 84), "observation"), "action": rs.Field("i8", (), "action")}
    )
    frames = np.zeros((1000, 84, 84), np.uint8)
    frames[np.arange(1000), np.arange(1000) % 84] = np.arange(84)
    with rs.create(first, schema, durability="none") as buffer:
        for number in range(40):  # 280 MB
            buffer.append({"observation": frames, "action": np.arange(1000) + number}, ends=[399, 999])
            buffer.commit()

    for target, layout, where in [
        ("b.h5", "", ""),
        ("c.zarr", "archive", ""),
        ("d.zarr", "", "length == 600"),
    ]:
        arguments = [first, str(tmp_path / target), layout, where]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) < 120


# --- anything


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_buffer_converts_to_anything_and_back(tmp_path: Path, data: st.DataObject) -> None:
    remove(Location("memory", "a"))
    codec = data.draw(st.sampled_from(["zstd:1", "zstd:3", "gzip:1", "raw"]))
    rows = {"raw": 1024, None: None}.get(codec, data.draw(st.sampled_from([1, 3, 4, 16])))
    storage = {
        "observation/camera": {"codec": codec, "chunk_rows": rows},
        "info/wide": {"codec": "raw", "chunk_rows": 8},
    }
    capacity = data.draw(st.sampled_from([None, None, 40, 200]))
    schema = samples.small()
    with rs.create("memory:a", schema, storage=storage, capacity=capacity) as buffer:
        for number in range(data.draw(st.integers(0, 5))):
            columns = samples.columns(schema, data.draw(st.sampled_from([1, 2, 7, 30, 128, 513])), number)
            buffer.append(
                columns, env=data.draw(st.integers(0, 2)), split=data.draw(st.sampled_from(["", "train"]))
            )
            if data.draw(st.booleans()):
                buffer.commit()
    expected = contents("memory:a")
    target = str(tmp_path / data.draw(st.sampled_from(["b.zarr", "b.h5", "b.zarr.zip"])))
    layout = data.draw(st.sampled_from([None, "live", "archive"]))
    new_codec = data.draw(st.sampled_from([None, "zstd:2", "gzip:2"]))

    rs.convert("memory:a", target, layout=layout, codec=new_codec, overwrite=True)
    rs.convert(target, "memory:b", layout="live", overwrite=True)

    for location in (target, "memory:b"):
        assert expected.difference(contents(location)) == ""
    assert_clean(target)
