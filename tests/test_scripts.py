"""Training on preferences: what is kept and logged, with rings, errors and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from running import ENV_ID, SCRIPTS, SMALL, run, script
from trained_scripts import scalars

import replaystore as rs
from replaystore.compat.active_rlhf import ReplayBuffer

pytest_plugins = ["trained_scripts"]


def test_training_keeps_every_rollout_and_says_where_it_was(trained: Path) -> None:
    with rs.open(trained / "replay_buffer.zarr") as store:
        assert store.environment is not None
        assert store.environment["id"] == ENV_ID
        assert len(store) == 5 * 96
        assert store.trajectories["split"][0] == "val"
        assert "train" in store.trajectories["split"]
        assert len(set(store["observation"][:][:, 0].tolist())) > 100


def test_training_logs_what_it_learns(trained: Path) -> None:
    found = scalars(next(iter(trained.parent.glob(f"{ENV_ID}__pref_ppo__1__*"))))

    assert len(found["losses/policy_loss"]) == 4
    for tag in (
        "reward/accuracy",
        "reward/train_loss",
        "debug/corr_pearson",
        "charts/learning_rate",
        "prefs/mean_return_delta",
    ):
        assert np.isfinite(found[tag]).all(), tag
    assert found["prefs/num_pairs"][-1] == 60
    assert found["replay_buffer/num_trajectories"] == [2, 3, 4, 5]


@pytest.mark.parametrize("name", ["runs/y/kept.h5", "kept.pkl", None])
def test_training_keeps_other_kinds_of_files(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = f"--replay_buffer_save_path {name}" if name else "--save-model True"

    assert (
        run(
            "pref_ppo",
            (
                f"{SMALL} {more} --total_timesteps 192 --sampling_strategy priority --num-envs 2 "
                "--num_steps 48"
            ),
        )
        == 0
    )

    runs = next(iter((tmp_path / "runs").glob(f"{ENV_ID}__pref_ppo__1__*")))
    loaded = ReplayBuffer.load(tmp_path / name if name else runs / "replay_buffer.pkl", device="cpu")
    assert [info.length for info in loaded.trajectories] == [48] * 6, (
        "each environment has trajectories of its own"
    )
    assert any(info.on_policiness_score for info in loaded.trajectories)
    loaded.close()
    assert (runs / "pref_ppo.cleanrl_model").exists() == (name is None)


def test_nothing_is_kept_if_that_is_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert run("pref_ppo", f"{SMALL} --total_timesteps 96 --save_replay_buffer False") == 0

    assert not list(tmp_path.rglob("replay_buffer*"))


def test_a_ring_that_is_full_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_capacity 300 --replay_buffer_save_path a.zarr") == 0

    with ReplayBuffer.load("a.zarr", device="cpu") as loaded:
        assert (loaded.size, loaded.pos) == (300, 5 * 96 - 300)
    assert run("test_replay_buffer_loading", "--replay_buffer_path a.zarr") == 0


def test_an_error_in_training_does_not_lose_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = []

    def fails(*args: object) -> dict[str, float]:
        calls.append(args)
        raise OSError("out of luck")

    monkeypatch.setattr(script("pref_ppo"), "update", fails)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path kept.pkl") == 1

    assert len(calls) == 1
    assert ReplayBuffer.load("kept.pkl", device="cpu").size == 2 * 96


def test_training_that_is_killed_leaves_a_buffer_for_the_other_scripts(tmp_path: Path) -> None:
    store = tmp_path / "runs" / "x" / "replay_buffer.zarr"
    command = [sys.executable, str(SCRIPTS / "pref_ppo.py"), *SMALL.split(), "--total_timesteps", "10000000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--replay_buffer_save_path", str(store)], cwd=tmp_path, env=environment
    )
    try:
        rows = 0
        while rows < 4 * 96:
            assert process.poll() is None, "training ended"
            time.sleep(0.05)
            if store.exists():
                with rs.open(store) as seen:
                    rows = len(seen)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    path = f"--replay_buffer_path {store}"
    assert run("test_replay_buffer_loading", path) == 0
    assert run("analyze_replay_buffer", path) == 0
    assert (
        run(
            "train_vae_on_replay_buffer",
            f"{path} --fragment_length 8 --vae_num_epochs 1 --create_visualizations False",
        )
        == 0
    )
    assert (store.parent / "trained_vae.pth").exists()
