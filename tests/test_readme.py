"""Every block of code in README.md is run, from top to bottom, in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run_command(line: str, folder: Path) -> None:
    """A line of a bash block: a command of replaystore, or a script that must be there (other tests, and
    people, run it)."""
    program, *arguments = shlex.split(line, comments=True)
    if program.startswith("./scripts/"):
        assert os.access(ROOT / program, os.X_OK), f"{program} is not there"
        return
    assert program == "replaystore", f"not a command that this test can run: {line}"
    done = subprocess.run(
        [sys.executable, "-m", "replaystore.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), line
    assert done.stdout, line


# Which velora calls.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_all_blocks_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}

    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "README.md", "exec"), namespace)
        elif language == "bash":
            for line in text.splitlines():
                run_command(line, tmp_path)
    namespace["buffer"].close()

    assert (tmp_path / "cartpole.zarr").is_dir()


def test_no_block_is_of_a_kind_that_is_not_run() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "bash", "text", "toml"}
    assert README.count("```") == 2 * len(BLOCKS)


def test_files_that_it_names_exist() -> None:
    for name in re.findall(r"\b(?:src|scripts|tests|examples)/[\w./]+\w", README):
        assert (ROOT / name).exists(), name


def test_extras_that_it_names_exist_and_the_others_are_of_no_use_yet() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]

    named = set(re.findall(r"`\[([\w-]+)\]`", README))

    assert named == extras.keys() - {"dev", "remote"}
