"""Coded data: archives sampled at random and in epochs with too little memory for all of their chunks, images
with enough; and images recorded into HDF5 beside Zarr.

Decoding comes in bursts, for many batches: each round holds several of them where that is possible.
"""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measuring import Context, Result, check, interleaved, ratio, remove
from measuring.data import Columns
from measuring.timing import each, results, same
from numpy.typing import NDArray
from sampling_measures.material import atari, cheetah, drawn

import replaystore as rs

__all__ = ["MEASURES"]

VECTORS, FRAMES, DEPTH, ENVS = 256, 32, 4, 8
SHARE = 4
"""The slab has memory for one part in so many of what there is."""
MEMORY, TAKE = "NumPy arrays in memory, arr[idx]", "NumPy arrays in memory, take"
SUFFIXES = {"replaystore, Zarr": "zarr", "replaystore, HDF5": "h5"}
CHUNK = 64
"""Frames that zlib is given at once."""


def vectors(context: Context) -> list[Result]:
    """Steps of five small fields out of an archive, a quarter of which there is memory for."""
    found = cheetah(context)
    slab = sum(values.nbytes for values in found.columns.values()) // SHARE
    fields: dict[str, Any] = {"fields": list(found.columns), "next_observation": False}
    return _sampled(context, found.raw, found.columns, VECTORS, slab, fields, (50.0, 1.0))


