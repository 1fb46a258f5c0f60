"""The commands: what they print, to where, and with which exit code."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import gymnasium
import numpy as np
import pytest
import zarr

import replaystore as rs
from replaystore.cli import COMMANDS, main
from replaystore.errors import ReplayStoreWarning

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run_(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run_


@pytest.fixture
def facts(run: Run) -> Callable[..., Any]:
    """What a command prints with --json, which must be strict."""

    def facts_(*arguments: object, code: int = 0) -> Any:
        ended, out, err = run(*arguments, "--json")
        assert (ended, err) == (code, "")
        return json.loads(out, parse_constant=refuse)

    return facts_


def refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 600 steps, not to be changed."""
    location = tmp_path_factory.mktemp("cli") / "cartpole.zarr"
    with pytest.raises(SystemExit, match="0"):
        main(
            [
                "record",
                "CartPole-v1",
                str(location),
                "--steps",
                "600",
                "--num-envs",
                "4",
                "--seed",
                "3",
                "--commit-every",
                "200",
                "--json",
            ]
        )
    return location


def own_schema() -> rs.Schema:
    return rs.Schema(
        {
            "observation": rs.Field(np.uint8, (8, 8), "observation"),
            "reward": rs.Field(np.float64, (), "reward"),
            "terminated": rs.Field(np.bool_, (), "terminated"),
            "truncated": rs.Field(np.bool_, (), "truncated"),
            "info/\x1b[31m": rs.Field(np.float32, (5,), "info"),
        }
    )


def own_rows(rewards: list[float]) -> dict[str, np.ndarray]:
    count = len(rewards)
    return {
        "observation": np.zeros((count, 8, 8), np.uint8),
        "reward": np.array(rewards),
        "terminated": np.zeros(count, np.bool_),
        "truncated": np.zeros(count, np.bool_),
        "info/\x1b[31m": np.zeros((count, 5), np.float32),
    }


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "replaystore.cli", *map(str, arguments)]


def loaded_by(arguments: list[str]) -> set[str]:
    """The packages that are loaded when a command has ended."""
    program = "import atexit, sys; atexit.register(lambda: print('loaded:', *sys.modules));"
    program += f"from replaystore.cli import main; main({arguments})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


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

    monkeypatch.setattr("replaystore.buffers.buffer.open", broken)

    with pytest.raises(RuntimeError, match="a bug"):
        main(["info", "a.zarr"])


def test_a_warning_of_ours_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object, **__: object) -> NoReturn:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("look\nhere", ReplayStoreWarning, stacklevel=2)
        raise rs.errors.NotFoundError("nothing")

    monkeypatch.setattr("replaystore.buffers.buffer.open", warn)

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
    with (tmp_path / "a.zarr/steps/reward/c/0").open("r+b") as file:
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


# --- selecting


NOTHING: dict[str, tuple[list[str], str]] = {
    "where": (
        ["convert", "STORE", "OUT.zarr", "--where", "length > 1000"],
        "none of [0-9]+ trajectories has where 'length > 1000'; their len",
    ),
    "where, HDF5": (["convert", "STORE", "OUT.h5", "--where", "length > 1000"], "nothing is selected"),
    "where, zip": (["convert", "STORE", "OUT.zarr.zip", "--where", "length > 1000"], "nothing is selected"),
    "where, pickle": (["convert", "STORE", "OUT.pkl", "--where", "length > 1000"], "nothing is selected"),
    "where, safetensors": (
        ["convert", "STORE", "OUT.safetensors", "--where", "length > 1000"],
        "nothing is selected",
    ),
    "split": (
        ["convert", "STORE", "OUT.zarr", "--split", "train"],
        "no trajectory has split 'train'; splits are none",
    ),
    "split, pickle": (
        ["convert", "STORE", "OUT.pkl", "--split", "train"],
        "no trajectory has split 'train'; splits are none",
    ),
    "where and split": (
        ["convert", "STORE", "OUT.zarr", "--split", "", "--where", "length < 0"],
        "has split '' and where 'length < 0'",
    ),
    "fields": (
        ["convert", "STORE", "OUT.zarr", "--fields", ","],
        "no field is selected: name some of 'observation'",
    ),
    "no field": (["convert", "STORE", "OUT.zarr", "--fields", ""], "no field is selected"),
    "fields, pickle": (["convert", "STORE", "OUT.pkl", "--fields", ","], "no field is selected"),
    "empty": (
        ["convert", "EMPTY", "OUT.zarr", "--where", "length > 0"],
        "nothing is selected: there are no trajectories at all",
    ),
    "show where": (["show", "STORE", "--where", "length > 1000"], "nothing is selected"),
    "show table where": (
        ["show", "STORE", "--trajectories", "--where", "length > 1000"],
        "nothing is selected",
    ),
    "show trajectory where": (
        ["show", "STORE", "--trajectory", "0", "--where", "length > 1000"],
        "nothing is selected",
    ),
    "show rows": (["show", "STORE", "--rows", "600:"], "--rows 600: selects nothing: there are 600 steps"),
    "show rows, JSON": (["show", "STORE", "--rows", "20:10", "--json"], "--rows 20:10 selects nothing"),
    "show a row": (["show", "STORE", "--rows", "600"], "selects nothing: there are 600 steps"),
    "show rows of a trajectory": (
        ["show", "STORE", "--trajectory", "0", "--rows", "600:"],
        "selects nothing: .* steps in this trajectory",
    ),
    "show rows of the table": (
        ["show", "STORE", "--trajectories", "--rows", "600:"],
        "selects nothing: .* trajectories",
    ),
    "show fields": (["show", "STORE", "--fields", ","], "no field is selected"),
}


