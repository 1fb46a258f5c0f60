"""Whatever reads a buffer finds the same in one of which environments took turns row by row."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stride_stores import SCHEMA, record, steps_of
from stride_worlds import World, worlds

import replaystore as rs
from replaystore.cli.show import _blocks
from replaystore.containers.located import remove
from replaystore.converting import stores
from replaystore.formats.blocks import blocks_of
from replaystore.formats.options import Options
from replaystore.location import Location
from replaystore.testing import Contents, samples
from replaystore.trajectories.columns import PARTS
from replaystore.views.foreign_ring import ring_of, survives

_names = (f"memory:strides-{number}" for number in itertools.count())


def check(buffer: rs.Buffer, world: World, first: int = 0) -> None:
    """Trajectories, steps, and what follows each, are those of a world."""
    columns, finals = steps_of(world)
    rows = {number: [row for row in rows if row >= first] for number, rows in world.rows.items()}
    rows = {number: kept for number, kept in rows.items() if kept}
    table = buffer.trajectories
    assert sorted(table["seed"].tolist()) == sorted(rows)
    for position, number in enumerate(table["seed"].tolist()):
        read = buffer.trajectory(position)
        for name, values in read.columns.items():
            assert values.tobytes() == columns[name][rows[number]].tobytes(), (number, name)
        known = read.final_observation
        assert (known is None) == (number not in world.finals)
        for name, value in (known or {}).items():
            assert value.tobytes() == finals[name][world.finals[number]].tobytes()
        assert table["length"][position] == len(world.rows[number])
        assert table["return"][position] == np.add.accumulate(columns["reward"][world.rows[number]])[-1]


def following_of(world: World, first: int, open_last: bool) -> dict[str, list[bytes | None]]:
    """What is stored of the observation after each step."""
    columns, finals = steps_of(world)
    found: dict[str, list[bytes | None]] = {}
    for name, final in finals.items():
        after: list[bytes | None] = [None] * len(world.owner)
        for trajectory, rows in world.rows.items():
            for row, following in itertools.pairwise(rows):
                after[row] = columns[name][following].tobytes()
            if trajectory in world.finals and not (open_last and trajectory == max(world.rows)):
                after[rows[-1]] = final[world.finals[trajectory]].tobytes()
        found[name] = after[first:]
    return found


def forget(*locations: str) -> None:
    for location in locations:
        remove(Location("memory", "zarr", location.removeprefix("memory:")))


@given(worlds(), st.booleans(), st.sampled_from([None, 3, 7, 20]))
def test_a_buffer_shows_what_was_recorded(world: World, open_last: bool, capacity: int | None) -> None:
    location = next(_names)
    with record(location, world, open_last=open_last, capacity=capacity) as buffer:
        first = max(0, len(world.owner) - (capacity or 1 << 30))
        assert buffer.first_row == first
        check(buffer, world, first)
        told = Contents.of(buffer)
        if len(world.owner):
            steps = steps_of(world)[0]
            rows = buffer.read(slice(None))
            assert all(rows[name].tobytes() == steps[name][first:].tobytes() for name in rows)
        assert told.following == following_of(world, first, open_last)
    with rs.open(location) as again:
        assert told.difference(Contents.of(again)) == ""
    assert not rs.verify(location).problems
    forget(location)


@given(worlds(), st.booleans(), st.sampled_from([None, 7, 20]), st.sampled_from([None, "archive"]))
def test_all_of_it_is_converted(world: World, open_last: bool, capacity: int | None, layout: Any) -> None:
    one, other = next(_names), next(_names)
    with record(one, world, open_last=open_last, capacity=capacity) as buffer:
        told = Contents.of(buffer)
    rs.convert(one, other, layout=layout, grouped=False)
    with rs.open(other) as converted:
        assert told.difference(Contents.of(converted)) == ""
    assert not rs.verify(other).problems
    forget(one, other)


WIDEST = max(declared.row_bytes for declared in SCHEMA.fields.values())


@given(
    worlds(),
    st.booleans(),
    st.sampled_from([None, 7, 20]),
    st.sampled_from([(None, True), ("archive", None), ("live", True)]),
    st.sampled_from([1, 5, 1000]),
)
def test_rows_that_are_grouped_lie_trajectory_by_trajectory(
    world: World, open_last: bool, capacity: int | None, how: tuple[Any, bool | None], window: int
) -> None:
    one, other, again = next(_names), next(_names), next(_names)
    with record(one, world, open_last=open_last, capacity=capacity) as buffer:
        told, first = Contents.of(buffer), buffer.first_row
    with patch.object(stores, "WINDOW_BYTES", window * WIDEST):
        report = rs.convert(one, other, layout=how[0], grouped=how[1])
    with rs.open(other) as converted:
        found, parts = Contents.of(converted), converted.parts
        assert told.by_trajectory().difference(found.by_trajectory()) == ""
        if any("trajectory by trajectory" in note for note in report.notes):
            assert parts.dense
            last = -1
            for trajectory, rows in zip(parts.trajectory, map(range, parts.start, parts.stop), strict=True):
                assert all(row // window >= last for row in rows)
                last = rows[-1] // window
                before = [at for at in parts.rows([trajectory]) if at < rows[0]]
                assert all(at // window < rows[0] // window for at in before), "one run in each window"
        else:
            assert told.difference(found) == ""
        for start in range(0, told.steps, window):
            for name, values in told.columns.items():
                mine, theirs = (
                    sorted(row.tobytes() for row in rows[start : start + window])
                    for rows in (values, found.columns[name])
                )
                assert mine == theirs, "the same rows in each window"
    assert not rs.verify(other).problems
    rs.convert(other, again, layout="archive")
    with rs.open(again) as twice:
        assert found.by_trajectory().difference(Contents.of(twice).by_trajectory()) == ""
    if how[0] != "archive" and open_last and len(told.table["open"]) and told.table["open"].any():
        opened = int(told.table["env"][-1])
        with rs.open(other, "r+") as converted:
            more = samples.columns(SCHEMA, 3, 9, ends=0)
            converted.append(more, env=opened)
            converted.commit()
            story = converted.trajectory(len(converted.trajectories) - 1)
            assert story["action"][:-3].tobytes() == told.stories[-1].columns["action"].tobytes()
            assert story["action"][-3:].tobytes() == more["action"].tobytes()
        assert not rs.verify(other).problems
    assert first == max(0, len(world.owner) - (capacity or 1 << 30))
    forget(one, other, again)


@given(worlds(), st.booleans(), st.sampled_from([None, 7, 20]), st.sampled_from([None, "archive"]))
def test_some_trajectories_are_converted_and_lie_side_by_side(
    world: World, open_last: bool, capacity: int | None, layout: Any
) -> None:
    one, other = next(_names), next(_names)
    with record(one, world, open_last=open_last, capacity=capacity) as buffer:
        told, chosen = Contents.of(buffer), buffer.trajectories.where("length > 1").index
    if len(chosen):
        rs.convert(one, other, where="length > 1", layout=layout)
        with rs.open(other) as converted:
            found = Contents.of(converted)
            assert [len(converted.parts.parts_of(t)) for t in converted.trajectories["trajectory"]] == [
                1
            ] * len(chosen)
            assert converted.parts.dense
        for story, number in zip(found.stories, chosen.tolist(), strict=True):
            mine = told.stories[number]
            assert all(mine.columns[name].tobytes() == story.columns[name].tobytes() for name in mine.columns)
            assert (mine.final_observation is None) == (story.final_observation is None)
            for name, value in (mine.final_observation or {}).items():
                assert value.tobytes() == story.final_observation[name].tobytes()  # type: ignore[index]
        assert not rs.verify(other).problems
        forget(other)
    forget(one)


@given(worlds(), st.booleans(), st.sampled_from([None, 7, 20]), st.integers(1, 2000))
def test_formats_are_given_one_trajectory_after_another(
    world: World, open_last: bool, capacity: int | None, size: int
) -> None:
    location = next(_names)
    with record(location, world, open_last=open_last, capacity=capacity) as buffer:
        told = Contents.of(buffer)
        blocks = list(blocks_of(buffer, Options(), size))
        begins = [at for at, block in enumerate(blocks) if block.begins]
        assert len(begins) == len(told.stories)
        for story, begin, end in zip(told.stories, begins, [*begins, len(blocks)][1:], strict=True):
            for name, values in story.columns.items():
                joined = np.concatenate([block.columns[name] for block in blocks[begin:end]])
                assert joined.tobytes() == values.tobytes()
    forget(location)


@pytest.mark.parametrize("target", ["buffer_state.safetensors", "replay_buffer.pkl"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds(3), open_last=st.booleans(), capacity=st.sampled_from([None, 20]), some=st.booleans())
def test_files_of_others_are_as_they_would_be_if_each_row_were_a_part(
    tmp_path: Path, target: str, world: World, open_last: bool, capacity: int | None, some: bool
) -> None:
    written = []
    for number, strides in enumerate((world.stride, [1] * len(world.stride))):
        location, folder = next(_names), tmp_path / str(number)
        record(
            location, World(world.owner, strides, world.finals), open_last=open_last, capacity=capacity
        ).close()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        where = "length > 0" if some and world.rows else None
        report = rs.convert(location, folder / target, where=where)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        written.append((files, report.fields, report.rest))
        forget(location)
    assert written[0] == written[1]


@given(worlds(3), st.sampled_from([None, 7, 20]))
def test_steps_are_shown_with_their_place(world: World, capacity: int | None) -> None:
    location = next(_names)
    with record(location, world, capacity=capacity) as buffer:
        rows = np.arange(len(buffer))
        shown = list(_blocks(buffer, rows, ["action"])) if len(rows) else []
        index = [at for block in shown for at in block["trajectory_index"].tolist()]
        step = [at for block in shown for at in block["step"].tolist()]
        seeds = buffer.trajectories["seed"].tolist()
        for row, (at, place) in enumerate(zip(index, step, strict=True)):
            owner = world.owner[row + buffer.first_row]
            assert owner == (None if at < 0 else seeds[at])
            assert owner is None or world.rows[owner][place] == row + buffer.first_row
    forget(location)


@given(worlds(3), st.integers(1, 20))
def test_a_foreign_ring_knows_what_was_appended_at_once(world: World, capacity: int) -> None:
    """What is told of strides is what is told of runs of adjacent rows, put together."""
    told = []
    for strides in (world.stride, [1] * len(world.stride)):
        location = next(_names)
        with record(location, World(world.owner, strides, world.finals)) as buffer:
            known = {"capacity": capacity, "size": 0, "position": 0, "rows": 0}
            ring = ring_of(buffer, known)
            assert ring is not None
            places = [
                (start, length) for start in range(capacity) for length in range(1, 2 * capacity - start)
            ]
            told.append([survives(ring, *place) for place in places])
        forget(location)
    assert told[0] == told[1]


def test_a_zarr_hierarchy_of_a_ring_has_the_parts_that_are_kept(tmp_path: Path) -> None:
    world = World([0, 1, 2] * 20 + [0, 1, None] * 3, [3] * 69)
    with record(str(tmp_path / "a.zarr"), world, capacity=25) as buffer:
        group = zarr.open_group(buffer.zarr_store(), mode="r")
        columns = dict(zip(PARTS, group["parts"][:].T, strict=True))
        order = np.argsort(columns["start"])
        assert buffer.first_row == 44
        assert columns["start"][order].tolist() == [0, 1, 2]
        assert columns["stride"][order].tolist() == [3, 3, 3]
        assert (buffer.parts.start - 44).tolist() == [0, 1, 2]
        assert columns["length"][order].tolist() == buffer.parts.length.tolist()
        assert columns["offset"][order].tolist() == buffer.parts.offset.tolist()
        assert SCHEMA.fields.keys() == buffer.schema.fields.keys()
