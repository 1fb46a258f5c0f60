"""Converting a part of a buffer: some trajectories, some fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversions import NAMES, assert_clean, at, contents, record

import replaystore as rs
from replaystore import errors
from replaystore.testing import samples

pytest_plugins = ["conversions"]

pytestmark = pytest.mark.usefixtures("_nothing_in_memory")


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