@pytest.mark.parametrize(("arguments", "said"), NOTHING.values(), ids=NOTHING)
def test_to_select_nothing_is_an_error(
    arguments: list[str], said: str, recorded: Path, run: Run, tmp_path: Path
) -> None:
    rs.create(tmp_path / "empty.zarr", rs.Schema({"reward": rs.Field("float64", (), "reward")})).close()
    places = {"STORE": str(recorded), "EMPTY": str(tmp_path / "empty.zarr")}
    filled = [places.get(argument, argument.replace("OUT", str(tmp_path / "out"))) for argument in arguments]

    code, out, err = run(*filled)

    assert (code, out) == (1, "")
    assert re.search(said, err)
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty.zarr"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b.pkl", True),
        ("b.safetensors", True),
        ("replay_buffer.pkl", False),
        ("buffer_state.safetensors", False),
    ],
)
def test_a_file_of_other_software_is_not_made_by_its_suffix_alone_without_a_word(
    recorded: Path, run: Run, tmp_path: Path, name: str, said: bool
) -> None:
    code, out, _ = run(
        "convert", recorded, tmp_path / name, "--fields", "observation,action,reward,terminated"
    )

    assert code == 0
    assert ("because of the suffix; name a store .zarr or .h5" in out) == said


def test_advice_fits_the_command(recorded: Path, run: Run, tmp_path: Path) -> None:
    assert run("convert", recorded, tmp_path / "a.zarr")[0] == 0
    for arguments in (
        ["convert", recorded, tmp_path / "a.zarr"],
        ["record", "CartPole-v1", tmp_path / "a.zarr", "--steps", "3"],
    ):
        err = run(*arguments)[2]
        assert "pass --overwrite" in err
        assert "overwrite=True" not in err
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with (
        patch("replaystore.storage.locks.FileLock._take", side_effect=denied),
        patch("replaystore.buffers.opening.lock_place"),
    ):
        err = run("convert", recorded, tmp_path / "a.zarr", "--overwrite")[2]
    assert "a.zarr cannot be replaced: Permission denied; choose another name" in err
    with rs.open(tmp_path / "a.zarr", "r+"):
        err = run("convert", recorded, tmp_path / "a.zarr", "--overwrite")[2]
    assert "close it there first, or choose another name" in err


def test_long_tables_and_trajectories_are_cut_unless_asked_for(
    tmp_path: Path, run: Run, facts: Callable[..., Any]
) -> None:
    with rs.create(tmp_path / "a.zarr", rs.Schema({"reward": rs.Field("float64", (), "reward")})) as buffer:
        for length in [1, *[2] * 150, 3000]:
            buffer.append({"reward": np.arange(float(length))}, ends=[length - 1])
    for what, total in (["--trajectory", "151"], "3,000 steps"), (["--trajectories"], "152 trajectories"):
        code, out, _ = run("show", tmp_path / "a.zarr", *what)
        lines = out.splitlines()
        assert code == 0
        assert len(lines) < 125
        assert lines[-1] == f"100 of {total}; --rows A:B shows others, --rows : all"
        assert len(run("show", tmp_path / "a.zarr", *what, "--rows", ":")[1].splitlines()) > int(
            total.split()[0].replace(",", "")
        )
    some = run("show", tmp_path / "a.zarr", "--trajectory", 151, "--rows", "-2:")[1].splitlines()
    assert [line.split()[2] for line in some if line[:4].strip().isdigit()] == ["2998", "2999"]
    assert len(facts("show", tmp_path / "a.zarr", "--trajectory", 151)["steps"]) == 3000
    assert len(facts("show", tmp_path / "a.zarr", "--trajectories")["trajectories"]) == 152


