"""Reading whole columns, converting, and opening."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import Context, Result, check, clean, interleaved, ratio, remove
from measuring.data import BLOCK, EPISODE, FIELDS, Columns, cheetah_steps, write

import replaystore as rs

__all__ = ["conversion", "opening", "read"]


def _size(place: Path) -> int:
    return (
        place.stat().st_size
        if place.is_file()
        else sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    )


def read(context: Context) -> list[Result]:
    """All columns of a buffer, one after the other, from the page cache."""
    what, steps = "read whole raw columns", BLOCK * context.choose(10, 3)
    columns, _ = cheetah_steps(BLOCK)
    context.say(f"{what}: {steps} steps")
    maps = {}
    for name, rows in columns.items():
        path = context.folder / f"{name}.map"
        with open(path, "wb") as file:
            for _ in range(steps // BLOCK):
                file.write(rows.data)
        maps[name] = np.memmap(path, rows.dtype, "r", shape=(steps, *rows.shape[1:]))
    places = {
        "replaystore, Zarr": context.folder / "read.zarr",
        "replaystore, HDF5": context.folder / "read.h5",
    }
    variants: dict[str, Callable[[], float]] = {}

    def copy() -> float:
        taken = 0.0
        for name in FIELDS:
            begin = time.perf_counter()
            found = np.array(maps[name])
            taken += time.perf_counter() - begin
            del found
        return taken

    def ours(buffer: rs.Buffer) -> float:
        taken = 0.0
        for name in FIELDS:
            begin = time.perf_counter()
            found = buffer[name][:]
            taken += time.perf_counter() - begin
            check(np.array_equal(found, maps[name]), buffer.location, name)
        return taken

    variants["np.memmap"] = copy
    buffers = []
    for variant, place in places.items():
        write(place, steps, columns)
        buffers.append(rs.open(place))
        variants[variant] = lambda buffer=buffers[-1]: ours(buffer)
    seconds = interleaved(variants, context.choose(11, 5))
    size = sum(array.nbytes for array in maps.values())
    speed = {name: size / statistics.median(values) / 1e9 for name, values in seconds.items()}
    results = [
        Result(
            what, "np.array(np.memmap)", 100.0, "%", detail=(f"{speed['np.memmap']:.2f} GB/s; the reference")
        )
    ]
    for variant, buffer in zip(places, buffers, strict=True):
        buffer.close()
        value = 100 / ratio(seconds, variant, "np.memmap")
        results.append(
            Result(what, variant, value, "%", 80.0, at_most=False, detail=f"{speed[variant]:.2f} GB/s")
        )
    clean(context.folder)
    return results


def conversion(context: Context) -> list[Result]:
    """Raw fields from Zarr to HDF5 and back."""
    what, steps = "convert raw fields", BLOCK * context.choose(100, 10)
    columns, _ = cheetah_steps(BLOCK)
    context.say(f"{what}: {steps} steps, Zarr to HDF5 and back")
    kinds = {"Zarr": ".zarr", "HDF5": ".h5"}
    # What is converted has the durability of its source: synced at the end, or not.
    for suffix in kinds.values():
        for durability in ("none", "commit"):
            write(context.folder / f"{durability}{suffix}", steps, columns, durability)
    _sync()
    results = []
    for source, target in (("Zarr", "HDF5"), ("HDF5", "Zarr")):
        place, synced = context.folder / f"none{kinds[source]}", context.folder / f"commit{kinds[source]}"
        copied = context.folder / f"target{kinds[target]}"
        variants = {
            "cp": lambda place=place: _copy(place, context.folder / "copy"),
            "replaystore": lambda place=place, copied=copied: _convert(place, copied, columns),
            "cp, sync": lambda place=place: _copy(place, context.folder / "copy", sync=True),
            "replaystore, synced": lambda place=synced, copied=copied: _convert(place, copied, columns),
        }
        seconds = interleaved(variants, context.choose(7, 3))
        speed = {name: _size(place) / statistics.median(values) / 1e9 for name, values in seconds.items()}
        for variant, reference, goal in (
            ("replaystore", "cp", 60.0),
            ("replaystore, synced", "cp, sync", None),
        ):
            value = 100 / ratio(seconds, variant, reference)
            detail = f"{speed[variant]:.2f} GB/s; {reference} {speed[reference]:.2f} GB/s"
            results.append(
                Result(
                    what,
                    f"{source} to {target}, of {reference}",
                    value,
                    "%",
                    goal,
                    at_most=False,
                    detail=detail,
                )
            )
    clean(context.folder)
    return results


def _copy(place: Path, target: Path, *, sync: bool = False) -> float:
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", str(place), str(target)], check=True)
    if sync:  # of what was copied only, as a conversion does
        files = [target] if target.is_file() else [file for file in target.rglob("*") if file.is_file()]
        subprocess.run(["sync", *map(str, files)], check=True)
    taken = time.perf_counter() - begin
    remove(target)
    _sync()
    return taken


def _convert(place: Path, target: Path, columns: Columns) -> float:
    begin = time.perf_counter()
    report = rs.convert(place, target)
    taken = time.perf_counter() - begin
    check(not report.recoded, str(target), "fields that should have been copied as bytes")
    with rs.open(target) as buffer:
        for start in range(0, len(buffer), BLOCK):
            for name, rows in buffer.read(slice(start, start + BLOCK)).items():
                check(np.array_equal(rows, columns[name]), str(target), name)
    remove(target)
    _sync()
    return taken


def _sync() -> None:
    """What one variant left for the disk to do is not to slow the next one down."""
    os.sync()


OPEN = """
import json, sys, time
import numpy, replaystore
import replaystore.buffers.create_open, replaystore.containers.zarr.container
if sys.argv[1].endswith(".h5"):
    import h5py, replaystore.containers.hdf5.container
