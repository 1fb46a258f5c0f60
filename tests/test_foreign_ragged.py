"""Other software reads values of any length: from the files, and from `zarr_store()`, by one rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from zarr_readers import by_dask, by_tensorstore, by_xarray, by_xarray_alone, by_zarr

import replaystore as rs
from replaystore.schema import tree
from replaystore.schema.names import escape_path
from replaystore.testing.crashes import tiny
from replaystore.testing.servers import serving

STEPS = 120
SCHEMA = rs.Schema(
    {
        "observation": rs.Field.of_text("observation"),
        "tokens": rs.Field("int32", (None,), "extra"),
        "logprob": rs.Field("float32", (None,), "extra"),
        "a b/points.x": rs.Field("float64", (None, 3), "extra"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
    }
)
NAMES = sorted(SCHEMA.ragged)
CODED = {name: {"codec": "gzip:1", "chunk_rows": 16} for name in NAMES}
Read = Callable[[str], Any]


def write(buffer: rs.Buffer, begin: int, count: int) -> None:
    """Values that tell their step, of 0 to 30 numbers; some texts are longer than a chunk."""
    steps = range(begin, begin + count)
    lengths = [step * 7 % 31 for step in steps]
    pairs = list(zip(steps, lengths, strict=True))
    rows = {
        "observation": [f"{step}é" * (length % 5 * 9) for step, length in pairs],
        "tokens": [np.arange(length, dtype=np.int32) + step for step, length in pairs],
        "logprob": [np.full(length, -step / 8, np.float32) for step, length in pairs],
        "a b/points.x": [np.full((length % 4, 3), step / 2) for step, length in pairs],
        "reward": np.arange(begin, begin + count, dtype=np.float32),
        "terminated": np.array([step % 9 == 8 for step in steps]),
    }
    ended = int(rows["terminated"].sum())
    buffer.append(
        rows, final_observation=[f"after {begin} {k}" for k in range(ended + (not rows["terminated"][-1]))]
    )


def check(buffer: rs.Buffer, read: Read) -> None:
    """What is read by the rule is what the buffer gives, of steps and of final observations."""
    for name in NAMES:
        stored = escape_path(name)
        spans, values = read(f"steps/{stored}"), read(f"values/{stored}")
        assert (spans.dtype, spans.shape) == (np.dtype(np.int64), (len(buffer), 2))
        assert values.dtype == SCHEMA.fields[name].dtype
        assert values.shape[1:] == SCHEMA.fields[name].inner
        for row, (begin, end) in enumerate(np.asarray(spans).tolist()):
            assert np.asarray(values[begin:end]).tobytes() == buffer[name][row : row + 1].named.tobytes()
    texts, ends = read("values/observation"), read("final/observation")
    said = [bytes(np.asarray(texts[begin:end])).decode() for begin, end in np.asarray(ends[:]).tolist()]
    stop = buffer.store.rows(tree.final("observation"))
    assert said[-3:] == buffer.final_values("observation", np.arange(stop - 3, stop)).tolist()
    assert said[-1].startswith("after")


@pytest.fixture(params=[{}, CODED], ids=["raw", "coded"])
def storage(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    with tiny():
        yield request.param


def made(path: Path, storage: dict[str, Any], **settings: Any) -> str:
    with rs.create(path, SCHEMA, storage=storage, **settings) as buffer:
        for begin, count in ((0, 50), (50, 1), (51, STEPS - 51)):
            write(buffer, begin, count)
            buffer.commit()
    return str(path)


# --- the files themselves


def from_zarr(path: str, _: ExitStack) -> Read:
    return zarr.open_group(path, mode="r").__getitem__


def from_xarray(path: str, stack: ExitStack) -> Read:
    xarray = pytest.importorskip("xarray")

    def read(name: str) -> Any:
        group, _, variable = name.rpartition("/")
        found = stack.enter_context(xarray.open_zarr(path, group=group, consolidated=False))
        return found[variable].values

    return read


def from_dask(path: str, _: ExitStack) -> Read:
    array = pytest.importorskip("dask.array")
    return lambda name: array.from_zarr(path, component=name).compute(scheduler="threads")


def from_tensorstore(path: str, _: ExitStack) -> Read:
    tensorstore = pytest.importorskip("tensorstore")

    def read(name: str) -> Any:
        kvstore = {"driver": "file", "path": f"{path}/{name}/"}
        return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result().read().result()

    return read


@pytest.mark.parametrize("reader", [from_zarr, from_xarray, from_dask, from_tensorstore])
def test_the_files_of_a_closed_store_are_read(tmp_path: Path, storage: dict[str, Any], reader: Any) -> None:
    path = made(tmp_path / "a.zarr", storage)
    with rs.open(path) as buffer, ExitStack() as stack:
        check(buffer, reader(path, stack))


@pytest.mark.parametrize("by", ["h5py", "dask", "xarray"])
def test_a_closed_file_of_hdf5_is_read(tmp_path: Path, storage: dict[str, Any], by: str) -> None:
    path = made(tmp_path / "a.h5", storage)
    with rs.open(path) as buffer, h5py.File(path) as file:
        if by == "h5py":
            check(buffer, file.__getitem__)
        elif by == "dask":
            array = pytest.importorskip("dask.array")
            check(buffer, lambda name: array.from_array(file[name]).compute(scheduler="sync"))
        else:
            xarray = pytest.importorskip("xarray")
            check(buffer, lambda name: xarray.DataArray(file[name]).values)


def test_a_ring_is_read_from_its_files_by_the_numbers_that_rows_have_for_ever(
    tmp_path: Path, storage: dict[str, Any]
) -> None:
    path = made(tmp_path / "a.zarr", {}, capacity=40)
    root = zarr.open_group(path, mode="r")
    with rs.open(path) as buffer:
        for name in NAMES:
            spans, values = root[f"steps/{escape_path(name)}"], root[f"values/{escape_path(name)}"]
            for row in range(buffer.first_row, buffer.first_row + len(buffer)):
                begin, end = spans[row].tolist()  # type: ignore[union-attr,index]
                expected = buffer.read(index=[row])[name].named
                assert values[begin:end].tobytes() == expected.tobytes()  # type: ignore[union-attr,index]


def test_xarray_opens_all_values_as_one_group(tmp_path: Path) -> None:
    """Their dimensions have names of their own, since their lengths differ."""
    xarray = pytest.importorskip("xarray")
    path = made(tmp_path / "a.zarr", {})
    with rs.open(path) as buffer:
        for source in (path, buffer.zarr_store()):
            with xarray.open_zarr(source, group="values", consolidated=False) as values:
                assert set(values.data_vars) == {"observation", "tokens", "logprob"}
                assert len({values[name].dims[0] for name in values.data_vars}) == 3
                begin, end = buffer.rows("tokens", slice(4, 5))[0].tolist()
                assert values["tokens"][begin:end].values.tolist() == buffer["tokens"][4].tolist()


# --- through `zarr_store()`

KINDS = ["live.zarr", "ring.zarr", "live.h5", "archive.zarr", "archive.h5", "packed.zarr.zip"]


def stored(kind: str, folder: Path) -> str:
    """A closed store of this kind."""
    if kind.startswith("live"):
        return made(folder / kind, {})
    if kind.startswith("ring"):
        return made(folder / kind, {}, capacity=50)
    source = made(folder / "source.zarr", {})
    rs.convert(source, folder / kind, layout="archive")
    return str(folder / kind)


@pytest.mark.parametrize("read", [by_zarr, by_xarray, by_xarray_alone, by_dask, by_tensorstore])
@pytest.mark.parametrize("kind", KINDS)
def test_a_zarr_store_is_read_by_all(tmp_path: Path, kind: str, read: Any) -> None:
    with tiny(), rs.open(stored(kind, tmp_path)) as buffer:
        store = buffer.zarr_store()
        check(buffer, lambda name: read(store, name))


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_on_a_server_is_read(tmp_path: Path, kind: str) -> None:
    with tiny():
        stored(kind, tmp_path)
        with serving(tmp_path) as server, rs.open(f"{server.url}/{kind}") as buffer:
            store = buffer.zarr_store()
            check(buffer, lambda name: by_zarr(store, name))


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5", "memory:told"])
def test_a_store_that_is_written_to_shows_the_commit_that_it_was_asked_at(tmp_path: Path, kind: str) -> None:
    location = kind if kind.startswith("memory") else str(tmp_path / kind)
    with tiny(), rs.create(location, SCHEMA) as buffer:
        write(buffer, 0, 60)
        buffer.commit()
        root = zarr.open_group(buffer.zarr_store(), mode="r")
        shapes = [root[f"values/{escape_path(name)}"].shape for name in NAMES]  # type: ignore[union-attr]
        check(buffer, lambda name: root[name])
        write(buffer, 60, 60)
        buffer.commit()
        assert shapes == [root[f"values/{escape_path(name)}"].shape for name in NAMES]  # type: ignore[union-attr]
        check(buffer, zarr.open_group(buffer.zarr_store(), mode="r").__getitem__)