# --- record


@pytest.mark.parametrize(("steps", "num_envs"), [(1, 1), (500, 1), (500, 7), (3, 8)])
def test_exactly_the_steps_asked_for_are_recorded(
    steps: int, num_envs: int, facts: Callable[..., Any], tmp_path: Path
) -> None:
    found = facts(
        "record", "CartPole-v1", tmp_path / "a.zarr", "--steps", steps, "--num-envs", num_envs, "--seed", 0
    )

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert len(buffer) == steps == found["steps"]
        assert buffer.num_trajectories == found["trajectories"]
        assert buffer.trajectories["length"].sum() == steps
        assert buffer.trajectories["length"].min() > 0
        assert not buffer.trajectories.open.any()
        assert all(
            trajectory.final_observation is not None
            for trajectory in map(buffer.trajectory, range(buffer.num_trajectories))
        )
    assert found["disk_bytes"] > found["bytes"] > 0


def test_a_seed_makes_the_same_recording(run: Run, tmp_path: Path) -> None:
    for name in ("a.zarr", "b.zarr"):
        assert (
            run("record", "CartPole-v1", tmp_path / name, "--steps", 200, "--num-envs", 2, "--seed", 5)[0]
            == 0
        )

    with rs.open(tmp_path / "a.zarr") as a, rs.open(tmp_path / "b.zarr") as b:
        assert (a["observation"][:] == b["observation"][:]).all()
        assert (a["action"][:] == b["action"][:]).all()
        assert set(a.trajectories["seed"].tolist()) == {5, 6, -1}


def test_recording_prints_a_table(run: Run, tmp_path: Path) -> None:
    code, out, err = run("record", "CartPole-v1", tmp_path / "a.h5", "--steps", 1000)

    assert (code, err) == (0, "")
    names = [line.split("  ")[0] for line in out.splitlines()]
    assert names == ["location", "steps", "trajectories", "data", "seconds", "MB/s", "steps/s", "seed"]
    assert re.search(r"^steps +1,000$", out, re.MULTILINE)


def test_recording_replaces_only_when_told_to(run: Run, tmp_path: Path) -> None:
    for steps in (20, 10):
        assert run("record", "CartPole-v1", tmp_path / "a.zarr", "--steps", steps, "--overwrite")[0] == 0

    assert run("record", "CartPole-v1", tmp_path / "a.zarr")[0] == 1
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert len(buffer) == 10


def test_recording_into_a_ring(facts: Callable[..., Any], tmp_path: Path) -> None:
    facts(
        "record",
        "CartPole-v1",
        tmp_path / "a.zarr",
        "--steps",
        3000,
        "--capacity",
        1000,
        "--commit-every",
        500,
    )

    found = facts("info", tmp_path / "a.zarr", "--commits")

    assert found["ring"] == {"capacity": 1000, "dropped_steps": 2000}
    assert found["steps"] == 1000
    assert found["commits"][-1]["commit"] == found["commit"]
    for commit in found["commits"]:
        with rs.open(tmp_path / "a.zarr", commit=commit["commit"]) as buffer:
            assert len(buffer) == commit["steps"]


def test_recording_an_archive_leaves_nothing_else(facts: Callable[..., Any], tmp_path: Path) -> None:
    facts("record", "CartPole-v1", tmp_path / "a.h5", "--steps", 300, "--layout", "archive")

    assert facts("info", tmp_path / "a.h5")["layout"] == "archive"
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", "a.h5.sha256"}


def test_a_recording_that_cannot_be_converted_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise rs.errors.StorageError("the disk is full")

    monkeypatch.setattr("replaystore.converting.convert.convert", full)

    code, _, err = run("record", "CartPole-v1", tmp_path / "a.h5", "--steps", 300, "--layout", "archive")

    assert code == 1
    assert err.endswith("replaystore: error: the disk is full\n")
    assert "a.h5.recording.zarr" in err
    with rs.open(tmp_path / "a.h5.recording.zarr") as buffer:
        assert len(buffer) == 300


