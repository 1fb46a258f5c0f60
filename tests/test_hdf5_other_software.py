"""HDF5 stores beside other software, which reads and changes them, and in memory."""

from __future__ import annotations

import shutil
import subprocess

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from hdf5_story import (
    ALL,
    IMAGE,
    NAME,
    OBS,
    SPECS,
    encoded,
    flat,
    plain,
    read_rows,
    rows_of,
)

from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.storage.local import Files
from replaystore.storage.memory import MemoryFiles

pytest_plugins = ["hdf5_story"]


def test_h5dump_reads_the_file_while_it_grows_and_afterwards(container: Hdf5Container) -> None:
    if shutil.which("h5dump") is None:
        pytest.skip("needs h5dump (hdf5-tools)")
    container.begin_segment(0, b"x" * 100)
    container.write_chunks({IMAGE: {0: encoded(container, IMAGE, 0)}})
    for lengths in ({}, {OBS: 100, IMAGE: 5}):
        container.reserve({OBS: 100})
        if lengths:
            container.publish(lengths, {})
        found = subprocess.run(
            ["h5dump", "-d", "/" + IMAGE, container.files.path(NAME)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        header = subprocess.run(
            ["h5dump", "-H", container.files.path(NAME)], capture_output=True, text=True, check=False
        )
        assert header.returncode == 0, header.stderr
        assert header.stdout.count("DATASET") == len(ALL) + 1
    assert "( 100, 16 ) / ( H5S_UNLIMITED, 16 )" in header.stdout


def test_another_program_may_change_the_file_in_between(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.reserve({OBS: 64})
    container.write_rows(OBS, 0, flat(rows_of(ALL[OBS], 64, 3)))
    container.publish({OBS: 64}, {})
    container.close()
    with h5py.File(container.files.path(NAME), "r+") as file:
        file.attrs["note"] = "hello"
        file["results/mine"] = np.arange(1000)
    again = Hdf5Container.open(Files(container.files.root, writable=True), NAME, writable=True)
    again.reserve({OBS: 6400})
    again.append_record(b"more")
    assert read_rows(again, OBS, 64) == flat(rows_of(ALL[OBS], 64, 3)).tobytes()
    with plain(again) as file:
        np.testing.assert_array_equal(file["results/mine"][:], np.arange(1000))


def test_a_store_may_live_in_memory() -> None:
    files = MemoryFiles("buffer")
    container = Hdf5Container.create(files, NAME, {"a": 1})
    container.create_arrays(SPECS)
    container.begin_segment(0, b"base")
    container.reserve({OBS: 10})
    container.write_rows(OBS, 0, flat(rows_of(SPECS[OBS], 10)))
    container.fork({OBS: 0})
    reader = Hdf5Container.open(files, NAME, writable=False)
    assert read_rows(reader, OBS, 10) == flat(rows_of(SPECS[OBS], 10)).tobytes()
    assert reader.read_segment(0) == b"base"
