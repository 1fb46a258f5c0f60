"""Programs and commands in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import replaystore as rs

SOURCES = str(Path(rs.__file__).parents[1])
HELD_BACK = """
import ctypes, os, sys
if os.geteuid() == 0:
    # No CAP_DAC_OVERRIDE in what is executed: permissions count for root as well.
    assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def run(*arguments: object, held_back: bool = False) -> subprocess.CompletedProcess[str]:
    """Python with these arguments; `held_back`: by the permissions of files, also if we are root."""
    environment = os.environ | {"PYTHONPATH": SOURCES}
    begin = [sys.executable, "-c", HELD_BACK] if held_back else [sys.executable]
    return subprocess.run(
        [*begin, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )


def command(*arguments: object, held_back: bool = False) -> subprocess.CompletedProcess[str]:
    return run("-m", "replaystore.cli", *arguments, held_back=held_back)