def test_an_argument_reaches_the_environment(facts: Callable[..., Any], tmp_path: Path) -> None:
    facts(
        "record",
        "MountainCarContinuous-v0",
        tmp_path / "a.zarr",
        "--steps",
        10,
        "--env-arg",
        "goal_velocity=0.25",
        "--codec",
        "action=zstd:1",
    )

    found = facts("info", tmp_path / "a.zarr")

    assert found["environment"]["spec"]["kwargs"]["goal_velocity"] == 0.25
    assert {field["name"]: field["codec"] for field in found["fields"]}["action"] == "zstd:1"


@pytest.mark.parametrize(
    ("env_id", "message", "extra"),
    [
        ("HalfCheetah-v5", 'MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`', "mujoco"),
        ("X-v0", "install Atari", "atari"),
    ],
)
def test_a_missing_package_is_named(
    env_id: str, message: str, extra: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> NoReturn:
        raise gymnasium.error.DependencyNotInstalled(message)

    monkeypatch.setattr(gymnasium, "make_vec", missing)

    code, _, err = run("record", env_id, tmp_path / "a.zarr")

    assert code == 1
    assert f"pip install replaystore[{extra}]" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_keeps_what_is_recorded(times: int, run: Run, tmp_path: Path) -> None:
    location = tmp_path / "a.zarr"
    arguments = command("record", "CartPole-v1", location, "--steps", 10**9, "--commit-every", 1000, "--json")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not has_steps(location):
            time.sleep(0.02)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert run("verify", location)[0] == 0
    with rs.open(location) as buffer:
        assert len(buffer) > 0
        if out:
            assert json.loads(out)["steps"] == len(buffer)
            assert json.loads(out)["interrupted"]
    assert out or times == 2


def has_steps(location: Path) -> bool:
    if not location.exists():
        return False
    with rs.open(location) as buffer:
        return len(buffer) > 0


# --- info


def test_info_tells_everything(recorded: Path, facts: Callable[..., Any]) -> None:
    found = facts("info", recorded, "--commits")

    assert found["location"] == str(recorded)
    assert (found["backend"], found["layout"], found["format_version"], found["steps"]) == (
        "zarr",
        "live",
        "1.0",
        600,
    )
    assert found["trajectories"]["count"] == found["trajectories"]["ended"] == sum(found["ends"].values())
    assert found["length"].keys() == found["return"].keys() == {"mean", "std", "min", "max"}
    assert found["length"]["mean"] == pytest.approx(600 / found["trajectories"]["count"])
    assert [field["name"] for field in found["fields"]] == [
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
    ]
    assert found["fields"][0] | {"chunk_rows": 0} == {
        "name": "observation",
        "dtype": "float32",
        "shape": [4],
        "role": "observation",
        "codec": "raw",
        "chunk_rows": 0,
        "bytes": 9600,
        "stored_bytes": 9600,
    }
    assert found["environment"]["id"] == "CartPole-v1"
    assert found["provenance"]["source"]["seed"] == 3
    assert found["commits"][0]["steps"] == 0
    assert found["commits"][-1]["steps"] == 600
    assert len(found["commits"]) > 3
    assert found["disk_bytes"] == sum(path.stat().st_size for path in recorded.rglob("*") if path.is_file())


def test_info_is_readable(recorded: Path, run: Run) -> None:
    code, out, err = run("info", recorded, "--commits")

    assert (code, err) == (0, "")
    assert re.search(r"^steps +600$", out, re.MULTILINE)
    assert re.search(r"^observation +float32 +4 +raw ", out, re.MULTILINE)
    assert re.search(r"^return +mean \d+", out, re.MULTILINE)


def test_info_of_an_empty_buffer(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    rs.create(tmp_path / "a.zarr", own_schema(), metadata={"name": "x"}).close()

    found = facts("info", tmp_path / "a.zarr")

    assert (found["steps"], found["length"], found["return"], found["environment"]) == (0, None, None, None)
    assert found["metadata"] == ["name"]
    assert run("info", tmp_path / "a.zarr")[0] == 0
    assert run("show", tmp_path / "a.zarr")[1].endswith("0 of 0 steps\n")


def test_text_from_a_store_cannot_command_the_terminal(run: Run, tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", own_schema(), metadata={"\x1b]0;x\x07": 1}) as buffer:
        buffer.append(own_rows([1.0]), split="\x1b[2J")

    for arguments in (["info"], ["show"], ["show", "--trajectories"], ["show", "--trajectory", "0"]):
        code, out, err = run(arguments[0], tmp_path / "a.zarr", *arguments[1:])
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert r"\x1b" in out


def test_splits_and_coded_fields_are_counted(facts: Callable[..., Any], tmp_path: Path) -> None:
    storage = {"observation": {"codec": "zstd:1", "chunk_rows": 16}}
    with rs.create(tmp_path / "a.zarr", own_schema(), storage=storage) as buffer:
        buffer.append(own_rows([0.0] * 40), split="train", ends=[39])
        buffer.append(own_rows([0.0] * 5), split="val", env=1)

    found = facts("info", tmp_path / "a.zarr")

    assert found["splits"] == {"train": 1, "val": 1}
    assert found["trajectories"] == {"count": 2, "ended": 1, "open": 1}
    observation = found["fields"][0]
    assert observation["codec"] == "zstd:1"
    assert 13 * 64 < observation["stored_bytes"] < observation["bytes"] == 45 * 64


# --- show


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("10:13", [10, 11, 12]),
        ("598:", [598, 599]),
        (":2", [0, 1]),
        ("-2:", [598, 599]),
        ("7", [7]),
        ("-1", [599]),
    ],
)
def test_rows_are_chosen_as_of_a_list(
    rows: str, expected: list[int], recorded: Path, facts: Callable[..., Any]
) -> None:
    found = facts("show", recorded, f"--rows={rows}", "--fields", "reward,observation")

    assert [step["row"] for step in found["steps"]] == expected
    with rs.open(recorded) as buffer:
        for step in found["steps"]:
            assert step["observation"] == buffer["observation"][step["row"]].tolist()
            trajectory = buffer.trajectory(step["index"])
            assert trajectory["observation"][step["step"]].tolist() == step["observation"]
            assert step.keys() == {"row", "index", "step", "observation", "reward"}


