"""What it takes to make samplers of large buffers, and fragments of environments whose steps lie side by
side."""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import Context, Result, interleaved, ratio, remove
from measuring.data import FIELDS, Columns, cheetah_steps, mapped_rows, schema, write
from measuring.timing import each

import replaystore as rs

__all__ = ["MEASURES"]

ENVS, SIZE, LENGTH = 8, 32, 64
MANY = "a million trajectories"
WEIGHED = "prioritised, of ten million steps"
FRAGMENTS = f"fragments {SIZE} x {LENGTH} of {ENVS} environments, a commit at each step"


def trajectories(context: Context) -> list[Result]:
    """A sampler of a buffer of very many short trajectories, and a refresh after one more."""
    count, length, block = context.choose(10**6, 10**4), 3, 10**4
    place = context.folder / "many.zarr"
    buffer = rs.create(place, schema(), durability="none")
    columns = {name: np.zeros((block * length, *shape), dtype) for name, (dtype, shape) in FIELDS.items()}
    columns["terminated"][length - 1 :: length] = True
    finals = np.zeros((block, *FIELDS["observation"][1]), FIELDS["observation"][0])
    for _ in range(count // block):
        buffer.append(columns, final_observation=finals)
    buffer.commit()
    few = {name: values[:length] for name, values in columns.items()}
    with rs.open(place) as other:
        made = _seconds(lambda: other.sampler(256, seed=0))
        sampler, memory = _memory(lambda: other.sampler(256, seed=0))
        seconds = []
        for _ in range(20):
            buffer.append(few, final_observation=finals[:1])
            buffer.commit()
            begin = time.perf_counter()
            sampler.refresh()
            seconds.append(time.perf_counter() - begin)
    buffer.close()
    remove(place)
    first = f"the first time {seconds[0] * 1e3:.0f} ms"
    return [
        Result(MANY, "sampler()", made * 1e3, "ms", 50),
        Result(MANY, "refresh after one more", statistics.median(seconds) * 1e3, "ms", 1, detail=first),
        Result(MANY, "memory of the sampler, each", memory / count, "B", 150),
    ]


def weighed(context: Context) -> list[Result]:
    """A sampler with priorities, and what it keeps when it has made a batch."""
    count = context.choose(10**7, 10**5)
    recorded, _ = cheetah_steps(10**4)
    place = context.folder / "weighed.zarr"
    write(place, count, recorded)

    def make() -> Any:
        sampler = buffer.sampler(256, order="prioritized", alpha=0.6, beta=0.4, seed=0)
        sampler.sample()
        return sampler

    with rs.open(place) as buffer:
        made = _seconds(make)
        _, memory = _memory(make)
    remove(place)
    return [
        Result(WEIGHED, "sampler() and its first batch", made * 1e3, "ms", 150),
        Result(WEIGHED, "memory of the sampler, a step", memory / count, "B", 16),
    ]


def fragments(context: Context) -> list[Result]:
    """Beside a gather of the same strides, of arrays and of the store's own mapped rows, and beside a store
    of one commit, grouped by trajectory."""
    steps = context.choose(10**5, 10**4) // ENVS
    place, grouped = context.folder / "lanes.zarr", context.folder / "grouped.zarr"
    names = ("action", "reward", "terminated", "truncated", "observation")
    step = [np.zeros((ENVS, *FIELDS[name][1]), FIELDS[name][0]) for name in names]
    with rs.create(place, schema(), durability="none") as buffer:
        writer = buffer.writer(ENVS)
        writer.reset(step[-1])
        for ended in np.random.default_rng(0).random((steps, ENVS)) < 1 / 500:
            writer.step(step[0], step[1], ended, step[3], step[4])
            buffer.commit()
            if ended.any():
                writer.reset(step[-1], mask=ended)
    rs.convert(place, grouped, codec="raw", grouped=True)
    settings: dict[str, Any] = {"fragment_length": LENGTH, "seed": 0}
    rng = np.random.default_rng(0)
    with rs.open(place) as mine, rs.open(grouped) as other:
        columns, mapped = {name: mine[name][:] for name in mine.schema.fields}, mapped_rows(mine)
        rows = len(mine)

        def gather(columns: Columns, stride: int) -> dict[str, Any]:
            first = rng.integers(0, rows - ENVS * (LENGTH + 1), SIZE)
            index = (first[:, None] + stride * np.arange(LENGTH)).reshape(-1)
            batch = {name: values.take(index, axis=0) for name, values in columns.items()}
            return batch | {"next_observation": columns["observation"].take(index + stride, axis=0)}

        lanes, by_trajectory = mine.sampler(SIZE, **settings), other.sampler(SIZE, **settings)
        variants: dict[str, Callable[[], object]] = {
            "take": lambda: gather(columns, ENVS),
            "take side by side": lambda: gather(columns, 1),
            "take of mapped rows": lambda: gather(mapped, ENVS),
            "lanes": lanes.sample,
            "grouped": by_trajectory.sample,
        }
        seconds = interleaved(
            {name: each(made, 64) for name, made in variants.items()}, context.choose(61, 5)
        )
    remove(place)
    remove(grouped)
    detail = f"median {statistics.median(seconds['lanes']) * 1e6:.0f} us"
    return [
        Result(
            FRAGMENTS, "to NumPy take of such rows", ratio(seconds, "lanes", "take"), "x", 1.2, detail=detail
        ),
        Result(
            FRAGMENTS,
            "to NumPy take of the rows as they are mapped",
            ratio(seconds, "lanes", "take of mapped rows"),
            "x",
            detail="what rows there are, and no more, computed by a bare loop",
        ),
        Result(FRAGMENTS, "to one commit, grouped", ratio(seconds, "lanes", "grouped"), "x", 1.1),
        Result(
            FRAGMENTS,
            "NumPy take alone: such rows to rows side by side",
            ratio(seconds, "take", "take side by side"),
            "x",
            detail="what touching memory in more places costs by itself",
        ),
    ]


def _seconds(make: Callable[[], Any]) -> float:
    """What it takes, when what it needs has been read: the median of some."""
    found = []
    for turn in range(6):
        begin = time.perf_counter()
        make()
        if turn:
            found.append(time.perf_counter() - begin)
    return statistics.median(found)


def _memory(make: Callable[[], Any]) -> tuple[Any, int]:
    """What is made, and the bytes that it keeps."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    made = make()
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return made, kept


MEASURES = {"many-trajectories": trajectories, "weighed": weighed, "fragments": fragments}
