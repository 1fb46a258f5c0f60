"""Rows, commits, columns, fields and metadata that do not fit are refused whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import refuse, state, steps

import replaystore as rs
from replaystore.errors import (
    ConflictError,
    EvictedError,
    NotFoundError,
    SchemaError,
    UnknownFieldError,
    UnsupportedError,
)
from replaystore.testing import samples

pytest_plugins = ["bad_input"]


# --- rows


WRONG_STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "shape": (
        {"joints": np.zeros((10, 2), "f4")},
        (
            r"'observation/joints': expected shape \(rows, 3\), came "
            r"\(10, 2\)"
        ),
    ),
    "dtype": (
        {"joints": np.zeros((10, 3))},
        (
            r"'observation/joints': expected dtype float32, came float64: "
            r".*asarray\(values, 'float32'\)"
        ),
    ),
    "order of bytes": (
        {"reward": np.zeros(10, ">f8")},
        "'reward': expected dtype float64, came float64 in big-endian byte order",
    ),
    "list": ({"reward": [0.0] * 10}, "'reward': expected a NumPy array of float64, came a list"),
    "missing": ({"action": None}, "field 'action' is missing"),
    "unknown": ({"speed": np.zeros(10)}, "no field 'speed' in the schema .*add it as a field"),
    "rows": ({"action": np.zeros(7, "i8")}, "'action' has 7 rows, but 'observation/camera' has 10"),
    "number": ({"action": 3}, "'action': expected a NumPy array of int64"),
}


@pytest.mark.parametrize("case", WRONG_STEPS)
def test_steps_that_do_not_fit_are_refused_whole(buffer: rs.Buffer, tmp_path: Path, case: str) -> None:
    changed, text = WRONG_STEPS[case]
    before = state(tmp_path)

    refuse(SchemaError, text, lambda: buffer.append(steps(**changed)))

    assert state(tmp_path) == before
    assert (buffer.rows_recorded, buffer.num_trajectories) == (10, 1)
    buffer.append(steps())
    buffer.commit()
    assert (len(buffer), buffer.num_trajectories) == (20, 2)


WRONG_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "too many": (
        {"final_observation": {"camera": np.zeros((2, 4, 3), "u1"), "joints": np.zeros((2, 3), "f4")}},
        "has 2 rows, .*touch 1 ",
    ),
    "missing": (
        {"final_observation": {"camera": np.zeros((1, 4, 3), "u1")}},
        "final_observation: field 'observation/joints' is missing",
    ),
    "dtype": (
        {"final_observation": {"camera": np.zeros((1, 4, 3)), "joints": np.zeros((1, 3), "f4")}},
        "final_observation: .*expected dtype uint8",
    ),
    "ends": ({"ends": [10]}, r"ends must lie among the 10 steps, not at \[10\]"),
    "ends of no kind": ({"ends": ["x"]}, "ends are the places of last steps"),
    "env": ({"env": -1}, "env is the number of an environment, from 0 on, not -1"),
    "env of no kind": ({"env": "left"}, "not 'left'"),
    "split": ({"split": 3}, "split is a string, not 3"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_arguments_of_append_that_do_not_fit_are_refused(
    buffer: rs.Buffer, tmp_path: Path, case: str
) -> None:
    arguments, text = WRONG_ARGUMENTS[case]
    before = state(tmp_path)

    refuse(SchemaError, text, lambda: buffer.append(steps(), **arguments))
    refuse(SchemaError, "steps are a dict", lambda: buffer.append([1, 2]))  # type: ignore[arg-type]

    assert state(tmp_path) == before
    assert buffer.commit() == 1


def test_steps_of_a_writer_that_do_not_fit_are_refused_whole(buffer: rs.Buffer) -> None:
    writer = buffer.writer(2)
    observation = {"camera": np.zeros((2, 4, 3), "u1"), "joints": np.zeros((2, 3), "f4")}
    flags, wide = np.zeros(2, np.bool_), {"info/wide": np.zeros((2, 256), "u2")}
    good: tuple[Any, ...] = (np.zeros(2, "i8"), np.zeros(2), flags, flags, observation, wide)

    refuse(SchemaError, "call reset with the first observations", lambda: writer.step(*good))
    refuse(
        SchemaError,
        "'observation/joints' is missing",
        lambda: writer.reset({"camera": observation["camera"]}),
    )
    refuse(
        SchemaError,
        "one seed and one mask entry for each of the 2",
        lambda: writer.reset(observation, seed=[1, 2, 3]),
    )
    writer.reset(observation)
    refuse(
        SchemaError,
        "'action': expected dtype int64, came float64",
        lambda: writer.step(np.zeros(2), *good[1:]),
    )
    refuse(SchemaError, "'action' has 3 rows", lambda: writer.step(np.zeros(3, "i8"), *good[1:]))
    refuse(
        SchemaError,
        "'terminated': expected dtype bool",
        lambda: writer.step(*good[:2], np.zeros(2, "i8"), *good[3:]),
    )
    refuse(SchemaError, "'info/wide' is missing", lambda: writer.step(*good[:5]))
    refuse(
        SchemaError,
        "no field 'info/speed'",
        lambda: writer.step(*good[:5], {**wide, "info/speed": np.zeros(2)}),
    )
    refuse(SchemaError, r"mask is a bool array of shape \(2,\)", lambda: writer.step(*good, mask=[True]))  # type: ignore[arg-type]
    refuse(ConflictError, "environment 1 belongs to the writer", lambda: buffer.append(steps(), env=1))
    refuse(ConflictError, "has a writer already", lambda: buffer.writer(2))
    refuse(ConflictError, "has a writer: close it before rolling back", lambda: buffer.rollback(0))
    writer.step(*good)
    writer.close()
    refuse(ConflictError, "this writer is closed", lambda: writer.step(*good))
    buffer.commit()
    assert (len(buffer), buffer.num_trajectories) == (12, 3)


@pytest.mark.parametrize("num_envs", [0, -1, True, "2", 1.5])
def test_a_writer_is_for_some_environments(buffer: rs.Buffer, num_envs: Any) -> None:
    refuse(SchemaError, f"at least 1, not {num_envs!r}", lambda: buffer.writer(num_envs))
    buffer.writer(1).close()


# --- commits, columns, fields, metadata


def test_commits_that_cannot_be_opened(buffer: rs.Buffer, tmp_path: Path) -> None:
    path = buffer.location
    buffer.append(steps())
    buffer.commit()
    buffer.rollback(1)

    refuse(NotFoundError, "commit 99 does not exist; the newest is 3", lambda: rs.open(path, commit=99))
    refuse(NotFoundError, "commit -1 does not exist", lambda: rs.open(path, commit=-1))
    refuse(NotFoundError, "commit 2 was rolled back; buffer.commits", lambda: rs.open(path, commit=2))
    refuse(NotFoundError, "no commit has the name 'x'; none has a name", lambda: rs.open(path, commit="x"))
    refuse(SchemaError, "number of a commit, or its name, not 1.5", lambda: rs.open(path, commit=1.5))  # type: ignore[arg-type]
    refuse(SchemaError, "call rollback", lambda: rs.open(path, "r+", commit=1))
    refuse(SchemaError, 'mode is "r" or "r\\+", not \'w\'', lambda: rs.open(path, "w"))  # type: ignore[arg-type]
    refuse(NotFoundError, "commit 99 does not exist", lambda: buffer.rollback(99))
    assert len(buffer) == 10


def test_rows_that_have_left_the_ring(tmp_path: Path) -> None:
    with rs.create(tmp_path / "ring.zarr", samples.small(), capacity=12) as ring:
        ring.append(steps())
        ring.commit()
        ring.append(steps())
        ring.commit()
        refuse(
            EvictedError,
            "commit 1 needs steps rows before 8, which have left the ring",
            lambda: rs.open(ring.location, commit=1),
        )
        refuse(EvictedError, "have left the ring", lambda: ring.rollback(1))
        with pytest.raises(IndexError, match="there are 12 steps"):
            ring["reward"][12]


def test_columns_fields_and_metadata_that_do_not_fit(buffer: rs.Buffer, tmp_path: Path) -> None:
    before = state(tmp_path)
    column = buffer.set_trajectory_column
    refuse(
        SchemaError,
        r"'score' needs one value for each of the 1 ended trajectories, not shape \(2,\)",
        lambda: column("score", [1, 2]),
    )
    refuse(UnsupportedError, "'name': columns hold one number or bool each", lambda: column("name", ["left"]))
    refuse(SchemaError, "'length' is what was recorded", lambda: column("length", [3]))
    refuse(
        SchemaError,
        "there is a field 'reward' already",
        lambda: buffer.add_field("reward", rs.Field("f4", (), "info")),
    )
    refuse(SchemaError, "expected a replaystore Field", lambda: buffer.add_field("info/x", "f4"))  # type: ignore[arg-type]
    for value, text in (
        ({"x": "y" * (1 << 20)}, "over the limit of 1048576"),
        ({"x": {1}}, "user.x is a set"),
        ([1], "not a list"),
    ):
        refuse(SchemaError, text, lambda value=value: setattr(buffer, "metadata", value))  # type: ignore[misc]
    refuse(UnknownFieldError, "no field .nope. among .observation/camera.", lambda: buffer["nope"])
    refuse(SchemaError, "flat array of integers, not float64", lambda: buffer.read([0.5]))  # type: ignore[list-item]
    refuse(SchemaError, 'no column "nope"', lambda: buffer.sampler(where="nope > 3"))
    refuse(SchemaError, "batch_size must be at least 1", lambda: buffer.sampler(0))

    assert state(tmp_path) == before
    assert buffer.metadata == {}


@pytest.mark.parametrize(
    "name",
    ["append", "commit", "forget", "publish", "writer", "rollback", "set_trajectory_column", "add_field"],
)
def test_a_closed_buffer_and_one_for_reading_are_not_written_to(
    buffer: rs.Buffer, tmp_path: Path, name: str
) -> None:
    arguments = {
        "append": (steps(),),
        "forget": ("a",),
        "rollback": (0,),
        "set_trajectory_column": ("x", []),
        "add_field": ("info/x", rs.Field("f4", (), "info")),
    }
    buffer.close()
    before = state(tmp_path)

    refuse(ConflictError, "is closed: open it again", lambda: getattr(buffer, name)(*arguments.get(name, ())))
    with rs.open(buffer.location) as reader:
        refuse(
            ConflictError,
            'open it with mode="r\\+" to write',
            lambda: getattr(reader, name)(*arguments.get(name, ())),
        )

    assert state(tmp_path) == before
