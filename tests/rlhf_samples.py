"""Pickles of active_rlhf to convert: the samples, rings of every kind, and other buffers to be written so."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from rlhf_rings import ACT, OBS, Ring, rows

import replaystore as rs
from replaystore.containers.located import remove
from replaystore.location import Location

DATA = Path(__file__).parent / "data" / "active_rlhf"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())["samples"]
SAMPLES = sorted(name for name, facts in EXPECTED.items() if (DATA / facts["file"]).exists())
STORES = ["b.zarr", "b.h5"]


def sample(name: str) -> Path:
    return DATA / EXPECTED[name]["file"]


def digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@contextmanager
def fresh() -> Iterator[Path]:
    """A folder, and places in memory, for one example."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        remove(Location("memory", "zarr", "ring"))
        remove(Location("memory", "zarr", "other"))


# --- rings of every kind


@st.composite
def histories(draw: st.DrawFn) -> Ring:
    """What a program may have saved."""
    capacity = draw(st.integers(1, 24))
    dtype = draw(st.sampled_from(["f4", "f4", "f8", "f2"]))
    ring = Ring(capacity, fragment_length=draw(st.integers(0, 300)), dtype=dtype)
    for seed in range(draw(st.integers(0, 7))):
        overlong = 2 * capacity - ring.pos
        count = draw(st.one_of(st.integers(0, capacity), st.integers(0, overlong)))
        ring.add(rows(count, seed, dtype), draw(st.sampled_from(["train", "val", "test", "", "é"])))
    for info in ring.trajectories:
        if draw(st.booleans()):
            info.on_policiness_score = draw(st.floats(allow_nan=True))
            info.last_updated_step = draw(st.integers(0, 2**62))
    return ring


# --- any other buffer


def episodes(location: str, *, finals: bool = True, **settings: Any) -> None:
    """Two environments' episodes, of 4, 3 and 2 steps; the last one is open."""
    spaces = {
        "observation": rs.Field("f4", (OBS,), "observation"),
        "action": rs.Field("f4", (ACT,), "action"),
    }
    flags = {name: rs.Field("?", (), name) for name in ("terminated", "truncated")}
    with rs.create(
        location, rs.Schema({**spaces, "reward": rs.Field("f8", (), "reward"), **flags}), **settings
    ) as buffer:
        for env, (count, ends) in enumerate([(4, True), (3, True), (2, False)]):
            flag = np.zeros(count, bool)
            flag[-1] = ends
            values = np.arange(count * OBS, dtype="f4").reshape(count, OBS) + 100 * env
            columns = {
                "observation": values,
                "action": values[:, :ACT] + 0.5,
                "reward": np.arange(count) + 0.5,
            }
            columns |= {"terminated": flag, "truncated": np.zeros(count, bool)}
            final = np.full((1, OBS), -1 - env, "f4") if finals else None
            buffer.append(columns, env=env, final_observation=final, split="val" if env == 1 else "train")
