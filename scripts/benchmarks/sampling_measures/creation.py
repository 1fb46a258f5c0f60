"""Making a sampler of a large buffer: what depends on its trajectories must not depend on its steps."""

from __future__ import annotations

import statistics
import time

import numpy as np
from measuring import Context, Result, check

import replaystore as rs

__all__ = ["creation"]

LENGTH = 100
BLOCK = 10**6


def creation(context: Context) -> list[Result]:
    steps = BLOCK * context.choose(100, 5)
    what = f"make a sampler of {steps // 10**6} million steps, {steps // LENGTH} trajectories"
    context.say(f"{what} (writing them first)")
    place = context.folder / "long.zarr"
    schema = rs.Schema(
        {"reward": rs.Field(np.float32, (), "reward"), "terminated": rs.Field(np.bool_, (), "terminated")}
    )
    columns = {
        "reward": np.arange(BLOCK, dtype=np.float32),
        "terminated": np.arange(1, BLOCK + 1) % LENGTH == 0,
    }
    with rs.create(place, schema, durability="none") as buffer:
        for _ in range(steps // BLOCK):
            buffer.append(columns)
    times: dict[str, list[float]] = {
        "open": [],
        "sampler, uniform": [],
        "sampler, epoch": [],
        "sampler, trajectory": [],
    }
    for _ in range(context.choose(5, 3)):
        for order in ("uniform", "epoch", "trajectory"):
            begin = time.perf_counter()
            with rs.open(place) as buffer:
                opened = time.perf_counter()
                sampler = buffer.sampler(256, order=order, next_observation=False)
                times[f"sampler, {order}"].append(time.perf_counter() - opened)
                times["open"].append(opened - begin)
                check(sampler.num_items == steps == len(buffer), str(place), "steps")
                check(buffer.num_trajectories == steps // LENGTH, str(place), "trajectories")
                batch = sampler.sample()
                check(
                    np.array_equal(batch["terminated"], (batch["reward"].astype(np.int64) + 1) % LENGTH == 0),
                    str(place),
                    "terminated",
                )
    found = []
    for name, values in times.items():
        target = 1.0 if name == "sampler, uniform" else None
        found.append(Result(what, name, statistics.median(values), "s", target))
    return found
