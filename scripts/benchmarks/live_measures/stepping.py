"""A reader that goes on to each commit of eight environments, and samples a batch."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from measuring import Context, Result, remove
from measuring.data import FIELDS

import replaystore as rs

__all__ = ["MEASURES"]

ENVS, SIZE = 8, 256
READER = f"{ENVS} environments: commit, refresh and sample {SIZE} at every step"
SCHEMA = rs.Schema({name: rs.Field(dtype, shape, name) for name, (dtype, shape) in FIELDS.items()})


def _filled(context: Context, rows: int, name: str, envs: int) -> tuple[rs.Buffer, Any]:
    buffer = rs.create(context.folder / name, SCHEMA, durability="none")
    writer = buffer.writer(envs)
    step = _step(envs)
    writer.reset(step[-1])
    ends = np.random.default_rng(0).random((rows // envs, envs)) < 0.01
    for ended in ends:
        writer.step(step[0], step[1], ended, step[3], step[4])
    buffer.commit()
    return buffer, writer


def _step(envs: int) -> list[Any]:
    """Action, reward, terminated, truncated, observation."""
    names = ("action", "reward", "terminated", "truncated", "observation")
    return [np.zeros((envs, *FIELDS[name][1]), FIELDS[name][0]) for name in names]


def reader(context: Context) -> list[Result]:
    """What a refresh and a sample take beside a sample of what is there."""
    found = []
    for rows in (10**4, 10**6):
        name = f"reader{rows}.zarr"
        buffer, writer = _filled(context, context.choose(rows, rows // 10), name, ENVS)
        step, seconds, again = _step(ENVS), [], []
        with rs.open(context.folder / name) as other:
            sampler = other.sampler(SIZE, seed=0)
            for _ in range(context.choose(1000, 100)):
                writer.step(*step)
                buffer.commit()
                begin = time.perf_counter()
                sampler.refresh()
                sampler.sample()
                middle = time.perf_counter()
                sampler.sample()
                seconds.append(middle - begin)
                again.append(time.perf_counter() - middle)
        above = statistics.median(seconds) - statistics.median(again)
        found.append(Result(f"{READER}, {rows} steps", "refresh, above a batch", above * 1e6, "us", 300))
        buffer.close()
        remove(context.folder / name)
    return found


MEASURES = {"live-reader": reader}
