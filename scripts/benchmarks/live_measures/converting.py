"""Raw stores converted from one container to the other, beside `cp` of the source that copies its bytes."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from measuring import Context, Result, check, ratio, remove, skipped
from measuring.data import BLOCK, cheetah_steps, write

import replaystore as rs

__all__ = ["MEASURES"]

WHAT = "convert raw rows, to the speed of cp"


def converting(context: Context) -> list[Result]:
    """What both write goes to the disk at the same time: each begins when nothing is left to write, and ends
    with a sync."""
    if shutil.which("cp") is None:
        return [skipped(WHAT, "all", "there is no cp")]
    recorded, _ = cheetah_steps(context.choose(BLOCK, BLOCK // 10))
    steps = len(recorded["reward"]) * context.choose(100, 10)
    zarr, hdf5 = context.folder / "a.zarr", context.folder / "a.h5"
    context.say(f"{WHAT}: {steps} steps")
    write(zarr, steps, recorded)
    rs.convert(zarr, hdf5)
    with rs.open(hdf5) as buffer:
        for name, values in buffer.read(slice(-1000, None)).items():
            check(np.array_equal(values, recorded[name][-1000:]), "HDF5", name)
    pairs = {"Zarr to HDF5": (zarr, "b.h5"), "HDF5 to Zarr": (hdf5, "b.zarr")}
    seconds: dict[str, list[float]] = {}
    for _ in range(context.choose(5, 1)):
        for name, (source, target) in pairs.items():
            seconds.setdefault(f"cp, {name}", []).append(_copied(source, context.folder / "copy"))
            seconds.setdefault(name, []).append(_converted(source, context.folder / target))
    size = sum(values[0].nbytes for values in recorded.values()) * steps
    return [
        Result(
            WHAT,
            f"replaystore, {name}",
            100 / ratio(seconds, name, f"cp, {name}"),
            "%",
            80.0,
            at_most=False,
            detail=f"{size / statistics.median(seconds[name]) / 1e6:.0f} MB/s, both on the disk at the end",
        )
        for name in pairs
    ]


def _converted(source: Path, target: Path) -> float:
    os.sync()
    begin = time.perf_counter()
    rs.convert(source, target)
    taken = time.perf_counter() - begin
    remove(target)
    return taken


def _copied(source: Path, target: Path) -> float:
    os.sync()
    begin = time.perf_counter()
    # Else some file systems copy nothing, and share the bytes.
    subprocess.run(["cp", "-r", "--reflink=never", str(source), str(target)], check=True)
    os.sync()
    taken = time.perf_counter() - begin
    remove(target)
    return taken


MEASURES = {"convert": converting}
