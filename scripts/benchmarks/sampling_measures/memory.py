"""Memory that sampling takes: the peak of anonymous memory of a process, above what it has after the
imports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from measuring import Context, Result
from measuring.data import frames
from measuring.memory import no_memory, peak_of

import replaystore as rs
from sampling_measures.material import CODEC

__all__ = ["memory"]

WORKER = Path(__file__).with_name("memory_worker.py")
SLAB = 256 << 20
BEYOND = 100e6
"""What a sampler may take besides its slab."""
BLOCK = 9000
EPISODE = 900


def memory(context: Context) -> list[Result]:
    """Batches of coded frames, from a buffer that decoded would not fit in a slab by far."""
    if skipped := no_memory():
        return skipped
    blocks = context.choose(64, 8)
    size = blocks * BLOCK * 84 * 84
    what = f"peak memory, sampling from {size / 1e9:.1f} GB of frames, a slab of {SLAB / 1e6:.0f} MB"
    context.say(f"{what} (writing them first)")
    place = context.folder / "frames.zarr"
    shown = np.concatenate([frames(time, 1) for time in range(BLOCK)])
    ended = np.arange(1, BLOCK + 1) % EPISODE == 0
    schema = rs.Schema(
        {
            "observation": rs.Field(np.uint8, (84, 84), "observation"),
            "terminated": rs.Field(np.bool_, (), "terminated"),
        }
    )
    with rs.create(place, schema, storage={"observation": {"codec": CODEC}}, durability="none") as buffer:
        for _ in range(blocks):
            buffer.append(
                {"observation": shown, "terminated": ended}, final_observation=shown[: BLOCK // EPISODE]
            )
            buffer.commit()
    del shown
    found = []
    for variant, settings in (
        ("uniform, stacks", {"frame_stack": 4, "batch_size": 32}),
        ("uniform, stacks, prefetch=0", {"frame_stack": 4, "batch_size": 32, "prefetch": 0}),
        ("epoch", {"order": "epoch", "batch_size": 256}),
        ("fragments", {"fragment_length": 64, "batch_size": 16}),
    ):
        arguments = [place, json.dumps(settings | {"slab_bytes": SLAB}), context.choose(400, 60)]
        found.append(peak_of(context, what, variant, WORKER, arguments, (SLAB + BEYOND) / 1e6))
    return found
