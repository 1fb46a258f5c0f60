"""A trainer's loop: eight environments' steps are recorded and a batch is sampled, every time; live, from a
reader that goes on to each commit, and prioritised; beside Stable-Baselines3 and cpprb."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from measuring import Context, Result, interleaved, ratio, remove, skipped
from measuring.data import FIELDS

import replaystore as rs
from live_measures import peers

__all__ = ["MEASURES"]

ENVS, SIZE, STEPS = 8, 256, 300
LIVE = f"{ENVS} environments: record and sample {SIZE} at every step, live"
READER = f"{ENVS} environments: commit, refresh and sample {SIZE} at every step"
PRIORITIES = f"prioritised: add 1, sample {SIZE}, update {SIZE}"
ROLES = {"observation", "action", "reward", "terminated", "truncated"}
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


def _timed(each: Any, count: int = STEPS) -> Any:
    def run() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            each()
        return (time.perf_counter() - begin) / count

    return run


def live(context: Context) -> list[Result]:
    """Beside the same steps in memory, for buffers of several sizes."""
    found = []
    for rows in (10**4, 10**6):
        context.say(f"{rows} steps (recording them first)")
        buffer, writer = _filled(context, context.choose(rows, rows // 10), f"live{rows}.zarr", ENVS)
        sampler, step = buffer.sampler(SIZE, seed=0, live=True), _step(ENVS)

        def record(writer: Any = writer, sampler: Any = sampler, step: Any = step) -> None:
            writer.step(*step)
            sampler.sample()

        variants = {"replaystore": _timed(record)}
        missing = peers.reason("stable-baselines3")
        if not missing:
            peer = peers.stable_baselines3(rows, ENVS, SIZE)
            for _ in range(rows // ENVS):
                peer.add(step[-1], step)

            def remember(peer: Any = peer, step: Any = step) -> None:
                peer.add(step[-1], step)
                peer.sample()

            variants["stable-baselines3"] = _timed(remember)
        seconds = interleaved(variants, context.choose(7, 2))
        mine = statistics.median(seconds["replaystore"])
        what = f"{LIVE}, {rows} steps"
        found.append(
            skipped(what, "stable-baselines3", missing)
            if missing
            else Result(
                what,
                "replaystore, to Stable-Baselines3",
                ratio(seconds, "replaystore", "stable-baselines3"),
                "x",
                2.0,
                seconds=mine,
            )
        )
        buffer.close()
        remove(context.folder / f"live{rows}.zarr")
    return found


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


def prioritised(context: Context) -> list[Result]:
    """Live, of a million steps."""
    rows = context.choose(10**6, 10**5)
    buffer, writer = _filled(context, rows, "prioritised.zarr", 1)
    sampler = buffer.sampler(SIZE, seed=0, live=True, order="prioritized", alpha=0.6, beta=0.4)
    step, priorities = _step(1), np.random.default_rng(0).random(SIZE) + 0.1

    def record() -> None:
        writer.step(*step)
        batch = sampler.sample()
        sampler.update_priorities(batch["index"], priorities)

    variants, missing = {"replaystore": _timed(record)}, peers.reason("cpprb")
    if not missing:
        peer = peers.cpprb_prioritized(rows, SIZE)
        block = [np.repeat(value, 1000, axis=0) for value in step]
        for _ in range(rows // 1000):
            peer.add(block[-1], block)

        def remember() -> None:
            peer.add(step[-1], step)
            if peer.update is not None:
                peer.update(peer.sample(), priorities)

        variants["cpprb"] = _timed(remember)
    seconds = interleaved(variants, context.choose(7, 2))
    buffer.close()
    remove(context.folder / "prioritised.zarr")
    if missing:
        return [skipped(PRIORITIES, "cpprb", missing)]
    mine = statistics.median(seconds["replaystore"])
    return [
        Result(
            PRIORITIES,
            "replaystore, to cpprb",
            ratio(seconds, "replaystore", "cpprb"),
            "x",
            1.0,
            seconds=mine,
        )
    ]


MEASURES = {
    "live-loop": live,
    "live-reader": reader,
    "live-prioritised": prioritised,
}
