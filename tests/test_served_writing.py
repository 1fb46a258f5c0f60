"""What is written through a server is what is written here: steps, ends, seeds, final observations; whatever
becomes of the server meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_service import SCHEMA, recorded, steps

import replaystore as rs
from replaystore.buffers.buffer import Buffer
from replaystore.client import runs
from replaystore.client.server import Server
from replaystore.errors import (
    AlreadyExistsError,
    SchemaError,
    UnsupportedError,
)
from replaystore.service.serving import Running

pytest_plugins = ["live_service"]

RAGGED = rs.Schema(
    {
        "observation": rs.Field("float32", (None, 2), "observation"),
        "info/text": rs.Field("uint8", (None,), "info", text=True),
        "reward": rs.Field("float64", (), "reward"),
    }
)


def told(buffer: Buffer) -> list[Any]:
    """Its trajectories, whatever their order and numbers are."""
    found = []
    for number in range(buffer.num_trajectories):
        trajectory = buffer.trajectory(number)
        info = {
            name: value
            for name, value in trajectory.info.items()
            if name not in ("trajectory", "env", "start")
        }
        found.append(
            {
                **{name: str(value) for name, value in sorted(info.items())},
                "columns": {name: as_list(rows) for name, rows in trajectory.columns.items()},
                "final": None
                if trajectory.final_observation is None
                else as_list(trajectory.final_observation),
            }
        )
    return sorted(found, key=repr)


def as_list(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_list(one) for name, one in value.items()}
    return value.tolist() if hasattr(value, "tolist") else [as_list(one) for one in value]


def alike(near: Path, address: str, write: Callable[[Buffer], None], schema: rs.Schema = SCHEMA) -> None:
    """What is written here and there is the same."""
    with rs.create(near, schema) as here:
        write(here)
    with rs.create(address, schema) as there:
        write(there)
    with rs.open(near) as here, rs.open(address) as there:
        assert len(there) == len(here)
        assert told(there) == told(here)
    assert rs.verify(address).problems == []


# --- appending


def test_a_served_store_is_made_and_written(running: Running, root: Path) -> None:
    with rs.create(f"{running.address}/new/a.zarr", SCHEMA, metadata={"a": 1}) as buffer:
        assert buffer.mode == "r+"
        assert len(buffer) == 0
        buffer.append(steps(0, 25, ends=(9, 19)), seed=[3, None, 5], split="train")
        commit = buffer.commit()
        assert len(buffer) == 25
        assert buffer.commit_id == commit
        assert buffer["reward"][20] == 20.0
        assert buffer.metadata == {"a": 1}
        buffer.append(steps(25, 5))

    with rs.open(root / "new" / "a.zarr") as buffer:
        assert buffer["reward"][:].tolist() == list(range(30))
        assert buffer.trajectories["seed"].tolist() == [3, -1, 5]
        assert set(buffer.trajectories["split"].tolist()) == {"train"}
        assert buffer.trajectories.open.tolist() == [False, False, True]
    with pytest.raises(AlreadyExistsError):
        rs.create(f"{running.address}/new/a.zarr", SCHEMA)
    assert rs.verify(root / "new" / "a.zarr").problems == []


def test_appends_are_those_that_were_made_here(running: Running, tmp_path: Path) -> None:
    def write(buffer: Buffer) -> None:
        final = {"observation": np.full((3, 4), 7.0, np.float32)}["observation"]
        buffer.append(steps(0, 25, ends=(9, 19)), final_observation=final, seed=[3, 4, 5])
        buffer.append(steps(25, 10), env=3, ends=[4], split="test")
        buffer.append(steps(40, 10))
        buffer.commit()
        buffer.append(steps(50, 60, ends=tuple(range(1, 60, 2))), env=1, seed=list(range(30)))

    alike(tmp_path / "a.zarr", f"{running.address}/a.zarr", write)


@pytest.mark.parametrize("finals", [True, False])
@pytest.mark.parametrize("ends", [(), (6, 13, 40), tuple(range(2, 60, 3))])
def test_long_appends_are_cut_and_nobody_sees_it(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finals: bool, ends: tuple[int, ...]
) -> None:
    touched = len(ends) + (not ends or ends[-1] != 59)
    final = np.full((touched, 4), 7.0, np.float32) if finals else None

    def write(buffer: Buffer) -> None:
        buffer.append(steps(0, 60, ends=ends), final_observation=final, seed=list(range(touched)))
        buffer.append(steps(60, 5))

    monkeypatch.setattr(runs.cut, "__kwdefaults__", {"most": 10 * 42})
    alike(tmp_path / "a.zarr", f"{running.address}/a.zarr", write)


def test_values_of_any_length_are_sent(running: Running, tmp_path: Path) -> None:
    def rows(first: int, count: int) -> dict[str, Any]:
        return {
            "observation": [np.full((n % 3, 2), n, np.float32) for n in range(first, first + count)],
            "info/text": [f"é{n}" * (n % 4) for n in range(first, first + count)],
            "reward": np.arange(first, first + count, dtype=np.float64),
        }

    def write(buffer: Buffer) -> None:
        buffer.append(rows(0, 9), ends=[3], final_observation=rows(100, 2)["observation"])
        buffer.append(rows(9, 4))
        buffer.commit()
        writer = buffer.writer(2)
        writer.reset(rows(0, 2)["observation"])
        for n in range(7):
            one = rows(10 * n, 2)
            writer.step(None, one["reward"], None, None, one["observation"], {"info/text": one["info/text"]})
            if n == 3:
                writer.reset(rows(50, 2)["observation"], mask=np.array([False, True]))
        writer.close()

    alike(tmp_path / "a.zarr", f"{running.address}/a.zarr", write, RAGGED)


def test_what_does_not_fit_is_told_at_once(running: Running) -> None:
    with rs.create(f"{running.address}/a.zarr", SCHEMA) as buffer:
        with pytest.raises(SchemaError, match="reward"):
            buffer.append({**steps(0, 3), "reward": np.zeros(3, np.float32)})
        with pytest.raises(SchemaError, match="seeds"):
            buffer.append(steps(0, 3), seed=[1, 2])
        buffer.append(steps(0, 3))
        buffer.commit()
        assert len(buffer) == 3


# --- writers


@pytest.mark.parametrize("seed", range(8))
def test_steps_of_environments_are_those_that_were_written_here(
    running: Running, tmp_path: Path, seed: int
) -> None:
    def write(buffer: Buffer) -> None:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 5))
        writer = buffer.writer(count, split="train")
        writer.reset(rng.random((count, 4), np.float32), seed=5)
        for number in range(60):
            mask = rng.random(count) < 0.8 if rng.random() < 0.3 else None
            terminated = rng.random(count) < 0.1
            truncated = rng.random(count) < 0.1
            writer.step(
                rng.random((count, 2), np.float32),
                np.full(count, number, np.float64),
                terminated,
                truncated,
                rng.random((count, 4), np.float32),
                mask=mask,
            )
            ended = (terminated | truncated) & (True if mask is None else mask)
            if rng.random() < 0.6 and ended.any():
                writer.reset(rng.random((count, 4), np.float32), mask=ended, seed=[number] * count)
            if rng.random() < 0.1:  # what is open is cut off
                chosen = rng.random(count) < 0.5
                writer.reset(rng.random((count, 4), np.float32), mask=chosen, seed=list(range(count)))
            if rng.random() < 0.1:
                buffer.commit()
            if rng.random() < 0.1:
                writer.flush()
        writer.close()

    alike(tmp_path / "a.zarr", f"{running.address}/a.zarr", write)


def test_single_steps_go_together(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = Server.ask

    def ask(self: Server, method: str, *rest: Any) -> Any:
        asked.append(method)
        return real(self, method, *rest)

    monkeypatch.setattr(Server, "ask", ask)
    with rs.create(f"{running.address}/a.zarr", SCHEMA) as buffer:
        for number in range(300):
            buffer.append(steps(number, 1))
        buffer.commit()
        assert buffer["reward"][:].tolist() == list(range(300))
    assert asked.count("PUT") < 150


def test_two_writers_have_environments_of_their_own(running: Running, root: Path) -> None:
    recorded(root / "a.zarr", 10)
    with (
        rs.open(f"{running.address}/a.zarr", "r+") as one,
        rs.open(f"{running.address}/a.zarr", "r+") as other,
    ):
        for number in range(10):
            one.append(steps(100 + number, 1))
            other.append(steps(200 + number, 1))
        one.commit()
        other.commit()
        assert one.refresh() or True
        table = one.trajectories
        rewards = [one.trajectory(number).columns["reward"].tolist() for number in range(len(table))]
    assert sorted(rewards)[1:] == [list(range(100, 110)), list(range(200, 210))]


def test_a_name_is_that_of_the_commit_that_has_all(running: Running, root: Path) -> None:
    with rs.create(f"{running.address}/a.zarr", SCHEMA) as buffer:
        buffer.append(steps(0, 10))
        first = buffer.commit("first")
        buffer.append(steps(10, 10))
        assert buffer.commit("second") > first
        assert buffer.names == ["first", "second"]
        buffer.forget("second")
        assert buffer.names == ["first"]
        assert buffer.commit("third") >= first
    with rs.open(f"{running.address}/a.zarr", commit="first") as buffer:
        assert len(buffer) == 10


def test_what_has_the_scope_admin_changes_a_store(running: Running) -> None:
    schema = rs.Schema({**SCHEMA.fields, "value": rs.Field("float32", (), "extra", mutable=True)})
    with rs.create(f"{running.address}/a.zarr", schema) as buffer:
        rows = {**steps(0, 10, ends=(4, 9)), "value": np.zeros(10, np.float32)}
        buffer.append(rows)
        commit = buffer.commit()
        buffer["value"][2:5] = np.array([1, 2, 3], np.float32)
        assert buffer.set_values("value", [7], [9]) == 0
        assert buffer["value"][:].tolist() == [0, 0, 1, 2, 3, 0, 0, 9, 0, 0]
        buffer.set_trajectory_columns({"score": np.array([0.5, 1.5]), "split": ["train", "test"]})
        assert buffer.trajectories["score"].tolist() == [0.5, 1.5]
        assert buffer.trajectories["split"].tolist() == ["train", "test"]
        buffer.metadata = {"b": 2}
        assert buffer.metadata == {"b": 2}
        buffer.append({**steps(10, 5), "value": np.zeros(5, np.float32)})
        buffer.rollback(commit)
        assert len(buffer) == 10
        assert buffer["value"][:].tolist() == [0] * 10
        buffer.append({**steps(20, 5), "value": np.zeros(5, np.float32)})
        buffer.commit()
        assert buffer["reward"][10:].tolist() == list(range(20, 25))
        with pytest.raises(UnsupportedError):
            buffer.add_field("more", rs.Field("float32", (), "extra"))


def test_single_steps_are_what_was_appended_here(running: Running, tmp_path: Path) -> None:
    def write(buffer: Buffer) -> None:
        for number in range(120):
            last = number % 7 == 6
            final = np.full((1, 4), number + 1, np.float32) if number % 3 else None
            buffer.append(
                steps(number, 1, ends=(0,) if last else ()),
                final_observation=final,
                seed=number if number % 7 == 0 and number % 2 else None,
                env=number // 60,
            )

    alike(tmp_path / "a.zarr", f"{running.address}/a.zarr", write)
