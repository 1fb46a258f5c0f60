"""Selecting steps and trajectories on the command line: nothing selected, long tables, advice that fits."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from commands import Run

import replaystore as rs

pytest_plugins = ["commands"]

NOTHING: dict[str, tuple[list[str], str]] = {
    "where": (
        ["convert", "STORE", "OUT.zarr", "--where", "length > 1000"],
        "none of [0-9]+ trajectories has where 'length > 1000'; their len",
    ),
    "where, HDF5": (["convert", "STORE", "OUT.h5", "--where", "length > 1000"], "nothing is selected"),
    "where, zip": (["convert", "STORE", "OUT.zarr.zip", "--where", "length > 1000"], "nothing is selected"),
    "where, pickle": (["convert", "STORE", "OUT.pkl", "--where", "length > 1000"], "nothing is selected"),
    "where, safetensors": (
        ["convert", "STORE", "OUT.safetensors", "--where", "length > 1000"],
        "nothing is selected",
    ),
    "split": (
        ["convert", "STORE", "OUT.zarr", "--split", "train"],
        "no trajectory has split 'train'; splits are none",
    ),
    "split, pickle": (
        ["convert", "STORE", "OUT.pkl", "--split", "train"],
        "no trajectory has split 'train'; splits are none",
    ),
    "where and split": (
        ["convert", "STORE", "OUT.zarr", "--split", "", "--where", "length < 0"],
        "has split '' and where 'length < 0'",
    ),
    "fields": (
        ["convert", "STORE", "OUT.zarr", "--fields", ","],
        "no field is selected: name some of 'observation'",
    ),
    "no field": (["convert", "STORE", "OUT.zarr", "--fields", ""], "no field is selected"),
    "fields, pickle": (["convert", "STORE", "OUT.pkl", "--fields", ","], "no field is selected"),
    "empty": (
        ["convert", "EMPTY", "OUT.zarr", "--where", "length > 0"],
        "nothing is selected: there are no trajectories at all",
    ),
    "show where": (["show", "STORE", "--where", "length > 1000"], "nothing is selected"),
    "show table where": (
        ["show", "STORE", "--trajectories", "--where", "length > 1000"],
        "nothing is selected",
    ),
    "show trajectory where": (
        ["show", "STORE", "--trajectory", "0", "--where", "length > 1000"],
        "nothing is selected",
    ),
    "show rows": (["show", "STORE", "--rows", "600:"], "--rows 600: selects nothing: there are 600 steps"),
    "show rows, JSON": (["show", "STORE", "--rows", "20:10", "--json"], "--rows 20:10 selects nothing"),
    "show a row": (["show", "STORE", "--rows", "600"], "selects nothing: there are 600 steps"),
    "show rows of a trajectory": (
        ["show", "STORE", "--trajectory", "0", "--rows", "600:"],
        "selects nothing: .* steps in this trajectory",
    ),
    "show rows of the table": (
        ["show", "STORE", "--trajectories", "--rows", "600:"],
        "selects nothing: .* trajectories",
    ),
    "show fields": (["show", "STORE", "--fields", ","], "no field is selected"),
}


@pytest.mark.parametrize(("arguments", "said"), NOTHING.values(), ids=NOTHING)
def test_to_select_nothing_is_an_error(
    arguments: list[str], said: str, recorded: Path, run: Run, tmp_path: Path
) -> None:
    rs.create(tmp_path / "empty.zarr", rs.Schema({"reward": rs.Field("float64", (), "reward")})).close()
    places = {"STORE": str(recorded), "EMPTY": str(tmp_path / "empty.zarr")}
    filled = [places.get(argument, argument.replace("OUT", str(tmp_path / "out"))) for argument in arguments]

    code, out, err = run(*filled)

    assert (code, out) == (1, "")
    assert re.search(said, err)
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty.zarr"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b.pkl", True),
        ("b.safetensors", True),
        ("replay_buffer.pkl", False),
        ("buffer_state.safetensors", False),
    ],
)
def test_a_file_of_other_software_is_not_made_by_its_suffix_alone_without_a_word(
    recorded: Path, run: Run, tmp_path: Path, name: str, said: bool
) -> None:
    code, out, _ = run(
        "convert", recorded, tmp_path / name, "--fields", "observation,action,reward,terminated"
    )

    assert code == 0
    assert ("because of the suffix; name a store .zarr or .h5" in out) == said


def test_advice_fits_the_command(recorded: Path, run: Run, tmp_path: Path) -> None:
    assert run("convert", recorded, tmp_path / "a.zarr")[0] == 0
    for arguments in (
        ["convert", recorded, tmp_path / "a.zarr"],
        ["record", "CartPole-v1", tmp_path / "a.zarr", "--steps", "3"],
    ):
        err = run(*arguments)[2]
        assert "pass --overwrite" in err
        assert "overwrite=True" not in err
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with (
        patch("replaystore.storage.locks.FileLock._take", side_effect=denied),
        patch("replaystore.buffers.replacing.lock_place"),
    ):
        err = run("convert", recorded, tmp_path / "a.zarr", "--overwrite")[2]
    assert "a.zarr cannot be replaced: Permission denied; choose another name" in err
    with rs.open(tmp_path / "a.zarr", "r+"):
        err = run("convert", recorded, tmp_path / "a.zarr", "--overwrite")[2]
    assert "close it there first, or choose another name" in err


def test_long_tables_and_trajectories_are_cut_unless_asked_for(
    tmp_path: Path, run: Run, facts: Callable[..., Any]
) -> None:
    with rs.create(tmp_path / "a.zarr", rs.Schema({"reward": rs.Field("float64", (), "reward")})) as buffer:
        for length in [1, *[2] * 150, 3000]:
            buffer.append({"reward": np.arange(float(length))}, ends=[length - 1])
    for what, total in (["--trajectory", "151"], "3,000 steps"), (["--trajectories"], "152 trajectories"):
        code, out, _ = run("show", tmp_path / "a.zarr", *what)
        lines = out.splitlines()
        assert code == 0
        assert len(lines) < 125
        assert lines[-1] == f"100 of {total}; --rows A:B shows others, --rows : all"
        assert len(run("show", tmp_path / "a.zarr", *what, "--rows", ":")[1].splitlines()) > int(
            total.split()[0].replace(",", "")
        )
    some = run("show", tmp_path / "a.zarr", "--trajectory", 151, "--rows", "-2:")[1].splitlines()
    assert [line.split()[3] for line in some if line[:4].strip().isdigit()] == ["2998", "2999"]
    assert len(facts("show", tmp_path / "a.zarr", "--trajectory", 151)["steps"]) == 3000
    assert len(facts("show", tmp_path / "a.zarr", "--trajectories")["trajectories"]) == 152
