"""`buffer.zarr_store()`: other software reads a buffer as Zarr, whatever it is stored in."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr_readers import KINDS, READERS, STEPS, by_zarr, check, keys, opened

import replaystore as rs
from replaystore.errors import ConflictError, FormatError, MissingDependencyError, UnsupportedError
from replaystore.schema.fields import Schema
from replaystore.testing.far import far_disk
from replaystore.testing.samples import every_dtype, small

pytest_plugins = ["zarr_readers"]


@pytest.mark.parametrize("schema", [small(), every_dtype()], ids=["small", "every dtype"])
@pytest.mark.parametrize("kind", KINDS)
def test_zarr_reads_every_kind_of_buffer(
    tmp_path: Path, kind: str, schema: Schema, small_chunks: None
) -> None:
    with opened(kind, tmp_path, schema) as buffer:
        check(buffer, buffer.zarr_store(), by_zarr)
        assert len(buffer) == STEPS


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("kind", ["live.zarr", "live.h5"])
def test_every_reader_reads_a_buffer_that_is_written(
    tmp_path: Path, kind: str, read: Any, small_chunks: None
) -> None:
    with opened(kind, tmp_path, small()) as buffer:
        check(buffer, buffer.zarr_store(), read)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_every_reader_reads_every_dtype_and_name(tmp_path: Path, read: Any) -> None:
    with opened("live.zarr", tmp_path, every_dtype()) as buffer:
        check(buffer, buffer.zarr_store(), read)


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5"])
def test_processes_of_dask_read_the_same_commit(tmp_path: Path, kind: str) -> None:
    array = pytest.importorskip("dask.array")
    with opened(kind, tmp_path, small()) as buffer:
        wide = array.from_zarr(buffer.zarr_store(), component="steps/info/wide")
        buffer.commit()

        found = wide.sum(axis=1, dtype="u8").compute(scheduler="processes", num_workers=1)

        assert found.tolist() == buffer["info/wide"][:STEPS].sum(axis=1, dtype="u8").tolist()


# --- the same as other software sees in the stored hierarchy


def test_names_and_metadata_are_those_of_the_stored_hierarchy(tmp_path: Path) -> None:
    schema = every_dtype()
    buffer = opened("live.zarr", tmp_path, schema)
    buffer.publish()
    stored = zarr.open_group(tmp_path / "live.zarr", mode="r")
    shown = zarr.open_group(buffer.zarr_store(), mode="r")

    of_stored = {
        name: node
        for name, node in stored.members(max_depth=None)
        if not name.startswith(("journal", "checksums"))
    }
    of_shown = dict(shown.members(max_depth=None))

    assert of_shown.keys() == of_stored.keys()
    for name, node in of_shown.items():
        there = of_stored[name]
        assert type(node) is type(there)
        if isinstance(node, zarr.Array):
            assert node.shape == there.shape
            assert node.dtype == there.dtype
            assert node.metadata.dimension_names == there.metadata.dimension_names
            assert [type(codec).__name__ for codec in node.metadata.codecs] == ["BytesCodec"]
            assert np.asarray(node[:]).tobytes() == np.asarray(there[:]).tobytes()
    attributes = dict(shown.attrs)
    assert attributes.pop("replaystore_shown") == {"commit": buffer.commit_id, "first_row": 0}
    assert attributes == dict(stored.attrs)
    buffer.close()


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5"])
def test_xarray_names_dimensions_and_needs_no_help(tmp_path: Path, kind: str) -> None:
    """Nothing is to be ignored: warnings are errors here."""
    xarray = pytest.importorskip("xarray")
    with opened(kind, tmp_path, small()) as buffer:
        for settings in ({}, {"consolidated": True}, {"consolidated": False}):
            steps = xarray.open_zarr(buffer.zarr_store(), group="steps", **settings)
            assert steps["reward"].dims == ("step",)
            assert steps.sizes["step"] == STEPS
        whole = xarray.open_datatree(buffer.zarr_store(), engine="zarr")
        assert whole["steps/observation/joints"].dims == ("step", "observation/joints_0")
        assert "replaystore" in xarray.open_zarr(buffer.zarr_store()).attrs
        ended = xarray.open_zarr(buffer.zarr_store(), group="trajectories")
        assert ended["length"].sel(trajectory=3) == buffer.trajectories["length"][3]


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5"])
def test_a_buffer_without_steps_is_arrays_without_rows(tmp_path: Path, kind: str) -> None:
    with rs.create(tmp_path / kind, small()) as buffer:
        group = zarr.open_group(buffer.zarr_store(), mode="r")

        for name, node in group.members(max_depth=None):
            if isinstance(node, zarr.Array):
                assert node.shape[0] == 0, name
                assert node[:].shape == node.shape
        assert not [key for key in keys(buffer.zarr_store().list()) if "/c." in key]


def test_a_field_that_is_added_later_is_there_from_its_commit_on(tmp_path: Path) -> None:
    with opened("live.zarr", tmp_path, small()) as buffer:
        before = buffer.zarr_store()
        buffer.add_field("extra", rs.Field("float32", (2,), "extra"))
        buffer.commit()

        assert "extra" not in zarr.open_group(before, mode="r")["steps"]
        assert zarr.open_group(buffer.zarr_store(), mode="r")["steps/extra"].shape == (len(buffer), 2)


# --- open, closed, sent


def test_a_closed_buffer_says_so(tmp_path: Path) -> None:
    for how in ("close", "abandon"):
        buffer = opened("live.zarr", tmp_path, small())
        store = buffer.zarr_store()
        reward = zarr.open_group(store, mode="r")["steps/reward"]
        getattr(buffer, how)()

        with pytest.raises(ConflictError, match="is closed: open it again"):
            reward[:]
        with pytest.raises(ConflictError, match="is closed: open it again"):
            zarr.open_group(store, mode="r")
        with pytest.raises(ConflictError, match="is closed: open it again"):
            buffer.zarr_store()


def test_a_closed_store_opens_again_and_a_forgotten_buffer_does_not_matter(tmp_path: Path) -> None:
    opened("live.zarr", tmp_path, small()).close()
    buffer = rs.open(tmp_path / "live.zarr")
    store, rows = buffer.zarr_store(), buffer["reward"][:]

    store.close()
    assert np.array_equal(by_zarr(store, "steps/reward"), rows)
    del buffer
    assert np.array_equal(by_zarr(store, "steps/reward"), rows)
    store.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells which files are open")
@pytest.mark.parametrize("kind", ["live.zarr", "live.h5"])
def test_files_are_closed_with_the_last_use_of_a_store(tmp_path: Path, kind: str) -> None:
    def open_files() -> int:
        return sum(str(tmp_path) in str(link.resolve()) for link in Path("/proc/self/fd").iterdir())

    opened(kind, tmp_path, small()).close()
    with rs.open(tmp_path / kind) as buffer:
        before = open_files()
        for _ in range(3):
            store = buffer.zarr_store()
            by_zarr(store, "steps/observation/camera")
            assert open_files() > before
            del store
        until = time.monotonic() + 20
        while open_files() > before and time.monotonic() < until:  # a thread of zarr's may not be done yet
            gc.collect()
            time.sleep(0.01)
        assert open_files() == before


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5", "archive.zarr", "packed.zarr.zip"])
def test_it_is_sent_to_another_process_with_its_commit(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(kind, Path(), small()) as buffer:
        sent = pickle.dumps(buffer.zarr_store())
        total = int(buffer["info/wide"][:].sum(dtype="u8"))
        if buffer.mode == "r+":
            buffer.commit()
        program = (
            "import pickle, sys, zarr; store = pickle.load(sys.stdin.buffer); "
            "print(int(zarr.open_group(store, mode='r')['steps/info/wide'][:].sum(dtype='u8')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], input=sent, capture_output=True, check=True, cwd="/"
        )
        assert int(done.stdout) == total


def test_one_in_memory_is_not_sent(tmp_path: Path) -> None:
    with opened("memory:live", tmp_path, small()) as buffer:
        with pytest.raises(UnsupportedError, match="convert it to a store on a disk"):
            pickle.dumps(buffer.zarr_store())
        dask = pytest.importorskip("dask.array")
        found = dask.from_zarr(buffer.zarr_store(), component="steps/reward")
        assert np.array_equal(found.compute(scheduler="threads"), buffer["reward"][:])


def test_it_is_shown_with_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.zarr", "a.h5"):
        with opened(name, Path(), small()) as buffer:
            assert str(buffer.zarr_store()) == f"{tmp_path / name}, commit {buffer.commit_id}"


def test_a_copy_of_all_of_it_is_told_from_a_store(tmp_path: Path) -> None:
    with opened("live.h5", tmp_path, small()) as buffer:
        shown = zarr.open_group(buffer.zarr_store(), mode="r")
        copy = zarr.open_group(tmp_path / "copy.zarr", mode="w", attributes=dict(shown.attrs))
        copy.create_array("steps/reward", data=shown["steps/reward"][:])
    with pytest.raises(FormatError, match="is a copy of what a zarr_store"):
        rs.open(tmp_path / "copy.zarr")
    with far_disk(), pytest.raises(FormatError, match="is a copy of what a zarr_store"):
        rs.open(tmp_path / "copy.zarr")


def test_nothing_is_written_through_it(tmp_path: Path) -> None:
    with opened("live.zarr", tmp_path, small()) as buffer:
        store = buffer.zarr_store()
        assert store.read_only
        assert not store.supports_writes
        assert not store.supports_deletes
        data = default_buffer_prototype().buffer.from_bytes(b"1")
        for refused in (
            lambda: store.set("zarr.json", data),
            lambda: store.delete("zarr.json"),
            lambda: store.delete_dir("steps"),
        ):
            with pytest.raises(UnsupportedError, match="only read"):
                refused().send(None)
        with pytest.raises(UnsupportedError, match="only read"):
            del zarr.open_group(store, mode="r")["steps"]
        with pytest.raises(UnsupportedError, match="only read"):
            store.with_read_only(False)
        assert store.with_read_only(True) is store
        with pytest.raises(ValueError, match="read-only"):
            zarr.open_group(store, mode="r+")
        with pytest.raises((ValueError, UnsupportedError), match=r"read-only|only read"):
            zarr.open_array(store, path="steps/reward", mode="r")[0] = 1


def test_without_zarr_it_says_what_to_install(tmp_path: Path) -> None:
    with opened("live.zarr", tmp_path, small()) as buffer:
        gone = {"zarr": None, "zarr.abc": None, "zarr.abc.store": None, "replaystore.views.zarr_store": None}
        with patch.dict(sys.modules, gone), pytest.raises(MissingDependencyError, match="pip install zarr"):
            buffer.zarr_store()
