"""Buffers of Stable-Baselines3 as this package reads them, made without it: classes of the same names, whose
pickles are the same; and the samples that its own code has written."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
BUFFERS = "stable_baselines3.common.buffers"


def samples() -> Iterator[Any]:
    """(file, what is known of it), each a parameter; one that is skipped where there are none."""
    found = False
    for folder in sorted(SAMPLES.glob("stable-baselines3*")):
        known = json.loads((folder / "expected.json").read_text())
        facts = known.get("files", known)
        for file in sorted(folder.glob("*.pkl")):
            found = True
            yield pytest.param(file, facts[file.name], id=f"{folder.name}/{file.stem}")
    if not found:
        yield pytest.param(Path(), {}, marks=pytest.mark.skip("the samples are not beside this checkout"))


def truth(name: str) -> list[dict[str, Any]]:
    """The episodes that the samples were made of."""
    data = dict(np.load(SAMPLES / "truth" / f"{name}.npz"))
    found, row, step = [], 0, 0
    for length in data["ep_len"].tolist():
        keys = [key for key in data if key.partition(".")[0] == "obs"]
        found.append(
            {key: data[key][row : row + length + 1] for key in keys}
            | {key: data[key][step : step + length] for key in ("act", "rew", "terminated", "truncated")}
        )
        row, step = row + length + 1, step + length
    return found


def dumped(module: str, name: str, state: Mapping[str, Any], protocol: int = 5) -> bytes:
    """The pickle of an object of a class that need not be here, with this state."""
    body = io.BytesIO()
    pickle.Pickler(body, protocol).dump(dict(state))
    whole = body.getvalue()
    assert whole[:1] == b"\x80"
    start = 11 if whole[2:3] == b"\x95" else 2
    begin = whole[:start]
    named = b"c" + f"{module}\n{name}\n".encode() + b")\x81"
    if start == 11:  # a frame that holds more
        begin = whole[:2]
        return begin + named + whole[2:-1] + b"b."
    return begin + named + whole[start:-1] + b"b."


def state_of(
    rows: int = 6, envs: int = 2, *, full: bool = False, position: int = 4, seed: int = 0, **more: Any
) -> dict[str, Any]:
    """The attributes of a buffer whose episodes go on and on: next observations are those of the next row,
    but after flags."""
    generator = np.random.default_rng(seed)
    observations = generator.normal(size=(rows, envs, 3)).astype(np.float32)
    dones = np.zeros((rows, envs), np.float32)
    following = np.roll(observations, -1, axis=0)
    state = {
        "buffer_size": rows,
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        "action_space": gymnasium.spaces.Discrete(4),
        "obs_shape": (3,),
        "action_dim": 1,
        "pos": position,
        "full": full,
        "n_envs": envs,
        "optimize_memory_usage": False,
        "observations": observations,
        "next_observations": following,
        "actions": generator.integers(0, 4, (rows, envs, 1)),
        "rewards": generator.normal(size=(rows, envs)).astype(np.float32),
        "dones": dones,
        "handle_timeout_termination": True,
        "timeouts": np.zeros((rows, envs), np.float32),
    }
    return state | more


def rows_in_time(values: NDArray[Any], full: bool, position: int) -> NDArray[Any]:
    """The rows in use, oldest first."""
    return np.roll(values, -position, axis=0) if full else values[:position]
