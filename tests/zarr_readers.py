"""Software that reads Zarr, given what `buffer.zarr_store()` gives: each reads an array by its name. And
buffers of all kinds for it to read, and what their arrays have to hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

import replaystore as rs
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.testing.samples import columns, observations, shards_of, storage
from replaystore.trajectories.columns import PARTS
from replaystore.views import zarr_tree

READERS: dict[str, Callable[[Store, str], NDArray[Any]]] = {}


def value(store: Store, key: str, part: Any = None) -> bytes | None:
    """The bytes of a key, as zarr asks for them."""
    found = asyncio.run(store.get(key, default_buffer_prototype(), part))
    return None if found is None else found.to_bytes()


def keys(found: Any) -> list[str]:
    """What a store lists."""

    async def listed() -> list[str]:
        return [key async for key in found]

    return asyncio.run(listed())


def reader(function: Callable[[Store, str], NDArray[Any]]) -> Callable[[Store, str], NDArray[Any]]:
    READERS[function.__name__] = function
    return function


@reader
def by_zarr(store: Store, name: str) -> NDArray[Any]:
    return np.asarray(zarr.open_group(store, mode="r")[name][...])


@reader
def by_zarr_array(store: Store, name: str) -> NDArray[Any]:
    return np.asarray(zarr.open_array(store, path=name, mode="r")[...])


@reader
def by_xarray(store: Store, name: str) -> NDArray[Any]:
    xarray = pytest.importorskip("xarray")
    group, _, variable = name.rpartition("/")
    with xarray.open_zarr(store, group=group) as found:
        return np.asarray(found[variable].values)


@reader
def by_xarray_alone(store: Store, name: str) -> NDArray[Any]:
    """Without dask, and without consolidated metadata."""
    xarray = pytest.importorskip("xarray")
    group, _, variable = name.rpartition("/")
    with xarray.open_dataset(store, engine="zarr", group=group, consolidated=False) as found:
        return np.asarray(found[variable].values)


@reader
def by_dask(store: Store, name: str) -> NDArray[Any]:
    array = pytest.importorskip("dask.array")
    return np.asarray(array.from_zarr(store, component=name).compute(scheduler="threads"))


@reader
def by_tensorstore(store: Store, name: str) -> NDArray[Any]:
    """It takes no store of Python's: it reads from a server on this machine."""
    tensorstore = pytest.importorskip("tensorstore")
    with served(store) as (url, refused):
        kvstore = {"driver": "http", "base_url": url, "path": f"/{name}/"}
        context = tensorstore.Context({"http_request_retries": {"max_retries": 1}})
        try:
            found = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, context=context, read=True)
            return np.asarray(found.result().read().result())
        except ValueError:  # what the server could not give
            if refused:
                raise refused[0] from None
            raise


@contextmanager
def served(store: Store) -> Iterator[tuple[str, list[Exception]]]:
    """The keys of a store on a server: its URL, and what it could not give and why."""
    refused: list[Exception] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, found = 200, b""
            try:
                data = value(store, unquote(self.path.lstrip("/")))
                status, found = (404, b"") if data is None else (200, data)
            except Exception as error:  # noqa: BLE001  # the one who asked raises it
                refused.append(error)
                status = 400
            self.send_response(status)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", refused
        finally:
            server.shutdown()
            thread.join()


# --- buffers

STEPS = 250
KINDS = ["live.zarr", "live.h5", "memory:live", "archive.zarr", "archive.h5", "packed.zarr.zip"]


@pytest.fixture
def small_chunks() -> Iterator[None]:
    """So that a short recording has several, and a last one that is not full."""
    with patch.object(zarr_tree, "CHUNK_BYTES", 1 << 10), patch.object(zarr_tree, "NEAR_BYTES", 1 << 10):
        yield


def write(buffer: rs.Buffer, schema: Schema, steps: int, seed: int) -> None:
    part = columns(schema, steps, seed=seed)
    ended = part["terminated"] | part["truncated"]
    touched = int(ended.sum()) + (not ended[-1])
    buffer.append(part, final_observation=observations(schema, touched, seed=seed))


def opened(kind: str, folder: Path, schema: Schema) -> rs.Buffer:
    """A buffer of 250 committed steps; a live one that somebody writes to, with more that are not."""
    name = kind if kind.startswith("memory:") else str(folder / kind)
    layout = "archive" if kind.startswith("archive") else "live"
    live = str(folder / "source.zarr") if kind.startswith("packed") else name
    settings = storage("gzip:1" if kind.endswith(".h5") else "zstd:1") if "info/wide" in schema.fields else {}
    with shards_of(4):
        buffer = rs.create(live, schema, layout=layout, storage=settings, overwrite=True)
    for number, steps in enumerate((100, 3, STEPS - 103)):
        write(buffer, schema, steps, number)
        buffer.commit()
    if kind.startswith(("live", "memory")):
        write(buffer, schema, 40, 9)
        return buffer
    buffer.close()
    if kind.startswith("packed"):
        rs.convert(live, name)
    return rs.open(name)


def expected(buffer: rs.Buffer) -> dict[str, NDArray[Any]]:
    """What the arrays of a buffer hold, by stored name, as the buffer itself tells it."""
    found = {tree.steps(name): buffer[name][:] for name in buffer.schema.fields}
    ended = buffer.trajectories[~buffer.trajectories.open]
    for name, column in ended.columns.items():
        if name not in ("open", "split"):
            found[tree.trajectories(name)] = column
    parts = buffer.parts
    known = ~np.isin(parts.start, [entry.part_start for entry in buffer.opened() if entry.part_length])
    columns = [parts.start - buffer.first_row, *(getattr(parts, name) for name in PARTS[1:])]
    found[tree.PARTS] = np.stack(columns, axis=1)[known]
    for name in buffer.schema.names("observation"):
        rows = np.arange(buffer.store.rows(tree.final(name)))
        found[tree.final(name)] = buffer.final_rows(name, rows)
    return found


def check(buffer: rs.Buffer, store: Any, read: Any) -> None:
    """Every array of the hierarchy is what the buffer says, bit for bit."""
    for name, rows in expected(buffer).items():
        found = read(store, name)
        if name == tree.PARTS:  # the buffer has them in the order of rows
            found = found[np.argsort(found[:, 0], kind="stable")]
        assert (found.dtype, found.shape) == (rows.dtype, rows.shape), name
        assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(rows).tobytes(), name
