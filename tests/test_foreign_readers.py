"""Other software reads what we store: zarr-python, xarray, h5py, and HDF5's own tools."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

import replaystore as rs
from replaystore.schema.fields import Schema
from replaystore.schema.names import escape_path
from replaystore.testing.crashes import tiny
from replaystore.testing.samples import columns, every_dtype, observations, small, storage

STEPS = 250


def make(path: Path, schema: Schema, **settings: Any) -> dict[str, Any]:
    """A closed store of 250 steps, written in three commits; what it holds."""
    written = columns(schema, STEPS, seed=1)
    with rs.create(path, schema, **settings) as buffer:
        for start, stop in ((0, 70), (70, 71), (71, STEPS)):
            part = {name: rows[start:stop] for name, rows in written.items()}
            ended = part["terminated"] | part["truncated"]
            touched = int(ended.sum()) + (not ended[-1])
            buffer.append(part, final_observation=observations(schema, touched, seed=start))
            buffer.commit()
    return written


def same(expected: np.ndarray, found: Any) -> bool:
    found = np.asarray(found)
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and np.ascontiguousarray(found).tobytes() == expected.tobytes()
    )


@pytest.mark.parametrize("codec", ["zstd:1", "gzip:6", "raw"])
def test_zarr_python_reads_a_closed_store(tmp_path: Path, codec: str) -> None:
    settings = storage(codec) if codec != "raw" else {"info/wide": {"chunk_rows": 8}}
    written = make(tmp_path / "a.zarr", small(), storage=settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(tmp_path / "a.zarr", mode="r")
        assert dict(group.members(max_depth=None))  # walks everything, and warns of what it does not know
    for name, rows in written.items():
        assert same(rows, group[f"steps/{name}"][:])
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert same(buffer.parts.length, group["parts"][:, 1])
        assert same(buffer.trajectories["return"][~buffer.trajectories.open], group["trajectories/return"][:])
        final = buffer.trajectory(0).final_observation
        assert final is not None
        assert same(final["observation/joints"], group["final/observation/joints"][0])


@pytest.mark.parametrize("codec", ["zstd:1", "raw"])
def test_zarr_python_reads_shards_that_are_complete(tmp_path: Path, codec: str) -> None:
    """Their indexes were written when they were, and not by what closes the store."""
    with tiny():
        written = make(tmp_path / "a.zarr", small(), storage={"info/wide": {"codec": codec, "chunk_rows": 8}})
    assert len(list((tmp_path / "a.zarr/steps/info/wide").glob("c.*"))) == 16

    group = zarr.open_group(tmp_path / "a.zarr", mode="r")

    assert same(written["info/wide"], group["steps/info/wide"][:])


def test_zarr_python_reads_every_dtype_and_name(tmp_path: Path) -> None:
    written = make(tmp_path / "a.zarr", every_dtype())
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    for name, rows in written.items():
        assert same(rows, group[f"steps/{escape_path(name)}"][:])


def test_what_is_not_published_is_not_half_shown(tmp_path: Path) -> None:
    buffer = rs.create(tmp_path / "a.zarr", small(), storage=storage("zstd:1"))
    written = columns(small(), STEPS, seed=1)
    buffer.append({name: rows[:100] for name, rows in written.items()})
    buffer.publish()
    buffer.append({name: rows[100:] for name, rows in written.items()})
    buffer.commit()
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "killed.zarr")
    buffer.abandon()
    group = zarr.open_group(tmp_path / "killed.zarr", mode="r")
    for name, rows in written.items():
        assert same(rows[:100], group[f"steps/{name}"][:])
    rs.open(tmp_path / "killed.zarr", "r+").close()
    group = zarr.open_group(tmp_path / "killed.zarr", mode="r")
    for name, rows in written.items():
        assert same(rows, group[f"steps/{name}"][:])


def test_xarray_opens_a_store_with_named_dimensions(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    schema = small()
    written = make(
        tmp_path / "a.zarr",
        schema.select([name for name in schema.fields if not name.startswith("observation/camera")]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the metadata are not consolidated
        steps = xarray.open_dataset(tmp_path / "a.zarr", engine="zarr", group="steps", consolidated=False)
        deeper = xarray.open_dataset(
            tmp_path / "a.zarr", engine="zarr", group="steps/observation", consolidated=False
        )
    assert steps["reward"].dims == ("step",)
    assert deeper["joints"].dims[0] == "step"
    assert same(written["reward"], steps["reward"].values)
    assert same(written["observation/joints"], deeper["joints"].values)


@pytest.mark.parametrize("codec", ["gzip:1", "raw"])
def test_h5py_reads_a_closed_file(tmp_path: Path, codec: str) -> None:
    settings = storage(codec) if codec != "raw" else {"info/wide": {"chunk_rows": 8}}
    written = make(tmp_path / "a.h5", small(), storage=settings)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        for name, rows in written.items():
            assert same(rows, file[f"steps/{name}"][:])
        assert "replaystore" in file.attrs
        assert "DIMENSION_LABELS" not in file["steps/reward"].attrs


def test_h5py_reads_every_dtype_and_name(tmp_path: Path) -> None:
    written = make(tmp_path / "a.h5", every_dtype())
    with h5py.File(tmp_path / "a.h5", "r") as file:
        for name, rows in written.items():
            assert same(rows, file[f"steps/{escape_path(name)}"][:])


def test_h5py_opens_a_file_that_is_being_written(tmp_path: Path) -> None:
    buffer = rs.create(tmp_path / "a.h5", small(), storage=storage("gzip:1"))
    written = columns(small(), STEPS, seed=1)
    buffer.append(written)
    buffer.commit()
    with h5py.File(tmp_path / "a.h5", "r", locking=False) as file:  # shapes run ahead of what is committed
        for name in ("reward", "observation/joints"):
            assert same(written[name], file[f"steps/{name}"][:STEPS])
    buffer.close()


@pytest.mark.parametrize("tool", ["h5dump", "h5ls"])
def test_the_tools_of_hdf5_read_a_file(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: hdf5-tools)")
    written = make(tmp_path / "a.h5", small(), storage=storage("gzip:1"))
    command = (
        [tool, "-d", "/steps/action", str(tmp_path / "a.h5")]
        if tool == "h5dump"
        else [tool, "-r", str(tmp_path / "a.h5")]
    )
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if tool == "h5dump":
        assert all(f" {number}" in done.stdout for number in written["action"][:5].tolist())
    else:
        assert "/steps/observation/joints" in done.stdout
        assert f"{{{STEPS}/Inf" in done.stdout


def test_zarr_and_hdf5_hold_the_same_tree(tmp_path: Path) -> None:
    make(tmp_path / "a.zarr", small())
    make(tmp_path / "a.h5", small())
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    arrays = {
        name
        for name, node in group.members(max_depth=None)
        if isinstance(node, zarr.Array) and not name.startswith("journal/")
    }
    names: set[str] = set()
    with h5py.File(tmp_path / "a.h5", "r") as file:
        file.visititems(lambda name, node: names.add(name) if isinstance(node, h5py.Dataset) else None)
    assert {name for name in names if not name.startswith("journal/")} == arrays
