"""The ring buffer of active_rlhf as its rules have it, and its pickles, written and read by Python's own
pickle and torch."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensors import torch

OBS, ACT = 3, 2


@dataclass
class TrajectoryInfo:
    start_pos: int
    length: int
    split: str = "train"
    on_policiness_score: float = 0.0
    last_updated_step: int = 0


TrajectoryInfo.__module__ = "active_rlhf.data.buffers"


@contextmanager
def installed() -> Iterator[None]:
    """With a package active_rlhf that has nothing but the class of trajectories."""
    names = ["active_rlhf", "active_rlhf.data", "active_rlhf.data.buffers"]
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["active_rlhf.data.buffers"].TrajectoryInfo = TrajectoryInfo  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@dataclass
class Ring:
    """What the pickle holds; `add` follows the rules of the original."""

    capacity: int
    size: int = 0
    pos: int = 0
    global_step: int = 0
    fragment_length: int = 50
    trajectories: list[TrajectoryInfo] = field(default_factory=list)
    obs: Any = None
    acts: Any = None
    rews: Any = None
    dones: Any = None
    dtype: str = "f4"

    def __post_init__(self) -> None:
        if self.obs is None:
            self.obs = np.zeros((self.capacity, OBS), self.dtype)
            self.acts = np.zeros((self.capacity, ACT), self.dtype)
            self.rews = np.zeros((self.capacity, 1), self.dtype)
            self.dones = np.zeros((self.capacity, 1), np.bool_)

    def add(self, rows: dict[str, NDArray[Any]], split: str) -> None:
        """Append one trajectory; those that it overlaps are gone."""
        count, begin, end = len(rows["rews"]), self.pos, self.pos + len(rows["rews"])

        def overlaps(info: TrajectoryInfo) -> bool:
            start, stop = info.start_pos, info.start_pos + info.length
            if end <= self.capacity:
                return start < end and stop > begin
            return stop > begin or start < end - self.capacity

        self.trajectories = [info for info in self.trajectories if not overlaps(info)]
        places = (begin + np.arange(count)) % self.capacity
        for place, row in zip(places.tolist(), range(count), strict=True):
            for name, values in rows.items():
                getattr(self, name)[place] = values[row]
        self.trajectories.append(TrajectoryInfo(begin, count, split, 0.0, self.global_step))
        self.pos, self.size = end % self.capacity, min(self.size + count, self.capacity)
        self.global_step += count

    def save(self, path: Path | str, protocol: int = 4, **more: Any) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: torch.from_numpy(getattr(self, name).copy()) for name in ("obs", "acts", "rews", "dones")
        }
        numbers = {
            name: getattr(self, name)
            for name in ("capacity", "fragment_length", "size", "pos", "global_step")
        }
        shapes = {"env_obs_shape": (self.obs.shape[1],), "env_act_shape": (self.acts.shape[1],)}
        with installed(), Path(path).open("wb") as file:
            pickle.dump(
                {**numbers, **tensors, "trajectories": self.trajectories, **shapes, **more},
                file,
                protocol=protocol,
            )


def rows(count: int, seed: int, dtype: str = "f4") -> dict[str, NDArray[Any]]:
    """So many random rows, to be added."""
    rng = np.random.default_rng(seed)
    made: dict[str, NDArray[Any]] = {
        "obs": rng.normal(size=(count, OBS)).astype(dtype),
        "acts": rng.normal(size=(count, ACT)).astype(dtype),
    }
    return made | {"rews": rng.normal(size=(count, 1)).astype(dtype), "dones": rng.random((count, 1)) < 0.1}


def load(path: Path | str) -> dict[str, Any]:
    """All that a pickle holds, to be compared: tensors as (dtype, shape, bytes), floats as text."""
    with installed(), Path(path).open("rb") as file:
        content = pickle.load(file)
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            assert value.is_contiguous()
            assert not value.requires_grad
            found[key] = (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
        elif key == "trajectories":
            assert all(type(info) is TrajectoryInfo for info in value)
            found[key] = [
                (i.start_pos, i.length, i.split, i.on_policiness_score.hex(), i.last_updated_step)
                for i in value
            ]
        else:
            found[key] = value
    return found
