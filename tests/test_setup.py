"""`./scripts/setup` and `.ci/run`, with Pythons that only note what they are asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/usr/bin/env bash
# A Python of version {version} that installs nothing.
case "$*" in
  "-c "*) [ "{version}" != none ] && {{ [ -z "${{3:-}}" ] || [ "$3" = "{version}" ]; }} ;;
  "--version") echo "Python {version}" ;;
  "-m venv --clear "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m pip --version") ;;
  "-m pip install "*) echo "$0 ${{*:4}}" >>"$NOTES" ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup needs of a checkout."""
    made = tmp_path / "checkout"
    (made / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", made / "scripts")
    shutil.copy(ROOT / "pyproject.toml", made)
    return made


def python(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON.format(version=version), encoding="utf-8")
    path.chmod(0o755)
    return path


def setup(checkout: Path, *arguments: str, **variables: str) -> tuple[int, list[str], str]:
    """The exit status, what was installed, and the messages."""
    notes, folder = checkout / "notes", checkout.parent / "bin"
    notes.write_text("")
    path = os.pathsep.join([str(folder), "/usr/bin", "/bin"])
    environment = {"PATH": path, "HOME": str(checkout.parent), "NOTES": str(notes)} | variables
    done = subprocess.run(
        ["bash", str(checkout / "scripts" / "setup"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    installed = [line.replace("--quiet --quiet --no-compile ", "") for line in notes.read_text().splitlines()]
    return done.returncode, installed, done.stderr


def test_the_demo_takes_less_and_all_is_taken_after_it(checkout: Path) -> None:
    python(checkout.parent / "bin" / "python3.11", "3.11")

    assert setup(checkout, "demo")[1] == [".venv/bin/python --editable .[mujoco]"]
    assert setup(checkout, "demo")[:2] == (0, [])
    everything = [".venv/bin/python torch==2.13.0", ".venv/bin/python --editable .[dev]"]
    assert setup(checkout)[1] == everything
    assert setup(checkout)[:2] == setup(checkout, "demo")[:2] == (0, []), "which has what the demo needs"
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert setup(checkout, "demo")[1] == everything, "and keeps it"


def test_benchmarks_have_an_environment_of_their_own_and_do_without_what_is_not_to_be_had(
    checkout: Path,
) -> None:
    program = python(checkout.parent / "bin" / "python3.11", "3.11")
    text = program.read_text()
    refused = text.replace('case "$*" in', 'case "$*" in\n  *cpprb*) exit 1 ;;')
    program.write_text(refused)

    code, installed, said = setup(checkout, "bench")

    assert code == 0
    assert installed[:2] == [
        ".venv-bench/bin/python torch==2.13.0",
        ".venv-bench/bin/python --editable .[training]",
    ]
    peers = {line.split()[-1].partition("==")[0] for line in installed[2:]}
    assert {"stable-baselines3", "torchrl"} <= peers
    assert "cpprb" not in peers
    assert [line for line in said.splitlines() if "cpprb" in line and "left out" in line]
    assert setup(checkout, "bench")[:2] == (0, [])
    assert not (checkout / ".venv").exists()


def test_the_libraries_of_others_come_each_by_itself(checkout: Path) -> None:
    program = python(checkout.parent / "bin" / "python3.11", "3.11")
    text = program.read_text()
    program.write_text(text.replace('case "$*" in', 'case "$*" in\n  *lerobot*) exit 1 ;;'))

    code, installed, said = setup(checkout, "peers")

    assert code == 0
    assert installed[:2] == [
        ".venv-peers/bin/python torch==2.13.0",
        ".venv-peers/bin/python --editable .[dev]",
    ]
    assert not [line for line in installed[2:] if " torch==" in line or line.endswith(" torch")]
    assert [line for line in installed if line.endswith("minari[hdf5,arrow]==0.5.4")]
    assert ".venv-peers/bin/python --no-deps d3rlpy==2.8.1" in installed
    assert [line for line in said.splitlines() if "lerobot==0.4.4 cannot be installed" in line]
    assert setup(checkout, "peers")[:2] == (0, [])
    assert not (checkout / ".venv").exists()


def test_an_environment_that_was_moved_is_made_anew(checkout: Path) -> None:
    python(checkout.parent / "bin" / "python3.11", "3.11")
    setup(checkout)
    moved = checkout.rename(checkout.with_name("moved"))

    assert setup(moved, "demo")[1] == [".venv/bin/python --editable .[mujoco]"]


@pytest.mark.parametrize("where", ["path", "pyenv", "named"])
def test_another_python_has_an_environment_of_its_own(checkout: Path, where: str) -> None:
    """One that is there and does not run, as a shim of pyenv may be, does not count."""
    python(checkout.parent / "bin" / "python3.11", "3.11")
    python(checkout.parent / "bin" / "python3.13", "3.13" if where == "path" else "none")
    if where == "pyenv":
        python(checkout.parent / ".pyenv" / "versions" / "3.13.9" / "bin" / "python", "3.13")
    named = {"PYTHON313": str(python(checkout.parent / "mine", "3.13"))} if where == "named" else {}

    code, installed, _ = setup(checkout, "--python", "3.13", **named)

    assert (code, installed) == (0, [".venv-3.13/bin/python --editable .[test]"])
    assert setup(checkout, "--python", "3.13", **named)[:2] == (0, [])
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("named", [False, True])
def test_a_python_that_is_not_there_is_one_line(checkout: Path, named: bool) -> None:
    python(checkout.parent / "bin" / "python3.13", "none")
    wrong = {"PYTHON313": str(python(checkout.parent / "mine", "3.12"))} if named else {}

    code, installed, said = setup(checkout, "--python", "3.13", **wrong)

    assert (code, installed) == (3, [])
    assert said.count("\n") == 1
    assert "there is no Python 3.13 here that runs" in said
    assert ("mine" in said) is named
    assert sorted(path.name for path in checkout.iterdir()) == ["notes", "pyproject.toml", "scripts"]


@pytest.mark.parametrize(
    ("first", "found", "second", "expected"),
    [(0, 0, 0, 0), (4, 0, 0, 4), (0, 3, 9, 0), (5, 3, 9, 5), (0, 0, 6, 6), (4, 0, 6, 4), (0, 1, 9, 1)],
)
def test_continuous_integration_ends_as_what_failed_first(
    tmp_path: Path, first: int, found: int, second: int, expected: int
) -> None:
    for name, text in (
        ("setup", f"exit {found}"),
        ("test", f'echo "$@"; [ "${{1:-}}" = --python ] && exit {second}; exit {first}'),
    ):
        script = tmp_path / "scripts" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/usr/bin/env bash\n{text}\n")
        script.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")

    done = subprocess.run(["bash", tmp_path / ".ci" / "run"], capture_output=True, text=True, check=False)

    assert done.returncode == expected
    assert done.stdout.splitlines() == ["", *(["--python 3.13"] if found == 0 else [])]
