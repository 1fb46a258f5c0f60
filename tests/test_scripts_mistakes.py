"""Mistakes in the arguments of scripts are told in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import pytest
import torch
from running import SCRIPTS, SMALL, run, script

from replaystore.compat.active_rlhf import ReplayBuffer

pytest_plugins = ["trained_scripts"]


def test_the_loading_test_fails_if_no_fragment_can_be_sampled(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(
            "test_replay_buffer_loading",
            f"--replay_buffer_path {trained / 'replay_buffer.zarr'} --fragment_length 97",
        )
        == 1
    )

    assert "pass --fragment_length 96 or less" in capsys.readouterr().out


def test_the_loading_test_finds_rows_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    envs = gymnasium.make_vec("Pendulum-v1", num_envs=1, vectorization_mode="sync")
    buffer = ReplayBuffer(envs, capacity=300, fragment_length=10, device="cpu")
    for split in ("train", "val"):
        buffer.add(torch.rand(100, 3), torch.rand(100, 1), torch.rand(100), torch.zeros(100), split)
    path = f"--replay_buffer_path {tmp_path / 'a.pkl'}"

    buffer.trajectories[1].start_pos = 50
    buffer.save(tmp_path / "a.pkl")
    assert run("test_replay_buffer_loading", path) == 1
    assert "belong to another one too" in capsys.readouterr().out

    buffer.trajectories[1].start_pos = 150
    buffer.save(tmp_path / "a.pkl")
    assert run("test_replay_buffer_loading", path) == 1
    assert "has row 249 of 200" in capsys.readouterr().out

    buffer.trajectories[1].start_pos = 100
    buffer.rews[150] = float("nan")
    buffer.save(tmp_path / "a.pkl")
    assert run("test_replay_buffer_loading", path) == 1
    assert "rews has values that are not finite" in capsys.readouterr().out
    assert run("analyze_replay_buffer", path) == 0


PATH = "--replay_buffer_path"
MISTAKES = {
    "no file": (
        "analyze_replay_buffer",
        f"{PATH} nowhere.zarr",
        1,
        "nowhere.zarr: there is no such file or folder: check",
    ),
    "not a buffer": ("test_replay_buffer_loading", f"{PATH} {__file__}", 1, Path(__file__).name),
    "another environment": (
        "analyze_replay_buffer",
        f"{PATH} BUFFER --env_id CartPole-v1",
        1,
        "CartPole-v1 has 4 observations",
    ),
    "no environment": ("analyze_replay_buffer", f"{PATH} BUFFER --env_id Nothing-v1", 1, "Nothing"),
    "too long": (
        "train_vae_on_replay_buffer",
        f"{PATH} BUFFER --fragment_length 500",
        1,
        "pass --fragment_length 96 or less",
    ),
    "no such device": ("train_vae_on_replay_buffer", f"{PATH} BUFFER --device tpu", 1, "pass --device cpu"),
    "a fraction": ("train_vae_on_replay_buffer", f"{PATH} BUFFER --final_data_fraction 2", 1, "fraction"),
    "no path": ("train_vae_on_replay_buffer", "", 2, "--replay_buffer_path"),
    "unknown argument": ("analyze_replay_buffer", f"{PATH} x --shiny 1", 2, "--shiny"),
    "not a boolean": ("pref_ppo", "--save_replay_buffer perhaps", 2, "expected True or False, not 'perhaps'"),
    "not numbers": ("pref_ppo", "--reward_net_hidden_dims [a,b]", 2, "expected whole numbers"),
    "another selector": ("pref_ppo", "--selector_type variquery", 1, "use --selector_type random"),
    "no such selector": ("pref_ppo", "--selector-type nice", 1, "there is no such selector"),
    "tracking": ("pref_ppo", "--track True", 1, "--track True: this script sends nothing anywhere"),
    "discrete actions": ("pref_ppo", "--env_id CartPole-v1", 1, "CartPole-v1 has the actions Discrete(2)"),
    "short rollouts": ("pref_ppo", "--num_steps 20", 1, "--num_steps 20 is less than --fragment_length 50"),
    "small ring": ("pref_ppo", "--replay_buffer_capacity 3000", 1, "must hold at least two rollouts"),
    "short training": ("pref_ppo", "--total_timesteps 100", 1, "less than one rollout"),
    "a number too many": (
        "train_vae_on_replay_buffer",
        f"{PATH} BUFFER --num_visualization_samples 0",
        1,
        "at least 1, not 0",
    ),
    "a folder for the model": (
        "train_vae_on_replay_buffer",
        f"{PATH} BUFFER --vae_save_path {SCRIPTS}",
        1,
        "is a folder: name a file in it",
    ),
    "no folder for the model": (
        "train_vae_on_replay_buffer",
        f"{PATH} BUFFER --vae_save_path {__file__}/x.pth",
        1,
        "choose another place",
    ),
    "a seed": ("train_vae_on_replay_buffer", f"{PATH} BUFFER --seed -1", 2, "expected a number from 0"),
    "another suffix": (
        "pref_ppo",
        "--replay_buffer_save_path x.safetensors",
        1,
        "has none of the suffixes .pkl, .pickle, .zarr, .h5, .hdf5",
    ),
    "a folder for the buffer": (
        "pref_ppo",
        "--replay_buffer_save_path a_folder.pkl",
        1,
        "a_folder.pkl is a folder: name a file in it",
    ),
    "no folder for the buffer": (
        "pref_ppo",
        f"--replay_buffer_save_path {__file__}/x.zarr",
        1,
        "choose another place",
    ),
    "a learning rate": ("pref_ppo", "--learning_rate nan", 1, "--learning_rate must be more than 0, not nan"),
    "a huge ring": (
        "pref_ppo",
        "--replay_buffer_capacity 1000000000000000",
        1,
        "--replay_buffer_capacity 1000000000000000 takes",
    ),
    "no envs": ("pref_ppo", "--num_envs 0", 1, "--num_envs must be at least 1, not 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(
    mistake: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "a_folder.pkl" in MISTAKES[mistake][1]:
        (tmp_path / "a_folder.pkl").mkdir()
    name, arguments, code, message = MISTAKES[mistake]

    assert run(name, arguments.replace("BUFFER", str(trained / "replay_buffer.zarr"))) == code

    last = capsys.readouterr().err.strip().split("\n")
    assert message in last[-1]
    assert len(last) == 1
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("runs", "a_folder.pkl")], (
        "nothing is half-written"
    )


def test_a_missing_library_is_named_with_its_extra(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"--replay_buffer_path {trained / 'replay_buffer.zarr'}"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    for name in ("analyze_replay_buffer", "train_vae_on_replay_buffer"):
        assert run(name, path) == 1
        printed = capsys.readouterr()
        assert "pip install 'replaystore[training]'" in printed.err
        assert not printed.out, "it is noticed before any work"
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name, arguments in (("train_vae_on_replay_buffer", path), ("pref_ppo", SMALL)):
        assert run(name, arguments) == 1
        assert "pip install 'replaystore[training]'" in capsys.readouterr().err


def test_help_lists_every_argument_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "pref_ppo",
        "analyze_replay_buffer",
        "train_vae_on_replay_buffer",
        "test_replay_buffer_loading",
    ):
        assert run(name, "--help") == 0
        output = " ".join(capsys.readouterr().out.split())
        for argument in script(name).Arguments.__dataclass_fields__:
            assert f"--{argument}" in output
    assert "(default: 0)" in output


def test_the_loading_script_is_no_test_of_the_package(pytestconfig: pytest.Config) -> None:
    assert script("test_replay_buffer_loading").__test__ is False
    assert pytestconfig.getini("testpaths") == ["tests"]


def test_the_example_gives_arguments_that_exist() -> None:
    lines = [
        line.split("#")[0]
        for line in (SCRIPTS.parent / "examples" / "preferences.sh").read_text().splitlines()
    ]
    commands = [line.split()[1:] for line in lines if line.startswith('"$python"')]
    assert len(commands) == 4

    for path, *arguments in commands:
        name = Path(path).stem
        parsed = script("commandline").parse(script(name).Arguments, arguments, "")
        assert "$buffer" in vars(parsed).values()
