"""Saving the buffers of other software, interrupted: to stores and to their own files, new, over others,
and again.

What is seen is what `load` gives: the tensors and all numbers beside them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gymnasium
import torch

from replaystore.compat import active_rlhf, velora
from replaystore.errors import ReplayStoreError
from replaystore.testing.replacements import NOTHING, Replacement
from replaystore.testing.sessions import verified

__all__ = ["saves"]

CAPACITY = 24
_FILES = {"buffer_state.safetensors", "buffer_metadata.json"}
STORES = (".zarr", ".h5")
TENSORS = ("obs", "acts", "rews", "dones")


@dataclass(frozen=True)
class Project:
    """A buffer class, and how it is used."""

    name: str
    own: str
    """What it saves to by itself."""
    new: Callable[[], Any]
    add: Callable[[Any, int, int], None]
    """Add so many rows of a seed."""
    load: Callable[..., Any]
    state: Callable[[Any], list[Any]]
    """All that there is, tensors and numbers."""


def _rows(seed: int, count: int, *widths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator) for width in widths]


def _add_velora(buffer: Any, seed: int, count: int) -> None:
    states, actions, rewards, hiddens = _rows(seed, count + 1, 3, 2, 1, 4)
    dones = (rewards > 1).float()
    buffer.add_multi(states[:-1], actions[:-1], rewards[:-1], states[1:], dones[:-1], hiddens[:-1])


def _load_velora(path: str, **settings: Any) -> Any:
    return velora.ReplayBuffer.load(path if path.endswith(STORES) else f"{path}/buffer_state", **settings)


def _spaces() -> Any:
    boxes = [gymnasium.spaces.Box(-1, 1, (width,)) for width in (2, 1)]
    return SimpleNamespace(single_observation_space=boxes[0], single_action_space=boxes[1])


def _add_active(buffer: Any, seed: int, count: int) -> None:
    obs, acts, rews = _rows(seed, count, 2, 1, 1)
    buffer.add(obs, acts, rews, rews > 1, split=["train", "val"][seed % 2])


PROJECTS = (
    Project(
        "velora",
        "",
        lambda: velora.ReplayBuffer(CAPACITY, 3, 2, 4),
        _add_velora,
        _load_velora,
        lambda buffer: [*(tensor[:] for tensor in buffer.state_dict().values()), buffer.metadata()],
    ),
    Project(
        "active_rlhf",
        ".pkl",
        lambda: active_rlhf.ReplayBuffer(_spaces(), CAPACITY, 3, "cpu"),
        _add_active,
        lambda path, **settings: active_rlhf.ReplayBuffer.load(path, device="cpu", **settings),
        lambda buffer: [*(getattr(buffer, name)[:] for name in TENSORS), buffer.pos, buffer.trajectories],
    ),
)


def _shown(project: Project) -> Callable[[str], str]:
    def shown(path: str) -> str:
        if os.path.isdir(path) and not path.endswith(STORES) and not _FILES & set(os.listdir(path)):
            return NOTHING
        problem = verified(path) if path.endswith(STORES) else ""
        if problem:
            return problem[:150]
        try:
            buffer = project.load(path)
        except ReplayStoreError as error:
            return f"a buffer that says {type(error).__name__}"
        found = hashlib.sha256()
        for part in project.state(buffer):
            found.update(part.numpy().tobytes() if isinstance(part, torch.Tensor) else repr(part).encode())
        buffer.close() if path.endswith(STORES) else None
        return found.hexdigest()

    return shown


def saves() -> Iterator[Replacement]:
    """Each project, to each kind of place, in each situation."""
    for project in PROJECTS:
        for suffix in (project.own, *STORES):
            yield from _saves(project, "saved" + suffix)


def _saves(project: Project, target: str) -> Iterator[Replacement]:
    def filled(seed: int = 1) -> Any:
        buffer = project.new()
        for number in range(3):
            project.add(buffer, 10 * seed + number, 6)
        return buffer

    def save(folder: str, buffer: Any) -> None:
        buffer.save(os.path.join(folder, target))

    def again(folder: str) -> Any:
        buffer = filled()
        save(folder, buffer)
        project.add(buffer, 3, 9)
        return buffer

    def loaded(folder: str) -> Any:
        buffer = project.load(os.path.join(folder, target), mode="r+")
        project.add(buffer, 3, 9)
        return buffer

    name, shown = f"{project.name} in {target.removeprefix('saved') or 'files'}", _shown(project)

    def old(folder: str) -> None:
        save(folder, filled(2))

    def nothing(_: str) -> None:
        pass

    def fresh(_: str) -> Any:
        return filled()

    yield Replacement(f"save of {name}", "save", target, nothing, save, fresh, shown=shown)
    yield Replacement(f"save over {name}", "save", target, old, save, fresh, shown=shown)
    yield Replacement(f"save again of {name}", "save", target, old, save, again, shown=shown)
    if target.endswith(STORES):
        for operation in ("commit", "close"):

            def act(_: str, buffer: Any, operation: str = operation) -> None:
                getattr(buffer, operation)()

            words = f"{operation} of {name}, loaded"
            yield Replacement(words, operation, target, old, act, loaded, shown=shown, goes_on=True)
