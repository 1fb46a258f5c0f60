"""Rows appended in blocks, beside writing the same bytes to a file a field, and nothing else; and beside
what cannot be left out in Python: that, looking at dtypes and shapes, checksums, and where trajectories end
with which return."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from google_crc32c import extend
from measuring import Context, Result, check, interleaved
from measuring.data import BLOCK, Columns, cheetah_steps, schema
from measuring.timing import results

import replaystore as rs

__all__ = ["MEASURES", "TITLES"]

SIZE, BLOCKS = 2048, 32
"""Rows of a block, and blocks of a round."""
WRITE, FLOOR = "a raw write", "a raw write, checks, checksums and returns"
WHAT = f"append {SIZE} rows x 5 fields"
COMMITTED = f"{WHAT} and commit, durability none"
TITLES: dict[str, str] = {}


def appending(context: Context) -> list[Result]:
    """Without commits, and with one after each block; neither is synced."""
    recorded, _ = cheetah_steps(BLOCK // 10)
    count = len(recorded["reward"]) // SIZE
    blocks = [
        {name: values[at * SIZE : (at + 1) * SIZE].copy() for name, values in recorded.items()}
        for at in range(count)
    ]
    found = []
    for what, commits, targets in ((WHAT, False, (1.5, 2.0)), (COMMITTED, True, (None, None))):
        context.say(what)
        folder = context.folder / ("committed" if commits else "plain")
        folder.mkdir()
        stores = {
            f"replaystore, {kind}": rs.create(folder / f"a{suffix}", schema(), durability="none")
            for kind, suffix in (("Zarr", ".zarr"), ("HDF5", ".h5"))
        }
        variants = {WRITE: _writer(folder, blocks), FLOOR: _writer(folder, blocks, told=True)}
        variants |= {name: _appender(buffer, blocks, commits=commits) for name, buffer in stores.items()}
        seconds = interleaved(variants, context.choose(31, 3))
        aims = {name: target for name, target in zip(stores, targets, strict=True) if target is not None}
        found += results(what, seconds, WRITE, aims)
        for name, buffer in stores.items():
            buffer.commit()
            for field, values in buffer.read(slice(len(buffer) - SIZE, None)).items():
                check(any(np.array_equal(values, block[field]) for block in blocks), name, field)
            buffer.close()
    return found


def _writer(folder: Path, blocks: list[Columns], *, told: bool = False) -> Callable[[], float]:
    """`told`: what a store has to know of the rows is found out, too."""
    files = {name: os.open(folder / f"{name}{told}.bin", os.O_RDWR | os.O_CREAT, 0o600) for name in blocks[0]}
    ends, checksums = dict.fromkeys(files, 0), dict.fromkeys(files, 0)
    expected = {name: (field.dtype, field.shape) for name, field in schema().fields.items()}

    def run() -> float:
        begin = time.perf_counter()
        for number in range(BLOCKS):
            block = blocks[number % len(blocks)]
            if told:
                for name, (dtype, shape) in expected.items():
                    check(block[name].dtype == dtype and block[name].shape[1:] == shape, FLOOR, name)
            for name, values in block.items():
                ends[name] += os.pwrite(files[name], values.data, ends[name])
                if told:
                    checksums[name] = extend(checksums[name], values.reshape(-1).view(np.uint8))
            if told:
                ended = (block["terminated"] | block["truncated"]).nonzero()[0] + 1
                for rewards in np.split(block["reward"], ended):
                    np.add.accumulate(rewards, dtype=np.float64)
        return (time.perf_counter() - begin) / BLOCKS

    return run


def _appender(buffer: rs.Buffer, blocks: list[Columns], *, commits: bool) -> Callable[[], float]:
    def run() -> float:
        begin = time.perf_counter()
        for number in range(BLOCKS):
            buffer.append(blocks[number % len(blocks)])
            if commits:
                buffer.commit()
        return (time.perf_counter() - begin) / BLOCKS

    return run


MEASURES = {"append": appending}
