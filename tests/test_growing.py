"""What grows in a buffer that is written to is told at once, and is what a commit shows later."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_writer_rows import SCHEMA, Playing, Script, scripts

import replaystore as rs
from replaystore.buffers.growing import Growing
from replaystore.schema import tree

NAMES = ("observation/at", "observation/far")
_names = itertools.cycle(f"memory:growing-{number}" for number in range(4))


def told(growth: Growing) -> dict[str, Any]:
    """All that it tells, finals by part."""
    opened = growth.opened()
    found: dict[str, Any] = {"closed": growth.closed(growth.oldest_part).tolist(), "stop": growth.bounds[1]}
    found |= {name: getattr(opened, name).tolist() for name in ("start", "length", "stride", "trajectory")}
    found |= {name: getattr(opened, name).tolist() for name in ("offset", "followed")}
    numbers = growth.closed(growth.oldest_part)[:, 5]
    numbers = numbers[numbers >= 0]
    for name in NAMES:
        found[f"following {name}"] = growth.following(name)[opened.followed].tolist()
        found[f"final {name}"] = growth.final_rows(name, numbers).tolist()
    return found


def shown(buffer: rs.Buffer) -> dict[str, Any]:
    """The same of the newest commit, read by somebody else."""
    with rs.open(buffer.location) as reader:
        store = reader.store
        parts = store.table(tree.PARTS)
        opened = [entry for entry in reader.open_trajectories() if entry.part_length]
        found: dict[str, Any] = {"closed": parts.tolist(), "stop": store.rows("steps")}
        found |= {"start": [entry.part_start for entry in opened]}
        found |= {"length": [entry.part_length for entry in opened]}
        found |= {name: [getattr(one, name) for one in opened] for name in ("stride", "trajectory", "offset")}
        found["followed"] = [entry.following is not None for entry in opened]
        numbers = parts[parts[:, 5] >= 0, 5]
        for name in NAMES:
            known = [entry.following[name].tolist() for entry in opened if entry.following is not None]
            found[f"following {name}"] = known
            found[f"final {name}"] = reader.final_rows(name, numbers).tolist()
        return found


@pytest.mark.parametrize("envs", [1, 3])
@given(data=st.data())
def test_it_tells_what_the_next_commit_shows(envs: int, data: st.DataObject) -> None:
    script, begin = data.draw(scripts(envs)), data.draw(st.integers(0, 10))
    with rs.create(next(_names), SCHEMA, durability="none", overwrite=True) as buffer:
        playing = Playing(buffer, envs)
        for number, (what, value) in enumerate(script):
            playing.play(what, value)
            if number >= begin:
                buffer.flush()
                before = told(buffer.growth)
                buffer.commit()
                assert before == told(buffer.growth) == shown(buffer)
        buffer.commit()
        assert told(buffer.growth) == shown(buffer)


@pytest.mark.parametrize("envs", [1, 3])
@given(data=st.data())
def test_a_rhythm_changes_nothing_that_is_told(envs: int, data: st.DataObject) -> None:
    script: Script = data.draw(scripts(envs))

    def play(rhythm: int) -> dict[str, Any]:
        with rs.create(next(_names), SCHEMA, durability="none", overwrite=True) as buffer:
            playing, growth = Playing(buffer, envs), buffer.growth
            for number, (what, value) in enumerate(script):
                if what not in ("commit", "flush"):
                    playing.play(what, value)
                if rhythm and number % rhythm == 0:
                    buffer.flush() if number % 2 else buffer.commit()
            buffer.flush()
            return told(growth)

    assert play(0) == play(1) == play(3)


def one(env: int, step: int, *, ends: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    observation = {"at": np.full((1, 2), step, np.float32), "far": np.full(1, env, np.int16)}
    flags = {"terminated": np.array([ends]), "truncated": np.array([False])}
    return {"observation": observation, "action": np.zeros(1, np.int64)} | flags | {
        "reward": np.ones(1, np.float32)
    }, {name: leaf[0] + 1 for name, leaf in observation.items()}


def test_of_a_ring_old_parts_are_forgotten(tmp_path: Any) -> None:
    with rs.create(str(tmp_path / "ring.zarr"), SCHEMA, capacity=500, durability="none") as buffer:
        growth = buffer.growth
        for step in range(3000):
            columns, final = one(0, step, ends=True)
            buffer.append(columns, final_observation=final)
        assert growth.closed_parts == 3000
        assert growth.bounds[0] == 2500
        assert 0 < growth.oldest_part <= 2500
        assert len(growth.closed(0)) == 3000 - growth.oldest_part
        assert growth.closed(2999).tolist() == [[2999, 1, 1, 2999, 0, 2999]]
        finals = growth.final_rows("observation/at", np.array([2999, 2500]))
        assert finals.tolist() == [[3000, 3000], [2501, 2501]]
        buffer.commit()
        assert growth.closed_parts == 3000


def test_a_rollback_begins_another_generation(tmp_path: Any) -> None:
    with rs.create(str(tmp_path / "back.zarr"), SCHEMA) as buffer:
        columns, final = one(0, 1, ends=True)
        buffer.append(columns, final_observation=final)
        commit, growth = buffer.commit(), buffer.growth
        buffer.append(columns, final_observation=final)
        assert (growth.generation, growth.closed_parts) == (0, 2)
        buffer.rollback(commit)
        assert (growth.generation, growth.closed_parts, growth.bounds[1]) == (1, 1, 1)
        assert buffer.growth is growth
        assert growth.final_rows("observation/far", np.array([0])).tolist() == [1]