def test_rows_are_aligned(recorded: Path, run: Run) -> None:
    _, out, _ = run("show", recorded)
    lines = out.splitlines()

    assert lines[0].split() == [
        "row",
        "index",
        "step",
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
    ]
    assert [line.split()[0] for line in lines[1:11]] == [str(row) for row in range(10)]
    assert len({len(line) for line in lines[1:11]}) == 1
    assert lines[-1] == "10 of 600 steps; --rows A:B shows others, --rows : all"


def test_a_trajectory_is_shown_with_what_is_known_of_it(
    recorded: Path, facts: Callable[..., Any], run: Run
) -> None:
    found = facts("show", recorded, "--trajectory", 2)

    with rs.open(recorded) as buffer:
        trajectory = buffer.trajectory(2)
        assert found["trajectory"] == {"index": 2, **trajectory.info}
        assert [step["step"] for step in found["steps"]] == list(range(len(trajectory)))
        assert [step["action"] for step in found["steps"]] == trajectory["action"].tolist()
        assert trajectory.final_observation is not None
        assert found["final_observation"] == {"observation": trajectory.final_observation.tolist()}
    assert "final observation" in run("show", recorded, "--trajectory", 2)[1]
    assert "final" not in run("show", recorded, "--trajectory", 2, "--fields", "reward")[1]


def test_where_chooses_among_trajectories(recorded: Path, facts: Callable[..., Any]) -> None:
    with rs.open(recorded) as buffer:
        lengths = buffer.trajectories["length"]
        chosen = buffer.trajectories.where("length > 20")
        rows = buffer.parts.rows(chosen["trajectory"]).tolist()

    table = facts("show", recorded, "--trajectories", "--where", "length > 20")["trajectories"]
    assert [row["index"] for row in table] == chosen.index.tolist()
    assert (
        facts("show", recorded, "--where", "length > 20", "--trajectory", 0)["trajectory"]["length"]
        == lengths[chosen.index[0]]
    )
    assert [
        step["row"] for step in facts("show", recorded, "--where", "length > 20", "--rows", ":")["steps"]
    ] == rows


def test_large_values_are_abbreviated_and_json_has_no_nan(
    run: Run, facts: Callable[..., Any], tmp_path: Path
) -> None:
    with rs.create(tmp_path / "a.zarr", own_schema()) as buffer:
        buffer.append(own_rows([1.0, float("nan"), float("-inf")]))

    out = run("show", tmp_path / "a.zarr")[1]
    assert "8x8 0…0" in out
    assert "[0 0 0 … 0]" in out
    assert [step["reward"] for step in facts("show", tmp_path / "a.zarr")["steps"]] == [
        1.0,
        "NaN",
        "-Infinity",
    ]
    assert facts("info", tmp_path / "a.zarr")["steps"] == 3


# --- convert, verify, repair, publish


