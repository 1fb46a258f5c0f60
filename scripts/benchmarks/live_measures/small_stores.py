"""What short recordings of CartPole take on a disk, beside `np.savez_compressed` of the same columns."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium
import numpy as np
from measuring import Context, Result

import replaystore as rs
from replaystore.gymnasium import RecordVector

__all__ = ["MEASURES"]

SHORT, LONG = 1000, 100_000
WHAT = f"{SHORT} steps of CartPole"


def small_stores(context: Context) -> list[Result]:
    """Files, and bytes that the disk gives to them and to their folders."""
    place = _recorded(context.folder / "short.zarr", SHORT, 1)
    entries = [place, *place.rglob("*")]
    files = [entry for entry in entries if entry.is_file()]
    allocated = sum(entry.lstat().st_blocks for entry in entries) * 512
    alone = sum(entry.lstat().st_blocks for entry in files) * 512
    found = [
        Result(WHAT, "replaystore, Zarr: files", len(files), "", 45.0),
        Result(
            WHAT,
            "replaystore, Zarr: allocated",
            allocated / 1e3,
            "kB",
            300.0,
            detail=f"{alone / 1e3:.0f} kB without folders",
        ),
    ]
    for steps, num_envs, target in ((SHORT, 1, 2.5), (context.choose(LONG, SHORT), 8, 1.2)):
        context.say(f"{steps} steps of CartPole in a zip")
        place = _recorded(context.folder / f"{steps}-{num_envs}.zarr", steps, num_envs)
        packed, plain = place.with_suffix(".zarr.zip"), place.with_suffix(".npz")
        rs.convert(place, packed, layout="archive")
        with rs.open(place) as buffer:
            np.savez_compressed(plain, **buffer.read(slice(None)))
        size, other = os.path.getsize(packed), os.path.getsize(plain)
        found.append(
            Result(
                f"{steps} steps of CartPole in one file, to np.savez_compressed",
                "replaystore, archive in a zip",
                size / other,
                "x",
                target,
                detail=f"{size} and {other} bytes",
            )
        )
    return found


def _recorded(place: Path, steps: int, num_envs: int) -> Path:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="sync")
    with rs.create(place, envs) as buffer:
        recording = RecordVector(envs, buffer, commit_every=500)
        recording.action_space.seed(0)
        recording.reset(seed=0)
        while buffer.rows_recorded < steps:
            recording.step(recording.action_space.sample())
        recording.close()
    return place


MEASURES = {"small-stores": small_stores}
