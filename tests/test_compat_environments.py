"""Buffers of another environment are refused or warned of when they are loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from rlhf_buffers import STORES, rows, spaces

from replaystore.buffers.create_open import open as open_buffer
from replaystore.compat.active_rlhf import (
    ReplayBuffer,
)
from replaystore.errors import SchemaError


def envs(name: str | None, *, low: float = -1.0, dtype: str = "float32") -> Any:
    """As much of a vector environment as is looked at; None: an environment that is not registered."""
    boxes = [gymnasium.spaces.Box(np.full(width, low, dtype), 1.0, (width,), dtype) for width in (2, 1)]
    spec = None if name is None else SimpleNamespace(id=name, to_json=lambda: "{}")
    single = {"single_observation_space": boxes[0], "single_action_space": boxes[1]}
    return SimpleNamespace(spec=spec, num_envs=1, observation_space=boxes[0], action_space=boxes[1], **single)


def saved(path: Path, recorded: Any) -> Path:
    buffer = ReplayBuffer(recorded, 10, 2, "cpu")
    buffer.add(*rows(0, 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer.save(path)
    return path


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("now", ["Walker2d-v5", "HalfCheetah-v4"])
@pytest.mark.parametrize("suffix", STORES)
def test_another_environment_of_the_same_width_is_refused(
    suffix: str, now: str, mode: Any, tmp_path: Path
) -> None:
    path = saved(tmp_path / f"b{suffix}", envs("HalfCheetah-v5"))

    with pytest.raises(
        SchemaError, match=(f"was recorded in HalfCheetah-v5, and envs are of {now}: pass .* or envs=None")
    ):
        ReplayBuffer.load(path, envs(now), device="cpu", mode=mode)

    # Wrappers change bounds; an id that is not known is no other id.
    for same in (envs("HalfCheetah-v5", low=-np.inf), None, spaces()):
        with ReplayBuffer.load(path, same, device="cpu", mode=mode) as loaded:
            assert loaded.envs is same
            assert loaded.environment is not None
            assert loaded.environment["id"] == "HalfCheetah-v5"


@pytest.mark.parametrize("suffix", STORES)
@pytest.mark.parametrize("again", [False, True])
def test_other_bounds_are_warned_of_where_no_id_is_known(again: bool, suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a{suffix}", envs(None))
    if again:
        with ReplayBuffer.load(path, device="cpu") as loaded:
            loaded.save(tmp_path / f"b{suffix}")
        path = tmp_path / f"b{suffix}"
    with open_buffer(path) as store:
        assert (store.schema.observation_space(), store.schema.action_space()) == (
            envs(None).single_observation_space,
            envs(None).single_action_space,
        )

    with pytest.warns(
        UserWarning,
        match=(
            r"the (observation|action) space Box\(-1.*and that of envs is "
            r"Box\(-5"
        ),
    ) as warned:
        ReplayBuffer.load(path, envs(None, low=-5.0), device="cpu").close()
    assert [str(item.message)[-len("same environment?") :] for item in warned] == ["same environment?"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReplayBuffer.load(path, envs(None, dtype="float64"), device="cpu").close()


def test_the_folder_of_a_pickle_is_a_hint_at_its_environment(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "HalfCheetah-v5__pref_ppo__1__1700000000" / "replay_buffer.pkl", envs("HalfCheetah-v5")
    )

    with pytest.warns(
        UserWarning,
        match=(
            r"seems to be of HalfCheetah-v5, by the name of its folder, and "
            r"envs are of Walker2d-v5"
        ),
    ):
        ReplayBuffer.load(path, envs("Walker2d-v5"), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReplayBuffer.load(path, envs("HalfCheetah-v5"), device="cpu")
