"""Batches of raw rows in memory, as `buffer.sampler(256)` gives them by default, and `buffer.read(rows)`,
beside one `take` per column, the draw included; and beside the same of the rows as the store has them mapped,
which nobody who samples files can do without."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import Context, Result, check, interleaved, ratio
from measuring.data import BLOCK, EPISODE, Columns, cheetah_steps, mapped_rows, warm, write
from measuring.timing import Lookup, each, results

import replaystore as rs

__all__ = ["MEASURES", "TITLES"]

SIZE, BATCHES = 256, 64
FIRST = 500
"""Batches that come first, in which pages are touched for the first time."""
TAKE = "NumPy take, the draw included"
MAPPED, OURS = "NumPy take of the mapped rows", "replaystore, Zarr"
READ = f"buffer.read of {SIZE} given rows x 5 fields"
FEW, MANY = 10**6, 10**8
SPARE = 4 << 30
"""Memory that is left alone."""


def _what(rows: int) -> str:
    return f"{SIZE} x 5 fields and the next observation, {rows:.0e} rows".replace("e+0", "e")


TITLES = {_what(FEW): "256 transitions of 5 small fields and the next observation, of a million"}


def default_call(context: Context) -> list[Result]:
    """A million steps, in every run, and as many more as memory has room for, up to a hundred million; those
    are narrow, so that files and arrays fit side by side."""
    recorded, _ = cheetah_steps(context.choose(BLOCK, BLOCK // 10))
    found = []
    for wanted, target in ((FEW, 1.25), (MANY, 1.6)):
        if wanted == MANY:
            few = {"observation": recorded["observation"][:, :4], "action": recorded["action"][:, :1]}
            recorded = {name: np.ascontiguousarray(values) for name, values in (recorded | few).items()}
        row = sum(values[0].nbytes for values in recorded.values())
        room = (_available() - SPARE) // (2 * row)  # in the file, and in memory
        rows = min(wanted, context.choose(wanted, 10 * wanted // FEW * EPISODE), room)
        rows = rows // len(recorded["reward"]) * len(recorded["reward"])
        place = context.folder / f"{wanted}.zarr"
        context.say(f"{rows} steps (writing them first)")
        write(place, rows, recorded)
        columns = {
            name: np.concatenate([values] * (rows // len(values))) for name, values in recorded.items()
        }
        warm(place)
        found += _compared(context, place, columns, _what(wanted), target if rows == wanted else None)
    return found


def _compared(
    context: Context, place: Path, columns: Columns, what: str, target: float | None
) -> list[Result]:
    rows, rng = len(columns["reward"]), np.random.default_rng(0)
    lookup = Lookup(columns)
    note = f"{rows} steps"

    def taking(source: Columns) -> Callable[[], Columns]:
        def take() -> Columns:
            index = rng.integers(0, rows - 1, SIZE)
            batch = {name: values.take(index, axis=0) for name, values in source.items()}
            return batch | {"next_observation": source["observation"].take(index + 1, axis=0)}

        return take

    sampler, mapped = rs.open(place).sampler(SIZE, seed=0), taking(mapped_rows(rs.open(place)))
    made = {OURS: sampler.sample, MAPPED: mapped}
    first = {name: each(make, FIRST)() for name, make in made.items()}
    lookup.check(sampler.sample(), place.name)
    made = {TAKE: taking(columns)} | made
    seconds = interleaved({name: each(make, BATCHES) for name, make in made.items()}, context.choose(101, 9))
    found = results(what, seconds, TAKE, {} if target is None else {OURS: target})
    found.append(Result(what, f"{OURS}, to that of the mapped rows", ratio(seconds, OURS, MAPPED), "x"))
    for name, taken in first.items():
        found.append(
            Result(
                what,
                f"{name}: the first {FIRST} batches to later ones",
                taken / statistics.median(seconds[name]),
                "x",
                2.0 if name == OURS else None,
                detail=f"{taken * 1e6:.1f} us a batch, opened anew; {note}",
            )
        )
    return found


def reading(context: Context) -> list[Result]:
    """Rows of all fields by their numbers."""
    recorded, _ = cheetah_steps(context.choose(BLOCK, BLOCK // 10))
    times = context.choose(FEW // BLOCK, 10)
    place = context.folder / "read.zarr"
    write(place, len(recorded["reward"]) * times, recorded)
    columns = {name: np.concatenate([values] * times) for name, values in recorded.items()}
    buffer, rows, rng = rs.open(place), len(columns["reward"]), np.random.default_rng(0)
    index = rng.integers(0, rows, SIZE)
    for name, values in buffer.read(index).items():
        check(np.array_equal(values, columns[name][index]), "read", name)
    draw: Callable[[], np.ndarray] = lambda: rng.integers(0, rows, SIZE)  # noqa: E731  # one name for both

    def take() -> Columns:
        index = draw()
        return {name: values.take(index, axis=0) for name, values in columns.items()}

    context.say(READ)
    seconds = interleaved(
        {TAKE: each(take, BATCHES), "replaystore, Zarr": each(lambda: buffer.read(draw()), BATCHES)},
        context.choose(61, 9),
    )
    value = ratio(seconds, "replaystore, Zarr", TAKE)
    middle = statistics.median(seconds["replaystore, Zarr"])
    detail = f"median {middle * 1e6:.1f} us, take {statistics.median(seconds[TAKE]) * 1e6:.1f} us"
    return [Result(READ, "replaystore, Zarr", value, "x", 1.5, detail=detail, seconds=middle)]


def _available() -> int:
    """Bytes of memory that are free, or could be."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


MEASURES = {"gathers": default_call, "read": reading}
