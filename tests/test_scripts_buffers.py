"""What the scripts make of buffers: pictures, autoencoders, from files of every kind."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from running import ENV_ID, run
from trained_scripts import ANALYSIS, PICTURES, assert_pictures, scalars

import replaystore as rs
from replaystore.analysis.vae import FragmentVAE
from replaystore.compat.active_rlhf import ReplayBuffer
from replaystore.compat.velora import ReplayBuffer as VeloraBuffer

pytest_plugins = ["trained_scripts"]


def test_analysis_draws_five_pictures(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("analyze_replay_buffer", f"--replay_buffer_path {trained / 'replay_buffer.zarr'}") == 0

    assert f"480 rows of {ENV_ID}" in capsys.readouterr().out
    assert_pictures(trained / "analysis", ANALYSIS)


def test_the_autoencoder_learns_and_is_kept(trained: Path) -> None:
    path = trained / "replay_buffer.zarr"
    arguments = (
        f"--replay-buffer-path {path} --fragment-length 8 --vae_latent_dim 12 --vae-hidden-dims 32 "
        "16 --vae_num_epochs 8"
    )

    assert (
        run(
            "train_vae_on_replay_buffer",
            f"{arguments} --vae_kl_warmup_epochs 2 --vae_batch_size 8 --device cpu",
        )
        == 0
    )

    losses = scalars(trained / "vae_training")
    assert losses["vae/train_recon_loss"][-1] < 0.8 * losses["vae/train_recon_loss"][0]
    assert losses["vae/val_recon_loss"][-1] < losses["vae/val_recon_loss"][0]
    assert_pictures(trained / "vae_visualizations", PICTURES)
    saved = torch.load(trained / "trained_vae.pth", weights_only=True)
    assert saved["vae_config"]["hidden_dims"] == [32, 16]
    assert saved["training_args"]["vae_num_epochs"] == 8
    model = FragmentVAE(**saved["vae_config"])
    model.load_state_dict(saved["vae_state_dict"])
    with ReplayBuffer.load(path, fragment_length=8, device="cpu") as loaded:
        fragments = loaded.sample2(4, "train").obs
    assert model.eval()(fragments)[0].shape == fragments.shape


def test_the_same_seed_gives_the_same_autoencoder(trained: Path, tmp_path: Path) -> None:
    def fit(name: str, seed: int) -> dict[str, torch.Tensor]:
        arguments = (
            f"--replay_buffer_path {trained / 'replay_buffer.zarr'} --fragment_length 8 "
            f"--vae_num_epochs 2 --seed {seed}"
        )
        unlocking = (
            "--enable_gradual_unlocking True --initial_data_fraction 0.4 --unlock_schedule step "
            "--unlock_steps 2"
        )
        target = tmp_path / name
        assert (
            run(
                "train_vae_on_replay_buffer",
                f"{arguments} {unlocking} --create_visualizations False --vae_save_path {target}",
            )
            == 0
        )
        found: dict[str, torch.Tensor] = torch.load(target, weights_only=True)["vae_state_dict"]
        return found

    first, again, other = fit("a.pth", 1), fit("b.pth", 1), fit("c.pth", 2)

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["latent.weight"], other["latent.weight"])


@pytest.mark.parametrize(("suffix", "drawn"), [(".pkl", True), (".h5", False)])
def test_other_kinds_of_files_are_accepted(
    suffix: str, drawn: bool, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / f"{ENV_ID}__x__1__0"
    folder.mkdir()
    path = folder / f"replay_buffer{suffix}"
    with ReplayBuffer.load(trained / "replay_buffer.zarr", device="cpu") as loaded:
        loaded.save(path)

    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path}") == 0
    assert run("analyze_replay_buffer", f"--replay_buffer_path {path}") == 0
    arguments = (
        f"--replay_buffer_path {path} --fragment_length 8 --vae_num_epochs 1 --create_visualizations {drawn}"
    )
    assert run("train_vae_on_replay_buffer", arguments) == 0

    assert capsys.readouterr().out.count(ENV_ID) >= 3
    assert_pictures(folder / "analysis", ANALYSIS)
    if drawn:
        assert_pictures(folder / "vae_visualizations", PICTURES)


@pytest.fixture
def velora_folder(tmp_path: Path) -> Path:
    """A folder with a safetensors file of one environment's steps, in several episodes."""
    buffer = VeloraBuffer(200, 3, 1, 2)
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(101, 3)).astype(np.float32))
    for step in range(100):
        buffer.add(
            states[step], torch.zeros(1), float(step), states[step + 1], step % 25 == 24, torch.zeros(2)
        )
    buffer.save(tmp_path / "velora")
    return tmp_path / "velora"


@pytest.mark.parametrize("name", ["", "buffer_state.safetensors"])
def test_safetensors_files_and_their_folders_are_accepted(
    name: str, velora_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = velora_folder / name

    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path} --fragment_length 10") == 0
    arguments = (
        f"--replay_buffer_path {path} --env_id Pendulum-v1 --fragment_length 10 --vae_num_epochs 1 "
        "--create_visualizations False"
    )
    assert run("train_vae_on_replay_buffer", arguments) == 0

    output = capsys.readouterr().out
    assert "unknown environment" in output
    assert "1 of 4 trajectories are held out for validation" in output
    assert (velora_folder / "trained_vae.pth").exists()


def test_scripts_read_any_store_that_was_recorded(tmp_path: Path) -> None:
    from replaystore.gymnasium import RecordVector

    envs = gymnasium.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync")
    with rs.create(tmp_path / "a.zarr", envs) as buffer:
        recorder = RecordVector(envs, buffer)
        recorder.reset(seed=0)
        recorder.action_space.seed(0)
        for _ in range(410):
            recorder.step(recorder.action_space.sample())

    assert run("test_replay_buffer_loading", f"--replay_buffer_path {tmp_path / 'a.zarr'}") == 0
    assert run("analyze_replay_buffer", f"--replay_buffer_path {tmp_path / 'a.zarr'}") == 0
    assert_pictures(tmp_path / "analysis", ANALYSIS)
