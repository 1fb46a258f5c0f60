"""Autoencoders that are interrupted, and models that say what they are."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import run
from small_trainings import VAE, content, refused, small_buffer

import replaystore as rs
from replaystore.analysis.vae import FragmentVAE

pytest_plugins = ["small_trainings"]

pytestmark = pytest.mark.usefixtures("_folder")


def vae_epochs(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], number: int) -> None:
    """Let something happen when this epoch is judged."""
    import replaystore.analysis.vae_training as training

    real, calls = training.evaluate, [0]

    def evaluate(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            happens()
        return real(*args)

    monkeypatch.setattr(training, "evaluate", evaluate)


ENDS: dict[str, tuple[Callable[[], object], int]] = {
    "SIGTERM": (lambda: signal.raise_signal(signal.SIGTERM), 143),
    "Ctrl-C": (lambda: signal.raise_signal(signal.SIGINT), 130),
    "an error": (refused, 1),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_autoencoder_that_is_interrupted_is_kept_beside_the_whole_one(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_buffer().save("b.zarr")
    Path("trained_vae.pth").write_text("a model that is whole")
    happens, code = ENDS[end]
    vae_epochs(monkeypatch, happens, 3)

    assert run("train_vae_on_replay_buffer", f"--replay_buffer_path b.zarr {VAE}") == code

    assert Path("trained_vae.pth").read_text() == "a model that is whole"
    saved = torch.load("trained_vae.interrupted.pth", weights_only=True)
    assert saved["epochs"] == 2
    monkeypatch.undo()
    shorter = f"--vae_num_epochs 2 --vae_save_path {tmp_path / 'two.pth'} --create_visualizations False"
    assert (
        run("train_vae_on_replay_buffer", (f"--replay_buffer_path {tmp_path / 'b.zarr'} {VAE} {shorter}"))
        == 0
    )
    whole = torch.load(tmp_path / "two.pth", weights_only=True)["vae_state_dict"]
    assert all(torch.equal(value, whole[name]) for name, value in saved["vae_state_dict"].items()), (
        "as after the best of two epochs"
    )
    FragmentVAE(**saved["vae_config"]).load_state_dict(saved["vae_state_dict"])
    assert float(saved["vae_state_dict"]["std"].max()) < 1, "the scale of what it learned from"


def test_without_an_epoch_there_is_nothing_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    small_buffer().save("b.pkl")
    vae_epochs(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM), 1)

    assert run("train_vae_on_replay_buffer", f"--replay_buffer_path b.pkl {VAE}") == 143

    assert not list(Path().glob("*.pth"))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of `b.zarr`, and its pictures."""
    monkeypatch.setattr("replaystore.analysis.figures.DPI", 30)
    small_buffer().save("b.zarr")
    assert run("train_vae_on_replay_buffer", f"--replay_buffer_path b.zarr {VAE}") == 0
    return Path("trained_vae.pth")


def test_a_saved_model_says_what_it_is_and_draws_its_pictures_later(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = torch.load(model, weights_only=True)
    sizes = {
        "state_dim": 3,
        "fragment_length": 8,
        "latent_dim": 4,
        "hidden_dims": [8],
        "channels": [128, 256],
        "kernel_size": 3,
    }
    before = content("vae_visualizations")
    logs = content("vae_training")
    for picture in Path("vae_visualizations").iterdir():
        picture.unlink()
    capsys.readouterr()

    assert run("train_vae_on_replay_buffer", f"--replay_buffer_path b.zarr --load {model}") == 0

    assert saved["architecture"] == "replaystore.analysis.vae.FragmentVAE"
    assert (saved["replaystore_version"], saved["epochs"]) == (rs.__version__, 3)
    assert saved["vae_config"].items() >= sizes.items()
    assert content("vae_visualizations") == before
    assert len(before) == 5
    assert "epoch" not in capsys.readouterr().out
    assert content("vae_training") == logs


def test_pictures_of_a_model_need_neither_logs_nor_tensorboard(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)

    assert run("train_vae_on_replay_buffer", f"--replay_buffer_path b.zarr --load {model}") == 0


def other_models(model: Path) -> dict[str, str]:
    """What is no model of the buffer, and what is said of it."""
    saved = torch.load(model, weights_only=True)
    config = saved["vae_config"]
    torch.save({"vae_state_dict": {}, "vae_config": {"state_dim": 3}, "training_args": {}}, "original.pth")
    torch.save(saved | {"vae_config": config | {"latent_dim": 5}}, "sizes.pth")
    torch.save(saved | {"vae_config": {"latent_dim": 5}}, "config.pth")
    torch.save({**saved, "architecture": "another.Model"}, "another.pth")
    torch.save(torch.zeros(3), "tensor.pth")
    Path("half.pth").write_bytes(model.read_bytes()[:2000])
    Path("text.pth").write_text("no model")
    Path("empty.pth").write_bytes(b"")
    ours = "replaystore.analysis.vae.FragmentVAE"
    return {
        "nowhere.pth": "there is no such file: check --load",
        "original.pth": (
            f"holds a model that does not say what it is, not {ours}: open it with the program that saved it"
        ),
        "another.pth": f"holds another.Model, not {ours}",
        "sizes.pth": "its weights do not fit its sizes",
        "config.pth": "its weights do not fit its sizes",
        **dict.fromkeys(
            ["tensor.pth", "half.pth", "text.pth", "empty.pth"],
            "is no model that this script has saved, or damaged",
        ),
    }


def test_what_is_no_model_of_the_buffer_is_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in other_models(model).items():
        assert run("train_vae_on_replay_buffer", f"--replay_buffer_path b.zarr --load {name}") == 1, name
        told = capsys.readouterr().err
        assert message in told, name
        assert told.count("\n") == 1, name
    small_buffer(5).save("wide.zarr")
    assert run("train_vae_on_replay_buffer", f"--replay_buffer_path wide.zarr --load {model}") == 1
    assert (
        "is a model of 3 observations, but wide.zarr has 5: pass its own --replay_buffer_path"
        in capsys.readouterr().err
    )
