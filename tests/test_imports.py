"""What is not loaded before it is needed: importing replaystore and asking for help must be fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs

FIELDS = {
    "observation": rs.Field("float32", (3,), "observation"),
    "action": rs.Field("float32", (1,), "action"),
    "reward": rs.Field("float32", (), "reward"),
    "terminated": rs.Field("bool", (), "terminated"),
    "truncated": rs.Field("bool", (), "truncated"),
}
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
        (
            "import sys, replaystore.cli; sys.argv = ['replaystore', '--help']\ntry: "
            "replaystore.cli.main()\nexcept SystemExit: pass"
        ),
    ],
)
def test_help_loads_no_heavy_library(program: str) -> None:
    loaded = loaded_by(program)

    assert "click" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", ["schema.fields", "trajectories.table", "trajectories.where"])
def test_descriptions_need_numpy_only(name: str) -> None:
    loaded = loaded_by(f"import replaystore.{name}")

    assert "numpy" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_buffer_is_written_and_read_without_what_else_reads_zarr(tmp_path: Path, suffix: str) -> None:
    loaded = loaded_by(
        "import numpy, replaystore as rs\n"
        f"with rs.create({str(tmp_path / f'a{suffix}')!r}, rs.Schema({{'reward': rs.Field('float32', (), "
        "'reward')})) as buffer:\n"
        "    buffer.append({'reward': numpy.zeros(3, numpy.float32)})\n"
        f"with rs.open({str(tmp_path / f'a{suffix}')!r}) as buffer: buffer.read(slice(0, 3))"
    )

    assert "numpy" in loaded
    assert not loaded & {"dask", "xarray", "zarr"}


@pytest.mark.torch
def test_a_drop_in_is_loaded_from_a_store_without_gymnasium(tmp_path: Path) -> None:
    """Nor sampled from; with environments it is there already."""
    with rs.create(tmp_path / "a.zarr", rs.Schema(FIELDS)) as buffer:
        buffer.append(
            {name: np.zeros((20, *field.shape), field.dtype) for name, field in FIELDS.items()},
            ends=[19],
            split="train",
        )
    loaded = loaded_by(
        "from replaystore.compat.active_rlhf import ReplayBuffer\n"
        f"with ReplayBuffer.load({str(tmp_path / 'a.zarr')!r}, device='cpu', fragment_length=5) as buffer: "
        "buffer.sample2(3)"
    )

    assert "torch" in loaded
    assert "gymnasium" not in loaded
