"""Older commits, where what follows a step is not there any more, was not yet, or lies in a newer one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays.reading import StoreReader
from replaystore.errors import UnsupportedError
from replaystore.views import shown
from replaystore.views.followed import stored_parts

FIELDS = {
    "plain": rs.Field("int32", (2,), "observation"),
    "ragged": rs.Field("int32", (None,), "observation"),
    "text": rs.Field.of_text("observation"),
}


def values(kind: str, numbers: range) -> Any:
    if kind == "text":
        return [str(number) for number in numbers]
    return np.stack([np.array([number, 1], np.int32) for number in numbers])


def check(place: Path) -> None:
    assert not list(rs.verify(place).problems)


@pytest.mark.parametrize("kind", FIELDS)
def test_what_follows_an_idle_environment_has_left_the_ring(tmp_path: Path, kind: str) -> None:
    """Its last step has, too: the trajectory goes on, of which nobody knows what it has seen."""
    place = tmp_path / "a.zarr"
    schema = rs.Schema({"observation": FIELDS[kind], "number": rs.Field("int64", (), "extra")})
    with rs.create(place, schema, capacity=10) as buffer:

        def append(env: int, count: int) -> None:
            steps = {"observation": values(kind, range(count)), "number": np.arange(count)}
            buffer.append(steps, env=env, final_observation=values(kind, range(99, 100)))

        append(0, 3)
        buffer.commit()
        append(1, 12)
        buffer.commit("here")
        append(1, 2)
        buffer.commit()
        buffer.rollback("here")
        append(1, 1)
        append(0, 1)
        buffer.commit()
    check(place)
    with rs.open(place, "r+") as buffer:
        assert buffer["number"][:].tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 0, 0]
        batch = buffer.sampler(30, seed=0).sample()
        assert set(batch["number"].tolist()) <= {*range(4, 12), 0}
        assert buffer.trajectories["length"].tolist() == [4, 13]
        buffer.rollback("here")
        assert len(buffer) == 10
    check(place)


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_to_before_an_observation_was_added(tmp_path: Path, kind: str, suffix: str) -> None:
    place = tmp_path / f"a.{suffix}"
    schema = rs.Schema({"observation/a": FIELDS["plain"], "number": rs.Field("int64", (), "extra")})
    with rs.create(place, schema) as buffer:
        steps = {"observation/a": values("plain", range(3)), "number": np.arange(3)}
        buffer.append(steps, final_observation={"observation/a": values("plain", range(9, 10))})
        before = buffer.commit()
        buffer.add_field("observation/b", FIELDS[kind])
        buffer.commit()
        buffer.rollback(before)
        known = buffer.trajectory(0).final_observation
        assert known is not None
        assert {name: row.tolist() for name, row in known.items()} == {"observation/a": [9, 1]}
        buffer.append(steps, final_observation={"observation/a": values("plain", range(9, 10))})
        buffer.commit()
    check(place)


@pytest.mark.parametrize("kind", FIELDS)
def test_what_follows_is_looked_for_in_one_view_of_the_newest_commit(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in one for each environment, of which there are thousands: what they keep is then overwritten."""
    monkeypatch.setattr(StoreReader, "attachment", lambda *_: None)
    schema = rs.Schema({"observation": FIELDS[kind], "number": rs.Field("int64", (), "extra")})
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        writer = buffer.writer(20)
        writer.reset(values(kind, range(20)))
        for step in (100, 200):
            writer.step(observation=values(kind, range(step, step + 20)), info={"number": np.arange(20)})
            buffer.commit()
        looked = list[str]()
        monkeypatch.setattr(shown, "stored_parts", lambda store: looked.append("") or stored_parts(store))
        with rs.open(tmp_path / "a.zarr", commit=1) as older:
            found = older.open_trajectories()
            spans = [entry.following["observation"] for entry in found if entry.following is not None]
            told = (
                [one.tolist() for one in older.values_of("observation").take(np.stack(spans))]
                if kind == "ragged"
                else spans
            )
            assert len(told) == 20
            if kind != "text":
                assert [int(row[0]) for row in told] == list(range(100, 120))
            assert len(looked) == 1


@pytest.mark.parametrize("kind", ["ragged", "text"])
def test_values_of_any_length_are_not_set_again(kind: str) -> None:
    with rs.create("memory:set-again", rs.Schema({"observation": FIELDS[kind]})) as buffer:
        buffer.append({"observation": values(kind, range(2))})
        buffer.commit()
        with pytest.raises(UnsupportedError, match="any length"):
            buffer["observation"][0] = values(kind, range(1))
        with pytest.raises(UnsupportedError, match="any length"):
            buffer.set_values("observation", [0], values(kind, range(1)))


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
@pytest.mark.parametrize("kind", FIELDS)
def test_steps_that_wait_go_with_a_coded_field_that_came_later(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    place = tmp_path / f"a.{suffix}"
    field = rs.Field(FIELDS[kind].dtype, FIELDS[kind].shape, "extra", text=FIELDS[kind].text)
    numbers = {"number": np.arange(5)}
    with rs.create(place, rs.Schema({"number": rs.Field("int64", (), "extra")})) as buffer:
        buffer.append(numbers)
        before = buffer.commit()
        buffer.add_field("late", field, values=values(kind, range(5)), storage={"codec": "gzip:1"})
        buffer.commit()
        buffer.append({**numbers, "late": values(kind, range(5))})
        buffer.rollback(before)
        buffer.append(numbers)
        buffer.commit()
        buffer.append(numbers)
        buffer.commit()
        with rs.open(place) as reader:
            assert len(reader) == 15
    check(place)
