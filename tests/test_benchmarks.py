"""The benchmark of a buffer that grows: what it measures, what it says of peers that are missing, and its
picture. What it measures is no test."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[1] / "scripts" / "benchmarks"


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("live")


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_a_benchmark_says_what_it_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("benchmarks are not for a Python without PyTorch")
    program = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"]
    said = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert "--help" in said


def test_each_module_that_measures_is_found_and_no_name_twice(live: ModuleType) -> None:
    modules = live.measuring_modules()
    names = [name for module in modules for name in module.MEASURES]
    titles = [title for module in modules for title in getattr(module, "TITLES", {})]

    assert len(modules) >= 1
    assert sorted(names) == sorted(live.MEASURES), "a name is given twice"
    assert sorted(titles) == sorted(live.TITLES), "a title is given twice"


def test_what_is_measured_is_told_with_its_target_and_drawn(
    live: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from measuring import Result
    from PIL import Image

    def measure(context: object) -> list[Result]:
        return [
            Result("work", "NumPy", 1.0, "x", seconds=1e-5),
            Result("work", "replaystore, Zarr", 1.2, "x", 1.25, seconds=1.2e-5),
            Result("work", "replaystore, HDF5", 1.4, "x", 1.25, seconds=1.4e-5),
        ]

    monkeypatch.setitem(live.MEASURES, "gathers", measure)
    monkeypatch.setitem(live.TITLES, "work", "What is measured")
    monkeypatch.setattr(live.peers, "missing", lambda: ["cpprb"])
    written, picture = tmp_path / "found.json", tmp_path / "found.png"
    arguments = ["--quick", "--only", "gathers", "--json", str(written), "--picture", str(picture)]

    done = CliRunner().invoke(live.main, [*arguments, "--folder", str(tmp_path)])

    assert done.exit_code == 0, done.output
    assert "not installed, and so left out: cpprb" in done.stderr.splitlines()
    assert [result["met"] for result in json.loads(written.read_text())["results"]] == [None, True, False]
    assert done.stdout.count("\N{LESS-THAN OR EQUAL TO} 1.25") == 2
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 50
    assert sorted(tmp_path.iterdir()) == [written, picture], "what is written meanwhile is removed"


def test_a_picture_that_cannot_be_drawn_is_told_before_anything_is_measured(
    live: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    done = CliRunner().invoke(live.main, ["--only", "read", "--picture", str(tmp_path / "a.png")])

    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: matplotlib is not installed")


@pytest.mark.parametrize("name", ["read", "ragged-append", "ragged-open", "ragged-texts"])
def test_it_measures(name: str, live: ModuleType, tmp_path: Path) -> None:
    done = CliRunner().invoke(live.main, ["--quick", "--only", name, "--folder", str(tmp_path)])

    assert done.exit_code == 0, done.output
    assert "replaystore, Zarr" in done.stdout
