"""A writer stores the steps of its environments side by side, whatever is recorded, left out, reset, flushed
or committed when: compared with a plain model, and with itself in another rhythm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import replaystore as rs
from replaystore.buffers.lanes import Lanes
from replaystore.testing.contents import Contents
from replaystore.testing.plain import PlainBuffer

SCHEMA = rs.Schema(
    {
        "observation/at": rs.Field("float32", (2,), "observation"),
        "observation/far": rs.Field("int16", (), "observation"),
        "action": rs.Field("int64", (), "action"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)
OTHER = 9
"""An environment that no writer has."""
_names = itertools.cycle([f"memory:rows-{number}" for number in range(4)])

Script = list[tuple[str, Any]]

flags = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 5, 5])
"""By environment: 1 terminated, 2 truncated, 5 left out."""


def scripts(envs: int) -> st.SearchStrategy[Script]:
    """What is done to a writer of so many environments."""
    step = st.tuples(st.just("step"), st.tuples(*[flags] * envs))
    some = st.lists(st.booleans(), min_size=envs, max_size=envs).map(tuple)
    other = st.one_of(
        st.tuples(st.just("reset"), some),
        st.tuples(st.just("commit"), st.just(None)),
        st.tuples(st.just("flush"), st.just(None)),
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("again"), st.just(None)),
    )
    return st.lists(st.one_of(step, step, step, other), max_size=20)


class Playing:
    """A script, played to a buffer or to the model of one."""

    def __init__(self, buffer: Any, envs: int) -> None:
        self.buffer, self.envs, self.count = buffer, envs, 0
        self.masked = self.interruptions = 0
        self.begin()

    def begin(self) -> None:
        self.writer = self.buffer.writer(self.envs, split="train")
        self.writer.reset(self.observation(), seed=[7 + env for env in range(self.envs)])

    def observation(self) -> dict[str, Any]:
        self.count += 1
        at = np.arange(2 * self.envs, dtype=np.float32).reshape(self.envs, 2) + 100 * self.count
        return {"at": at, "far": np.arange(self.envs, dtype=np.int16) - self.count}

    def play(self, what: str, value: Any) -> None:
        if what == "step":
            self.step(np.array(value))
        elif what == "reset" and any(value):
            self.writer.reset(self.observation(), mask=np.array(value), seed=[self.count] * self.envs)
        elif what == "commit":
            self.buffer.commit()
        elif what == "flush":
            self.writer.flush()
        elif what == "append":
            seen = self.observation().items()
            rows: dict[str, Any] = {"observation": {key: leaf[:1].repeat(value, 0) for key, leaf in seen}}
            rows |= {"action": np.arange(value), "reward": np.full(value, 0.1, np.float32)}
            rows |= {name: np.zeros(value, np.bool_) for name in ("terminated", "truncated")}
            self.buffer.append(rows, env=OTHER)
            self.interruptions += 1
        elif what == "again":
            self.writer.close()
            self.begin()

    def step(self, flags: Any) -> None:
        there = flags != 5
        self.masked += int((~there).sum())
        self.writer.step(
            np.arange(self.envs) * self.count,
            np.array([1e8, 0.1, -3.7, 0.3][: self.envs], np.float32) * self.count,
            there & (flags & 1 == 1),
            there & (flags & 2 == 2),
            self.observation(),
            mask=None if there.all() else there,
        )


def recorded(script: Script, envs: int, rhythm: str) -> tuple[Contents, dict[str, Any], Playing]:
    """What a buffer shows of a script, and its tables; `rhythm`: "as it is", "once" or "every call"."""
    name = next(_names)
    with rs.create(name, SCHEMA, durability="none", overwrite=True) as buffer:
        playing = Playing(buffer, envs)
        for number, (what, value) in enumerate(script):
            if rhythm != "once" or what not in ("commit", "flush"):
                playing.play(what, value)
            if rhythm == "every call":
                playing.writer.flush() if number % 3 else buffer.commit()
        playing.writer.close()
    with rs.open(name) as buffer:
        parts, finals = buffer.parts, buffer.store.state.extra["finals"]
        tables = {key: getattr(parts, key).tolist() for key in ("start", "length", "stride", "trajectory")}
        tables |= {key: getattr(parts, key).tolist() for key in ("offset", "final")}
        parts.check()
        for field in ("observation/at", "observation/far"):
            tables[field] = buffer.final_rows(field, np.arange(finals)).tolist()
        return Contents.of(buffer), tables, playing


@pytest.mark.parametrize("envs", [1, 2, 4])
@given(data=st.data())
def test_rows_and_trajectories_are_those_of_the_model(envs: int, data: st.DataObject) -> None:
    script = data.draw(scripts(envs))
    plain = PlainBuffer(SCHEMA)
    model = Playing(plain, envs)
    for what, value in script:
        model.play(what, value)
    model.writer.close()
    plain.close()
    found, _, _ = recorded(script, envs, "as it is")
    assert plain.contents().difference(found) == ""


@pytest.mark.parametrize("envs", [1, 2, 4])
@given(data=st.data())
def test_a_rhythm_changes_nothing_that_is_stored(envs: int, data: st.DataObject) -> None:
    script = data.draw(scripts(envs))
    once, tables, playing = recorded(script, envs, "once")
    for rhythm in ("as it is", "every call"):
        contents, others, _ = recorded(script, envs, rhythm)
        assert once.difference(contents) == ""
        assert tables == others
    # Who leaves out a step in the midst of a trajectory takes up two: its own is cut, and another moves.
    most = len(once.table["env"]) + 2 * playing.masked + (envs + 1) * playing.interruptions
    assert len(tables["start"]) <= most


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=30), st.integers(0, 7))
def test_lanes_are_kept(masks: Sequence[Sequence[bool]], first: int) -> None:
    lanes, row, last = Lanes(3, first), first, dict[int, int]()
    for mask in masks:
        there = np.array(mask)
        before = np.array(lanes.at)
        lanes.move(row, there)
        places = np.where(there, lanes.places(row), -1)
        order = np.argsort(places)[int((~there).sum()) :].tolist()
        assert sorted(places[env] for env in order) == list(range(len(order)))
        assert sorted(order) == np.flatnonzero(there).tolist()
        assert sorted(lanes.at) == [0, 1, 2]
        moved = np.array(lanes.at) != before
        assert int(moved[there].sum()) <= int((~there).sum())
        assert not (there.all() and moved.any())
        for env in np.flatnonzero(moved).tolist():
            last.pop(env, None)
        for place, env in enumerate(order):
            assert (row + place) % 3 == lanes.at[env]
            assert row + place - last.get(env, row + place - 3) == 3
            last[env] = row + place
        row += len(order)


def test_environments_that_are_reset_in_the_next_step_have_one_part_per_trajectory() -> None:
    """Gymnasium's next-step autoreset leaves out one environment at a time."""
    name, envs = next(_names), 5
    generator = np.random.default_rng(0)
    with rs.create(name, SCHEMA, durability="none", overwrite=True) as buffer:
        writer, ended = buffer.writer(envs), np.zeros(envs, np.bool_)
        observation = {"at": np.zeros((envs, 2), np.float32), "far": np.zeros(envs, np.int16)}
        writer.reset(observation)
        no = np.zeros(envs, np.bool_)
        for step in range(600):
            if ended.any():
                writer.reset(observation, mask=ended)
            done = (generator.random(envs) < 0.1) & ~ended
            writer.step(
                np.zeros(envs, np.int64), np.ones(envs, np.float32), done, no, observation, mask=~ended
            )
            ended = done
            if step % 7 == 0:
                buffer.commit()
        trajectories = len(buffer.trajectories)
        writer.close()
        buffer.commit()
        masked = int(buffer.trajectories["terminated"].sum())
        assert trajectories > 200
        assert len(buffer.parts) <= len(buffer.trajectories) + masked


def test_many_environments_have_one_part_per_trajectory_with_a_commit_at_each_step() -> None:
    name, envs = next(_names), 8
    with rs.create(name, SCHEMA, durability="none", overwrite=True) as buffer:
        writer, no = buffer.writer(envs), np.zeros(envs, np.bool_)
        observation = {"at": np.zeros((envs, 2), np.float32), "far": np.zeros(envs, np.int16)}
        writer.reset(observation)
        for _ in range(50):
            writer.step(np.zeros(envs, np.int64), np.ones(envs, np.float32), no, no, observation)
            buffer.commit()
        assert len(buffer.parts) == envs
        assert set(buffer.parts.stride.tolist()) == {envs}
