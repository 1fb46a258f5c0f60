"""Steps to write: recorded from HalfCheetah where MuJoCo is installed, else random; 98 bytes a step. And
frames like Atari's."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import replaystore as rs

__all__ = [
    "BLOCK",
    "EPISODE",
    "FIELDS",
    "Columns",
    "cheetah_steps",
    "frames",
    "mapped_rows",
    "schema",
    "vector_steps",
    "warm",
    "write",
]

Columns = dict[str, NDArray[Any]]
EPISODE = 1000
BLOCK = 100 * EPISODE
"""Steps that are recorded; larger buffers hold them again and again, which no codec sees."""
FIELDS: dict[str, tuple[type, tuple[int, ...]]] = {
    "observation": (np.float32, (17,)),
    "action": (np.float32, (6,)),
    "reward": (np.float32, ()),
    "terminated": (np.bool_, ()),
    "truncated": (np.bool_, ()),
}


def schema(columns: Columns | None = None) -> rs.Schema:
    """That of such columns, by default of those of HalfCheetah."""
    if columns is not None:
        return rs.Schema({name: rs.Field(a.dtype, a.shape[1:], name) for name, a in columns.items()})
    return rs.Schema({name: rs.Field(dtype, shape, name) for name, (dtype, shape) in FIELDS.items()})


def cheetah_steps(count: int) -> tuple[Columns, str]:
    """So many steps of one environment, and where they come from."""
    columns: Columns = {name: np.zeros((count, *shape), dtype) for name, (dtype, shape) in FIELDS.items()}
    columns["truncated"][EPISODE - 1 :: EPISODE] = True
    if importlib.util.find_spec("mujoco") is None:
        rng = np.random.default_rng(0)
        for name in ("observation", "action", "reward"):
            columns[name][:] = rng.normal(size=columns[name].shape)
        return columns, "random numbers (MuJoCo is not installed)"
    import gymnasium

    env = gymnasium.make("HalfCheetah-v5")
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for row in range(count):
        columns["observation"][row], action = observation, env.action_space.sample()
        columns["action"][row] = action
        observation, columns["reward"][row], terminated, truncated, _ = env.step(action)
        columns["terminated"][row], columns["truncated"][row] = terminated, truncated
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    return columns, "HalfCheetah-v5"


def write(
    place: Path,
    steps: int,
    columns: Columns,
    durability: Literal["commit", "none"] = "none",
    storage: Mapping[str, Any] | None = None,
) -> None:
    """A buffer of so many steps, `columns` again and again."""
    count = len(columns["reward"])
    finals = np.repeat(columns["observation"][:1], count // EPISODE, axis=0)
    with rs.create(place, schema(columns), durability=durability, storage=storage) as buffer:
        for _ in range(steps // count):
            buffer.append(columns, final_observation=finals)
            buffer.commit()


def mapped_rows(buffer: rs.Buffer) -> Columns:
    """The raw fields of a buffer as arrays that no row was copied to."""
    found: Columns = {}
    for name, field in buffer.schema.fields.items():
        items: Any = buffer.stored_column(f"steps/{name}").items
        found[name] = items.view(field.dtype).reshape(-1, *field.shape)
    return found


def warm(*stores: Path) -> None:
    """Have stores in memory: a system may have put their pages out, if nobody touched them while something
    else was made or measured."""
    for store in stores:
        for path in [store] if store.is_file() else [path for path in store.rglob("*") if path.is_file()]:
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def vector_steps(columns: Columns, num_envs: int) -> list[tuple[NDArray[Any], ...]]:
    """Steps of several environments, each field of each step an array of its own, as an environment gives
    them.

    (action, reward, terminated, truncated, observation after the step)"""
    names = ("action", "reward", "terminated", "truncated", "observation")
    count = len(columns["reward"]) // num_envs
    return [
        tuple(columns[name][step * num_envs : (step + 1) * num_envs].copy() for name in names)
        for step in range(count)
    ]


_rng = np.random.default_rng(1)
_BACKGROUND = np.repeat(np.repeat(_rng.integers(0, 8, (12, 12), np.uint8) * 20, 7, 0), 7, 1) + _rng.integers(
    0, 2, (84, 84), np.uint8
)
_SPRITES = [_rng.integers(120, 255, (6 + kind, 5 + kind), np.uint8) for kind in range(6)]


def frames(time: int, num_envs: int) -> NDArray[np.uint8]:
    """A frame of each environment at a time, of shape (num_envs, 84, 84): sprites that move over a
    background, and a score."""
    found = np.empty((num_envs, 84, 84), np.uint8)
    found[:] = _BACKGROUND
    for env, frame in enumerate(found):
        for kind, sprite in enumerate(_SPRITES):
            height, width = sprite.shape
            y, x = (
                (time * (1 + kind) // 2 + 17 * env) % (84 - height),
                (time * (2 + env) // 3 + 13 * kind) % (84 - width),
            )
            frame[y : y + height, x : x + width] = sprite
        frame[0, :64] = (((time * 64 + np.arange(64)) * 2654435761 >> 7) & 255).astype(np.uint8)
    return found
