"""Launch lines of active_rlhf are taken as they are, but for the arguments that ask for what is not done
here, each of which is named."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import launch_lines
import pytest
from running import ENV_ID, run, script

pytestmark = pytest.mark.torch  # as the scripts need it

SMALLER = (
    f"--env_id {ENV_ID} --total_timesteps 300 --num_steps 150 --update_epochs 1 --num_minibatches 2 "
    "--reward_net_epochs 1"
)
SMALLER += " --replay_buffer_capacity 1000 --reward_net_hidden_dims 8"


def asked(words: list[str]) -> dict[str, str]:
    """Values by the name of the argument."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word[2:]
            found[name] = []
        else:
            found[name].append(word)
    return {name: " ".join(values) for name, values in found.items()}


def spelled(words: list[str], kind: str) -> list[str]:
    """The other ways in which the lines are spelled: dashes, and values behind `=`."""
    if kind == "dashes":
        return [word.replace("_", "-") if word.startswith("--") else word for word in words]
    return [f"--{name}={value}" for name, value in asked(words).items()] if kind == "equals" else words


def value_of(text: str, value: Any) -> Any:
    """What a text means, if the argument has this value."""
    if isinstance(value, tuple):
        return tuple(int(number) for number in re.findall(r"\d+", text))
    if isinstance(value, bool):
        return {"True": True, "False": False}[text]
    return None if text == "None" else type(value)(text)


def assert_means(args: Any, words: list[str], unused: dict[str, list[str]]) -> None:
    """Each word of a line is either what an argument has, or among those that change nothing."""
    known = {field.name for field in dataclasses.fields(args)}
    ignored = {name for names in unused.values() for name in names}
    for name, text in asked(words).items():
        assert (name in known) != (name in ignored), name
        if name in known:
            assert getattr(args, name) == value_of(text, getattr(args, name)), name


def test_there_are_all_lines() -> None:
    assert len(launch_lines.PREF_PPO) == 17
    assert len({tuple(line) for line in launch_lines.PREF_PPO.values()}) == 17


@pytest.mark.parametrize("kind", ["as is", "dashes", "equals"])
@pytest.mark.parametrize("line", launch_lines.PREF_PPO)
def test_a_line_is_refused_argument_by_argument(
    line: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = launch_lines.PREF_PPO[line]
    selector = asked(words)["selector_type"]

    assert run("pref_ppo", shlex.join(spelled(words, kind))) == 1

    lines = capsys.readouterr().err.strip().split("\n")
    tracking = "--track True: this script sends nothing anywhere"
    if selector == "random":
        assert len(lines) == 1
        assert tracking in lines[0]
    else:
        assert len(lines) == 3
        assert "2 arguments cannot be as they are:" in lines[0]
        assert (
            f"--selector_type {selector}: pairs are chosen so in active_rlhf only; use --selector_type random"
        ) in lines[1]
        assert tracking in lines[2]


@pytest.mark.parametrize("line", launch_lines.PREF_PPO)
def test_the_rest_of_a_line_means_what_it_says(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours, commandline = script("pref_ppo"), script("commandline")
    words = [*launch_lines.PREF_PPO[line], "--track", "False", "--selector_type", "random"]

    args = commandline.parse(ours.Arguments, words, "", ours.UNUSED)
    commandline.check(args, ours.problems(args))

    assert_means(args, words, ours.UNUSED)
    said = capsys.readouterr().out
    assert (
        "--wandb_project_name, --wandb_entity, --wandb_tags: changes nothing: it counts only with "
        "--track True"
    ) in said
    assert ("--variquery_vae_latent_dim, --variquery_vae_hidden_dims" in said) == (
        "--variquery_vae_lr" in words
    )


@pytest.mark.parametrize("line", ["Ant-v5, random", "main"])
def test_a_line_trains(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*launch_lines.PREF_PPO[line], *f"--track False --selector_type random {SMALLER}".split()]

    assert run("pref_ppo", shlex.join(words)) == 0

    kept = sorted(
        path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("events.")
    )
    assert kept == [f"{asked(words)['exp_name']}.cleanrl_model", "replay_buffer.pkl"]


def test_the_line_of_the_autoencoder_means_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    ours, commandline = script("train_vae_on_replay_buffer"), script("commandline")
    words = [*shlex.split(launch_lines.TRAIN_VAE), "--replay_buffer_path", "x.pkl"]

    args = commandline.parse(ours.Arguments, words, "", ours.UNUSED)
    commandline.check(args, ours.problems(args))

    assert_means(args, words, ours.UNUSED)
    assert (
        "--vae_attention_dim, --vae_attention_heads, --vae_attention_blocks, --vae_decoder_layers: changes"
    ) in capsys.readouterr().out


def test_all_that_is_wrong_is_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        "num_envs": "0", "gamma": "1.5", "learning_rate": "nan", "reward_net_hidden_dims": "[8,0]",
        "upload_model": "True", "num_steps": "20", "replay_buffer_save_path": "x.zip",
    }  # fmt: skip

    assert run("pref_ppo", " ".join(f"--{name}={value}" for name, value in wrong.items())) == 1

    told = capsys.readouterr().err
    assert "7 arguments cannot be as they are:" in told
    for name, value in wrong.items():
        assert f"--{name} " in told, value
    assert "--gamma must be at least 0 and at most 1, not 1.5" in told


PADDING = "only 2 keeps the number of steps with --vae_conv_kernel_size 5; leave it out"
ARGUMENTS = {
    "--vae_conv_kernel_size 5 --vae_conv_padding 1": f"--vae_conv_padding 1: {PADDING}",
    "--enable_gradual_unlocking True --initial_data_fraction 0.5 --final_data_fraction 0.2": (
        "the first is more than the last"
    ),
    "--load x.pth --create_visualizations False": "leave out --create_visualizations False",
    "--vae_latent_dim 0": "--vae_latent_dim must be at least 1, not 0",
    "--vae_hidden_dims 8 0": "--vae_hidden_dims must be at least 1, not 8 0",
    "--vae_lr 0": "--vae_lr must be more than 0, not 0.0",
    "--vae_num_epochs 0": "--vae_num_epochs must be at least 1, not 0",
    "--unlock_steps 0": "--unlock_steps must be at least 1, not 0",
    "--vae_dropout 1": "--vae_dropout must be at least 0 and less than 1, not 1.0",
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_numbers_without_sense_are_named_as_they_are_spelled(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train_vae_on_replay_buffer", f"--replay_buffer_path nowhere.pkl {arguments}") == 1

    assert ARGUMENTS[arguments] in capsys.readouterr().err
