"""Random rows of files that are not in memory: each time in a fresh process, after the system was told to
forget the files."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from measuring import Context, Result, check, ratio
from measuring.data import BLOCK, cheetah_steps, write

__all__ = ["COLD", "cold"]

WORKER = Path(__file__).with_name("cold_worker.py")
SIZE = 256
MEMMAP = "np.memmap"
COLD = f"{SIZE} rows of one field, none of it in memory"


def cold(context: Context) -> list[Result]:
    """A buffer of its own: what another process has mapped would stay in memory."""
    if not hasattr(os, "posix_fadvise"):
        return [Result(COLD, "all", None, "", detail="skipped: this system is not told to forget files")]
    recorded, times = context.choose(BLOCK, BLOCK // 10), context.choose(40, 20)
    columns, _ = cheetah_steps(recorded)
    steps = recorded * times
    context.say(f"{COLD}: {steps} steps (writing them first)")
    place, plain = context.folder / "cold.zarr", context.folder / "observation.bin"
    write(place, steps, columns)
    with open(plain, "wb") as file:
        for _ in range(times):
            file.write(columns["observation"].data)
    os.sync()
    ways = {MEMMAP: (plain,), f"{MEMMAP}, MADV_RANDOM": (plain, "random"), "replaystore, Zarr": (place,)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    opening: dict[str, list[float]] = {name: [] for name in ways}
    resident: list[float] = []
    for number in range(context.choose(11, 3)):
        for name, (files, *more) in ways.items():
            command = [sys.executable, str(WORKER), str(files), str(number), str(SIZE), str(steps), *more]
            answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            rows = np.array(answer["rows"]) % recorded
            check(
                answer["sum"] == float(columns["observation"][rows].astype(np.float64).sum()),
                name,
                "observation",
            )
            seconds[name].append(answer["seconds"])
            opening[name].append(answer["opening"])
            resident.append(answer["resident"])
    ahead = _read_ahead(context.folder)
    state = f"{statistics.mean(resident):.1%} of the file in memory before, the disk reads {ahead} KiB ahead"
    found = []
    for name, values in seconds.items():
        middle, target = statistics.median(values), 0.15 if name.startswith("replaystore") else None
        first = statistics.median(opening[name])
        detail = f"median {middle * 1e3:.1f} ms, opening before it {first * 1e3:.1f} ms"
        detail += "; " + state if name == MEMMAP else ""
        found.append(
            Result(COLD, name, ratio(seconds, name, MEMMAP), "x", target, detail=detail, seconds=middle)
        )
    value = ratio(seconds, "replaystore, Zarr", f"{MEMMAP}, MADV_RANDOM")
    return [*found, Result(COLD, f"replaystore, Zarr, to {MEMMAP}, MADV_RANDOM", value, "x")]


def _read_ahead(folder: Path) -> str:
    """How much the disk of a folder reads ahead."""
    device = os.stat(folder).st_dev
    for name in (
        f"/sys/dev/block/{os.major(device)}:{os.minor(device)}",
        f"/sys/dev/block/{os.major(device)}:0",
    ):
        path = Path(name) / "queue/read_ahead_kb"
        if path.exists():
            return path.read_text().strip()
    return "?"
