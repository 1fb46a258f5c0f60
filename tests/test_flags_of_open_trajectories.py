"""Where the source says that trajectories end elsewhere, an open one may have a flag at its last step, and
says so when it is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import replaystore as rs

SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (2,), "observation"),
        "reward": rs.Field("float64", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)


def append(buffer: rs.Buffer, terminated: bool, truncated: bool, final: np.ndarray | None = None) -> None:
    """Ten steps, of which the source says that the first five are a trajectory; the last one has these
    flags."""
    flags = {"terminated": np.zeros(10, bool), "truncated": np.zeros(10, bool)}
    flags["terminated"][9], flags["truncated"][9] = terminated, truncated
    buffer.append(
        {"observation": np.zeros((10, 2), "f4"), "reward": np.ones(10), **flags},
        ends=[4],
        final_observation=final,
    )


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("flags", [(True, False), (False, True), (True, True), (False, False)])
def test_a_cut_trajectory_has_the_flags_of_its_last_step(
    tmp_path: Path, suffix: str, reopened: bool, flags: tuple[bool, bool]
) -> None:
    place = tmp_path / f"a{suffix}"
    buffer = rs.create(place, SCHEMA)
    append(buffer, *flags)
    if reopened:
        buffer.close()
        buffer = rs.open(place, "r+")
    with buffer:
        buffer.writer(num_envs=1).close()

    assert rs.verify(place).problems == []
    with rs.open(place) as buffer:
        table = buffer.trajectories
        assert not table.open.any()
        assert table["terminated"].tolist() == [False, flags[0]]
        assert table["truncated"].tolist() == [False, flags[1]]


def test_one_that_goes_on_has_those_of_its_last_step_alone(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        append(buffer, True, False)
        assert buffer.commits()
        buffer.commit()
        assert buffer.trajectories["terminated"].tolist() == [False, True]
        steps = {name: np.zeros((3, *field.shape), field.dtype) for name, field in SCHEMA.fields.items()}
        buffer.append(steps, ends=[])
        buffer.writer(num_envs=1).close()

    assert rs.verify(tmp_path / "a.zarr").problems == []


def test_a_selection_that_cuts_it_off_says_so_too(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        append(buffer, True, False)
        buffer.append(
            {name: np.zeros((1, *field.shape), field.dtype) for name, field in SCHEMA.fields.items()}, env=1
        )

    rs.convert(tmp_path / "a.zarr", tmp_path / "b.h5", where="terminated")

    assert rs.verify(tmp_path / "b.h5").problems == []
    with rs.open(tmp_path / "b.h5") as buffer:
        assert buffer.trajectories["terminated"].tolist() == [True]


@pytest.mark.parametrize("flags", [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize("followed", [False, True])
def test_what_follows_a_flagged_step_is_kept_with_the_commit(
    tmp_path: Path, flags: tuple[bool, bool], followed: bool
) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        append(buffer, *flags, final=np.full((2, 2), 7, "f4") if followed else None)

    with rs.open(tmp_path / "a.zarr") as buffer:
        final = buffer.trajectory(1).final_observation
        assert final is None if not followed else final is not None and np.array_equal(final, [7, 7])
