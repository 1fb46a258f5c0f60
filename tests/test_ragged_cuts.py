"""A writer of steps with values of any length: however they are cut into rows and commits, the same is there,
and hardly a value is written twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.schema import tree

ENVS = 3
SCHEMA = rs.Schema(
    {
        "observation/text": rs.Field.of_text("observation"),
        "observation/set": rs.Field("float32", (None, 2), "observation"),
        "observation/at": rs.Field("int64", (), "observation"),
        "action": rs.Field("int32", (None,), "action"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)
OBSERVED = SCHEMA.names("observation")


def observations(number: int) -> dict[str, Any]:
    at = number * ENVS + np.arange(ENVS)
    return {
        "text": [f"{one} " * (one % 4) for one in at.tolist()],
        "set": [np.full((one % 3, 2), one, np.float32) for one in at.tolist()],
        "at": at,
    }


Step = tuple[str, dict[str, Any]]


def script(seed: int, count: int = 60) -> list[Step]:
    """Steps and resets; those that end are reset before the next step, all or some of them."""
    random, told = np.random.default_rng(seed), [("reset", {"observation": observations(0)})]
    masked = seed % 2 == 1
    for number in range(1, count):
        terminated, truncated = random.random((2, ENVS)) < 0.08
        step = {
            "action": [np.arange(n, dtype=np.int32) for n in random.integers(0, 5, ENVS)],
            "reward": random.integers(0, 9, ENVS).astype(np.float32),
            "terminated": terminated,
            "truncated": truncated,
            "observation": observations(2 * number),
        }
        if masked and random.random() < 0.3:
            step["mask"] = random.random(ENVS) < 0.6
        told.append(("step", step))
        ended = (terminated | truncated) & step.get("mask", np.ones(ENVS, bool))
        if ended.any():
            told.append(("reset", {"observation": observations(2 * number + 1), "mask": ended}))
        elif random.random() < 0.05:
            told.append(("reset", {"observation": observations(2 * number + 1)}))
    return told


def record(place: Path, told: list[Step], every: int, how: str) -> rs.Buffer:
    buffer = rs.create(place, SCHEMA)
    writer = buffer.writer(ENVS)
    for number, (kind, given) in enumerate(told):
        getattr(writer, kind)(**given)
        if number % every == every - 1:
            writer.flush() if how == "flush" else buffer.commit()
            check_places(buffer)
    writer.close()
    buffer.commit()
    return buffer


def check_places(buffer: rs.Buffer) -> None:
    for name in SCHEMA.ragged:
        spans = buffer.rows(name, slice(None))
        filled = spans[spans[:, 0] < spans[:, 1]]
        assert (spans[1:, 0] >= spans[:-1, 0]).all()
        assert (filled[1:, 0] >= filled[:-1, 1]).all()


def contents(buffer: rs.Buffer) -> list[Any]:
    found = []
    for number in range(buffer.num_trajectories):
        one = buffer.trajectory(number)
        rows = {name: one.columns[name].tolist() for name in SCHEMA.fields}
        following = {name: one[f"next_{name}"].tolist() for name in OBSERVED}
        found.append((one.info["env"], one.info["length"], one.info["return"], rows, following))
    return sorted(found, key=repr)


@pytest.mark.parametrize("seed", range(6))
def test_how_steps_are_cut_changes_nothing(tmp_path: Path, seed: int) -> None:
    told = script(seed)
    whole = record(tmp_path / "whole.zarr", told, 1 << 30, "flush")
    wanted = contents(whole)
    assert sum(length for _, length, *_ in wanted) == len(whole)
    for every, how in ((1, "commit"), (1, "flush"), (3, "commit"), (7, "flush")):
        place = tmp_path / f"{how}-{every}.zarr"
        with record(place, told, every, how) as buffer:
            assert contents(buffer) == wanted
            check_places(buffer)
        assert rs.verify(place).problems == []
    for env, _, _, rows, following in wanted:
        assert {at % ENVS for at in rows["observation/at"]} == {env}
        for at, text in zip(following["observation/at"], following["observation/text"], strict=True):
            assert text == f"{at} " * (at % 4)


def test_a_commit_at_each_step_writes_each_value_once(tmp_path: Path) -> None:
    told = [("reset", {"observation": observations(0)})]
    for number in range(1, 50):
        given = {
            "action": [[1]] * ENVS,
            "reward": np.ones(ENVS, np.float32),
            "terminated": np.zeros(ENVS, bool),
            "truncated": np.zeros(ENVS, bool),
            "observation": observations(number),
        }
        told.append(("step", given))
    with record(tmp_path / "a.zarr", told, 1, "commit") as buffer:
        texts = [text for number in range(50) for text in observations(number)["text"]]
        assert buffer.store.rows(tree.values("observation/text")) == sum(map(len, texts))
        assert buffer["observation/text"][:].tolist() == texts[: len(buffer)]


def test_a_reset_alone_is_nothing_to_commit(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        writer = buffer.writer(ENVS)
        before = buffer.commit()
        writer.reset(observations(1))
        assert buffer.commit() == before
        writer.reset(observations(2))
        assert buffer.commit() == before
        writer.close()
        buffer.rollback(before)
        assert buffer.store.next_row(tree.values("observation/text")) == 0


def test_writing_goes_on_after_a_kill(tmp_path: Path) -> None:
    told = script(2)
    buffer = rs.create(tmp_path / "a.zarr", SCHEMA)
    writer = buffer.writer(ENVS)
    for kind, given in told[:20]:
        getattr(writer, kind)(**given)
    buffer.commit()
    rows = len(buffer)
    before = buffer["observation/text"][:].tolist()
    getattr(writer, told[20][0])(**told[20][1])
    buffer.abandon()
    with rs.open(tmp_path / "a.zarr", "r+") as buffer:
        assert (len(buffer), buffer["observation/text"][:].tolist()) == (rows, before)
        writer = buffer.writer(ENVS)
        for kind, given in told:
            getattr(writer, kind)(**given)
        writer.close()
        buffer.commit()
        check_places(buffer)
        assert len(buffer["action"][:]) == len(buffer) > rows
    assert rs.verify(tmp_path / "a.zarr").problems == []
