"""What a `zarr_store()` shows of a buffer on a server."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr_readers import by_dask, by_tensorstore, by_zarr, check, opened, write

import replaystore as rs
from replaystore.errors import ConflictError
from replaystore.schema import tree
from replaystore.testing.samples import small
from replaystore.testing.servers import serving

pytest_plugins = ["zarr_readers"]

KINDS = ["live.zarr", "live.h5", "archive.zarr", "archive.h5", "packed.zarr.zip"]


@pytest.mark.parametrize("cache", [None, 1 << 20])
@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_on_a_server_is_read_as_one_on_the_disk(
    tmp_path: Path, kind: str, cache: int | None, small_chunks: None
) -> None:
    with (
        opened(kind, tmp_path, small()),
        serving(tmp_path) as server,
        rs.open(f"{server.url}/{kind}", cache=cache) as buffer,
    ):
        store = buffer.zarr_store()
        check(buffer, store, by_zarr)
        sent = pickle.loads(pickle.dumps(store))
        assert np.array_equal(by_zarr(sent, "steps/info/wide"), buffer["info/wide"][:])
        sent.close()


@pytest.mark.parametrize("read", [by_dask, by_tensorstore])
def test_who_reads_much_at_once_reads_a_buffer_on_a_server(tmp_path: Path, read: object) -> None:
    with (
        opened("live.zarr", tmp_path, small()),
        serving(tmp_path) as server,
        rs.open(f"{server.url}/live.zarr") as buffer,
    ):
        check(buffer, buffer.zarr_store(), read)


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5"])
def test_one_that_goes_on_and_goes_back_is_shown_as_it_was_or_not_at_all(tmp_path: Path, kind: str) -> None:
    with (
        opened(kind, tmp_path, small()) as writer,
        serving(tmp_path) as server,
        rs.open(f"{server.url}/{kind}") as buffer,
    ):
        rows = {name: writer[name][:] for name in writer.schema.fields}
        store = buffer.zarr_store()
        group = zarr.open_group(store, mode="r")
        writer.commit()
        for name, expected in rows.items():
            assert np.array_equal(group[tree.steps(name)][:], expected, equal_nan=expected.dtype.kind == "f")

        writer.rollback(1)
        write(writer, small(), 400, 77)
        writer.commit()

        refused = 0
        for name, expected in rows.items():
            try:
                assert group[tree.steps(name)][:].tobytes() == expected.tobytes()
            except ConflictError:
                refused += 1
        assert refused
