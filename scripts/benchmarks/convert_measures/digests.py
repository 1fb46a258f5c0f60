"""The digest of a store beside SHA-256 of as many bytes on all cores."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import Context, Result, interleaved, ratio

import replaystore as rs
from convert_measures.material import episodes

__all__ = ["digests"]

PIECE = 1 << 20


def digests(context: Context) -> list[Result]:
    """Stores whose files are in the page cache."""
    long = episodes(context.shared / "long", 4, context.choose(4_000_000, 200_000))
    short = episodes(context.shared / "short", context.choose(5000, 500), 200)
    found = []
    for what, store, target in (("long trajectories", long, 70.0), ("5,000 of 200 steps", short, None)):
        with rs.open(store) as buffer:
            size = len(buffer) * sum(field.row_bytes for field in buffer.schema.fields.values())
        context.say(f"digest: {what}")
        times = interleaved(
            {"digest": _digest(store), "SHA-256": lambda size=size: _bare(size)}, context.choose(5, 1)
        )
        seconds = statistics.median(times["digest"])
        found.append(
            Result(
                "digest, to SHA-256 on all cores",
                what,
                100 / ratio(times, "digest", "SHA-256"),
                "%",
                target,
                at_most=False,
                detail=f"{size / seconds / 1e6:.0f} MB/s",
                seconds=seconds,
            )
        )
    return found


def _digest(store: Path) -> Callable[[], float]:
    def taken() -> float:
        begin = time.perf_counter()
        rs.digest(store)
        return time.perf_counter() - begin

    return taken


def _bare(size: int) -> float:
    piece = os.urandom(PIECE)
    begin = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda _: hashlib.sha256(piece).digest(), range(size // PIECE)):
            pass
    return time.perf_counter() - begin
