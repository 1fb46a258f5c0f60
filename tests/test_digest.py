"""The content digest: computed again from its definition; the same in every layout; another one after any
change."""

from __future__ import annotations

import os
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from conversions import record
from independent_digest import digest as again

import replaystore as rs
from replaystore.comparing.leaves import Crew
from replaystore.comparing.steps_in_blocks import BlockTally
from replaystore.errors import NotFoundError, SchemaError, UnsupportedError
from replaystore.trajectories.blocks import Block

pytest_plugins = ["commands", "conversions"]


def told(found: rs.Digest) -> dict[str, Any]:
    whole = found.to_json(trajectories=True)
    return {key: whole[key] for key in ("content", "fields", "rest", "digests")}


@pytest.mark.parametrize("ragged", [False, True])
def test_it_is_what_the_definition_says(tmp_path: Path, ragged: bool) -> None:
    record(str(tmp_path / "a.zarr"), ragged=ragged)

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert told(rs.digest(buffer)) == again(buffer)


def test_of_long_trajectories_leaves_are_a_mebibyte(tmp_path: Path) -> None:
    """Values that do not divide it, and one value that is longer."""
    schema = rs.Schema(
        {
            "observation": rs.Field("uint8", (1000, 3), "observation"),
            "action": rs.Field("int32", (None,), "action"),
            "reward": rs.Field("float64", (), "reward"),
        }
    )
    steps = 1500
    random = np.random.default_rng(0)
    actions = [random.integers(0, 9, 300_000 if step == 700 else step % 4, np.int32) for step in range(steps)]
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append(
            {
                "observation": random.integers(0, 256, (steps, 1000, 3), np.uint8),
                "action": actions,
                "reward": random.random(steps),
            }
        )
        buffer.commit()

        assert told(rs.digest(buffer)) == again(buffer)


def test_a_part_is_digested_as_if_it_were_all(tmp_path: Path) -> None:
    record(str(tmp_path / "a.zarr"), ragged=True)
    some = {"fields": ["observation", "reward"], "where": "not open and length > 3"}
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.h5", **some)

    part, whole = rs.digest(tmp_path / "a.zarr", **some), rs.digest(tmp_path / "b.h5")

    assert part.fields == whole.fields
    assert part.trajectories == whole.trajectories
    assert {name: part.rest[name] for name in part.rest if name != "steps"} == {
        name: whole.rest[name] for name in whole.rest if name != "steps"
    }


LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "zarr": ("a.zarr", {}),
    "hdf5": ("a.h5", {}),
    "zip": ("a.zarr.zip", {}),
    "memory": ("memory:c", {}),
    "zarr, coded": ("a.zarr", {"codec": "zstd:5"}),
    "hdf5, coded": ("a.h5", {"codec": "gzip:2"}),
    "zarr, raw": ("a.zarr", {"codec": "raw"}),
    "zarr archive": ("a.zarr", {"layout": "archive"}),
    "zarr archive as recorded": ("a.zarr", {"layout": "archive", "grouped": False}),
    "zarr archive of gzip": ("a.zarr", {"layout": "archive", "codec": "gzip:1"}),
    "hdf5 archive": ("a.h5", {"layout": "archive"}),
    "zip archive": ("a.zarr.zip", {"layout": "archive"}),
    "grouped": ("a.zarr", {"grouped": True}),
}


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("digests") / "all.zarr"
    record(str(where), ragged=True)
    return where


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("_nothing_in_memory")
def test_it_is_the_same_in_every_layout(recorded_once: Path, tmp_path: Path, layout: str) -> None:
    name, options = LAYOUTS[layout]
    target = name if ":" in name else str(tmp_path / name)
    rs.convert(recorded_once, target, **options)

    assert told(rs.digest(target)) == told(rs.digest(recorded_once))


def steps(length: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    ends = np.zeros(length, bool)
    ends[-1] = True
    return {
        "observation": random.random((length, 3)).astype(np.float32),
        "action": random.integers(0, 5, length),
        "terminated": ends,
        "truncated": np.zeros(length, bool),
    }


SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (3,), "observation"),
        "action": rs.Field("int64", (), "action"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)


def test_neither_commits_nor_chunks_nor_turns_change_it(tmp_path: Path) -> None:
    """Two environments one after the other, in turns, committed each time, in other chunks; and what a ring
    keeps."""
    lengths = [9, 14]
    parts = [steps(length, env) for env, length in enumerate(lengths)]

    def some(env: int, start: int, stop: int) -> dict[str, Any]:
        return {name: values[start:stop] for name, values in parts[env].items()}

    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        for env in range(2):
            buffer.append(parts[env], env=env)
    with rs.create(
        tmp_path / "b.h5", SCHEMA, storage={"observation": {"codec": "gzip:1", "chunk_rows": 5}}
    ) as buffer:
        for step in range(14):
            for env in range(2):
                if step < lengths[env]:
                    buffer.append(some(env, step, step + 1), env=env)
            buffer.commit()
    with rs.create(tmp_path / "c.zarr", SCHEMA, capacity=23) as buffer:
        buffer.append(steps(30, 5), env=2)
        buffer.commit()
        for start in (0, 5, 10):
            for env in range(2):
                if start < lengths[env]:
                    buffer.append(some(env, start, min(start + 5, lengths[env])), env=env)
        buffer.commit()
        assert len(buffer) == 23

    found = {name: rs.digest(tmp_path / name) for name in ("a.zarr", "b.h5", "c.zarr")}

    assert len({one.content for one in found.values()}) == 1
    assert len(set(found["a.zarr"].trajectories)) == 2


