"""Commands of the command line, run in this process or in another, and stores to run them on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import replaystore as rs
from replaystore.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run_(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run_


@pytest.fixture
def facts(run: Run) -> Callable[..., Any]:
    """What a command prints with --json, which must be strict."""

    def facts_(*arguments: object, code: int = 0) -> Any:
        ended, out, err = run(*arguments, "--json")
        assert (ended, err) == (code, "")
        return json.loads(out, parse_constant=refuse)

    return facts_


def refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 600 steps, not to be changed."""
    location = tmp_path_factory.mktemp("cli") / "cartpole.zarr"
    with pytest.raises(SystemExit, match="0"):
        main(
            [
                "record",
                "CartPole-v1",
                str(location),
                "--steps",
                "600",
                "--num-envs",
                "4",
                "--seed",
                "3",
                "--commit-every",
                "200",
                "--json",
            ]
        )
    return location


def own_schema() -> rs.Schema:
    return rs.Schema(
        {
            "observation": rs.Field(np.uint8, (8, 8), "observation"),
            "reward": rs.Field(np.float64, (), "reward"),
            "terminated": rs.Field(np.bool_, (), "terminated"),
            "truncated": rs.Field(np.bool_, (), "truncated"),
            "info/\x1b[31m": rs.Field(np.float32, (5,), "info"),
        }
    )


def own_rows(rewards: list[float]) -> dict[str, np.ndarray]:
    count = len(rewards)
    return {
        "observation": np.zeros((count, 8, 8), np.uint8),
        "reward": np.array(rewards),
        "terminated": np.zeros(count, np.bool_),
        "truncated": np.zeros(count, np.bool_),
        "info/\x1b[31m": np.zeros((count, 5), np.float32),
    }


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "replaystore.cli", *map(str, arguments)]


def loaded_by(arguments: list[str]) -> set[str]:
    """The packages that are loaded when a command has ended."""
    program = "import atexit, sys; atexit.register(lambda: print('loaded:', *sys.modules));"
    program += f"from replaystore.cli import main; main({arguments})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
