"""The system refuses to read, perhaps only once: an error of ours says why, and nothing is taken for lost or
undone because of it. One that reads less than it was asked to is asked again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import gymnasium
import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import StorageError
from replaystore.storage import local as files

SCHEMA = rs.Schema(
    {
        "observation": rs.Field(np.dtype("f4"), (3,), "observation"),
        "reward": rs.Field(np.dtype("f4"), (), "reward"),
    }
)
KINDS: dict[str, dict[str, Any]] = {
    "raw.zarr": {},
    "coded.zarr": {"storage": {"observation": {"codec": "zstd:1", "chunk_rows": 8}}},
    "unsynced.zarr": {"durability": "none"},
    "raw.h5": {},
    "coded.h5": {"storage": {"observation": {"codec": "gzip:1", "chunk_rows": 8}}},
    "unsynced.h5": {"durability": "none"},
}
REASON = os.strerror(errno.EIO)


def rows(first: int, count: int) -> dict[str, Any]:
    column = np.arange(first, first + count, dtype="f4")
    return {"observation": np.repeat(column[:, None], 3, axis=1), "reward": column}


@contextmanager
def refusing(at: int, *, once: bool) -> Iterator[list[int]]:
    """Call number `at` that reads a file fails, and those after it, or not; how many there were."""
    calls = [0]

    def refused(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == at or (calls[0] > at and not once):
                raise OSError(errno.EIO, REASON)
            return real(*arguments, **options)

        return call

    with (
        patch.object(files.os, "pread", refused(os.pread)),
        patch.object(files.os, "preadv", refused(os.preadv)),
        patch.object(files, "open_regular", refused(files.open_regular)),
    ):
        yield calls


def make(path: Path, **options: Any) -> None:
    """Five commits, and no orderly end."""
    buffer = rs.create(path, SCHEMA, **options)
    for commit in range(5):
        buffer.append(rows(20 * commit, 20))
        buffer.commit()
    buffer.abandon()


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("name", KINDS)
def test_no_older_commit_is_shown_because_of_it(tmp_path: Path, name: str, mode: Any, once: bool) -> None:
    make(tmp_path / name, **KINDS[name])
    at, opened = 1, False
    while not opened:
        with refusing(at, once=once) as calls:
            try:
                buffer = rs.open(tmp_path / name, mode)
            except StorageError as error:
                assert REASON in str(error)  # noqa: PT017  # it may also open all the same
            else:
                assert len(buffer) == 100
                buffer.abandon()
                opened = calls[0] < at
        at += 1 if at < 40 else 7
    assert at > 3


@pytest.mark.parametrize("name", KINDS)
def test_reading_fails_with_an_error_of_ours(tmp_path: Path, name: str) -> None:
    make(tmp_path / name, **KINDS[name])
    what: dict[str, Callable[[rs.Buffer], Any]] = {
        "read": lambda buffer: buffer.read(slice(None)),
        "trajectories": lambda buffer: buffer.trajectories.columns,
        "parts": lambda buffer: buffer.parts,
        "refresh": lambda buffer: buffer.refresh(),
        "rollback": lambda buffer: buffer.rollback(2),
        "sample": lambda buffer: buffer.sampler(8, seed=1).sample(),
        "statistics": lambda buffer: buffer.statistics(),
    }
    for operation, act in what.items():
        mode: Any = "r+" if operation == "rollback" else "r"
        buffer = rs.open(tmp_path / name, mode)
        with refusing(1, once=False) as calls:
            try:
                act(buffer)
            except StorageError as error:
                assert REASON in str(error), operation  # noqa: PT017  # what is known already needs no reading
            else:
                assert not calls[0], operation
        buffer.abandon()
        with rs.open(tmp_path / name, "r+") as again:
            assert len(again) == 100
            assert again["reward"][:].tolist() == list(range(100))


@contextmanager
def reading_seven() -> Iterator[None]:
    """Anything larger than a few bytes comes in pieces."""
    pread, preadv = os.pread, os.preadv
    with (
        patch.object(os, "pread", lambda fd, length, offset: pread(fd, min(length, 7), offset)),
        patch.object(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset)),
    ):
        yield


@pytest.mark.torch
def test_a_call_that_reads_less_of_a_file_of_other_software_is_made_again(tmp_path: Path) -> None:
    import torch

    from replaystore.compat.active_rlhf import ReplayBuffer as ActiveBuffer
    from replaystore.compat.velora import ReplayBuffer as VeloraBuffer

    boxes = [gymnasium.spaces.Box(-1, 1, (width,)) for width in (3, 2)]
    envs = SimpleNamespace(single_observation_space=boxes[0], single_action_space=boxes[1])
    active = ActiveBuffer(envs, 16, fragment_length=3, device="cpu")
    active.add(torch.ones(9, 3), torch.ones(9, 2), torch.ones(9, 1), torch.zeros(9, 1, dtype=torch.bool))
    active.save(tmp_path / "active.pkl")
    velora = VeloraBuffer(16, state_dim=3, action_dim=2, hidden_dim=4)
    velora.add_multi(*(torch.ones(9, width) for width in (3, 2, 1, 3, 1, 4)))
    velora.save(tmp_path / "velora")

    with reading_seven():
        assert ActiveBuffer.load(tmp_path / "active.pkl", device="cpu").size == 9
        assert VeloraBuffer.load(tmp_path / "velora" / "buffer_state.safetensors").size == 9


def test_a_call_that_reads_less_is_made_again(tmp_path: Path) -> None:
    """Of stores, and of zip files."""
    for name, options in KINDS.items():
        make(tmp_path / name, **options)
    rs.convert(tmp_path / "coded.zarr", tmp_path / "coded.zarr.zip")
    with reading_seven():
        for name in [*KINDS, "coded.zarr.zip"]:
            with rs.open(tmp_path / name) as buffer:
                assert buffer["reward"][:].tolist() == list(range(100)), name
                assert buffer["observation"][:][:, 2].tolist() == list(range(100)), name
            if not name.endswith(".zip"):
                rs.open(tmp_path / name, "r+").close()
