"""Compressed fields: in an order that reads each chunk once, and at random. Decoding comes in bursts: each
round holds several of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measuring import Context, Result, check, interleaved, ratio, skipped
from measuring.data import Columns
from measuring.timing import each, results, same
from numpy.typing import NDArray

import replaystore as rs
from replaystore.sampling.sampler import Sampler
from sampling_measures.material import CODEC, Frames, atari, cheetah, drawn
from sampling_measures.peers import CACHE, rows_of, tensorstore_array
from sampling_measures.transitions import MEMORY

__all__ = ["EPOCH", "SINGLE", "STACKS", "epoch", "uniform"]

VECTORS, FRAMES, DEPTH = 256, 32, 4
EPOCH = f"epoch, {CODEC}: {FRAMES} frames"
SINGLE = f"uniform, {CODEC} in chunks of 4: {FRAMES} frames"
STACKS = f"uniform, {CODEC} in chunks of 4: {FRAMES} stacks of {DEPTH} + 1 frames"

Rows = NDArray[np.int64]


def epoch(context: Context) -> list[Result]:
    """Each step once, shuffled; the memory for decoded chunks is a third of what there is, so that all have
    to be decoded."""
    vectors, frames = cheetah(context), atari(context)
    pools = context.choose(2, 3)
    found = []
    for what, place, columns, size, note in (
        (
            f"epoch, {CODEC}: {VECTORS} transitions x 5 fields",
            vectors.coded,
            vectors.columns,
            VECTORS,
            vectors.source,
        ),
        (EPOCH, frames.coded, {"observation": frames.observations}, FRAMES, frames.source),
    ):
        context.say(what)
        slab = sum(values.nbytes for values in columns.values()) // 3
        sampler = rs.open(place).sampler(
            size,
            order="epoch",
            fields=list(columns),
            next_observation=False,
            prefetch=0,
            slab_bytes=slab,
            seed=0,
        )
        _compare(sampler, columns, what)
        # An epoch, after which each chunk has been looked at, and the memory for them has been used.
        for _ in sampler:
            pass
        rng, rows, pool = np.random.default_rng(0), len(next(iter(columns.values()))), _pool(sampler)
        variants = {
            MEMORY: lambda columns=columns, rng=rng, rows=rows, size=size: rows_of(
                columns, rng.integers(0, rows, size)
            ),
            "replaystore, Zarr": sampler.sample,
        }
        count = pools * pool // size
        seconds = interleaved(
            {name: each(step, count) for name, step in variants.items()}, context.choose(33, 5)
        )
        notes = {"replaystore, Zarr": f"{count} batches a round, pools of {pool} rows; {note}"}
        found += results(what, seconds, MEMORY, {"replaystore, Zarr": 2.0}, notes=notes)
    return found


def _pool(sampler: Sampler) -> int:
    """Rows that are shuffled at a time."""
    order = sampler._batches.order
    return int(order._starts[1] - order._starts[0])


def _compare(sampler: Sampler, columns: Columns, what: str) -> None:
    batches = drawn(sampler)
    for _ in range(20):
        batch, rows = next(batches)
        same(batch, columns, rows, what)


def uniform(context: Context) -> list[Result]:
    """Any frame at any time: most chunks are decoded for one row. Others read the same rows of the same
    files."""
    frames = atari(context)
    shown, length = frames.observations, len(frames.observations)
    readers, missing = _readers(frames, context.folder)
    found = []
    for what, depth in ((SINGLE, 0), (STACKS, DEPTH)):
        context.say(what)
        rng = np.random.default_rng(0)
        stack = {"frame_stack": depth} if depth else {"next_observation": False}
        samplers = {
            name: rs.open(place).sampler(FRAMES, fields=["observation"], prefetch=0, seed=0, **stack)
            for name, place in (("replaystore, Zarr", frames.small), ("replaystore, HDF5", frames.hdf5))
        }
        for name, sampler in samplers.items():
            _verify(frames, sampler, depth, name)
        variants: dict[str, Callable[[], float]] = {
            MEMORY: each(
                lambda depth=depth, rng=rng: _runs(shown, rng.integers(0, length - depth, FRAMES), depth + 1),
                64,
            )
        }
        variants |= {name: each(sampler.sample, 64) for name, sampler in samplers.items()}
        for name, read in readers.items():
            for _ in range(2):
                index = rng.integers(0, length - depth, FRAMES)
                check(
                    np.array_equal(read(index, depth + 1), _runs(shown, index, depth + 1)),
                    name,
                    "observation",
                )
            variants[name] = each(
                lambda read=read, depth=depth, rng=rng: read(
                    rng.integers(0, length - depth, FRAMES), depth + 1
                ),
                64,
            )
        for run in [*variants.values()] * context.choose(8, 1):  # until the memory for decoded chunks is full
            run()
        seconds = interleaved(variants, context.choose(15, 5))
        found += results(what, seconds, MEMORY, {}, notes={MEMORY: frames.source})
        for name in readers:
            for mine in samplers:
                target = 3.0 if mine == "replaystore, Zarr" else None
                value = ratio(seconds, name, mine)
                found.append(
                    Result(what, f"{mine}, times as fast as {name}", value, "x", target, at_most=False)
                )
        found += [skipped(what, name, reason) for name, reason in missing.items()]
    return found


def _runs(shown: NDArray[np.uint8], rows: Rows, length: int) -> NDArray[np.uint8]:
    return shown[rows] if length == 1 else shown[rows[:, None] + np.arange(length)]


def _verify(frames: Frames, sampler: Sampler, depth: int, name: str) -> None:
    batches = drawn(sampler)
    for _ in range(5):
        batch, rows = next(batches)
        wanted = frames.stacks(rows, depth) if depth else frames.observations[rows]
        check(
            np.array_equal(batch["observation"], wanted[:, :depth] if depth else wanted), name, "observation"
        )


def _readers(frames: Frames, folder: Path) -> tuple[dict[str, Callable[[Rows, int], Any]], dict[str, str]]:
    """What reads runs of rows, (rows, length) -> array of shape (len(rows), length, 84, 84), without the 1;
    and why others do not."""
    found: dict[str, Callable[[Rows, int], Any]] = {}
    missing = {}
    try:
        found["tensorstore"] = _tensorstore(frames.small)
    except ImportError as error:
        missing["tensorstore"] = str(error)
    if importlib.util.find_spec("hdf5plugin") is not None:
        found["h5py"] = _h5py(frames.hdf5)
    else:
        place = folder / "gzip.h5"
        with h5py.File(place, "w") as file:
            chunks = (4, *frames.observations.shape[1:])
            file.create_dataset(
                "steps/observation",
                data=frames.observations,
                chunks=chunks,
                compression="gzip",
                compression_opts=1,
            )
        found["h5py, gzip (hdf5plugin is not installed)"] = _h5py(place)
    return found, missing


def _tensorstore(place: Path) -> Callable[[Rows, int], Any]:
    """A slice for each run, all at once, which is quicker than an array of indexes; single rows by such an
    array, which is quicker."""
    array = tensorstore_array(place / "steps" / "observation")

    def read(rows: Rows, length: int) -> Any:
        if length == 1:
            return array[rows].read().result()
        reading = [array[row : row + length].read() for row in rows.tolist()]
        return np.stack([future.result() for future in reading])

    return read


def _h5py(place: Path) -> Callable[[Rows, int], Any]:
    """A slice for each run, which is quicker than a selection of all rows."""
    if importlib.util.find_spec("hdf5plugin") is not None:
        import hdf5plugin  # noqa: F401  # it reads zstd

    dataset = h5py.File(place, "r", rdcc_nbytes=CACHE, rdcc_nslots=1_000_003)["steps/observation"]

    def read(rows: Rows, length: int) -> Any:
        out = np.empty((len(rows), length, *dataset.shape[1:]), dataset.dtype)
        for number, row in enumerate(rows.tolist()):
            dataset.read_direct(out, np.s_[row : row + length], np.s_[number])
        return out[:, 0] if length == 1 else out

    return read
