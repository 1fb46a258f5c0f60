"""What all commands share: help, errors of one line, guesses of what was meant, exit codes, completion."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from commands import Run, command, loaded_by

import replaystore as rs
from replaystore.cli import COMMANDS, main
from replaystore.errors import ReplayStoreWarning

pytest_plugins = ["commands"]

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


# --- all commands


def test_the_readme_has_all_commands() -> None:
    assert re.findall(r"^\| `replaystore (\w+)", README, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str, run: Run) -> None:
    code, out, err = run(name, "--help")

    assert (code, err) == (0, "")
    assert re.search(rf"Examples?:\n +replaystore {name} ", out)
    assert run(name, "-h")[1] == out


def test_help_lists_the_commands(run: Run) -> None:
    code, out, _ = run("--help")

    assert code == 0
    assert re.findall(r"^  (\w+)  +[A-Z].*\.$", out.partition("Commands:")[2], re.MULTILINE) == list(COMMANDS)
    assert run("--version") == (0, f"replaystore {rs.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help_loads_nothing_that_takes_long(arguments: list[str]) -> None:
    loaded = loaded_by([*arguments, "--help"])

    assert "click" in loaded
    assert not loaded & {
        "numpy",
        "gymnasium",
        "h5py",
        "matplotlib",
        "numcodecs",
        "pydantic",
        "rich",
        "torch",
        "zarr",
    }


def test_looking_at_a_store_loads_no_heavy_library(recorded: Path) -> None:
    assert not loaded_by(["info", str(recorded)]) & {
        "gymnasium",
        "h5py",
        "matplotlib",
        "rich",
        "torch",
        "zarr",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "nothing.zarr"], ["nothing.zarr", "does not exist"]),
        (["info", "nothing"], ["nothing", ".zarr"]),
        (["show", "STORE", "--fields", "nix"], ["'nix'", "'reward'"]),
        (["show", "STORE", "--trajectory", "1000000"], ["1000000"]),
        (["show", "STORE", "--where", "retrun > 3"], ["retrun", "return"]),
        (["convert", "STORE", "STORE"], ["cartpole.zarr"]),
        (["convert", "STORE", "out.zarr", "--where", "length >"], ["length >"]),
        (["verify", "nothing.zarr"], ["nothing.zarr"]),
        (["repair", "nothing.zarr"], ["nothing.zarr"]),
        (["publish", "s3://bucket/a.zarr"], ["s3://"]),
        (["record", "CartPole-v1", "STORE"], ["exists", "--overwrite"]),
        (["record", "CartPole-v1", "out.h5", "--capacity", "100"], ["HDF5", ".zarr"]),
        (["record", "CartPole-v1", "out.zarr", "--codec", "nix=raw"], ["'nix'"]),
        (["record", "CartPol-v1", "out.zarr"], ["CartPol-v1", "did you mean", "CartPole-v1"]),
        (["record", "no_such_module:A-v0", "out.zarr"], ["no_such_module"]),
        (["record", "not an id", "out.zarr"], ["not an id"]),
        (["record", "CartPole-v1", "out.zarr", "--env-arg", "sutton=1"], ["sutton"]),
    ],
)
def test_an_error_is_one_line(
    arguments: list[str],
    words: list[str],
    recorded: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    code, out, err = run(*[str(recorded) if argument == "STORE" else argument for argument in arguments])

    assert (code, out) == (1, "")
    assert re.fullmatch(r"replaystore: error: [^\n]+\n", err)
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nix"],
        ["info"],
        ["record", "CartPole-v1"],
        ["record", "CartPole-v1", "out.zarr", "--steps", "0"],
        ["record", "CartPole-v1", "out.zarr", "--env-arg", "name=text"],
        ["record", "CartPole-v1", "out.zarr", "--codec", "raw"],
        ["record", "CartPole-v1", "out.zarr", "--layout", "archive", "--codec", "reward=raw"],
        ["show", "a.zarr", "--rows", "1:2:3"],
        ["show", "a.zarr", "--trajectories", "--trajectory", "0"],
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith("Usage: replaystore")
    assert not list(tmp_path.iterdir())


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("a bug")

    monkeypatch.setattr("replaystore.buffers.create_open.open", broken)

    with pytest.raises(RuntimeError, match="a bug"):
        main(["info", "a.zarr"])


def test_a_warning_of_ours_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object, **__: object) -> NoReturn:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("look\nhere", ReplayStoreWarning, stacklevel=2)
        raise rs.errors.NotFoundError("nothing")

    monkeypatch.setattr("replaystore.buffers.create_open.open", warn)

    assert run("info", "a.zarr") == (1, "", "replaystore: warning: look here\nreplaystore: error: nothing\n")


def test_a_reader_that_goes_away_is_no_error(recorded: Path) -> None:
    with subprocess.Popen(
        command("show", recorded, "--rows", ":"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_reader_that_goes_away_does_not_hide_what_verify_found(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", rs.Schema({"reward": rs.Field("float64", (), "reward")})) as buffer:
        buffer.append({"reward": np.ones(40_000)})
    with (tmp_path / "a.zarr/steps/reward/c.0").open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    with subprocess.Popen(
        command("verify", tmp_path / "a.zarr"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


# --- what was meant


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shw", "a.zarr"], "Did you mean 'show'?"),
        (["ls", "a.zarr"], "Did you mean 'info'?"),
        (["export", "a.zarr", "a.h5"], "Did you mean 'convert'?"),
        (["qqq"], f"Commands are {', '.join(COMMANDS)}."),
        (["."], "To look at what is there: replaystore info ."),
        (["record", "X-v0", "a.zarr", "--envs", "3"], "Did you mean '--num-envs'?"),
        (["record", "X-v0", "a.zarr", "--step", "3"], "Did you mean '--steps'?"),
        (["show", "a.zarr", "--row", "3"], "Did you mean '--rows'?"),
        (["--verison"], "Did you mean '--version'?"),
    ],
    ids=" ".join,
)
def test_a_guess_is_what_was_meant(arguments: list[str], said: str, run: Run) -> None:
    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert said in err
    assert "--help'?" not in err
    assert "--env-arg" not in err


@pytest.mark.parametrize(
    "arguments",
    [["show", "a.zarr", "--steps", "3"], ["convert", "a.zarr", "b.h5", "--format", "h5"]],
    ids=" ".join,
)
def test_no_guess_is_better_than_one_that_makes_no_sense(arguments: list[str], run: Run) -> None:
    assert "Did you mean" not in run(*arguments)[2]


# --- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_completion_is_printed(shell: str, run: Run) -> None:
    code, out, _ = run("completion", shell)

    assert code == 0
    assert f"_REPLAYSTORE_COMPLETE={shell}_complete" in out


def test_commands_are_completed() -> None:
    environment = os.environ | {
        "_REPLAYSTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": "replaystore re",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(command(), env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["plain,record", "plain,repair"]


# --- progress


def test_progress_goes_to_a_terminal_on_stderr_only(tmp_path: Path) -> None:
    here, there = pty.openpty()
    arguments = command("record", "CartPole-v1", tmp_path / "a.zarr", "--steps", 20_000, "--json")
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=there, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(there)
        out = process.communicate(timeout=60)[0]
    shown = os.read(here, 1 << 16).decode()
    os.close(here)

    assert json.loads(out)["steps"] == 20_000
    assert "recording" in shown
    assert "of 20,000" in shown


# --- output that cannot be written


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [("info",), ("show",), ("show", "--json"), ("verify",)])
def test_output_that_cannot_be_written_is_one_line(recorded: Path, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "replaystore", arguments[0], str(recorded), *arguments[1:]]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    reason = os.strerror(errno.ENOSPC)
    assert (done.returncode, done.stderr) == (
        1,
        f"replaystore: error: the output cannot be written: {reason}\n",
    )


def test_a_command_whose_output_is_closed_does_what_it_does(recorded: Path) -> None:
    command = f"{sys.executable} -m replaystore info {recorded} >&-"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
