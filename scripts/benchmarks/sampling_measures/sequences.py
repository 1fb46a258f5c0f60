"""Consecutive steps: fragments of trajectories, and stacks of frames."""

from __future__ import annotations

import numpy as np
from measuring import Context, Result, check, interleaved, skipped
from measuring.timing import Lookup, each, results

import replaystore as rs
from sampling_measures import peers
from sampling_measures.material import atari, cheetah, drawn
from sampling_measures.transitions import MEMORY

__all__ = ["FRAGMENTS", "STACKS", "fragments", "stacks"]

COUNT, LENGTH, DEPTH = 32, 64, 4
FRAGMENTS = f"{COUNT} fragments of {LENGTH} steps x 5 fields"
STACKS = f"{COUNT} stacks of {DEPTH} + 1 frames"


def fragments(context: Context) -> list[Result]:
    vectors = cheetah(context)
    columns, rows, lookup = vectors.columns, len(vectors.columns["reward"]), Lookup(vectors.columns)
    rng, steps = np.random.default_rng(0), np.arange(LENGTH)
    maps = peers.memmaps(context.folder, columns)

    def index() -> np.ndarray:
        return rng.integers(0, rows - LENGTH, COUNT)[:, None] + steps

    variants = {
        MEMORY: lambda: peers.rows_of(columns, index()),
        "replaystore, Zarr": rs.open(vectors.raw)
        .sampler(COUNT, fragment_length=LENGTH, next_observation=False)
        .sample,
        "replaystore, HDF5": rs.open(vectors.hdf5)
        .sampler(COUNT, fragment_length=LENGTH, next_observation=False)
        .sample,
        "np.memmap": lambda: peers.rows_of(maps, index()),
    }
    found = []
    try:
        storage = peers.torchrl_storage(context.folder, vectors, COUNT * LENGTH)
        variants["TorchRL LazyMemmapStorage"] = lambda: {
            name: found.numpy() for name, found in storage[index()].items()
        }
    except ImportError as error:
        found.append(skipped(FRAGMENTS, "TorchRL LazyMemmapStorage", str(error)))
    context.say(FRAGMENTS)
    for name, step in variants.items():
        lookup.check(step(), name)
    seconds = interleaved({name: each(step, 32) for name, step in variants.items()}, context.choose(41, 9))
    return results(FRAGMENTS, seconds, MEMORY, {"replaystore, Zarr": 0.7}) + found


def stacks(context: Context) -> list[Result]:
    frames = atari(context)
    shown, rng, depth = frames.observations, np.random.default_rng(0), np.arange(DEPTH + 1)
    maps = peers.memmaps(context.folder, {"observation": shown})["observation"]
    context.say(STACKS)
    sampler = rs.open(frames.raw).sampler(COUNT, fields=["observation"], frame_stack=DEPTH)
    batches = drawn(sampler)
    for _ in range(20):
        batch, rows = next(batches)
        wanted = frames.stacks(rows, DEPTH)
        check(np.array_equal(batch["observation"], wanted[:, :DEPTH]), "replaystore, Zarr", "observation")
        check(
            np.array_equal(batch["next_observation"], wanted[:, 1:]), "replaystore, Zarr", "next_observation"
        )
    variants = {
        MEMORY: lambda: shown[rng.integers(0, len(shown) - DEPTH, COUNT)[:, None] + depth],
        "replaystore, Zarr": sampler.sample,
        "np.memmap": lambda: maps[rng.integers(0, len(shown) - DEPTH, COUNT)[:, None] + depth],
    }
    # Until the pages of the files are mapped, as those of the arrays that were filled just now.
    for _ in range(context.choose(3000, 100)):
        sampler.sample()
    seconds = interleaved({name: each(step, 64) for name, step in variants.items()}, context.choose(121, 9))
    return results(STACKS, seconds, MEMORY, {"replaystore, Zarr": 1.2}, notes={MEMORY: frames.source})
