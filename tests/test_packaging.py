"""What is installed: the core without PyTorch, and extras that are used and explained."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from core_only import PROJECT, ROOT, closure, distribution, environment
from packaging.requirements import Requirement

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
IMPORTED_AS = {"gymnasium[mujoco]": "mujoco", "gymnasium[atari]": "ale_py"}
"""Extras of others, by the package that they are wanted for; others are told by what is installed."""
NOT_IMPORTED = {
    "array-api-compat": "velora needs it, and does not ask for it",
    "httptools": "uvicorn uses it if it is there",
    "httpx2": "starlette.testclient needs it",
    "mypy": "./scripts/check runs it",
    "pytest-timeout": "the settings of pytest use it",
    "pytest-xdist": "./scripts/test uses it",
    "ruff": "./scripts/check runs it",
    "uvicorn": "`replaystore serve` starts it",
    "uvloop": "uvicorn uses it if it is there",
}


IMPORTING = ("import_module", "importorskip", "require")
"""Functions whose first argument is the name of a module."""


def constants(call: ast.Call) -> list[ast.Constant]:
    """The arguments of a call that are written there."""
    return [argument for argument in call.args if isinstance(argument, ast.Constant)]


OWNERS = importlib.metadata.packages_distributions().items()
"""Packages, and the distributions that they are of."""


@cache
def imported(folder: str) -> frozenset[str]:
    """The packages that files of a folder import, in whatever way."""
    return frozenset(name for path in (ROOT / folder).rglob("*.py") for name in imported_by(path))


def imported_by(path: Path) -> Iterator[str]:
    """The packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTING):
            yield from (str(name.value).split(".")[0] for name in constants(node)[:1])


def packages(requirement: Requirement) -> set[str]:
    """How a requirement is imported."""
    extras = {f"{requirement.name}[{extra}]" for extra in requirement.extras}
    if extras & IMPORTED_AS.keys():
        return {IMPORTED_AS[extra] for extra in extras}
    found = {name for name, owners in OWNERS if requirement.name in map(distribution, owners)}
    return found or {requirement.name.replace("-", "_")}


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_what_is_required_is_imported_by_something(extra: str | None) -> None:
    folders = ["src"] if extra is None else ["src", "scripts", "examples", "tests"]
    known = {name for folder in folders for name in imported(folder)}

    for requirement in map(Requirement, PROJECT["dependencies"] if extra is None else EXTRAS[extra]):
        if requirement.name == "replaystore":
            assert requirement.extras <= EXTRAS.keys()
        elif requirement.name not in NOT_IMPORTED:
            assert packages(requirement) & known, requirement


def test_every_extra_is_explained_and_no_other_is() -> None:
    named = set(re.findall(r"`\[([\w-]+)\]`", README))
    asked_for = {
        name for found in re.findall(r"pip install '\.\[([\w,-]+)\]'", README) for name in found.split(",")
    }

    assert named == EXTRAS.keys()
    assert asked_for <= EXTRAS.keys()


def test_extras_that_messages_name_are_there() -> None:
    """The third argument of `require`, the only one of `install`."""
    named = set()
    for path in (path for folder in ("src", "scripts") for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "from replaystore.extras import" in text:
            calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            for call in calls:
                if ast.unparse(call.func) in ("require", "install"):
                    named |= {constant.value for constant in constants(call)[-1:]}

    assert {"torch", "training", "test", "dev", "atari"} <= named <= EXTRAS.keys()


def test_the_core_brings_no_pytorch() -> None:
    brought = closure(PROJECT["dependencies"])

    assert {"numpy", "zarr", "h5py", "gymnasium"} <= brought
    assert not brought & {"torch", "safetensors", "matplotlib", "pandas", "dask", "pytest", "hypothesis"}


# --- what is said where an extra is missing


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that find nothing but the core."""
    return environment(tmp_path_factory.mktemp("core") / "only")


def last_line(core: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, *arguments], env=core, capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.returncode, done.stderr.splitlines()


SAMPLING = """
import sys, tempfile, numpy, replaystore as rs
with tempfile.TemporaryDirectory() as folder:
    schema = rs.Schema({"x": rs.Field("float32", (), "extra")})
    with rs.create(folder + "/a.zarr", schema) as buffer:
        buffer.append({"x": numpy.zeros(9, "f4")})
        buffer.commit()
        assert buffer.sampler(4).sample()["x"].shape == (4,)
        buffer.sampler(4, device="cpu")
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import replaystore.torch", "replaystore.torch needs torch, .*'replaystore[torch]'"),
        ("from replaystore.torch import BatchDataset", "needs torch, .*'replaystore[torch]'"),
        ("import replaystore.compat.velora", "needs torch, .*'replaystore[torch]'"),
        ("from replaystore.compat.active_rlhf import ReplayBuffer", "needs torch, .*'replaystore[torch]'"),
        ("import replaystore.analysis.plots", "needs torch, .*'replaystore[training]'"),
        ("from replaystore.testing import StorageSuite", "needs pytest, .*'replaystore[test]'"),
        (
            SAMPLING,
            "device=.* needs torch, .*'replaystore[torch]'",
        ),
    ],
)
def test_what_needs_an_extra_says_what_to_install(core: dict[str, str], program: str, said: str) -> None:
    code, lines = last_line(core, "-c", program)

    assert code == 1
    assert re.fullmatch(
        rf"replaystore\.errors\.MissingDependencyError: .*{said.replace('[', re.escape('['))}", lines[-1]
    )


@pytest.mark.parametrize(
    "script",
    ["pref_ppo", "analyze_replay_buffer", "train_vae_on_replay_buffer", "test_replay_buffer_loading"],
)
def test_scripts_say_it_in_one_line(core: dict[str, str], script: str) -> None:
    code, lines = last_line(core, str(Path("scripts", f"{script}.py")), "--help")

    expected = f"{script}.py needs torch, which is not installed: pip install 'replaystore[training]'"
    assert (code, lines) == (1, [expected])


def test_campaigns_say_it_in_one_line(core: dict[str, str]) -> None:
    code, lines = last_line(core, "-m", "replaystore.testing.campaigns", "--minutes", "0")

    expected = "campaign: a campaign needs torch, which is not installed: pip install 'replaystore[dev]'"
    assert (code, lines) == (1, [expected])


def test_environments_say_it_in_one_line(core: dict[str, str], tmp_path: Path) -> None:
    for env_id, extra in (("HalfCheetah-v5", "mujoco"), ("ALE/Pong-v5", "atari")):
        code, lines = last_line(
            core, "-m", "replaystore.cli", "record", env_id, str(tmp_path / "a.zarr"), "--steps", "9"
        )

        assert (code, len(lines)) == (1, 1), lines
        assert lines[0].endswith(f"pip install 'replaystore[{extra}]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sample", ["velora", "active_rlhf"])
def test_files_of_other_software_convert_without_it(
    core: dict[str, str], sample: str, tmp_path: Path
) -> None:
    found = sorted(
        (ROOT / "tests" / "data" / sample).rglob("*.safetensors" if sample == "velora" else "*.pkl")
    )
    target, back = tmp_path / "a.zarr", tmp_path / f"back{found[0].suffix}"

    for source, to in ((found[0], target), (target, back)):
        code, lines = last_line(core, "-m", "replaystore.cli", "convert", str(source), str(to))
        assert (code, lines) == (0, []), lines
