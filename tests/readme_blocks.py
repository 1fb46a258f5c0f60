"""The blocks of code in README.md, and how they are run: from top to bottom, in one folder.

A word after the language says what a block needs besides the core: an extra, or a package.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A block of code."""

    language: str
    needs: str
    """What besides the core; empty: nothing."""
    text: str
    place: int
    """Where it begins in the README."""


BLOCKS = [
    Block(found[1], found[2] or "", found[3], found.start())
    for found in re.finditer(r"^```(\w*)(?: (\w+))?\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]


def run_command(line: str) -> str:
    """A line of a bash block: a command of replaystore, or a script that must be there (other tests, and
    people, run it). What it prints."""
    program, *arguments = shlex.split(line, comments=True)
    if program.startswith("./scripts/"):
        assert os.access(ROOT / program, os.X_OK), f"{program} is not there"
        return ""
    assert program == "replaystore", f"not a command that this test can run: {line}"
    done = subprocess.run(
        [sys.executable, "-m", "replaystore.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), line
    assert done.stdout, line
    return done.stdout


def run(blocks: Iterable[Block]) -> None:
    """Run blocks in this process and this folder."""
    namespace: dict[str, Any] = {}
    printed, end = "", 0
    for block in blocks:
        if block.language == "python":
            exec(compile(block.text, "README.md", "exec"), namespace)
        elif block.language == "bash":
            printed = "".join(map(run_command, block.text.splitlines()))
            end = README.index(block.text, block.place) + len(block.text)
        elif block.language == "text" and README[end : block.place].strip("`\n") == "":
            assert block.text in printed, f"that is not what is printed:\n{block.text}"
    namespace["buffer"].close()


if __name__ == "__main__":
    run(block for block in BLOCKS if not block.needs)
