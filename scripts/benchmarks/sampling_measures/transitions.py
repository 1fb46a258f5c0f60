"""Single transitions: 256 of five small fields, which is what most agents take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Context, Result, check, interleaved, ratio, skipped
from measuring.data import EPISODE, FIELDS
from measuring.timing import Lookup, each, given, results, same
from numpy.typing import NDArray

import replaystore as rs
from sampling_measures import peers
from sampling_measures.material import Vectors, cheetah

__all__ = ["MEMORY", "TRANSITIONS", "following", "gathering", "transitions"]

SIZE, BATCHES = 256, 64
MEMORY = "NumPy arrays in memory"
TAKE, ALONE = "NumPy take, and the next observation", "without the next observation"
TRANSITIONS = f"{SIZE} transitions x 5 fields"
NAMES = tuple(FIELDS)


def gathering(context: Context) -> list[Result]:
    """Given rows, into the same arrays again and again: what is left when drawing and making arrays is taken
    away."""
    what, vectors = f"gather {SIZE} given rows x 5 fields", cheetah(context)
    columns, rows = vectors.columns, len(vectors.columns["reward"])
    outs = {name: np.empty((SIZE, *values.shape[1:]), values.dtype) for name, values in columns.items()}

    def reference(index: NDArray[np.int64]) -> None:
        for name, values in columns.items():
            values.take(index, axis=0, out=outs[name], mode="clip")

    variants = {MEMORY: given(reference, rows, SIZE, BATCHES)}
    context.say(what)
    for name, place in (("replaystore, Zarr", vectors.raw), ("replaystore, HDF5", vectors.hdf5)):
        gather = rs.open(place).sampler(SIZE, next_observation=False)._batches.gather
        index = np.random.default_rng(1).integers(0, rows, SIZE)
        same(gather.take(NAMES, index, outs), columns, index, name)
        variants[name] = given(
            lambda index, gather=gather: gather.take(NAMES, index, outs), rows, SIZE, BATCHES
        )
    seconds = interleaved(variants, context.choose(61, 15))
    return results(what, seconds, MEMORY, {"replaystore, Zarr": 1.3, "replaystore, HDF5": 1.6})


def transitions(context: Context) -> list[Result]:
    """Whole steps of a sampler: draw, gather, give a dict; as it is by default, with the next observation,
    and without. NumPy takes one column after the other, or indexes it."""
    vectors = cheetah(context)
    columns, rows, lookup = vectors.columns, len(vectors.columns["reward"]), Lookup(vectors.columns)
    rng = np.random.default_rng(0)
    steps: dict[str, Callable[[], Mapping[str, Any]]] = {
        TAKE: lambda: peers.taken(columns, rng.integers(0, rows - 1, SIZE)),
        MEMORY: lambda: peers.rows_of(columns, rng.integers(0, rows, SIZE)),
    }
    context.say(TRANSITIONS)
    for name, place, more in (
        ("replaystore, Zarr", vectors.raw, {}),
        ("replaystore, HDF5", vectors.hdf5, {}),
        (f"replaystore, Zarr, {ALONE}", vectors.raw, {"next_observation": False}),
    ):
        steps[name] = rs.open(place).sampler(SIZE, **more).sample
    maps = peers.memmaps(context.folder, columns)
    steps["np.memmap, and the next observation"] = lambda: peers.taken(maps, rng.integers(0, rows - 1, SIZE))
    slow: dict[str, Callable[[], Mapping[str, Any]]] = {MEMORY: steps[MEMORY]}
    missing = _others(context.folder, vectors, steps, slow)
    for name, step in (steps | slow).items():
        lookup.check(step(), name)
    seconds = interleaved({name: each(step, BATCHES) for name, step in steps.items()}, context.choose(41, 9))
    found = results(TRANSITIONS, seconds, TAKE, {"replaystore, Zarr": 1.25})
    for name, other in (
        (f"replaystore, Zarr, {ALONE}", MEMORY),
        ("replaystore, Zarr", "np.memmap, and the next observation"),
        (f"replaystore, Zarr, {ALONE}", "TorchRL LazyMemmapStorage"),
    ):
        if other in seconds:
            found.append(Result(TRANSITIONS, f"{name}, to {other}", ratio(seconds, name, other), "x", 1.0))
    context.say("the slow ones")
    variants = {name: each(step, BATCHES if name == MEMORY else 2) for name, step in slow.items()}
    seconds = interleaved(variants, context.choose(7, 3))
    found += [result for result in results(TRANSITIONS, seconds, MEMORY, {}) if result.variant != MEMORY]
    return found + [skipped(TRANSITIONS, name, reason) for name, reason in missing.items()]


def _others(folder: Path, vectors: Vectors, steps: dict[str, Any], slow: dict[str, Any]) -> dict[str, str]:
    """Add the libraries that are installed; why the others are not there."""
    missing, rng, rows = {}, np.random.default_rng(2), len(vectors.columns["reward"])
    for name, sampler in peers.SAMPLERS.items():
        try:
            (slow if name.startswith("Minari") else steps)[name] = sampler(folder, vectors, SIZE)
        except ImportError as error:
            missing[name] = str(error)
    for name, reader in peers.READERS.items():
        try:
            read = reader(folder, vectors)
            slow[name] = lambda read=read: read(rng.integers(0, rows, SIZE))
        except ImportError as error:
            missing[name] = str(error)
    return missing


def following(context: Context) -> list[Result]:
    """The next observation, found where it is stored once, and stored a second time as a field of its own."""
    what, vectors = f"{SIZE} transitions x 5 fields, and the next observation", cheetah(context)
    columns = dict(vectors.columns)
    last = np.arange(EPISODE - 1, len(columns["reward"]), EPISODE)
    columns["info/next"] = np.roll(columns["observation"], -1, axis=0)
    columns["info/next"][last] = columns["observation"][0]  # as `write` has it
    schema = rs.Schema(
        {
            name: rs.Field(values.dtype, values.shape[1:], name.partition("/")[0])
            for name, values in columns.items()
        }
    )
    place = context.folder / "twice.zarr"
    with rs.create(place, schema, durability="none") as buffer:
        buffer.append(columns)
    context.say(what)
    derived = rs.open(vectors.raw).sampler(SIZE)
    stored = rs.open(place).sampler(SIZE, next_observation=False)
    lookup = Lookup(columns)
    for sampler, name in ((derived, "next_observation"), (stored, "info/next")):
        for _ in range(20):
            batch = sampler.sample()
            lookup.check(batch | {"info/next": batch[name]}, name)
    check(derived.num_items == stored.num_items, "derived", "steps")
    seconds = interleaved(
        {"stored twice": each(stored.sample, BATCHES), "stored once": each(derived.sample, BATCHES)},
        context.choose(61, 15),
    )
    return results(what, seconds, "stored twice", {"stored once": 1.15})
