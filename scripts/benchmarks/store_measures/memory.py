"""Memory that recording and converting take: the peak of anonymous memory of a process, above what it has after the imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from store_measures import Context, Result

__all__ = ["memory"]

WORKER = Path(__file__).with_name("memory_worker.py")


def memory(context: Context) -> list[Result]:
    """Record frames, convert them to HDF5, and back."""
    if not Path("/proc/self/status").exists():
        return [Result("peak memory", "all", None, "", detail="skipped: only Linux tells a process its anonymous memory")]
    size = context.choose(4 << 30, 1 << 29)
    what = f"peak memory, {size / (1 << 30):g} GB of frames"
    recorded, hdf5, back = (context.folder / name for name in ("frames.zarr", "frames.h5", "again.zarr"))
    results = []
    for variant, arguments in (
        ("record, Zarr", ["record", recorded, str(size)]),
        ("convert, Zarr to HDF5", ["convert", recorded, hdf5]),
        ("convert, HDF5 to Zarr", ["convert", hdf5, back]),
        ("record, HDF5", ["record", context.folder / "frames2.h5", str(size // 4)]),
    ):
        context.say(f"{what}: {variant}")
        command = [sys.executable, str(WORKER), *map(str, arguments)]
        answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        speed = answer["bytes"] / answer["seconds"] / 1e6
        detail = f"above {answer['base'] / 1e6:.0f} MB after the imports; {answer['seconds']:.1f} s, {speed:.0f} MB/s"
        results.append(Result(what, variant, answer["peak"] / 1e6, "MB", 300.0, detail=detail))
    return results
