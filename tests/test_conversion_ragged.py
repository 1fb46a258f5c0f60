"""Converting buffers with fields of any length: all that a buffer shows is the same afterwards, whether the
values come as they are or are laid down anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conversions import NAMES, assert_clean, at, chunk_bytes, contents, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_conversion_storage import flip

import replaystore as rs
from replaystore import errors
from replaystore.arrays.copying import raw_chunks
from replaystore.containers.located import remove
from replaystore.location import Location
from replaystore.testing import Contents, samples
from replaystore.testing.contents import bits

pytest_plugins = ["conversions"]

pytestmark = pytest.mark.usefixtures("_nothing_in_memory")

VALUES = ["observation/text", "info/tokens", "info/points"]


def raw_bytes(location: str, name: str) -> bytes:
    """The complete chunks of a raw array, as they are stored."""
    with rs.open(location) as buffer:
        store = buffer._store
        whole = store.rows(name) // store.spec(name).chunk_rows
        return b"".join(data.tobytes() for _, data, _ in raw_chunks(store, name, 0, whole))


def same_stories(expected: Contents, found: Contents, chosen: list[int]) -> None:
    """That these trajectories are those that were found, with what followed the last steps."""
    assert len(found.stories) == len(chosen)
    for story, number in zip(found.stories, chosen, strict=True):
        one = Contents({}, {}, [expected.stories[number]])
        assert one.difference(Contents({}, {}, [story])) == ""


# --- whole


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("source", ["a.zarr", "a.h5", "memory:a"])
def test_values_are_the_same_in_another_container_and_back(tmp_path: Path, source: str, target: str) -> None:
    first, second, third = at(tmp_path, source), at(tmp_path, target), at(tmp_path, "c.zarr")
    record(first, ragged=True)
    expected = contents(first)

    forth = rs.convert(first, second)
    back = rs.convert(second, third)

    for location in (second, third):
        assert expected.difference(contents(location)) == ""
        assert_clean(location)
    assert set(VALUES) <= set(forth.copied) & set(back.copied)
    for name in ("values/info/tokens", "steps/info/tokens"):
        assert raw_bytes(first, name) == raw_bytes(second, name) == raw_bytes(third, name)
    assert len(raw_bytes(first, "values/info/tokens")) > 3 * 4 * samples.TOKENS


def test_coded_values_are_copied_as_they_are_encoded(tmp_path: Path) -> None:
    first, second, third = (str(tmp_path / name) for name in ("a.zarr", "b.zarr", "c.h5"))
    record(first, storage=samples.storage("zstd:7", ragged=True), ragged=True)

    reports = [rs.convert(first, location) for location in (second, third)]

    before, after, other = (
        chunk_bytes(location, "values/info/points") for location in (first, second, third)
    )
    assert len(before) > 20
    assert before == after
    assert [chunk[:-4] for chunk in before] == [chunk[:-4] for chunk in other]
    assert [report.recoded for report in reports] == [[], []]


@pytest.mark.parametrize("target", ["b.zarr", "b.h5", "memory:b"])
@pytest.mark.parametrize("capacity", [None, 333])
def test_a_recording_of_values_goes_on_in_the_target(
    tmp_path: Path, target: str, capacity: int | None
) -> None:
    first, second, third = str(tmp_path / "a.zarr"), at(tmp_path, target), str(tmp_path / "c.zarr")
    record(first, ragged=True, capacity=capacity)
    rs.convert(first, second)
    rs.convert(first, third)

    for location in (second, third):
        with rs.open(location, "r+") as buffer:
            buffer.append(samples.columns(buffer.schema, 40, 77), env=6)  # env 6 has an open trajectory
            buffer.append(samples.columns(buffer.schema, 40, 78), env=5)

    assert contents(third).difference(contents(second)) == ""
    assert_clean(second)
    with rs.open(second) as buffer:
        number = int(np.flatnonzero(buffer.trajectories["env"] == 6)[0])
        assert buffer.trajectory(number).columns["observation/text"].tolist() == (
            contents(third).stories[number].columns["observation/text"].tolist()
        )


@pytest.mark.parametrize("name", NAMES)
def test_no_values_stay_none(tmp_path: Path, name: str) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, name)
    rs.create(first, samples.small(ragged=True)).close()

    rs.convert(first, second)

    with rs.open(second) as buffer:
        assert len(buffer["info/tokens"]) == 0
    assert_clean(second)


def test_values_of_a_layout_are_stored_its_way(tmp_path: Path) -> None:
    first, second, third = (str(tmp_path / name) for name in ("a.zarr", "b.zarr", "c.zarr"))
    record(first, ragged=True)

    rs.convert(first, second, layout="archive", codec="zstd:9", grouped=False)
    rs.convert(second, third, layout="live")

    with rs.open(second) as archive, rs.open(third) as live:
        for name in VALUES:
            for stored in (f"values/{name}", f"steps/{name}"):
                assert archive.store.specs()[stored].codec == "zstd:9"
                assert live.store.specs()[stored].codec is None
    assert contents(first).difference(contents(second)) == ""
    assert contents(first).difference(contents(third)) == ""
    assert_clean(second)
    assert_clean(third)


@pytest.mark.parametrize(("source", "target"), [("a.zarr", "b.h5"), ("a.h5", "b.zarr"), ("a.zarr", "b.zarr")])
@pytest.mark.parametrize("where", [None, "length > 3"])
def test_damaged_values_do_not_reach_the_target(
    tmp_path: Path, source: str, target: str, where: str | None
) -> None:
    first, second = str(tmp_path / source), tmp_path / target
    record(first, ragged=True)
    with rs.open(first) as buffer:
        extents = buffer._store.container.extents("values/info/tokens", 0, samples.TOKENS)
        path, place = buffer._store.container.files.path(extents[0].object), extents[0].offset + 5
    flip(path, place)

    with pytest.raises(errors.CorruptError, match="rows 0 to 1024 of values/info/tokens have changed"):
        rs.convert(first, second, where=where)

    assert not second.exists()


# --- windows and parts


@pytest.mark.parametrize("target", NAMES)
def test_the_window_of_a_ring_has_its_values(tmp_path: Path, target: str) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, target)
    record(first, steps=300, capacity=333, ragged=True)
    expected = contents(first)

    rs.convert(first, second)

    assert expected.difference(contents(second)) == ""
    assert_clean(second)
    with rs.open(first) as ring, rs.open(second) as buffer:
        for name in VALUES:
            stored = f"values/{name}"
            assert ring.store.first(stored) > 0
            assert buffer.store.rows(stored) == ring.store.rows(stored) - ring.store.first(stored)


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("ring", [None, 260])
def test_selected_trajectories_have_their_values_alone(tmp_path: Path, target: str, ring: int | None) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, target)
    record(first, steps=200, capacity=ring, ragged=True)
    expected = contents(first)
    with rs.open(first) as buffer:
        chosen = buffer.trajectories.where("length >= 4 or open").index.tolist()

    rs.convert(first, second, where="length >= 4 or open")

    found = contents(second)
    same_stories(expected, found, chosen)
    assert_clean(second)
    named = sum(story.columns["info/tokens"].lengths.sum() for story in found.stories)
    texts = sum(
        len(bits(story.final_observation["observation/text"]))
        for story in found.stories
        if story.final_observation is not None
    )
    texts += sum(story.columns["observation/text"].lengths.sum() for story in found.stories)
    with rs.open(second) as buffer:
        assert buffer.store.rows("values/info/tokens") == named > 0
        assert buffer.store.rows("values/observation/text") >= texts > 0


def test_an_observation_of_its_own_between_two_parts_is_kept(tmp_path: Path) -> None:
    schema = samples.small(ragged=True)
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    other = {"camera": np.full((4, 3), 9, np.uint8), "joints": np.zeros(3, np.float32), "text": "語"}
    with rs.create(first, schema) as buffer:
        buffer.append(samples.columns(schema, 5, 1, ends=0), final_observation=other)
        buffer.append(samples.columns(schema, 5, 2, ends=0))  # does not begin with it
    expected = contents(first)

    rs.convert(first, second, where="length > 0")

    assert contents(second).following == expected.following
    assert expected.following["observation/text"][4] == "語".encode()


@pytest.mark.parametrize("target", NAMES)
def test_fields_of_any_length_can_be_left_out_and_taken_alone(tmp_path: Path, target: str) -> None:
    first, second, third = str(tmp_path / "a.zarr"), at(tmp_path, target), str(tmp_path / "c.zarr")
    record(first, ragged=True)
    expected = contents(first)

    rs.convert(first, second, fields=["observation/joints", "info/tokens", "action"])
    rs.convert(first, third, fields=["observation/text"], where="length > 2")

    with rs.open(second) as buffer:
        assert "values/observation/text" not in buffer.store.specs()
        assert buffer.read(slice(None))["info/tokens"] == expected.columns["info/tokens"]
    with rs.open(third) as buffer:
        assert list(buffer.schema.fields) == ["observation/text"]
        assert sum(buffer["observation/text"].lengths[:]) > 0
    assert_clean(second)
    assert_clean(third)


@pytest.mark.parametrize("capacity", [None, 300])
def test_values_are_laid_trajectory_by_trajectory(tmp_path: Path, capacity: int | None) -> None:
    first, second, third = (str(tmp_path / name) for name in ("a.zarr", "b.zarr", "c.zarr"))
    record(first, ragged=True, capacity=capacity)
    expected = contents(first)

    rs.convert(first, second, grouped=True)
    rs.convert(first, third, layout="archive")

    for location in (second, third):
        found = contents(location)
        same_stories(expected, found, list(range(len(expected.stories))))
        with rs.open(first) as before, rs.open(location) as after:
            assert after.parts.start.tolist() != before.parts.start.tolist()
            assert after.provenance["source"]["grouped"] is True
        assert_clean(location)


# --- anything


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_convert_to_anything_and_back(tmp_path: Path, data: st.DataObject) -> None:
    remove(Location("memory", "zarr", "a"))
    codec = data.draw(st.sampled_from(["zstd:1", "zstd:3", "gzip:1"]))
    capacity = data.draw(st.sampled_from([None, None, 40, 200]))
    schema = samples.small(ragged=True)
    late = rs.Field("int16", (None,), "info")
    storage = samples.storage(codec, ragged=True)
    with rs.create("memory:a", schema, storage=storage, capacity=capacity) as buffer:
        added = data.draw(st.integers(0, 9))
        for number in range(data.draw(st.integers(0, 5))):
            if number == added:
                buffer.add_field("info/late", late)
            columns = samples.columns(
                buffer.schema, data.draw(st.sampled_from([1, 2, 7, 30, 128, 513])), number
            )
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

    regrouped = grouped or (grouped is None and layout == "archive")
    for location in (target, "memory:b"):
        found = contents(location)
        if regrouped:
            same_stories(expected, found, list(range(len(expected.stories))))
        else:
            assert expected.difference(found) == ""
        assert_clean(location)
