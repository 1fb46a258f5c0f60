"""Trainings of seconds, what happens in the middle of them, and what they keep."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest
import torch
from running import run, script

from replaystore.compat.active_rlhf import ReplayBuffer

PLACES = ["runs/x/kept.zarr", "kept.h5", "kept.pkl"]
SIGNALS = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130}
VAE = (
    "--fragment_length 8 --vae_latent_dim 4 --vae_hidden_dims 8 --vae_num_epochs 3 --vae_batch_size 8 "
    "--device cpu"
)


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a folder of its own, with the signals that a shell has."""
    monkeypatch.chdir(tmp_path)
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGTERM: signal.SIG_DFL,
    }
    # Ignored, if the tests run in the background.
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def small_buffer(width: int = 3) -> ReplayBuffer:
    """Of four trajectories of 50 rows."""
    box = gymnasium.spaces.Box
    envs = SimpleNamespace(
        single_observation_space=box(-1, 1, (width,)), single_action_space=box(-1, 1, (1,))
    )
    buffer = ReplayBuffer(envs, 400, 8, "cpu")
    generator = torch.Generator().manual_seed(0)
    for split in ("val", "train", "train", "val"):
        rows = [torch.rand(50, columns, generator=generator) for columns in (width, 1)]
        buffer.add(*rows, torch.rand(50, generator=generator), torch.zeros(50), split)
    return buffer


def content(path: str | Path) -> dict[str, bytes]:
    """Of a file, or of all files of a folder."""
    place = Path(path)
    return {
        str(found): found.read_bytes()
        for found in ([place] if place.is_file() else place.rglob("*"))
        if found.is_file()
    }


def at_update(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], number: int = 2) -> None:
    """Let something happen in a training, when the agent is improved for this time."""
    ppo, calls = script("pref_ppo"), [0]
    real = ppo.update

    def update(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            happens()
        return real(*args)

    monkeypatch.setattr(ppo, "update", update)


def assert_kept(path: str, rollouts: int) -> None:
    """All of so many rollouts, and what opens in the other scripts."""
    with ReplayBuffer.load(path, device="cpu") as loaded:
        assert [info.length for info in loaded.trajectories] == [96] * rollouts
        assert loaded.size == loaded.pos == loaded.global_step == 96 * rollouts
        assert bool(loaded.obs[torch.arange(loaded.size)].abs().sum(dim=1).gt(0).all()), (
            "every row was written"
        )
    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path}") == 0


def refused(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
