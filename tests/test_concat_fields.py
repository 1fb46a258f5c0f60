"""Stores that are sampled as one while not all of them have the same fields."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics
from sampled_buffers import fill, schema

import replaystore as rs
from replaystore.errors import ArgumentError, SchemaError
from replaystore.gymnasium import Record

numbers = itertools.count()


class Actors:
    """Two environments and their stores; the infos of whole episodes come late."""

    def __init__(self, folder: Path, suffix: str) -> None:
        capacity = 500 if suffix == ".zarr" else None
        self.buffers, self._recorders = [], []
        for number in range(2):
            env = RecordEpisodeStatistics(gymnasium.make("CartPole-v1"))
            place = folder / f"{number}{suffix}" if suffix else f"memory:actor-{next(numbers)}"
            buffer = rs.create(place, env, capacity=capacity, overwrite=True)
            recorder = Record(env, buffer)
            recorder.reset(seed=number)
            self.buffers.append(buffer)
            self._recorders.append(recorder)

    def play(self, number: int, steps: int) -> None:
        for _ in range(steps):
            *_, terminated, truncated, _ = self._recorders[number].step(0)
            if terminated or truncated:
                self._recorders[number].reset()

    def infos(self) -> set[str]:
        """Fields of infos that both have."""
        one, other = (buffer.schema.fields.keys() for buffer in self.buffers)
        return {name for name in one & other if name.startswith("info/")}

    def commit(self) -> None:
        for buffer in self.buffers:
            buffer.commit()


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ""])
@pytest.mark.parametrize(
    ("order", "live"),
    [(order, False) for order in ("uniform", "trajectory", "epoch", "prioritized")]
    + [("uniform", True), ("prioritized", True)],
)
@pytest.mark.parametrize("fields", [None, ["observation", "reward"]])
def test_a_sampler_goes_on_from_its_state_while_one_store_has_more_fields(
    tmp_path: Path, suffix: str, order: Any, live: bool, fields: list[str] | None
) -> None:
    actors = Actors(tmp_path, suffix)
    for number in (0, 1):
        actors.play(number, 5)
    actors.commit()
    chosen: dict[str, Any] = {"order": order, "live": live, "seed": 0, "fields": fields}
    sampler = rs.concat(actors.buffers).sampler(8, **chosen)
    names = sampler.sample().keys()
    for number in (0, 1):  # then one has met the infos of episodes, then both
        actors.play(number, 20)
        actors.commit()
        sampler.refresh()
        assert "info/episode/r" in actors.buffers[number].schema.fields
        state = json.loads(json.dumps(sampler.state_dict()))
        other = rs.concat(actors.buffers).sampler(8, **chosen)
        assert other.sample().keys() == names | (actors.infos() if number and fields is None else set())
        other.load_state_dict(state)
        for _ in range(3):
            one, two = sampler.sample(), other.sample()
            assert one.keys() == two.keys() == names
            assert all(np.array_equal(one[name], two[name]) for name in one)


def test_what_not_all_stores_have_is_left_out_and_refused_by_name(tmp_path: Path) -> None:
    buffers = []
    for name in ("a.zarr", "b.h5", "c.zarr"):
        buffers.append(rs.create(tmp_path / name, schema()))
        fill(buffers[-1], [(0, 10, True, True)] * 2)
    buffers[1].add_field("late/value", rs.Field("float64", (), "extra"), fill=2)
    buffers[1].commit()
    for order in (buffers, buffers[::-1], buffers[1:] + buffers[:1]):
        both = rs.concat(order)
        sampler = both.sampler(16, seed=0)
        assert "late/value" not in sampler.sample()
        assert sampler.explain().splitlines()[-1] == "left out, as not all stores have it: 'late/value'"
        assert set(both.sampler(4, fields="reward").sample()) >= {"reward"}
        for asked in (["late/value"], ["late"], "late/value", ["reward", "late"]):
            with pytest.raises(ArgumentError, match=r"has no field 'late/value', which .*b\.h5 .*add_field"):
                both.sampler(4, fields=asked)
        with pytest.raises(SchemaError, match="there is no field 'lade'"):
            both.sampler(4, fields=["lade"])
    for buffer in (buffers[0], buffers[2]):  # as the error says
        buffer.add_field("late/value", rs.Field("float64", (), "extra"), fill=3)
        buffer.commit()
    sampler = rs.concat(buffers).sampler(64, fields=["late"], seed=0)
    batch = sampler.sample()
    assert np.array_equal(batch["late/value"], np.where(batch["store"] == 1, 2.0, 3.0))
    assert "left out" not in sampler.explain()
    other = rs.create(
        "memory:nothing-in-common", rs.Schema({"x": rs.Field("f4", (), "extra")}), overwrite=True
    )
    with pytest.raises(ArgumentError, match="no field that all stores have"):
        rs.concat([buffers[0], other]).sampler(4)
    odd = rs.create("memory:odd", rs.Schema({"late/value": rs.Field("f4", (), "extra")}), overwrite=True)
    for order in ([*buffers, odd], [odd, *buffers]):
        with pytest.raises(ArgumentError, match=r"'late/value' is float\d+ .* and float\d+ .*one by one"):
            rs.concat(order)
