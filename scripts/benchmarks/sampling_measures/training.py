"""A training loop: batches while an agent learns from them, beside a loop that has its data in memory.

The learning is work for one thread: the same in all loops of a round, and so much that it takes 5 ms when
nothing else runs. That is looked up before each round, because what a machine does in 5 ms changes from
minute to minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from measuring import Context, Result, check, interleaved
from measuring.timing import Lookup, results
from numpy.typing import NDArray

import replaystore as rs
from replaystore.sampling.sampler import Sampler
from sampling_measures.material import CODEC, atari, cheetah, drawn
from sampling_measures.peers import rows_of
from sampling_measures.transitions import MEMORY

__all__ = ["training"]

SECONDS = 0.005
VECTORS, FRAMES, DEPTH = 256, 32, 4


class Learner:
    """Gradient steps of a small network, on the same numbers again and again: as many rows of them as take so
    long."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._network = torch.nn.Sequential(
            torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 256), torch.nn.Tanh()
        )
        self._optimizer = torch.optim.SGD(self._network.parameters(), 1e-4)
        self._count, self._data = 1, torch.randn(VECTORS, 64)
        self._count = max(1, round(SECONDS / self._taken()))
        for _ in range(2):  # the time is not quite proportional to the rows
            self.adjust()

    def adjust(self) -> None:
        """Take as many rows as take so long now."""
        self._data = torch.randn(max(1, round(len(self._data) * SECONDS / self._taken())), 64)

    def _taken(self) -> float:
        """Seconds of `step`, the median."""
        self.step()
        taken = []
        for _ in range(20):
            begin = time.perf_counter()
            self.step()
            taken.append(time.perf_counter() - begin)
        return float(np.median(taken))

    def step(self) -> None:
        for _ in range(self._count):
            self._optimizer.zero_grad(set_to_none=True)
            self._network(self._data).square().mean().backward()
            self._optimizer.step()


def training(context: Context) -> list[Result]:
    """With batches from raw fields, and with batches that a thread decodes meanwhile."""
    return _transitions(context) + _stacks(context)


def _transitions(context: Context) -> list[Result]:
    vectors = cheetah(context)
    columns, rows, rng = vectors.columns, len(vectors.columns["reward"]), np.random.default_rng(0)
    slab = sum(values.nbytes for values in columns.values()) // 3
    samplers = {
        "replaystore, raw": rs.open(vectors.raw).sampler(VECTORS, next_observation=False),
        f"replaystore, {CODEC}, epoch, prefetch=2": rs.open(vectors.coded).sampler(
            VECTORS, next_observation=False, order="epoch", prefetch=2, slab_bytes=slab
        ),
    }
    lookup = Lookup(columns)
    for name, sampler in samplers.items():
        lookup.check(sampler.sample(), name)
    what = f"loop of {VECTORS} transitions x 5 fields and {SECONDS * 1e3:g} ms of learning"
    return _compare(context, what, lambda: rows_of(columns, rng.integers(0, rows, VECTORS)), samplers)


def _stacks(context: Context) -> list[Result]:
    frames = atari(context)
    shown, rng, depth = frames.observations, np.random.default_rng(0), np.arange(DEPTH + 1)
    samplers = {}
    for name, place, ahead in (
        ("replaystore, raw", frames.raw, 0),
        (f"replaystore, {CODEC} in chunks of 4, uniform, prefetch=2", frames.small, 2),
    ):
        settings: dict[str, Any] = {"fields": ["observation"], "frame_stack": DEPTH, "seed": 0}
        batch, rows = next(drawn(rs.open(place).sampler(FRAMES, **settings, prefetch=0)))
        check(
            np.array_equal(batch["next_observation"], frames.stacks(rows, DEPTH)[:, 1:]), name, "observation"
        )
        samplers[name] = rs.open(place).sampler(FRAMES, **settings, prefetch=ahead)
        check(
            np.array_equal(samplers[name].sample()["observation"], batch["observation"]), name, "observation"
        )
    what = f"loop of {FRAMES} stacks of {DEPTH} + 1 frames and {SECONDS * 1e3:g} ms of learning"

    def memory() -> NDArray[np.uint8]:
        return shown[rng.integers(0, len(shown) - DEPTH, FRAMES)[:, None] + depth]

    return _compare(context, what, memory, samplers)


def _compare(
    context: Context, what: str, memory: Callable[[], object], samplers: Mapping[str, Sampler]
) -> list[Result]:
    context.say(what)
    learner = Learner()
    count = context.choose(50, 30)
    variants = {MEMORY: _loop(memory, learner, count, lambda: None)}
    variants |= {
        name: _loop(sampler.sample, learner, count, sampler.close) for name, sampler in samplers.items()
    }
    # many: it is a difference of per cents.
    seconds = interleaved(variants, context.choose(99, 3), before=learner.adjust)
    return results(
        what, seconds, MEMORY, dict.fromkeys(samplers, 1.05), notes={MEMORY: f"{count} steps a round"}
    )


def _loop(
    batch: Callable[[], object], learner: Learner, count: int, close: Callable[[], None]
) -> Callable[[], float]:
    """`close`: what is to be done before other variants take their turn: nothing is made ahead then."""

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            batch()
            learner.step()
        taken = (time.perf_counter() - begin) / count
        close()
        return taken

    return run
