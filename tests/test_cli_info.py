"""`replaystore info`: everything that is known of a store, readable and as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run, own_rows, own_schema

import replaystore as rs

pytest_plugins = ["commands"]


def test_info_tells_everything(recorded: Path, facts: Callable[..., Any]) -> None:
    found = facts("info", recorded, "--commits")

    assert found["location"] == str(recorded)
    assert (found["backend"], found["layout"], found["format_version"], found["steps"]) == (
        "zarr",
        "live",
        "1.0",
        600,
    )
    assert found["trajectories"]["count"] == found["trajectories"]["ended"] == sum(found["ends"].values())
    assert found["length"].keys() == found["return"].keys() == {"mean", "std", "min", "max"}
    assert found["length"]["mean"] == pytest.approx(600 / found["trajectories"]["count"])
    assert [field["name"] for field in found["fields"]] == [
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
    ]
    assert found["fields"][0] | {"chunk_rows": 0} == {
        "name": "observation",
        "dtype": "float32",
        "shape": [4],
        "ragged": False,
        "text": False,
        "role": "observation",
        "mutable": False,
        "codec": "raw",
        "chunk_rows": 0,
        "values": None,
        "bytes": 9600,
        "stored_bytes": 9600,
    }
    assert found["environment"]["id"] == "CartPole-v1"
    assert found["provenance"]["source"]["seed"] == 3
    assert found["commits"][0]["steps"] == 0
    assert found["commits"][-1]["steps"] == 600
    assert len(found["commits"]) > 3
    files = [path.stat() for path in recorded.rglob("*") if path.is_file()]
    assert found["apparent_bytes"] == sum(status.st_size for status in files)
    folders = sum(512 * path.stat().st_blocks for path in (recorded, *recorded.rglob("*")) if path.is_dir())
    assert found["disk_bytes"] == sum(512 * status.st_blocks for status in files) + folders


def test_info_is_readable(recorded: Path, run: Run) -> None:
    code, out, err = run("info", recorded, "--commits")

    assert (code, err) == (0, "")
    assert re.search(r"^steps +600$", out, re.MULTILINE)
    assert re.search(r"^observation +float32 +4 +raw ", out, re.MULTILINE)
    assert re.search(r"^return +mean \d+", out, re.MULTILINE)


def test_info_of_an_empty_buffer(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    rs.create(tmp_path / "a.zarr", own_schema(), metadata={"name": "x"}).close()

    found = facts("info", tmp_path / "a.zarr")

    assert (found["steps"], found["length"], found["return"], found["environment"]) == (0, None, None, None)
    assert found["metadata"] == ["name"]
    assert run("info", tmp_path / "a.zarr")[0] == 0
    assert run("show", tmp_path / "a.zarr")[1].endswith("0 of 0 steps\n")


def test_text_from_a_store_cannot_command_the_terminal(run: Run, tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", own_schema(), metadata={"\x1b]0;x\x07": 1}) as buffer:
        buffer.append(own_rows([1.0]), split="\x1b[2J")

    for arguments in (["info"], ["show"], ["show", "--trajectories"], ["show", "--trajectory", "0"]):
        code, out, err = run(arguments[0], tmp_path / "a.zarr", *arguments[1:])
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert r"\x1b" in out


def test_splits_and_coded_fields_are_counted(facts: Callable[..., Any], tmp_path: Path) -> None:
    storage = {"observation": {"codec": "zstd:1", "chunk_rows": 16}}
    with rs.create(tmp_path / "a.zarr", own_schema(), storage=storage) as buffer:
        buffer.append(own_rows([0.0] * 40), split="train", ends=[39])
        buffer.append(own_rows([0.0] * 5), split="val", env=1)

    found = facts("info", tmp_path / "a.zarr")

    assert found["splits"] == {"train": 1, "val": 1}
    assert found["trajectories"] == {"count": 2, "ended": 1, "open": 1}
    observation = found["fields"][0]
    assert observation["codec"] == "zstd:1"
    assert 13 * 64 < observation["stored_bytes"] < observation["bytes"] == 45 * 64


def test_info_says_which_fields_are_mutable(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    with rs.create(place, own_schema()) as buffer:
        buffer.append(own_rows([1.0]))
        buffer.add_field("value", rs.Field("float32", (), "extra", mutable=True), fill=1)

    assert [field["name"] for field in facts("info", place)["fields"] if field["mutable"]] == ["value"]
    lines = run("info", place)[1].splitlines()
    assert [line.split()[0] for line in lines if line.endswith("  mutable")] == ["value"]
