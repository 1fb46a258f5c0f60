"""What is dropped without being closed leaves no file open: a notebook that opens stores again and again
would end at the number that the system lets a process have."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sampled_buffers import fill, schema

import replaystore as rs
from replaystore.errors import ReplayStoreError
from replaystore.registry import load
from replaystore.storage.http.connections import CONNECTIONS
from replaystore.testing.servers import serving

TIMES = 3
numbers = itertools.count()


def written(path: str) -> rs.Buffer:
    buffer = rs.create(path, schema(), overwrite=True)
    fill(buffer, [(0, 30, True, False), (0, 5, False, False)])
    return buffer


def sampled(buffer: rs.Buffer, *, live: bool = False, prefetch: int = 0, order: str = "uniform") -> None:
    buffer.sampler(4, live=live, prefetch=prefetch, order=order).sample()  # type: ignore[arg-type]


def a_reader(path: str) -> None:
    written(path).close()
    buffer = rs.open(path)
    sampled(buffer, prefetch=2)
    buffer["reward"][:3]


def an_archive(path: str) -> None:
    written(path).close()
    packed = path + ".archive.zarr.zip" if path.endswith(".zarr") else path + ".archive.h5"
    rs.convert(path, packed, layout="archive", overwrite=True)
    sampled(rs.open(packed))


def one_that_cannot_be_opened(path: str) -> None:
    """Not the whole of it is there."""
    path = str(Path(path).with_name(f"{next(numbers)}{Path(path).suffix}"))
    written(path).close()
    if path.endswith(".h5"):
        os.truncate(path, os.path.getsize(path) // 2)
    else:
        packed = path + ".zarr.zip"
        with zipfile.ZipFile(packed, "w") as pack:
            pack.writestr("zarr.json", "{}")
        with pytest.raises(ReplayStoreError):
            rs.open(packed)
        (Path(path) / "zarr.json").write_text("{}")
    for mode in ("r", "r+"):
        with pytest.raises(ReplayStoreError):
            rs.open(path, mode)  # type: ignore[arg-type]


WAYS: list[Callable[[str], object]] = [
    written,
    lambda path: written(path).commit(),
    lambda path: sampled(written(path), live=True),
    lambda path: sampled(written(path), live=True, order="prioritized"),
    lambda path: written(path).rollback(0),
    lambda path: rs.concat([written(path)]).sampler(4).sample(),
    lambda path: written(path).zarr_store(),
    a_reader,
    an_archive,
    one_that_cannot_be_opened,
]


def open_files() -> list[str]:
    found = [os.path.join("/dev/fd", name) for name in os.listdir("/dev/fd")]
    return sorted(os.readlink(name) for name in found if os.path.lexists(name))


@pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="there is no list of open files that says their names"
)
@pytest.mark.parametrize(
    ("way", "place"),
    [
        (way, place)
        for way in WAYS
        for place in (".zarr", ".h5", "memory:")
        if not (way is one_that_cannot_be_opened and place == "memory:")
    ],
)
def test_nothing_stays_open(tmp_path: Path, way: Callable[[str], object], place: str) -> None:
    def once() -> list[str]:
        path = "memory:dropped" if place == "memory:" else str(tmp_path / f"dropped{place}")
        way(path)
        gc.collect()
        if place == "memory:":
            load("storage", "memory").remove(path.removeprefix("memory:"))
        gc.collect()
        return open_files()

    before = once()  # what is imported on use opens files too
    for _ in range(TIMES):
        after, end = once(), time.monotonic() + 20
        while after != before and time.monotonic() < end:  # threads that gathered ahead end a little later
            time.sleep(0.05)
            gc.collect()
            after = open_files()
        assert after == before
    assert not [name for name in before if "dropped" in name]


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "b.zarr.zip", "nothing.zarr"])
def test_connections_do_not_become_more(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    if name != "nothing.zarr":
        written(str(place) if place.suffix != ".zip" else str(tmp_path / "a.zarr")).close()
    if place.suffix == ".zip":
        rs.convert(tmp_path / "a.zarr", place, layout="archive")
    with serving(tmp_path) as server:

        def once() -> None:
            with contextlib.suppress(ReplayStoreError):
                sampled(rs.open(f"{server.url}/{name}"))

        for _ in range(CONNECTIONS + 8):  # so many are kept, for whoever asks the server next
            once()
        gc.collect()
        assert 0 < len(server.connections) <= CONNECTIONS


def test_what_was_read_stays_readable(tmp_path: Path) -> None:
    path = str(tmp_path / "dropped.zarr")
    written(path).close()
    rows = rs.open(path)["reward"][:]
    batch = rs.open(path).sampler(4, seed=0).sample()
    gc.collect()
    assert np.array_equal(rows[batch["index"]], batch["reward"])


def test_a_process_that_has_closed_all_files_ends_in_silence(tmp_path: Path) -> None:
    """As one that becomes a daemon does."""
    path = str(tmp_path / "dropped.zarr")
    written(path).close()
    code = (
        f"import os, replaystore as rs; b = rs.open({path!r}); b['reward'][:]; os.closerange(3, 200); del b"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stderr == ""
