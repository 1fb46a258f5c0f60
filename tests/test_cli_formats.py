"""`replaystore formats`, and `convert` to and from what it lists."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from readme_formats import BEGIN, END, REWRITE, lines_now, listed_lines, rewritten
from stranger import installed

import replaystore as rs
from replaystore import registry

pytest_plugins = ["commands"]


@pytest.fixture(autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"replaystore.formats toy": "toy_format:ENTRY", "replaystore.formats gone": "toy_format:GONE"}
    installed(tmp_path_factory.mktemp("site"), monkeypatch, points)


def test_what_is_known_is_listed_with_its_limits(run: Run) -> None:
    code, out, err = run("formats")

    assert (code, err) == (0, "")
    assert re.search(r"^velora +yes +yes +a velora buffer \.safetensors$", out, re.MULTILINE)
    assert re.search(r"^toy +yes +yes +a file of the toy \.toy$", out, re.MULTILINE)
    assert "toy cannot hold: rows of no trajectory; the environment" in out
    assert re.search(r"^problem: the format 'gone' of the package stranger cannot be used", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_it_is_listed_for_programs_too(facts: Callable[..., Any]) -> None:
    found = facts("formats")

    names = [known["name"] for known in found["formats"]]
    assert names == [*registry.registered("formats")]
    assert names[-1] == "toy"
    assert {"active_rlhf", "velora"} < set(names)
    assert found["formats"][-1]["package"] == "stranger"
    assert len(found["problems"]) == 1


def test_a_format_that_is_named_needs_no_suffix(
    recorded: Path, facts: Callable[..., Any], run: Run, tmp_path: Path
) -> None:
    there = facts("convert", recorded, tmp_path / "a.bin", "--to", "toy")
    again = facts("convert", tmp_path / "a.bin", tmp_path / "b.zarr", "--from", "toy")

    assert there["fields"]["observation"] == {"kind": "kept"}
    assert there["rest"] == {"environment": {"kind": "lost"}}
    assert there["notes"] == ["left out: environment"]
    assert again["steps"] == there["steps"] == 600
    code, out, _ = run("convert", recorded, tmp_path / "c.bin", "--to", "toy")
    assert code == 0
    assert re.search(r"^environment +beside +lost", out, re.MULTILINE)
    json.dumps(there)
    with rs.open(recorded) as a, rs.open(tmp_path / "b.zarr") as b:
        assert a.num_trajectories == b.num_trajectories


def test_an_unknown_format_is_one_line_that_lists_the_known_ones(run: Run, tmp_path: Path) -> None:
    code, _, err = run("convert", tmp_path / "a.bin", tmp_path / "b.zarr", "--from", "nonsense")

    assert code == 1
    known = [name for name in registry.registered("formats") if name != "csv"]  # which is only written
    assert f"there is no format 'nonsense'; there are {', '.join(known)}" in err


def test_a_page_has_them_in_a_table(run: Run) -> None:
    code, out, err = run("formats", "--markdown")

    assert (code, err) == (0, "")
    head, rule, *lines = out.splitlines()
    assert head == "| format | files | read | write | what it cannot hold | streams | extra |"
    assert rule == "|---|---|---|---|---|---|---|"
    assert len(lines) == len(registry.registered("formats"))
    assert "| `velora` | a velora buffer (`.safetensors`) | yes | yes |" in out
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 8 for line in lines)


def test_the_readme_lists_the_formats_as_they_are() -> None:
    listed, known = set(listed_lines()), lines_now()

    missing = [line for line in known if line not in listed and "not known without" not in line]
    names = {line.split("`")[1] for line in known}
    beyond = sorted({line.split("`")[1] for line in listed} - names)

    assert (missing, beyond) == ([], []), f"the README's table of formats is an older one: {REWRITE}"


def test_a_readme_with_a_conflict_in_its_table_is_rewritten() -> None:
    text = f"before\n{BEGIN}\n| a |\n<<<<<<< HEAD\n{END}\n=======\n{BEGIN}\n>>>>>>>\n{END}\nafter\n"

    found = rewritten(text, "| new |")

    assert found == f"before\n{BEGIN}\n| new |\n{END}\nafter\n"
