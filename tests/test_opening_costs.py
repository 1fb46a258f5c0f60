"""How often a store's log is read, and the HDF5 library opened, for what is done with a buffer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import pytest

import replaystore as rs
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.hdf5.library import Hdf5File
from replaystore.containers.zarr.container import ZarrContainer
from replaystore.testing import samples


@contextmanager
def counted(*what: tuple[type, str]) -> Iterator[Counter[str]]:
    """The calls of these methods, by name."""
    calls: Counter[str] = Counter()

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return method(*args, **options)

        return call

    patches = [patch.object(owner, name, counting(name, getattr(owner, name))) for owner, name in what]
    for one in patches:
        one.start()
    try:
        yield calls
    finally:
        for one in patches:
            one.stop()


@pytest.fixture(params=["live", "archive"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(folder: Path, suffix: str, layout: str) -> Path:
    with rs.create(folder / f"live{suffix}", samples.small()) as buffer:
        for turn in range(3):
            buffer.append(samples.columns(buffer.schema, 200, seed=turn))
            buffer.commit()
    if layout == "archive":
        rs.convert(folder / f"live{suffix}", folder / f"archive{suffix}", layout="archive")
    return folder / f"{layout}{suffix}"


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_the_log_is_read_once_for_a_sampler(tmp_path: Path, suffix: str, layout: str) -> None:
    path = made(tmp_path, suffix, layout)
    logs = [(container, "read_segment") for container in (ZarrContainer, Hdf5Container)]
    with counted(*logs) as calls, rs.open(path) as buffer:
        sampler = buffer.sampler(32, n_step=3, seed=1, prefetch=0)
        sampler.sample()

        assert calls["read_segment"] == 1
        sampler.refresh()
        assert calls["read_segment"] == 2  # what follows, which is nothing


def test_the_hdf5_library_is_opened_twice_for_a_store_and_once_for_all_tables(
    tmp_path: Path, layout: str
) -> None:
    path = made(tmp_path, ".h5", layout)
    with counted((Hdf5File, "look")) as calls:
        buffer = rs.open(path)
        assert calls["look"] <= 2 + (layout == "archive")  # one of an archive's tables is looked at
        assert len(buffer.parts) >= len(buffer.trajectories)
        assert calls["look"] == 3
        buffer.sampler(32, seed=1, prefetch=0).sample()
        buffer.read(slice(None))
        assert calls["look"] == 3
        buffer.close()


def test_an_index_that_is_damaged_is_no_other_arrays_concern(tmp_path: Path) -> None:
    path = made(tmp_path, ".h5", "live")
    with rs.open(path) as buffer:
        expected = buffer["reward"][:]
    from replaystore.containers.hdf5 import index

    places = index.chunk_places

    def damaged(dataset: Any, *rest: Any) -> Any:
        if h5py.h5i.get_name(dataset) == b"/parts":
            raise KeyError("no such thing")
        return places(dataset, *rest)

    with patch.object(index, "chunk_places", damaged), rs.open(path) as buffer:
        assert (buffer["reward"][:] == expected).all()
        with pytest.raises(rs.errors.CorruptError):
            _ = buffer.parts
