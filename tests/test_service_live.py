"""A real server beside a writer: frozen trees that other software reads by their addresses while the store
grows, goes back, adds fields, is reopened, is a ring that goes on, and is replaced; and events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import urllib3
from numpy.typing import NDArray
from serving import KnownTokens, bearer, serving
from small_stores import small_store

import replaystore as rs
from replaystore.schema import tree
from replaystore.service.service import Service
from replaystore.testing.campaigns.concurrency import Writer
from replaystore.testing.histories import SCHEMA, Shown, few_rows
from replaystore.testing.readers import Ground
from replaystore.testing.samples import shards_of

pytest_plugins = ["serving"]

HEADERS = bearer("read")


class GoneError(Exception):
    """The server says that a commit is not there any more."""


def by_hand(url: str, name: str) -> NDArray[Any]:
    """With nothing but HTTP."""

    def get(key: str) -> bytes:
        found = urllib3.request("GET", f"{url}/{key}", headers=HEADERS)
        if found.status == 410:
            raise GoneError(key)
        assert found.status == 200, (key, found.status, found.data)
        return found.data

    told = json.loads(get(f"{name}/zarr.json"))
    rows, *inner = told["shape"]
    step = told["chunk_grid"]["configuration"]["chunk_shape"][0]
    dtype = np.dtype(told["data_type"]).newbyteorder("<")
    rest = ".0" * len(inner)
    pieces = [np.frombuffer(get(f"{name}/c.{n}{rest}"), dtype) for n in range(-(-rows // step))]
    return np.concatenate([np.empty(0, dtype), *pieces])[: rows * int(np.prod(inner))].reshape(rows, *inner)


def by_tensorstore(url: str, name: str) -> NDArray[Any]:
    tensorstore = pytest.importorskip("tensorstore")
    kvstore = {
        "driver": "http",
        "base_url": f"{url}/{name}/",
        "headers": [f"Authorization: {HEADERS['Authorization']}"],
    }
    context = tensorstore.Context({"http_request_retries": {"max_retries": 1}})
    try:
        found = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, context=context, read=True)
        return np.asarray(found.result().read().result())
    except ValueError as error:
        if "410" in str(error):
            raise GoneError(name) from error
        raise


def by_zarr(url: str, name: str) -> NDArray[Any]:
    import zarr
    from zarr.storage import FsspecStore

    aiohttp = pytest.importorskip("aiohttp")
    store = FsspecStore.from_url(url, storage_options={"headers": HEADERS}, read_only=True)
    try:
        return np.asarray(zarr.open_group(store, mode="r")[name][...])
    except aiohttp.ClientResponseError as error:
        if error.status == 410:
            raise GoneError(name) from error
        raise


def by_xarray(url: str, name: str) -> NDArray[Any]:
    xarray, aiohttp = pytest.importorskip("xarray"), pytest.importorskip("aiohttp")
    group, _, variable = name.rpartition("/")
    try:
        with xarray.open_zarr(url, group=group, storage_options={"headers": HEADERS}) as found:
            return np.asarray(found[variable].values)
    except aiohttp.ClientResponseError as error:
        if error.status == 410:
            raise GoneError(name) from error
        raise


READERS: list[Callable[[str, str], NDArray[Any]]] = [by_hand, by_tensorstore, by_zarr, by_xarray]


class Watcher:
    """Holds the addresses of some commits, and reads there in all ways."""

    def __init__(self, url: str, ground: Ground, seed: int) -> None:
        self.url, self.ground, self.book = url, ground, ground.book()
        self.generator = np.random.default_rng([seed, 1])
        self.held: list[tuple[str, Shown]] = []
        self.read = self.gone = 0

    def take(self) -> None:
        """Hold the newest commit."""
        at = f"{self.url}/v1/stores/live{self.ground.suffix}/@latest/zarr"
        found = urllib3.request("GET", at, headers=HEADERS, redirect=False)
        assert found.status == 307, found.data
        where = found.headers["location"].rstrip("/")
        commit = int(where.split("/@")[1].split("/")[0].split(".")[1])
        self.held = [*self.held[-5:], (self.url + where, self.book.shown(commit))]

    def look(self) -> None:
        """Read an array of one of the commits held."""
        at, shown = self.held[int(self.generator.integers(len(self.held)))]
        names = [*(SCHEMA.fields.keys() - SCHEMA.ragged.keys()), *shown.late, ""]
        name = names[int(self.generator.integers(len(names)))]
        way = READERS[int(self.generator.integers(len(READERS)))]
        try:
            found = way(at, tree.steps(name) if name else tree.trajectories("length"))
        except GoneError:
            self.gone += 1
            return
        if name:
            expected = shown.column(name, np.arange(shown.first, shown.rows))
        else:
            begins, ends, gone = shown.trajectories()
            expected = (ends - begins + 1)[gone:]
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape, f"{name} of commit {shown.commit}"
        assert np.array_equal(found, expected), f"{name} of commit {shown.commit} {way.__name__}"
        self.read += 1


@pytest.mark.parametrize(
    ("suffix", "capacity"), [(".zarr", None), (".h5", None), (".zarr", 4000)], ids=["zarr", "hdf5", "ring"]
)
def test_every_byte_is_of_the_commit_or_gone(tmp_path: Path, suffix: str, capacity: int | None) -> None:
    with shards_of(8), patch("replaystore.arrays.committing.SEGMENT_BYTES", 30_000):
        ground = Ground(str(tmp_path), suffix, capacity, 0, replacing=False)
        rs.create(ground.live, SCHEMA, storage=few_rows(ground.codec), capacity=capacity).close()
        ground.book().note(Shown())
        with serving(Service(tmp_path, KnownTokens())) as url:
            writer, watcher = Writer(ground, 5, 0.6), Watcher(url, ground, 5)
            for _ in range(90):
                getattr(writer, str(writer.generator.choice(writer.kinds, p=writer.weights)))()
                if watcher.generator.random() < 0.4 or not watcher.held:
                    watcher.take()
                watcher.look()
            writer.buffer.close()

    assert watcher.read > 30, f"{watcher.gone} were gone"


def test_of_a_store_that_is_replaced_no_byte_is_anothers(tmp_path: Path) -> None:
    """Each store holds its own number alone, and every address leads to that number or to nothing."""
    schema = rs.Schema({"x": rs.Field("int32", (), "extra")})

    def place(number: int) -> str:
        with rs.create(tmp_path / "a.zarr", schema, overwrite=True) as buffer:
            buffer.append({"x": np.full(5000, number, np.int32)})
            buffer.commit()
            return f"/v1/stores/a.zarr/@{buffer.id}.{buffer.commit_id}/zarr"

    with serving(Service(tmp_path, KnownTokens())) as url:
        addresses, read, gone = [(place(0), 0)], 0, 0
        problems: list[str] = []
        stop = threading.Event()

        def look(seed: int) -> None:
            nonlocal read, gone
            generator = np.random.default_rng(seed)
            while not stop.is_set():
                at, number = addresses[-1 - int(generator.integers(min(3, len(addresses))))]
                way = READERS[int(generator.integers(len(READERS) - 1))]
                try:
                    found = way(url + at, "steps/x")
                except GoneError:
                    gone += 1
                    continue
                except Exception as error:  # noqa: BLE001  # told below
                    problems.append(f"{way.__name__}: {type(error).__name__}: {error}")
                    return
                if found.shape != (5000,) or (found != number).any():
                    problems.append(f"{way.__name__}: {np.unique(found)} at the address of {number}")
                read += 1

        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for number in range(1, 1000):
            looked = read + gone
            addresses.append((place(number), number))
            while read + gone == looked and any(thread.is_alive() for thread in threads):
                time.sleep(0.001)
            if number >= 24 and read > 10 and gone:
                break
        stop.set()
        for thread in threads:
            thread.join()

    assert not problems
    assert read > 10
    assert gone > 0


# --- events


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with serving(service) as found:
        yield found


def events(url: str, **headers: str) -> Iterator[dict[str, Any]]:
    """What a stream tells; it is left with the generator."""
    found = urllib3.request("GET", url, headers={**HEADERS, **headers}, preload_content=False)
    assert found.status == 200
    assert found.headers["content-type"] == "text/event-stream"
    try:
        told: dict[str, Any] = {}
        for line in found:
            key, colon, value = line.decode().rstrip("\n").partition(": ")
            if not colon:
                yield told
                told = {}
            elif key:
                told[key] = json.loads(value) if key == "data" else value
    finally:
        found.close()


def test_commits_are_told_as_they_are_made(url: str, root: Path) -> None:
    small_store(root / "a.zarr")
    told = events(f"{url}/v1/stores/a.zarr/events")
    with rs.open(root / "a.zarr", "r+") as buffer:
        first = next(told)
        assert first["data"] == {
            "id": buffer.id,
            "commit": buffer.commit_id,
            "name": None,
            "steps": len(buffer),
        }
        assert (first["event"], first["id"]) == ("commit", f"{buffer.id}.{buffer.commit_id}")
        buffer.commit("named")
        second = next(told)
        assert second["data"]["name"] == "named"
        again = events(f"{url}/v1/stores/a.zarr/events", **{"Last-Event-ID": second["id"]})
        buffer.commit("again")
        assert next(again)["data"]["name"] == "again"
    told.close()
    again.close()


def test_a_stream_tells_that_a_store_is_gone(url: str, root: Path) -> None:
    small_store(root / "a.zarr")
    told = events(f"{url}/v1/stores/a.zarr/events")
    next(told)
    (root / "a.zarr").rename(root / "elsewhere")

    last = next(told)

    assert (last["event"], last["data"]["error"]) == ("error", "NotFoundError")
    assert list(told) == []
    assert urllib3.request("GET", f"{url}/v1/stores/a.zarr/events", headers=HEADERS).status == 404


def test_streams_end_with_the_server(service: Service, root: Path) -> None:
    small_store(root / "a.zarr")
    with serving(service) as url:
        told = events(f"{url}/v1/stores/a.zarr/events")
        next(told)
    assert list(told) == []
    assert service.open_streams == 0
