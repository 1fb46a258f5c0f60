"""Buffers of other libraries, each used as its documentation shows it, for one step after the other.

Each is made by a function that raises ImportError where its library is not installed; `missing` tells which
are. SQLite comes with Python.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring.data import FIELDS, Columns
from numpy.typing import NDArray

__all__ = [
    "LIBRARIES",
    "Peer",
    "cpprb_prioritized",
    "missing",
    "reason",
    "sqlite",
    "stable_baselines3",
    "torchrl",
]

LIBRARIES = {"stable-baselines3": "stable_baselines3", "torchrl": "torchrl", "cpprb": "cpprb"}
"""What is compared with, and what is imported of it."""

Step = Sequence[NDArray[Any]]
"""Of several environments: action, reward, terminated, truncated, observation after the step."""


@dataclass(frozen=True)
class Peer:
    """A buffer in memory, or in mapped files."""

    add: Callable[[NDArray[Any], Step], object]
    """The observations before a step, and the step."""
    sample: Callable[[], Any]
    """A batch as the library gives it, next observations included."""
    update: Callable[[Any, NDArray[Any]], object] | None = None
    """Sets new priorities of a batch; None: there are none."""


def missing() -> list[str]:
    """The libraries that are not installed."""
    return [name for name, module in LIBRARIES.items() if importlib.util.find_spec(module) is None]


def reason(name: str) -> str:
    """Why a peer is left out, for `measuring.skipped`; nothing if it is there."""
    return f"{name} is not installed" if name in missing() else ""


def stable_baselines3(capacity: int, num_envs: int, size: int) -> Peer:
    """In memory. It has no separate flag for episodes that were cut off, and stores the next observation."""
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer

    spaces = [Box(-np.inf, np.inf, FIELDS[name][1], np.float32) for name in ("observation", "action")]
    buffer = ReplayBuffer(capacity, *spaces, device="cpu", n_envs=num_envs)
    infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

    def add(before: NDArray[Any], step: Step) -> None:
        action, reward, terminated, _, after = step
        buffer.add(before, after, action, reward, terminated, infos)

    return Peer(add, lambda: buffer.sample(size))


def torchrl(folder: Path, capacity: int, size: int) -> Peer:
    """In mapped files; torch uses one thread, which is quicker for batches so small."""
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")  # else it tells of each storage that it makes
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, ReplayBuffer

    torch.set_num_threads(1)
    storage = LazyMemmapStorage(capacity, scratch_dir=str(folder))
    buffer = ReplayBuffer(storage=storage, batch_size=size)
    names = ("observation", "action", "reward", "terminated", "truncated", "next_observation")

    def add(before: NDArray[Any], step: Step) -> None:
        action, reward, terminated, truncated, after = step
        values = (before, action, reward, terminated, truncated, after)
        rows = {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}
        buffer.extend(TensorDict(rows, [len(reward)]))

    return Peer(add, buffer.sample)


def cpprb_prioritized(capacity: int, size: int, *, alpha: float = 0.6, beta: float = 0.4) -> Peer:
    """In memory; steps of one environment at a time, or of several."""
    from cpprb import PrioritizedReplayBuffer

    fields = {name: {"shape": shape or 1, "dtype": dtype} for name, (dtype, shape) in FIELDS.items()}
    fields["next_observation"] = fields["observation"]
    buffer = PrioritizedReplayBuffer(capacity, fields, alpha=alpha)

    def add(before: NDArray[Any], step: Step) -> None:
        action, reward, terminated, truncated, after = step
        buffer.add(
            observation=before,
            action=action,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            next_observation=after,
        )

    return Peer(
        add,
        lambda: buffer.sample(size, beta),
        lambda batch, priorities: buffer.update_priorities(batch["indexes"], priorities),
    )


def sqlite(path: Path) -> Callable[[Columns], None]:
    """What commits rows, each a row of one table, its arrays as blobs; a commit is on the disk when it
    returns."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(f"CREATE TABLE steps ({', '.join(FIELDS)})")
    insert = f"INSERT INTO steps VALUES ({', '.join('?' * len(FIELDS))})"  # noqa: S608  # names of ours

    def commit(columns: Columns) -> None:
        rows = (
            (observation.tobytes(), action.tobytes(), float(reward), bool(terminated), bool(truncated))
            for observation, action, reward, terminated, truncated in zip(*columns.values(), strict=True)
        )
        with database:
            database.executemany(insert, rows)

    return commit
