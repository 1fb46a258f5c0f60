"""Memory that something takes: the peak of the anonymous memory of a process that does only that, above what
it has after the imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from measuring import Context, Result, skipped

__all__ = ["no_memory", "peak_of"]


def no_memory() -> list[Result]:
    """What stands in for results where a process cannot tell its anonymous memory; nothing where it can."""
    if Path("/proc/self/status").exists():
        return []
    return [skipped("peak memory", "all", "only Linux tells a process its anonymous memory")]


def peak_of(
    context: Context, what: str, variant: str, worker: Path, arguments: Sequence[object], target: float | None
) -> Result:
    """The peak in MB of a program that prints it as JSON (see `measuring.peak`), with its seconds and the
    bytes it dealt with."""
    context.say(f"{what}: {variant}")
    command = [sys.executable, str(worker), *map(str, arguments)]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    speed = answer["bytes"] / answer["seconds"] / 1e6
    detail = (
        f"above {answer['base'] / 1e6:.0f} MB after the imports; {answer['seconds']:.1f} s, {speed:.0f} MB/s"
    )
    return Result(what, variant, answer["peak"] / 1e6, "MB", target, detail=detail)
