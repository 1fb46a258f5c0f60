"""The most memory that a conversion takes, of a file of several gigabytes, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from measuring import Context, Result, remove, skipped
from measuring.memory import no_memory, peak_of

import replaystore as rs
from convert_measures.material import READERS
from replaystore.errors import ReplayStoreError
from replaystore.formats import named

__all__ = ["memory"]

WORKER = Path(__file__).with_name("memory_worker.py")
WIDTH = 4096
"""Bytes of an observation."""
CALLED = {
    **{name: called for name, (called, _) in READERS.items()},
    "arrow": "data.arrow",
    "safetensors": "data.safetensors",
    "pickled_dict": "data.dict.pkl",
    "velora": "buffer.safetensors",
    "active_rlhf": "buffer.pkl",
}
"""What a file of each format is called."""


def memory(context: Context) -> list[Result]:
    """A store of long episodes becomes each file, and each file a store; at most 300 MB above the imports."""
    found = no_memory()
    if found:
        return found
    steps = context.choose(4 << 30, 64 << 20) // WIDTH
    store = _store(context.folder / "source.zarr", steps)
    for name, called in CALLED.items():
        path, back = context.folder / called, context.folder / "back.zarr"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            named(name)
            found.append(
                peak_of(context, "peak memory, writing", name, WORKER, (store, path, "--to", name), 300.0)
            )
            found.append(
                peak_of(context, "peak memory, reading", name, WORKER, (path, back, "--from", name), 300.0)
            )
        except ReplayStoreError as error:
            found.append(skipped("peak memory", name, str(error)[:120]))
        finally:
            for left in (path, back):
                if left.exists():
                    remove(left)
    return found


def _store(path: Path, steps: int) -> Path:
    """Episodes of 16,384 steps."""
    rng = np.random.default_rng(0)
    schema = rs.Schema(
        {
            "observation": rs.Field("float32", (WIDTH // 4,), "observation"),
            "action": rs.Field("float32", (2,), "action"),
            "reward": rs.Field("float32", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
            "truncated": rs.Field("bool", (), "truncated"),
        }
    )
    with rs.create(path, schema) as buffer:
        for start in range(0, steps, 16384):
            count = min(16384, steps - start)
            ends = np.arange(count) == count - 1
            buffer.append(
                {
                    "observation": rng.random((count, WIDTH // 4), np.float32),
                    "action": rng.random((count, 2), np.float32),
                    "reward": rng.random(count, np.float32),
                    "terminated": ends,
                    "truncated": np.zeros(count, np.bool_),
                },
                final_observation=rng.random((1, WIDTH // 4), np.float32),
                ends=[count - 1],
            )
            buffer.commit()
    return path
