"""Converting whole buffers: all that a buffer shows is the same afterwards, in any container and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from conversions import NAMES, assert_clean, at, contents, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import replaystore as rs
from replaystore.containers.located import remove
from replaystore.location import Location
from replaystore.testing import Contents, samples

pytest_plugins = ["conversions"]

pytestmark = pytest.mark.usefixtures("_nothing_in_memory")


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


# --- other software, and how much memory


def test_other_software_reads_what_was_converted(tmp_path: Path) -> None:
    first = str(tmp_path / "a.h5")
    record(first, storage=None)
    expected = contents(first)

    rs.convert(first, tmp_path / "b.zarr")
    rs.convert(first, tmp_path / "c.zarr", layout="archive", grouped=False)
    rs.convert(first, tmp_path / "d.zarr.zip", layout="archive", grouped=False)
    rs.convert(tmp_path / "d.zarr.zip", tmp_path / "e.h5", layout="archive", grouped=False)

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
    remove(Location("memory", "zarr", "a"))
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

    grouped = data.draw(st.sampled_from([None, True, False]))
    rs.convert("memory:a", target, layout=layout, codec=new_codec, grouped=grouped, overwrite=True)
    rs.convert(target, "memory:b", layout="live", overwrite=True)

    if grouped or (grouped is None and layout == "archive"):
        expected = expected.by_trajectory()
    for location in (target, "memory:b"):
        found = contents(location)
        assert expected.difference(found if expected.steps == found.steps else found.by_trajectory()) == ""
    assert_clean(target)