def images(context: Context) -> list[Result]:
    """Frames out of an archive, a quarter of which there is memory for; and out of one that fits."""
    found = atari(context)
    columns = {"observation": found.observations}
    fields: dict[str, Any] = {"fields": ["observation"], "next_observation": False}
    slab = found.observations.nbytes // SHARE
    told = _sampled(context, found.raw, columns, FRAMES, slab, fields, (8.0, 1.5))
    what, rng = f"uniform, all decoded frames fit: {FRAMES} frames", np.random.default_rng(0)
    context.say(what)
    variants = {
        MEMORY: each(lambda: found.observations[rng.integers(0, len(found.observations), FRAMES)], 64)
    }
    for name, suffix in SUFFIXES.items():
        sampler = rs.open(context.folder / f"archive-{FRAMES}.{suffix}").sampler(
            FRAMES, seed=0, slab_bytes=2 * found.observations.nbytes, prefetch=0, **fields
        )
        for _ in range(context.choose(20_000, 500) // FRAMES * 4):
            sampler.sample()
        variants[name] = each(sampler.sample, 64)
    seconds = interleaved(variants, context.choose(31, 5))
    return told + results(what, seconds, MEMORY, dict.fromkeys(SUFFIXES, 1.2))


def _sampled(
    context: Context,
    raw: Path,
    columns: Columns,
    size: int,
    slab: int,
    fields: dict[str, Any],
    targets: tuple[float, float],
) -> list[Result]:
    """Uniform and epochs of an archive of `raw`; `targets`: of these."""
    warnings.filterwarnings("ignore", message=".*more than slab_bytes")
    told, rng, rows = [], np.random.default_rng(0), len(next(iter(columns.values())))
    for suffix in SUFFIXES.values():
        rs.convert(raw, context.folder / f"archive-{size}.{suffix}", layout="archive", overwrite=True)
    for order, target in zip(("uniform", "epoch"), targets, strict=True):
        what = f"{order}, archive, memory for a quarter: {size} x {len(columns)} fields"
        context.say(what)
        batches = max(1, rows // size // (1 if order == "epoch" else 4))
        count = context.choose(batches, min(batches, 64))
        variants: dict[str, Callable[[], float]] = {
            MEMORY: each(lambda: _rows(columns, rng.integers(0, rows, size)), 256),
            TAKE: each(lambda: _taken(columns, rng.integers(0, rows, size)), 256),
        }
        for name, suffix in SUFFIXES.items():
            buffer = rs.open(context.folder / f"archive-{size}.{suffix}")
            sampler = buffer.sampler(size, order=order, slab_bytes=slab, seed=0, prefetch=0, **fields)
            for _, (batch, shown) in zip(range(20), drawn(sampler), strict=False):
                same(batch, columns, shown, what)
            for _ in range(count):  # until as much is decoded at once as there is memory for
                sampler.sample()
            variants[name] = each(sampler.sample, count)
        seconds = interleaved(variants, context.choose(5, 2))
        note = f"{rows} steps, {count} batches a round"
        told += results(
            what, seconds, MEMORY, dict.fromkeys(SUFFIXES, target), notes=dict.fromkeys(SUFFIXES, note)
        )
    return told


def joined(context: Context) -> list[Result]:
    """Two stores as one beside one of them: raw, and archives, a quarter of which there is memory for."""
    warnings.filterwarnings("ignore", message=".*more than slab_bytes")
    found, told = cheetah(context), list[Result]()
    slab = sum(values.nbytes for values in found.columns.values()) // SHARE
    archive = context.folder / "archive.zarr"
    rs.convert(found.raw, archive, layout="archive")
    for place, count in ((found.raw, 256), (archive, context.choose(1000, 64))):
        one = rs.open(place).sampler(VECTORS, seed=0, slab_bytes=slab, prefetch=0)
        two = rs.concat([rs.open(place), rs.open(place)]).sampler(VECTORS, seed=0, slab_bytes=slab)
        what = f"two stores as one, {'raw' if place is found.raw else 'archives'}: {VECTORS} x 5 fields"
        context.say(what)
        variants = {"one store": each(one.sample, count), "two as one": each(two.sample, count)}
        for run in variants.values():  # until as much is decoded at once as there is memory for
            run()
        told += results(what, interleaved(variants, context.choose(7, 2)), "one store", {})
    return told


def _rows(columns: Columns, index: NDArray[np.int64]) -> Columns:
    return {name: values[index] for name, values in columns.items()}


def _taken(columns: Columns, index: NDArray[np.int64]) -> Columns:
    return {name: values.take(index, axis=0) for name, values in columns.items()}


def recording(context: Context) -> list[Result]:
    """Frames of eight environments, a commit every 500 steps; and how many bytes they take."""
    shown = atari(context).observations
    steps = min(len(shown) // ENVS, context.choose(1500, 300))
    frames = shown[: steps * ENVS].reshape(steps, ENVS, *shown.shape[1:])
    what, sizes = f"recording {ENVS} frames of {shown.shape[1]} x {shown.shape[2]} a step", dict[str, int]()
    context.say(what)

    def record(suffix: str) -> Callable[[], float]:
        place = context.folder / f"recorded.{suffix}"
        action, reward, no = np.zeros(ENVS, np.int64), np.zeros(ENVS), np.zeros(ENVS, bool)

        def run() -> float:
            with rs.create(place, _schema(shown), durability="none", overwrite=True) as buffer:
                writer = buffer.writer(num_envs=ENVS)
                writer.reset(frames[0])
                begin = time.perf_counter()
                for step in range(1, steps):
                    writer.step(action, reward, no, no, frames[step])
                    if step % 500 == 0:
                        buffer.commit()
                buffer.commit()
                taken = time.perf_counter() - begin
                check(np.array_equal(buffer["observation"][:ENVS], frames[0]), suffix, "observation")
                writer.close()
            sizes[suffix] = _bytes_of_observations(place)
            remove(place)
            return taken / steps

        return run

    variants = {name: record(suffix) for name, suffix in SUFFIXES.items()}
    seconds = interleaved(variants, context.choose(9, 2))
    zarr, hdf5 = SUFFIXES
    told = results(what, seconds, zarr, {hdf5: 2.0})
    chunks = [shown[begin : begin + CHUNK].tobytes() for begin in range(0, steps * ENVS, CHUNK)]
    deflated = sum(len(zlib.compress(chunk, 1)) for chunk in chunks)
    for name, suffix in SUFFIXES.items():
        target = 1.0 if suffix == "h5" else None
        value, detail = sizes[suffix] / deflated, f"{sizes[suffix]} bytes with all else, zlib {deflated}"
        told.append(
            Result(what, f"{name}, bytes beside zlib:1 of the frames", value, "x", target, detail=detail)
        )
    told.append(Result(what, f"{hdf5}, to {zarr}", ratio(seconds, hdf5, zarr), "x", 2.0))
    return told


def _bytes_of_observations(place: Path) -> int:
    if place.is_file():
        with h5py.File(place) as file:
            return int(file["steps/observation"].id.get_storage_size())
    return sum(path.stat().st_size for path in (place / "steps" / "observation").glob("c.*"))


def _schema(shown: NDArray[np.uint8]) -> rs.Schema:
    return rs.Schema(
        {
            "observation": rs.Field("uint8", shown.shape[1:], "observation"),
            "action": rs.Field("int64", (), "action"),
            "reward": rs.Field("float64", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
            "truncated": rs.Field("bool", (), "truncated"),
        }
    )


MEASURES = {
    "archived vectors": vectors,
    "archived images": images,
    "joined": joined,
    "recorded images": recording,
}
