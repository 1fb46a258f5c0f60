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
from measuring.data import BLOCK, EPISODE, cheetah_steps, write

__all__ = ["COLD", "cold"]

WORKER = Path(__file__).with_name("cold_worker.py")
SIZE = 256
MEMMAP = "np.memmap"
RANDOM, OURS = f"{MEMMAP}, MADV_RANDOM", "replaystore, Zarr"
COLD = f"{SIZE} rows of one field, none of it in memory"
NEXT = f"{SIZE} rows of one field and those that follow, none of it in memory"


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
    ways: dict[tuple[str, str], tuple[Path | str, ...]] = {
        (COLD, MEMMAP): (plain,),
        (COLD, RANDOM): (plain, "random"),
        (COLD, OURS): (place,),
        (NEXT, MEMMAP): (plain, "next"),
        (NEXT, RANDOM): (plain, "random", "next"),
        (NEXT, OURS): (place, "next"),
    }
    seconds: dict[str, dict[str, list[float]]] = {COLD: {}, NEXT: {}}
    opening: dict[str, dict[str, list[float]]] = {COLD: {}, NEXT: {}}
    resident: list[float] = []
    for number in range(context.choose(11, 3)):
        for (what, name), (files, *more) in ways.items():
            arguments = [files, number, SIZE, steps, *more]
            command = [sys.executable, str(WORKER), *map(str, arguments)]
            answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            rows = np.array(answer["rows"]) % recorded
            after = (rows + 1) % recorded
            if name == OURS:  # `write` makes the first row what is observed after the last steps
                after[after % EPISODE == 0] = 0
            sums = [float(columns["observation"][at].astype(np.float64).sum()) for at in (rows, after)]
            check(answer["sums"] == sums[: len(answer["sums"])], name, "observation")
            check(len(answer["sums"]) == 1 + (what == NEXT), name, "observation")
            seconds[what].setdefault(name, []).append(answer["seconds"])
            opening[what].setdefault(name, []).append(answer["opening"])
            resident.append(answer["resident"])
    ahead = _read_ahead(context.folder)
    state = f"{statistics.mean(resident):.1%} of the file in memory before, the disk reads {ahead} KiB ahead"
    found = []
    for what, taken in seconds.items():
        for name, values in taken.items():
            middle, target = statistics.median(values), 0.15 if name == OURS else None
            first = statistics.median(opening[what][name])
            detail = f"median {middle * 1e3:.1f} ms, opening before it {first * 1e3:.1f} ms"
            detail += "; " + state if name == MEMMAP else ""
            value = ratio(taken, name, MEMMAP)
            found.append(Result(what, name, value, "x", target, detail=detail, seconds=middle))
        found.append(Result(what, f"{OURS}, to {RANDOM}", ratio(taken, OURS, RANDOM), "x"))
    return found


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
