"""The programs of velora and active_rlhf, run as they are and with one line changed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TRACED = Path(__file__).with_name("traced.py")


def checkout(variable: str, project: str, file: str) -> Path:
    """The folder to import from of a checkout that a variable of the environment names: its root, or the
    folder src in it.

    A test that needs it is skipped if the variable is not set, and fails if it names something else."""
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"set {variable} to a checkout of {project}, to compare with its code")
    found = [folder for folder in (Path(named), Path(named, "src")) if Path(folder, file).exists()]
    assert found, f"{variable}={named} is no checkout of {project}"
    return found[0].resolve()


def needs(project: str, *modules: str) -> None:
    """Skip a test if a module is missing that programs of a project import."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"programs of {project} import {', '.join(missing)}: install them for this test")


def with_line(text: str, before: str, after: str) -> str:
    """A program in which one line is another: the one that begins so begins otherwise."""
    lines = text.splitlines(keepends=True)
    (place,) = [number for number, line in enumerate(lines) if line.startswith(before)]
    lines[place] = after + lines[place][len(before) :]
    return "".join(lines)


def run(program: Path, arguments: list[str], root: Path) -> Any:
    """Run a program that imports from `root`, in the folder in which it lies, and give what `traced`
    keeps."""
    result = program.with_suffix(".pt")
    search = [str(root), *(folder for folder in sys.path if folder)]  # what the tests find, it finds
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(search),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "MPLBACKEND": "agg",
    }
    done = subprocess.run(
        [sys.executable, str(TRACED), str(result), str(program), *arguments],
        cwd=program.parent,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{program} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return torch.load(result, weights_only=True)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two results differ, in as much as a bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        same = same and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
        return [] if same else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{path}.{key} in one of them" for key in sorted(one.keys() ^ other.keys())]
        return found + [
            line for key in one if key in other for line in differences(one[key], other[key], f"{path}.{key}")
        ]
    if isinstance(one, list) and isinstance(other, list):
        found = [f"{path} has {len(one)} and {len(other)}"] if len(one) != len(other) else []
        pairs = zip(one, other, strict=False)
        return found + [
            line for number, pair in enumerate(pairs) for line in differences(*pair, f"{path}[{number}]")
        ]
    return (
        []
        if type(one) is type(other) and repr(one) == repr(other)
        else [(f"{path}: {one!r:.40} and {other!r:.40}")]
    )