def test_of_an_older_commit(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, keep_commits=5) as buffer:
        buffer.append(steps(5, 1))
        buffer.commit()
        commit, before = buffer.commit_id, rs.digest(buffer)
        buffer.append(steps(5, 2))
        buffer.commit()

    assert rs.digest(tmp_path / "a.zarr").content != before.content
    assert rs.digest(tmp_path / "a.zarr", commit=commit) == before


def test_a_store_without_steps_has_one(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        assert told(rs.digest(buffer)) == again(buffer)
        assert rs.digest(buffer).steps == 0
        with pytest.raises(SchemaError, match="nothing is selected"):
            rs.digest(buffer, where="length > 3")


def test_steps_of_no_trajectory_are_counted(tmp_path: Path) -> None:
    fields, random = SCHEMA.fields.items(), np.random.default_rng(0)
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        for _ in range(18):  # of one step each: a file that says no more than rows does not tell them apart
            columns = {name: np.zeros((1, *field.shape), field.dtype) for name, field in fields}
            observation, final = random.random((2, 1, 3), np.float32)
            buffer.append({**columns, "observation": observation}, final_observation=final, ends=[0])
    rs.convert(tmp_path / "a.zarr", tmp_path / "b_state.safetensors")
    rs.convert(tmp_path / "b_state.safetensors", tmp_path / "c.zarr")
    with rs.open(tmp_path / "c.zarr") as buffer:
        assert len(buffer.trajectories) == 0
        assert rs.digest(buffer).steps == rs.digest(tmp_path / "b_state.safetensors").steps == len(buffer) > 0


@pytest.mark.parametrize("name", ["b_state.safetensors", "b.pkl"])
def test_a_file_of_other_software_has_that_of_the_store_it_becomes(tmp_path: Path, name: str) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA.select(["observation", "terminated", "truncated"])) as buffer:
        pass
    schema = rs.Schema({**SCHEMA.fields, "action": rs.Field("float32", (2,), "action")})
    with rs.create(tmp_path / "c.zarr", schema) as buffer:
        for seed in range(3):
            buffer.append({**steps(7, seed), "action": np.ones((7, 2), np.float32)})
    rs.convert(tmp_path / "c.zarr", tmp_path / name)
    rs.convert(tmp_path / name, tmp_path / "d.zarr")

    assert told(rs.digest(tmp_path / name)) == told(rs.digest(tmp_path / "d.zarr"))
    with pytest.raises(UnsupportedError, match="convert it to a store"):
        rs.digest(tmp_path / name, where="length > 3")


def test_the_command_line_prints_it(
    recorded_once: Path, run: Run, facts: Callable[..., Any], tmp_path: Path
) -> None:
    found = rs.digest(recorded_once)

    code, out, _ = run("digest", recorded_once, "--trajectories")
    as_json = facts("digest", recorded_once, "--trajectories")

    assert code == 0
    assert out.splitlines()[0].split() == ["content", found.content]
    assert all(
        digest in out for digest in [*found.fields.values(), *found.rest.values(), found.trajectories[5]]
    )
    assert as_json == found.to_json(trajectories=True)
    assert facts("digest", recorded_once, "--fields", "reward")["fields"].keys() == {"reward"}
    code, _, err = run("digest", tmp_path / "nothing.zarr")
    assert (code, err.count("\n")) == (1, 1)
    with pytest.raises(NotFoundError):
        rs.digest(tmp_path / "nothing.zarr")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_a_trajectory_takes_a_hundred_bytes_at_most(tmp_path: Path) -> None:
    """Of 40,000 trajectories of a step each."""
    count, found = 40_000, []
    schema = SCHEMA.select(["observation", "terminated", "truncated"])
    for name, steps_ in (("a.zarr", count // 10), ("b.zarr", count)):
        with rs.create(tmp_path / name, schema) as buffer:
            ends = np.ones(steps_, bool)
            observation = np.zeros((steps_, 3), np.float32)
            buffer.append({"observation": observation, "terminated": ends, "truncated": ~ends})
            buffer.commit()
            _ = buffer.trajectories, buffer.parts
            tracemalloc.start()
            rs.digest(buffer)
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert found[1] - found[0] < 100 * count * 0.9 + (2 << 20)


def test_rows_of_trajectories_that_have_ended_are_let_go() -> None:
    """A final observation is often a view of all that was read with it."""
    schema = rs.Schema({"observation": rs.Field("float32", (64,), "observation")})
    read: list[weakref.ref[np.ndarray]] = []

    with Crew() as crew:
        tally = BlockTally(schema.fields, {}, crew)
        for number in range(40):
            rows = np.full((65, 64), number, np.float32)
            read.append(weakref.ref(rows))
            tally.add(Block({"observation": rows[:64]}, final={"observation": rows[64]}))
            tally.tally.turn()
        del rows
        held = sum(one() is not None for one in read)
        tally.finish()

    assert held <= 1
