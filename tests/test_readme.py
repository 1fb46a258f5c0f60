"""Every block of code in README.md is run; those of the core also where nothing else is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from core_only import PROJECT, environment
from readme_blocks import BLOCKS, README, ROOT, run
from tensors import torch


# Which velora calls.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_all_blocks_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    lacking = set() if torch is not None else {"torch"}
    lacking |= set() if find_spec("stable_baselines3") else {"sb3"}
    run(block for block in BLOCKS if block.needs not in lacking)

    assert (tmp_path / "cartpole.zarr").is_dir()


def test_blocks_of_the_core_need_nothing_else(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("readme_blocks.py"))]
    where = environment(tmp_path / "only")
    done = subprocess.run(program, cwd=tmp_path, env=where, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "cartpole.zarr").is_dir()


def test_what_a_block_needs_besides_the_core_is_said_before_it() -> None:
    for block in BLOCKS:
        said = README[: block.place].rpartition("\n## ")[2]
        name = f"`[{block.needs}]`" if block.needs in PROJECT["optional-dependencies"] else block.needs
        assert name in said, block


def test_no_block_is_of_a_kind_that_is_not_run() -> None:
    assert {block.language for block in BLOCKS} == {"python", "bash", "text", "toml"}
    assert README.count("```") == 2 * len(BLOCKS)


def test_files_that_it_names_exist() -> None:
    for name in re.findall(r"\b(?:src|scripts|tests|examples)/[\w./-]+\w", README):
        assert (ROOT / name).exists(), name
