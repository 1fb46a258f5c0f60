"""Takes one batch of random rows from files that are not in memory, and prints how long it took, as JSON.

cold_worker.py PLACE SEED SIZE STEPS [random] [next]

A place that is a file holds bare rows, any other is a store. What is opened first is not in memory either,
and its time is told by itself. `random`: the system is told that neighbours of pages are not wanted. `next`:
the rows after those are taken, too (of a store, the observations that follow, as it gives them by default).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np

import replaystore as rs
import replaystore.containers.zarr.container

WIDTH = 17


def forget(paths: list[Path]) -> None:
    """Have the system forget the files."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def resident(paths: list[Path]) -> float:
    """The share of their pages that is in memory."""
    library, here, pages = ctypes.CDLL(None), 0, 0
    for path in paths:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            count = -(-len(mapped) // mmap.PAGESIZE)
            found, address = (ctypes.c_ubyte * count)(), np.frombuffer(mapped, np.uint8).ctypes.data
            library.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), found)
            here, pages = here + sum(byte & 1 for byte in found), pages + count
    return here / pages


def import_all() -> None:
    """Use what is imported when it is needed: importing is not what is measured."""
    schema = rs.Schema({"observation": rs.Field("float32", (WIDTH,), "observation")})
    with rs.create("memory:first", schema) as buffer:
        buffer.append({"observation": np.zeros((2, WIDTH), np.float32)})
        buffer.commit()
        buffer.sampler(1).sample()


def main() -> None:
    import_all()
    place, seed, size, steps = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    following = "next" in sys.argv[5:]
    rng = np.random.default_rng(seed)
    if place.is_file():
        forget([place])
        share = resident([place])
        begin = time.perf_counter()
        array = np.memmap(place, np.float32, "r", shape=(steps, WIDTH))
        if "random" in sys.argv[5:]:
            array._mmap.madvise(mmap.MADV_RANDOM)
        opened = time.perf_counter()
        rows = rng.integers(0, steps - 1, size)
        found = [array.take(rows, axis=0)]
        if following:
            found.append(array.take(rows + 1, axis=0))
        seconds = time.perf_counter() - opened
    else:
        files = [file for file in place.rglob("*") if file.is_file()]
        forget(files)
        share = resident([file for file in files if "observation" in file.parts and file.name != "zarr.json"])
        begin = time.perf_counter()
        sampler = rs.open(place).sampler(size, fields=["observation"], next_observation=following, seed=seed)
        opened = time.perf_counter()
        batch = sampler.sample()
        seconds = time.perf_counter() - opened
        rows = batch["index"]
        found = [batch[name] for name in ("observation", "next_observation") if name in batch]
    answer = {
        "opening": opened - begin,
        "seconds": seconds,
        "resident": share,
        "rows": rows.tolist(),
        "sums": [float(values.astype(np.float64).sum()) for values in found],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
