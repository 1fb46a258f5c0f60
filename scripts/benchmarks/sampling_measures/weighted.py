"""Prioritised replay: draw a batch, and set the weights of what was drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from measuring import Context, Result, interleaved, skipped
from measuring.data import FIELDS
from measuring.timing import Lookup, each, results

import replaystore as rs
from sampling_measures.material import Vectors, cheetah

__all__ = ["priorities"]

SIZE, BATCHES, ALPHA, BETA = 256, 64, 0.6, 0.4


def priorities(context: Context) -> list[Result]:
    vectors = cheetah(context)
    rows, lookup, rng = len(vectors.columns["reward"]), Lookup(vectors.columns), np.random.default_rng(0)
    what = f"sample and update {SIZE} of {rows} weights, 5 fields"
    context.say(what)
    buffer = rs.open(vectors.raw)
    uniform = buffer.sampler(SIZE, next_observation=False)
    sampler = buffer.sampler(SIZE, next_observation=False, weights=rng.random(rows) ** ALPHA, beta=BETA)

    def ours() -> dict[str, np.ndarray]:
        batch = sampler.sample()
        sampler.update_weights(batch["index"], rng.random(SIZE) ** ALPHA)
        return batch

    variants: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "replaystore, uniform": uniform.sample,
        "replaystore, Zarr": ours,
    }
    reason = ""
    try:
        variants["cpprb, in memory"] = _cpprb(vectors)
    except ImportError as error:
        reason = str(error)
    for name, step in variants.items():
        lookup.check({field: values for field, values in step().items() if field in FIELDS}, name)
    seconds = interleaved(
        {name: each(step, BATCHES) for name, step in variants.items()}, context.choose(41, 9)
    )
    if reason:
        return [
            *results(what, seconds, "replaystore, uniform", {"replaystore, Zarr": 3.0}),
            skipped(what, "cpprb, in memory", reason),
        ]
    return results(what, seconds, "cpprb, in memory", {"replaystore, Zarr": 2.0})


def _cpprb(vectors: Vectors) -> Callable[[], dict[str, np.ndarray]]:
    from cpprb import PrioritizedReplayBuffer

    rng, columns = np.random.default_rng(1), vectors.columns
    fields = {name: {"shape": shape or 1, "dtype": dtype} for name, (dtype, shape) in FIELDS.items()}
    buffer = PrioritizedReplayBuffer(len(columns["reward"]), fields, alpha=ALPHA)
    buffer.add(**columns, priorities=rng.random(len(columns["reward"])))

    def step() -> dict[str, np.ndarray]:
        batch = buffer.sample(SIZE, BETA)
        buffer.update_priorities(batch["indexes"], rng.random(SIZE))
        return {
            name: values.reshape(SIZE, *FIELDS[name][1]) if name in FIELDS else values
            for name, values in batch.items()
        }

    return step
