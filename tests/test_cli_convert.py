"""`replaystore convert`: there and back, a part, and stopped in the middle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import Run

import replaystore as rs

pytest_plugins = ["commands"]


def test_converting_and_back_loses_nothing(
    recorded: Path, facts: Callable[..., Any], run: Run, tmp_path: Path
) -> None:
    facts("convert", recorded, tmp_path / "a.h5", "--layout", "archive", "--as-recorded")
    code, out, err = run("convert", tmp_path / "a.h5", tmp_path / "b.zarr", "--layout", "live")

    assert (code, err) == (0, "")
    assert re.search(r"^steps +600$", out, re.MULTILINE)
    assert re.search(r"^coded anew +observation, action, ", out, re.MULTILINE)
    with rs.open(recorded) as a, rs.open(tmp_path / "b.zarr") as b:
        for name in a.schema.fields:
            assert a[name][:].tobytes() == b[name][:].tobytes()
        for name, column in a.trajectories.columns.items():
            assert column.tolist() == b.trajectories[name].tolist()


def test_an_archive_has_its_rows_trajectory_by_trajectory(
    recorded: Path, facts: Callable[..., Any], run: Run, tmp_path: Path
) -> None:
    code, out, _ = run("convert", recorded, tmp_path / "a.h5", "--layout", "archive")

    assert code == 0
    assert "note: rows lie trajectory by trajectory, and have other numbers" in out
    with rs.open(recorded) as a, rs.open(tmp_path / "a.h5") as b:
        assert b.parts.dense
        assert len(b.parts) == len(b.trajectories)
        for number in range(len(a.trajectories)):
            mine, theirs = a.trajectory(number), b.trajectory(number)
            assert all(mine[name].tobytes() == theirs[name].tobytes() for name in a.schema.fields)
    code, _, err = run("convert", recorded, tmp_path / "b.h5", "--where", "length > 1", "--grouped")
    assert code == 1
    assert "leave it out" in err


def test_converting_a_part(recorded: Path, facts: Callable[..., Any], tmp_path: Path) -> None:
    facts(
        "convert",
        recorded,
        tmp_path / "a.zarr",
        "--fields",
        "observation,reward",
        "--fields",
        "terminated,truncated",
        "--where",
        "length > 20",
    )

    with rs.open(recorded) as a, rs.open(tmp_path / "a.zarr") as b:
        assert list(b.schema.fields) == ["observation", "reward", "terminated", "truncated"]
        assert b.trajectories["length"].tolist() == a.trajectories.where("length > 20")["length"].tolist()


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.zarr.zip"])
def test_ctrl_c_in_a_conversion_leaves_nothing(
    name: str, recorded: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(*_: object, **__: object) -> Iterator[Callable[[int, int], None]]:
        def press(done: int, total: int) -> None:
            raise KeyboardInterrupt

        yield press

    monkeypatch.setattr("replaystore.cli.convert.progress_bar", interrupted)

    code, out, err = run("convert", recorded, tmp_path / name)

    assert (code, out, err.strip()) == (130, "", "replaystore: error: interrupted")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.parquet", "--as-recorded"], "--grouped or --as-recorded says how"),
        (["a.parquet", "--codec", "raw"], "leave --codec and --layout out"),
        (["b.zarr", "--codec", "raw", "--layout", "archive"], "choose another --codec, or --layout live"),
        (["a.bin"], "or say with --to which format"),
        (["a.zarr"], "pass --overwrite"),
    ],
)
def test_messages_name_what_was_typed(
    recorded: Path, run: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "a.zarr").mkdir()
    target, *options = arguments

    code, _, err = run("convert", recorded, tmp_path / target, *options)

    assert code == 1
    assert said in err
    assert "=" not in err.replace(str(tmp_path), "")
