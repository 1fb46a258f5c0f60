"""What other software keeps with commits: set by `commit`, carried along everywhere, and never half there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ArgumentError, StorageError
from replaystore.schema.fields import Field, Schema
from replaystore.testing.disks import Disk, put
from replaystore.testing.faults import Faults, RecordingFiles, using

SCHEMA = Schema(
    {"observation": Field("float32", (2,), "observation"), "reward": Field("float64", (), "reward")}
)
PLACES = ["{}/a.zarr", "{}/a.h5", "memory:more"]
KEY, OTHER = "org.example.at", "example:other"


def steps(count: int, begin: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    numbers = np.arange(begin, begin + count)
    return {"observation": np.stack([numbers, -numbers], 1).astype(np.float32), "reward": numbers / 4}


@pytest.fixture(params=PLACES, ids=["zarr", "hdf5", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(tmp_path)


def test_it_is_kept_with_a_commit_and_from_then_on(place: str) -> None:
    with rs.create(place, SCHEMA, overwrite=True) as buffer:
        buffer.append(steps(3))
        assert buffer.commit(more={KEY: [1, {"a": None}], OTHER: "x"}) == 1
        buffer.append(steps(3, 3))
        buffer.commit()
        assert buffer.more == {KEY: [1, {"a": None}], OTHER: "x"}
        buffer.commit("named", more={KEY: 2, OTHER: None})
        assert buffer.more == {KEY: 2}
        assert not place.startswith("memory:") or rs.open(place).more == {KEY: 2}
    with rs.open(place) as buffer:
        assert buffer.more == {KEY: 2}
        assert len(buffer) == 6
    with rs.open(place, commit=1) as buffer:
        assert buffer.more == {KEY: [1, {"a": None}], OTHER: "x"}


def test_a_commit_of_it_alone_shows_what_the_one_before_shows(place: str) -> None:
    with rs.create(place, SCHEMA, overwrite=True) as buffer:
        buffer.append(steps(3))
        first = buffer.commit()
        assert buffer.commit(more={KEY: 1}) == first + 1
        assert buffer.shows == first
        assert buffer.commit(more={}) == first + 1, "nothing was to be kept"
        reader = rs.open(place)
        buffer.commit(more={KEY: 2})
        assert reader.more == {KEY: 1}
        assert reader.refresh()
        assert (reader.more, reader.shows, len(reader)) == ({KEY: 2}, first, 3)
        reader.close()


def test_long_logs_rollbacks_and_conversions_carry_it_along(place: str, tmp_path: Path) -> None:
    with rs.create(place, SCHEMA, overwrite=True, durability="none") as buffer:
        buffer.append(steps(2))
        buffer.commit("begin", more={KEY: 0})
        for number in range(300):  # several segments of the log
            buffer.append(steps(1, number))
            buffer.commit(more={KEY: number, f"{OTHER}{number % 7}": [number] * 100})
        buffer.rollback("begin")
        assert buffer.more[KEY] == 299
        assert len(buffer) == 2
        buffer.commit(more={KEY: 300} | {f"{OTHER}{number}": None for number in range(7)})
    for suffix in (".zarr", ".h5", ".zarr.zip"):
        rs.convert(place, tmp_path / f"copy{suffix}")
        with rs.open(tmp_path / f"copy{suffix}") as copy:
            assert copy.more == {KEY: 300}


@pytest.mark.parametrize("wrong", [{"plain": 1}, {1: 2}, 7, {KEY: float("nan")}, {KEY: {1, 2}}, {KEY: b"x"}])
def test_what_cannot_be_kept_is_refused(wrong: Any) -> None:
    with rs.create("memory:wrong", SCHEMA, overwrite=True) as buffer:
        buffer.append(steps(1))
        with pytest.raises(ArgumentError, match="more"):
            buffer.commit(more=wrong)
        assert (buffer.commit_id, buffer.more) == (0, {})


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_commit_that_fails_keeps_nothing_of_it(suffix: str, tmp_path: Path) -> None:
    faults = Faults()
    with using(faults.files):
        buffer = rs.create(tmp_path / f"a{suffix}", SCHEMA)
        buffer.append(steps(2))
        buffer.commit(more={KEY: 1})
        buffer.append(steps(1))
        faults.full_at = faults.count + 1
        with pytest.raises(StorageError):
            buffer.commit(more={KEY: 2})
        assert buffer.more == {KEY: 1}
        faults.full_at = None
        buffer.commit(more={KEY: 3})
        buffer.close()
    with rs.open(tmp_path / f"a{suffix}") as buffer:
        assert buffer.more == {KEY: 3}


def test_it_goes_back_with_what_a_power_cut_took(tmp_path: Path) -> None:
    recording = RecordingFiles(below=str(tmp_path))
    with using(recording.files):
        buffer = rs.create(tmp_path / "a.zarr", SCHEMA, durability="none")
        for number in range(3):
            buffer.append(steps(1, number))
            buffer.commit(more={KEY: number + 1})
        disk = Disk()
        for operation in recording.operations:
            disk.do(operation)
        buffer.abandon()
    left = disk.everything()
    rows = "a.zarr/steps/reward/c.0"
    left[rows] = (left[rows] or b"")[:-8]  # what the last commit says had not reached the disk
    put(str(tmp_path / "cut"), left)
    with rs.open(tmp_path / "cut" / "a.zarr", "r+") as buffer:
        assert 0 < len(buffer) < 3
        assert buffer.more == {KEY: len(buffer)}
