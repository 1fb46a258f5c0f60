"""Files of other software, read by us and by the library that they are of, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from measuring import Context, Result, check, interleaved, ratio, skipped

import replaystore as rs
from convert_measures.material import READERS, episodes
from replaystore.errors import ReplayStoreError
from replaystore.formats import RingSource, named

__all__ = ["reading"]

BLOCK = 4 << 20
SHAPES = {"5,000 of 200 steps": (5000, 200), "20 of 50,000 steps": (20, 50_000)}
TARGETS = {("minari", "5,000 of 200 steps"): 10.0}
"""How many times as fast as the library we are to be; 1 where nothing is said."""


def reading(context: Context) -> list[Result]:
    """All steps, in blocks of one trajectory each, beside all steps as the library's users get them: read
    into memory, and where these are flat arrays cut into those of each trajectory."""
    found = []
    for shape, (many, long) in SHAPES.items():
        count, length = context.choose(many, max(2, many // 50)), context.choose(long, max(10, long // 10))
        store = episodes(context.shared / f"{count}x{length}", count, length)
        found += [_one(context, name, shape, store, count * length) for name in READERS]
    return found


def _one(context: Context, name: str, shape: str, store: Path, steps: int) -> Result:
    what, (called, theirs) = f"reading, episodes: {shape}", READERS[name]
    path = context.folder / f"{shape[:2].strip(',')}" / called
    context.say(f"{what}: {name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rs.convert(store, path, target_format=name)
        ours = _ours(name, path)
        check(ours() == steps and theirs(path) >= steps, name, "steps")
    except (ImportError, ReplayStoreError) as error:
        return skipped(what, name, " ".join(str(error).split())[:120])
    times = interleaved({"ours": _timed(ours), "theirs": _timed(lambda: theirs(path))}, context.choose(5, 1))
    seconds = statistics.median(times["ours"])
    return Result(
        what,
        name,
        ratio(times, "theirs", "ours"),
        "x",
        TARGETS.get((name, shape), 1.0),
        at_most=False,
        detail=f"{seconds:.3f} s, its own library {statistics.median(times['theirs']):.3f} s",
        seconds=seconds,
    )


def _ours(name: str, path: Path) -> Callable[[], int]:
    def read() -> int:
        with named(name).read(str(path)) as source:
            if isinstance(source, RingSource):
                raise SystemExit(f"bench: {name} is a ring")
            return sum(len(block) for block in source.blocks(BLOCK))

    return read


def _timed(run: Callable[[], object]) -> Callable[[], float]:
    def taken() -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    return taken
