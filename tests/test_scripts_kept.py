"""The scripts lose nothing that was saved or could be, whatever ends them, and take nothing that is damaged
for whole."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from running import ENV_ID, SMALL, run, script

import replaystore as rs
from replaystore.analysis.vae import FragmentVAE
from replaystore.compat.active_rlhf import ReplayBuffer
from replaystore.compat.ring import TensorRing

PLACES = ["runs/x/kept.zarr", "kept.h5", "kept.pkl"]
SIGNALS = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130}
VAE = (
    "--fragment_length 8 --vae_latent_dim 4 --vae_hidden_dims 8 --vae_num_epochs 3 --vae_batch_size 8 "
    "--device cpu"
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
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
    torch.set_num_threads(threads)


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


# --- started again


@pytest.mark.parametrize("place", PLACES)
def test_what_an_earlier_run_has_saved_is_refused(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    small_buffer().save(place)
    before = content(place)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 1

    told = capsys.readouterr().err
    assert f"{place} is there already" in told
    assert "name another --replay_buffer_save_path, or move it away first" in told
    assert ("with 200 rows of an earlier run" in told) == (not place.endswith(".pkl"))
    assert content(place) == before
    assert not list(Path("runs").glob(f"{ENV_ID}*")), "and no logs of it are begun"


@pytest.mark.parametrize("place", ["a.zarr", "b.h5"])
def test_what_is_no_store_is_not_replaced_by_one(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(place).write_text("of somebody else")

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 1

    assert "is there already, and cannot be opened" in capsys.readouterr().err
    assert Path(place).read_text() == "of somebody else"


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_ended_before_its_first_step_is_in_nobodys_way(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(script("ppo").Collector, "collect", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 143

    assert run("pref_ppo", f"{SMALL} --total_timesteps 96 --replay_buffer_save_path {place}") == 0

    assert_kept(place, 2)


@pytest.mark.parametrize("place", PLACES)
def test_two_trainings_do_not_save_to_one_place(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"{SMALL} --total_timesteps 96 --replay_buffer_save_path {place}"
    codes: list[int] = []
    at_update(monkeypatch, lambda: codes.append(run("pref_ppo", arguments)), 1)

    assert run("pref_ppo", arguments) == 0

    assert codes == [1]
    assert f"another training saves its replay buffer to {place}" in capsys.readouterr().err
    assert_kept(place, 2)
    assert not list(Path().rglob("*.training"))


def test_a_pickle_that_came_meanwhile_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_update(monkeypatch, lambda: Path("kept.pkl").write_text("of somebody else"), 1)

    assert run("pref_ppo", f"{SMALL} --total_timesteps 96 --replay_buffer_save_path kept.pkl") == 0

    assert Path("kept.pkl").read_text() == "of somebody else"
    assert "replay buffer: kept-1.pkl" in capsys.readouterr().out
    assert_kept("kept-1.pkl", 2)


def test_runs_of_one_second_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.5)
    for _ in range(2):
        assert run("pref_ppo", f"{SMALL} --total_timesteps 96") == 0

    assert len(list(Path("runs").glob("*/replay_buffer.pkl"))) == 2


# --- signals and errors in training


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_saves_what_there_is(
    number: signal.Signals, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(known) for known in SIGNALS]
    at_update(monkeypatch, lambda: signal.raise_signal(number))

    assert run("pref_ppo", f"{SMALL} --save_model True --replay_buffer_save_path {place}") == SIGNALS[number]

    assert_kept(place, 3)
    assert torch.load(next(Path("runs").rglob("*.cleanrl_model")), weights_only=True)
    assert [signal.getsignal(known) for known in SIGNALS] == before


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_in_the_middle_of_an_addition_waits(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = TensorRing.append, [0]

    def append(ring: TensorRing, rows: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            signal.raise_signal(signal.SIGTERM)
        real(ring, rows)

    monkeypatch.setattr(TensorRing, "append", append)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 143

    assert_kept(place, 3)


@pytest.mark.parametrize("place", PLACES)
def test_a_second_signal_does_not_cut_saving_short(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_update(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    keeper = script("pref_ppo").Keeper
    real = keeper._save_buffer

    def save(self: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        real(self)

    monkeypatch.setattr(keeper, "_save_buffer", save)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 143

    assert_kept(place, 3)


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        at_update(monkeypatch, lambda: signal.raise_signal(signal.SIGHUP), 1)
        assert run("pref_ppo", f"{SMALL} --total_timesteps 96") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def refused(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", PLACES)
def test_logs_that_cannot_be_written_end_a_training_in_one_line(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    at_update(
        monkeypatch, lambda: [monkeypatch.setattr(RecordWriter, name, refused) for name in ("write", "flush")]
    )

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 1

    told = capsys.readouterr().err.strip().split("\n")
    assert len(told) == 1, "neither TensorBoard's thread nor the end of its writer has a word of its own"
    assert "the logs cannot be written: No space left on device; make room" in told[0]
    assert_kept(place, 3)


def test_an_error_of_training_and_one_of_saving_are_both_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_update(monkeypatch, refused)
    monkeypatch.setattr("replaystore.formats.shared.writing.NewFile", refused)

    assert run("pref_ppo", f"{SMALL} --save_model True --replay_buffer_save_path kept.pkl") == 1

    told = capsys.readouterr().err.strip().split("\n")
    assert [line.partition(":")[0] for line in told[:2]] == ["not saved", "not saved"]
    assert "kept.pkl cannot be written: No space left on device" in told[0]
    assert ".cleanrl_model cannot be written" in told[1]
    assert told[2].endswith("No space left on device")


# --- the autoencoder


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


# --- damage


def flipped(path: str) -> None:
    """Flip a bit of an observation, wherever it is stored."""
    row = small_buffer().obs[60].numpy().tobytes()
    found = 0
    for name in content(path):
        data = bytearray(Path(name).read_bytes())
        at = data.find(row)
        if at >= 0:
            data[at + 5] ^= 1
            Path(name).write_bytes(data)
            found += 1
    assert found, "the row is stored as it is"


def damaged(kind: str) -> str:
    """A replay buffer that is not as it was written."""
    buffer = small_buffer()
    path = f"b.{kind.split(maxsplit=1)[0]}"
    if kind.endswith("places"):
        buffer.trajectories[1].start_pos = 25
    if kind == "zip":
        buffer.save("whole.zarr")
        rs.convert("whole.zarr", path)
    else:
        buffer.save(path)
    if not kind.endswith("places"):
        flipped(path)
    return path


@pytest.mark.parametrize("kind", ["zarr", "h5", "zip", "pkl places"])
def test_what_is_damaged_is_not_taken_for_whole(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = damaged(kind)

    for name in ("analyze_replay_buffer", "train_vae_on_replay_buffer"):
        assert run(name, f"--replay_buffer_path {path}") == 1
        assert f"{path} is damaged: " in capsys.readouterr().err
    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path}") == 1

    output = capsys.readouterr().out
    assert f"FAILED  verify: {path} is damaged: " in output
    assert "all checks hold" not in output
    assert not [
        found for found in Path().iterdir() if found.name in ("analysis", "vae_training", "trained_vae.pth")
    ]


@pytest.mark.parametrize("kind", ["zarr", "h5", "zip", "pkl"])
def test_what_is_whole_is_said_to_be(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    small_buffer().save("whole.zarr")
    path = f"b.{kind}"
    if kind == "zip":
        rs.convert("whole.zarr", path)
    else:
        small_buffer().save(path)

    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path}") == 0

    found = "the file has no checksums" if kind == "pkl" else "bytes are as they were written"
    assert f"{found}; 200 rows of 4 trajectories, 0 rows of none" in capsys.readouterr().out


def test_an_index_that_is_not_there_names_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_buffer().save("b.pkl")

    def sample2(self: ReplayBuffer, *_: Any) -> Any:
        return np.zeros(3)[self.size]

    monkeypatch.setattr(ReplayBuffer, "sample2", sample2)

    assert run("test_replay_buffer_loading", "--replay_buffer_path b.pkl") == 1

    assert "a row that is not there; pass a --fragment_length below 8" in capsys.readouterr().out


def test_how_many_were_never_scored_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replaystore.analysis.figures.DPI", 30)
    buffer = small_buffer()
    buffer.trajectories[2].on_policiness_score = -5.0
    buffer.save("b.zarr")

    assert run("analyze_replay_buffer", "--replay_buffer_path b.zarr") == 0

    assert (
        "3 of 4 trajectories were never scored: the statistics take their scores for 0"
        in capsys.readouterr().out
    )
