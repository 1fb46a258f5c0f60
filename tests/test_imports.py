"""What is not loaded before it is needed: importing replaystore and asking for help must be fast."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "dask",
    "distributed",
    "gymnasium",
    "h5py",
    "jsonschema",
    "matplotlib",
    "numcodecs",
    "obstore",
    "pandas",
    "pydantic",
    "torch",
    "xarray",
    "zarr",
}


def loaded_by(program: str) -> set[str]:
    """The packages that are loaded in a new interpreter after it has run a program."""
    program += "\nimport sys; print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].removeprefix("loaded:").split())


def test_importing_the_package_loads_nothing_but_the_package() -> None:
    loaded = loaded_by("import replaystore; dir(replaystore); replaystore.__version__; replaystore.errors")

    assert "replaystore" in loaded
    assert not loaded & (HEAVY | {"click", "numpy"})


@pytest.mark.parametrize(
    "program",
    [
        "import replaystore.cli",
        "import sys, replaystore.cli; sys.argv = ['replaystore', '--help']\ntry: replaystore.cli.main()\nexcept SystemExit: pass",
    ],
)
def test_help_loads_no_heavy_library(program: str) -> None:
    loaded = loaded_by(program)

    assert "click" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", ["schema", "trajectories", "where"])
def test_descriptions_need_numpy_only(name: str) -> None:
    loaded = loaded_by(f"import replaystore.{name}")

    assert "numpy" in loaded
    assert not loaded & HEAVY
