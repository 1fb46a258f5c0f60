"""Opening, first batches, scans, training and excerpts of stores on a server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import Context, Result, check, interleaved, ratio
from measuring.data import BLOCK, FIELDS, Columns

import replaystore as rs
from remote_measures.material import KINDS, LONG, files_of, material, steps_of
from remote_measures.server import LATENCIES, Server, bare_reader, serving

__all__ = ["batch", "excerpt", "opening", "scan", "training"]

ROWS = 1 << 16
"""Steps that are read at once by who goes through all of them."""
STEP = 0.05
"""Seconds of a step of training."""


def _ms(latency: float) -> str:
    return f"{latency * 1e3:.0f} ms"


def opening(context: Context) -> list[Result]:
    """Opening: requests, and rounds of requests that wait for one another."""
    folder, _ = material(context)
    results = []
    targets = {"Zarr, live": (12.0, 3.0), "HDF5, live": (4.0, None)}
    with serving(folder, LATENCIES[-1]) as server:
        for kind, name in KINDS.items():
            taken = []
            for _ in range(context.choose(7, 3)):
                server.counted()
                begin = time.perf_counter()
                with rs.open(f"{server.url}/{name}") as buffer:
                    taken.append(time.perf_counter() - begin)
                    check(len(buffer) == steps_of(context), kind, "steps")
                counted = server.counted()
            detail = f"{statistics.median(taken) * 1e3:.0f} ms at {_ms(LATENCIES[-1])}, {counted.bytes} bytes"
            requests, rounds = targets.get(kind, (None, None))
            results += [
                Result("open", f"{kind}: requests", counted.requests, "", requests, detail=detail),
                Result("open", f"{kind}: rounds", counted.waves, "", rounds),
            ]
    return results


def batch(context: Context) -> list[Result]:
    """The first batch of 256 steps, all fields, of a sampler."""
    folder, _ = material(context)
    results, what = [], "first batch of 256 x 5 fields"
    with serving(folder, LATENCIES[-1]) as server:
        for kind, name in KINDS.items():
            with rs.open(folder / name) as near:
                expected = near.sampler(256, seed=0, prefetch=0).sample()
            taken = []
            for _ in range(context.choose(7, 3)):
                with rs.open(f"{server.url}/{name}") as buffer:
                    sampler = buffer.sampler(256, seed=0, prefetch=0)
                    server.counted()
                    begin = time.perf_counter()
                    found = sampler.sample()
                    taken.append(time.perf_counter() - begin)
                    counted = server.counted()
                for field, values in expected.items():
                    check(np.array_equal(found[field], values), kind, field)
            target = 2.0 if "live" in kind else None
            detail = (
                f"{counted.requests} requests, {counted.bytes} bytes, {statistics.median(taken) * 1e3:.0f} ms"
            )
            results.append(Result(what, f"{kind}: rounds", counted.waves, "", target, detail=detail))
    return results


def scan(context: Context) -> list[Result]:
    """All columns, one after the other, beside a bare reader of the same files."""
    folder, columns = material(context, LONG)
    results = []
    for latency in LATENCIES:
        with serving(folder, latency) as server:
            for kind in KINDS:
                results += _scan(context, folder, server, kind, latency, columns)
    return results


def _scan(
    context: Context, folder: Path, server: Server, kind: str, latency: float, columns: Columns
) -> list[Result]:
    files = files_of(folder, kind)
    what = f"scan at {_ms(latency)}"
    size = sum(size for _, size in files)
    with rs.open(f"{server.url}/{KINDS[kind]}") as buffer:

        def bare() -> float:
            begin = time.perf_counter()
            bare_reader(server.url, files)
            return time.perf_counter() - begin

        def columnwise() -> float:
            taken = 0.0
            for name in FIELDS:
                begin = time.perf_counter()
                found = buffer[name][:]
                taken += time.perf_counter() - begin
                check(np.array_equal(found[-BLOCK:], columns[name]), kind, name)
            return taken

        def blocks() -> float:
            taken = 0.0
            for first in range(0, len(buffer), ROWS):
                begin = time.perf_counter()
                found = buffer.read(slice(first, first + ROWS))
                taken += time.perf_counter() - begin
                some = np.arange(first, first + len(found["reward"])) % BLOCK
                for name, values in found.items():
                    check(np.array_equal(values, columns[name][some]), kind, name)
            return taken

        variants: dict[str, Callable[[], float]] = {"bare": bare, "columns": columnwise, "blocks": blocks}
        seconds = interleaved(variants, context.choose(7, 3))
    speed = size / statistics.median(seconds["bare"]) / 1e6
    return [
        Result(
            what,
            f"{kind}: {told}",
            100 / ratio(seconds, name, "bare"),
            "%",
            80.0 if "live" in kind else None,
            at_most=False,
            detail=f"bare reader {speed:.0f} MB/s",
        )
        for name, told in (
            ("columns", "one whole column after the other"),
            ("blocks", f"blocks of {ROWS} steps"),
        )
    ]


def training(context: Context) -> list[Result]:
    """How busy a training of steps of 50 ms is, with batches made ahead."""
    folder, _ = material(context)
    results, count = [], context.choose(100, 30)
    what = f"training at {_ms(LATENCIES[-1])}, steps of {STEP * 1e3:.0f} ms"
    with serving(folder, LATENCIES[-1]) as server:
        for kind, name in KINDS.items():
            for told, options in (("", {}), (", with cache=", {"cache": 1 << 30})):
                with rs.open(f"{server.url}/{name}", **options) as buffer:
                    sampler = buffer.sampler(256, seed=0)
                    sampler.sample()
                    server.counted()
                    begin = time.perf_counter()
                    for _ in range(count):
                        sampler.sample()
                        time.sleep(STEP)
                    busy = 100 * count * STEP / (time.perf_counter() - begin)
                    counted = server.counted()
                    sampler.close()
                detail = (
                    f"{counted.requests / count:.0f} requests and {counted.bytes / count:.0f} bytes a step"
                )
                results.append(Result(what, kind + told, busy, "% busy", 95.0, at_most=False, detail=detail))
    return results


def excerpt(context: Context) -> list[Result]:
    """1 % of the rows of coded data, which lie side by side: the bytes that come for it."""
    folder, columns = material(context)
    results = []
    count = steps_of(context) // 100
    with serving(folder, 0.0) as server:
        for kind in ("Zarr, archive", "zip, archive"):
            with rs.open(f"{server.url}/{KINDS[kind]}") as buffer:
                buffer["observation"][:1]  # the first index, and the checksums
                server.counted()
                begin = steps_of(context) // 2
                found = buffer["observation"][begin : begin + count]
                counted = server.counted()
                check(np.array_equal(found, columns["observation"][:count]), kind, "observation")
                rows = buffer["observation"].chunks[0]
                chunks = (begin + count - 1) // rows - begin // rows + 1
                least = chunks * rows * columns["observation"][0].nbytes
            value = 100 * counted.bytes / least
            detail = f"{counted.bytes} bytes in {counted.requests} requests, {counted.rounds} rounds"
            results.append(
                Result(
                    "1 % of the rows", f"{kind}: of their decoded chunks", value, "%", 110.0, detail=detail
                )
            )
    return results