begin = time.perf_counter()
buffer = replaystore.open(sys.argv[1])
steps = len(buffer)
opened = time.perf_counter()
rows = [float(buffer[name][steps // 2].sum()) for name in buffer.schema.fields]
row = time.perf_counter()
trajectories = buffer.num_trajectories
print(json.dumps([opened - begin, row - opened, time.perf_counter() - row, steps, trajectories, rows]))
"""


def opening(context: Context) -> list[Result]:
    """Opening a large buffer in a fresh process."""
    steps = BLOCK * context.choose(100, 10)
    what = f"open a buffer of {steps // 10**6} million steps"
    columns, _ = cheetah_steps(BLOCK)
    context.say(f"{what} (writing it first)")
    places = {
        "replaystore, Zarr": context.folder / "large.zarr",
        "replaystore, HDF5": context.folder / "large.h5",
    }
    found: dict[str, list[list[float]]] = {name: [] for name in places}
    for place in places.values():
        write(place, steps, columns)
    wanted = [float(rows[steps // 2 % BLOCK].sum()) for rows in columns.values()]
    for number in range(context.choose(11, 5) + 1):
        for name, place in places.items():
            answer = subprocess.run(
                [sys.executable, "-c", OPEN, str(place)], check=True, capture_output=True, text=True
            ).stdout
            *times, length, trajectories, rows = json.loads(answer)
            check(length == steps and trajectories == steps // EPISODE and rows == wanted, name, "steps")
            if number:
                found[name].append(times)
    results = []
    for name, target in (("replaystore, Zarr", 50.0), ("replaystore, HDF5", 100.0)):
        opened, row, table = (statistics.median(times) * 1e3 for times in zip(*found[name], strict=True))
        detail = (
            f"beyond the imports; then {row:.1f} ms for a step, {table:.1f} ms for the table of trajectories"
        )
        results.append(Result(what, name, opened, "ms", target, detail=detail))
    clean(context.folder)
    return results
