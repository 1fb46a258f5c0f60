"""Files and stores of the drop-in buffers, and what refuses them."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
import zarr

from replaystore.compat import active_rlhf, velora
from replaystore.errors import (
    ReplayStoreError,
)

STORES = (".zarr", ".h5")


def refuse(kind: type[Exception], text: str, action: Callable[[], Any]) -> None:
    """The action raises this error, with one line in which `text` (a pattern) occurs."""
    with pytest.raises(kind, match=text) as caught:
        action()
    assert isinstance(caught.value, ReplayStoreError)
    assert "\n" not in str(caught.value)
    assert 20 < len(str(caught.value)) < 500


def contents(folder: Path) -> dict[str, str]:
    """What is in a folder, but for locks."""
    found = {
        str(at): hashlib.sha256(at.read_bytes()).hexdigest() if at.is_file() else ""
        for at in folder.rglob("*")
    }
    return {name: digest for name, digest in found.items() if "lock" not in os.path.basename(name)}


def spaces(observation: int = 2, action: int = 1) -> Any:
    boxes = [gymnasium.spaces.Box(-1, 1, (width,)) for width in (observation, action)]
    return SimpleNamespace(single_observation_space=boxes[0], single_action_space=boxes[1])


def of_active(*counts: int) -> active_rlhf.ReplayBuffer:
    buffer = active_rlhf.ReplayBuffer(spaces(), 20, fragment_length=3, device="cpu")
    for count in counts:
        buffer.add(torch.rand(count, 2), torch.rand(count, 1), torch.rand(count), torch.zeros(count))
    return buffer


def of_velora(count: int = 7) -> velora.ReplayBuffer:
    buffer = velora.ReplayBuffer(10, 3, 2, 4, device="cpu")
    buffer.add_multi(
        torch.rand(count, 3),
        torch.rand(count, 2),
        torch.rand(count),
        torch.rand(count, 3),
        torch.zeros(count),
    )
    return buffer


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: buffers of both projects, and what is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.pkl", "a.zarr", "a.h5"):
        of_active(6, 5).save(name)
    for name in ("v", "v.zarr", "v.h5"):
        of_velora().save(name)
    for name in (
        "folder",
        "folder.pkl",
        "folder.safetensors",
        "folder.zarr",
        "folder.h5",
        "without_metadata",
    ):
        Path(name).mkdir()
    shutil.copy("v/buffer_state.safetensors", "without_metadata/buffer_state.safetensors")
    noise = np.random.default_rng(0).bytes(3000)
    for name in ("noise.pkl", "noise.safetensors", "noise.h5", "noise.zarr", "noise.txt"):
        Path(name).write_bytes(noise)
    for name in ("empty.pkl", "empty.safetensors", "empty.h5"):
        Path(name).touch()
    Path("half.pkl").write_bytes(Path("a.pkl").read_bytes()[:-30])
    Path("half.h5").write_bytes(Path("a.h5").read_bytes()[:-3000])
    Path("half.safetensors").write_bytes(Path("v/buffer_state.safetensors").read_bytes()[:-9])
    shutil.copy("v/buffer_metadata.json", "half_metadata.json")
    shutil.copytree("a.zarr", "without_log.zarr")
    shutil.rmtree("without_log.zarr/journal")
    Path("another.pkl").write_bytes(pickle.dumps([1, 2, 3], protocol=4))
    with h5py.File("another.h5", "w") as file:
        file["x"] = np.arange(3)
    zarr.open_group("another.zarr", mode="w").create_array("x", shape=(3,), dtype="i4")
    return tmp_path


def names(paths: Iterable[str]) -> list[str]:
    """The names of tests."""
    return [ascii(path) for path in paths]