def test_converting_and_back_loses_nothing(
    recorded: Path, facts: Callable[..., Any], run: Run, tmp_path: Path
) -> None:
    facts("convert", recorded, tmp_path / "a.h5", "--layout", "archive")
    code, out, err = run("convert", tmp_path / "a.h5", tmp_path / "b.zarr", "--layout", "live")

    assert (code, err) == (0, "")
    assert re.search(r"^steps +600$", out, re.MULTILINE)
    assert re.search(r"^coded anew +observation, action, ", out, re.MULTILINE)
    with rs.open(recorded) as a, rs.open(tmp_path / "b.zarr") as b:
        for name in a.schema.fields:
            assert a[name][:].tobytes() == b[name][:].tobytes()
        for name, column in a.trajectories.columns.items():
            assert column.tolist() == b.trajectories[name].tolist()


def test_converting_a_part(recorded: Path, facts: Callable[..., Any], tmp_path: Path) -> None:
    facts(
        "convert",
        recorded,
        tmp_path / "a.zarr",
        "--fields",
        "observation,reward",
        "--fields",
        "terminated,truncated",
        "--where",
        "length > 20",
    )

    with rs.open(recorded) as a, rs.open(tmp_path / "a.zarr") as b:
        assert list(b.schema.fields) == ["observation", "reward", "terminated", "truncated"]
        assert b.trajectories["length"].tolist() == a.trajectories.where("length > 20")["length"].tolist()


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.zarr.zip"])
def test_ctrl_c_in_a_conversion_leaves_nothing(
    name: str, recorded: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(*_: object, **__: object) -> Iterator[Callable[[int, int], None]]:
        def press(done: int, total: int) -> None:
            raise KeyboardInterrupt

        yield press

    monkeypatch.setattr("replaystore.cli.convert.progress_bar", interrupted)

    code, out, err = run("convert", recorded, tmp_path / name)

    assert (code, out, err.strip()) == (130, "", "replaystore: error: interrupted")
    assert not list(tmp_path.iterdir())


def damage(store: Path, at: int = 0) -> None:
    """Flip a bit of the observations, by default of the first."""
    file = next(file for file in sorted((store / "steps/observation/c").rglob("*")) if file.is_file())
    data = bytearray(file.read_bytes())
    data[4096 + at] ^= 1
    file.write_bytes(data)


def test_verify_explains_what_is_wrong(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    assert run("record", "CartPole-v1", tmp_path / "a.zarr", "--steps", 300)[0] == 0
    assert run("verify", tmp_path / "a.zarr")[1].startswith(f"{tmp_path / 'a.zarr'}: no problems")
    assert facts("verify", tmp_path / "a.zarr")["clean"]

    damage(tmp_path / "a.zarr")
    code, out, err = run("verify", tmp_path / "a.zarr")

    assert (code, err) == (1, "")
    *problems, last = out.splitlines()
    assert "1 problem" in last
    assert len(problems) == 1
    assert "observation" in problems[0]
    found = facts("verify", tmp_path / "a.zarr", code=1)
    assert not found["clean"]
    assert found["problems"][0].keys() == {"where", "what", "remedy"}


def test_repair_says_what_it_did(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", own_schema()) as buffer:
        for _ in range(3):
            buffer.append(own_rows([1.0] * 10))
            buffer.commit()
    assert "nothing to do" in run("repair", tmp_path / "a.zarr")[1]

    damage(tmp_path / "a.zarr", at=15 * 64)
    found = facts("repair", tmp_path / "a.zarr")

    assert found["actions"]
    assert found["dropped"][0] == "the last 20 of 30 steps"
    assert run("verify", tmp_path / "a.zarr")[0] == 0
    damage(tmp_path / "a.zarr")
    (tmp_path / "a.zarr.damaged").rename(tmp_path / "b.zarr")
    code, _, err = run("repair", tmp_path / "a.zarr")
    assert code == 1
    assert "no commit can be brought back" in err
    assert "it is as it was: restore it from a copy" in err


def test_publishing_what_a_killed_writer_left(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    buffer = rs.create(tmp_path / "a.zarr", own_schema())
    buffer.append(own_rows([1.0, 2.0]))
    buffer.commit()
    buffer.abandon()
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["steps/reward"].shape == (0,)

    assert facts("publish", tmp_path / "a.zarr")["steps"] == 2

    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["steps/reward"][:].tolist() == [1.0, 2.0]
    assert "2 steps" in run("publish", tmp_path / "a.zarr")[1]


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
