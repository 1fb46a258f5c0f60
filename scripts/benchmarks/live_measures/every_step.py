"""A vector step of eight environments stored, and a batch of 256 with next observations drawn of all that
there is by then, beside other buffers that add and sample; and the same with priorities."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from measuring import Context, Result, check, interleaved, ratio, skipped
from measuring.data import BLOCK, FIELDS, Columns, cheetah_steps, vector_steps, write
from measuring.timing import results

import replaystore as rs
from live_measures import peers

__all__ = ["MEASURES", "TITLES"]

ENVS, SIZE, STEPS = 8, 256, 100
"""Vector steps of a round."""
TAKE = "NumPy take of such a batch"
SB3, TORCHRL, CPPRB = "Stable-Baselines3, in memory", "TorchRL LazyMemmapStorage", "cpprb, in memory"
SIZES = {10**4: 10**4, 10**7: 10**5}
"""Rows that are there before, and how many in a quick run."""
EVERY = f"store {ENVS} x 1 steps and sample {SIZE}"
PRIORITIES = f"add 1, sample {SIZE} and update {SIZE} priorities"

Step = Callable[[], object]


def _what(rows: int) -> str:
    return f"{EVERY}, of {rows:.0e} rows".replace("e+0", "e")


TITLES = {_what(10**7): "a step of 8 environments stored, 256 transitions sampled, of 10 million"}


def every_step(context: Context) -> list[Result]:
    """With the live sampler, raw, without commits: what is stored is seen at once."""
    recorded, _ = cheetah_steps(context.choose(BLOCK, BLOCK // 10))
    found, to_take = list[Result](), []
    for rows, fewer in SIZES.items():
        what, count = _what(rows), context.choose(rows, fewer)
        context.say(what)
        columns = _repeated(recorded, count)
        place = context.folder / f"{rows}.zarr"
        write(place, count, _first(recorded, min(count, len(recorded["reward"]))))
        variants: dict[str, Step] = {TAKE: _take(columns)}
        missing = {SB3: peers.reason("stable-baselines3"), TORCHRL: peers.reason("torchrl")}
        if not missing[SB3]:
            variants[SB3] = _peer(peers.stable_baselines3(count, ENVS, SIZE), recorded, count)
        if not missing[TORCHRL]:
            peer = peers.torchrl(context.folder / f"torchrl{rows}", count, SIZE)
            variants[TORCHRL] = _peer(peer, recorded, count, 125 * ENVS)
        with rs.open(place, "r+") as buffer:
            variants["replaystore, Zarr"] = _ours(buffer, recorded)
            seconds = interleaved({n: _round(step) for n, step in variants.items()}, context.choose(31, 3))
        found += results(what, seconds, SB3 if SB3 in seconds else TAKE, _targets(seconds))
        to_take.append(ratio(seconds, "replaystore, Zarr", TAKE))
        found += [skipped(what, name, reason) for name, reason in missing.items() if reason]
    detail = f"{to_take[0]:.2f} and {to_take[-1]:.2f} times `take` of the same size"
    value = to_take[-1] / to_take[0]
    return [
        *found,
        Result(EVERY, "replaystore, Zarr: growth from 1e4 to 1e7", value, "x", 1.2, detail=detail),
    ]


def _targets(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {"replaystore, Zarr": 2.0} if SB3 in seconds else {}


def prioritised(context: Context) -> list[Result]:
    """A million steps, one more each time."""
    if peers.reason("cpprb"):
        return [skipped(PRIORITIES, CPPRB, peers.reason("cpprb"))]
    recorded, _ = cheetah_steps(context.choose(BLOCK, BLOCK // 10))
    count = context.choose(10**6, 10**4)
    place, rng = context.folder / "prioritised.zarr", np.random.default_rng(0)
    context.say(PRIORITIES)
    write(place, count, _first(recorded, min(count, len(recorded["reward"]))))
    other = peers.cpprb_prioritized(2 * count, SIZE)
    for before, step in _turns(_repeated(recorded, count), count // 100):
        other.add(before, step)
    one = iter(_turns(recorded, 1) * 1000)

    def theirs() -> None:
        other.add(*next(one))
        batch = other.sample()
        assert other.update is not None
        other.update(batch, rng.random(SIZE))

    with rs.open(place, "r+") as buffer:
        writer = buffer.writer()
        steps = vector_steps(recorded, 1)
        writer.reset(steps[0][-1])
        sampler = buffer.sampler(SIZE, order="prioritized", alpha=0.6, beta=0.4, live=True, seed=0)
        turn = _stepper(writer, steps, 1)

        def ours() -> None:
            turn()
            batch = sampler.sample()
            sampler.update_priorities(batch["index"], rng.random(SIZE))

        seconds = interleaved(
            {CPPRB: _round(theirs), "replaystore, Zarr": _round(ours)}, context.choose(31, 3)
        )
    return results(PRIORITIES, seconds, CPPRB, {"replaystore, Zarr": 1.0})


def _first(columns: Columns, count: int) -> Columns:
    return {name: values[:count] for name, values in columns.items()}


def _repeated(columns: Columns, count: int) -> Columns:
    times = -(-count // len(columns["reward"]))
    return {name: np.concatenate([values] * times)[:count] for name, values in columns.items()}


def _round(step: Step) -> Callable[[], float]:
    def run() -> float:
        begin = time.perf_counter()
        for _ in range(STEPS):
            step()
        return (time.perf_counter() - begin) / STEPS

    return run


def _take(columns: Columns) -> Step:
    rng, rows = np.random.default_rng(0), len(columns["reward"])

    def step() -> Columns:
        index = rng.integers(0, rows - 1, SIZE)
        batch = {name: values.take(index, axis=0) for name, values in columns.items()}
        return batch | {"next_observation": columns["observation"].take(index + 1, axis=0)}

    return step


def _turns(columns: Columns, num_envs: int) -> list[tuple[np.ndarray[Any, Any], tuple[Any, ...]]]:
    """What each vector step begins with, and the step."""
    steps = vector_steps(columns, num_envs)
    return [(before[-1], step) for before, step in pairwise(steps)]


def _peer(peer: peers.Peer, recorded: Columns, capacity: int, at_once: int = ENVS) -> Step:
    """Filled first, with so many rows at once."""
    turns = _turns(recorded, at_once)
    for number in range(capacity // at_once):
        peer.add(*turns[number % len(turns)])
    turns = _turns(recorded, ENVS)
    number = 0

    def step() -> object:
        nonlocal number
        number += 1
        peer.add(*turns[number % len(turns)])
        return peer.sample()

    return step


def _ours(buffer: rs.Buffer, recorded: Columns) -> Step:
    writer, steps = buffer.writer(num_envs=ENVS), vector_steps(recorded, ENVS)
    writer.reset(steps[0][-1])
    sampler = buffer.sampler(SIZE, live=True, seed=0)
    turn = _stepper(writer, steps, ENVS)
    turn()
    check(set(sampler.sample()) >= {*FIELDS, "next_observation"}, "live", "fields")

    def step() -> object:
        turn()
        return sampler.sample()

    return step


def _stepper(writer: Any, steps: list[tuple[Any, ...]], num_envs: int) -> Step:
    """The next step, and what begins anew where one has ended."""
    number = 0

    def turn() -> None:
        nonlocal number
        number = (number + 1) % len(steps)
        action, reward, terminated, truncated, observation = steps[number]
        writer.step(action, reward, terminated, truncated, observation)
        ended = terminated | truncated
        if ended.any():
            writer.reset(observation, mask=ended if num_envs > 1 else None)

    return turn


MEASURES = {"every-step": every_step, "priorities": prioritised}
