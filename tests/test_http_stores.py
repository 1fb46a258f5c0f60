"""Stores on a server: opened, read, sampled, verified and converted as where they were made, and not written
to."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Run

import replaystore as rs
from replaystore import errors
from replaystore.testing import Contents, samples
from replaystore.testing.servers import Server, serving

pytest_plugins = ["commands"]

KINDS = {
    "a.zarr": "live",
    "sealed.zarr": "archive",
    "a.h5": "live",
    "sealed.h5": "archive",
    "sealed.zip": "archive",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served")
    with rs.create(path / "source.zarr", samples.small(), storage=samples.storage("zstd:1")) as buffer:
        buffer.append(samples.columns(buffer.schema, 2500, seed=1))
    for name, layout in KINDS.items():
        rs.convert(path / "source.zarr", path / name, layout=layout)
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as found:
        yield found


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_a_store_on_a_server_reads_as_on_the_disk(server: Server, folder: Path, name: str) -> None:
    with rs.open(f"{server.url}/{name}") as buffer, rs.open(folder / name) as right:
        assert not Contents.of(buffer).difference(Contents.of(right))
        drawn, expected = (found.sampler(64, seed=3).sample() for found in (buffer, right))
        assert all(drawn[key].tobytes() == expected[key].tobytes() for key in expected)
        assert buffer.location == f"{server.url}/{name}"
        size = 0 if name.endswith("zarr") else os.path.getsize(folder / name)
        assert buffer.describe().disk_bytes == size
        assert buffer.describe().storage == ("http-zip" if name.endswith("zip") else "http")


def test_a_link_that_gives_access_opens_a_store_and_is_not_kept(
    server: Server, folder: Path, name: str, tmp_path: Path
) -> None:
    location = f"{server.url}/{name}?signature=a%2Fb"
    assert not rs.verify(location).problems
    assert all(one.path.endswith("?signature=a%2Fb") for one in server.log)
    rs.convert(location, tmp_path / "copy.zarr")
    with rs.open(tmp_path / "copy.zarr") as copy:
        assert copy.provenance["source"]["location"] == f"{server.url}/{name}?…"
    with rs.open(location) as buffer, rs.open(buffer.location) as again:
        assert len(again) == len(buffer)
        assert (
            "signature" not in f"{buffer!r} {buffer.describe()} {buffer.sampler(8)!r} {buffer.zarr_store()!r}"
        )
        with pytest.raises(KeyError) as raised:
            buffer["nothing"]
        assert "signature" not in str(raised.value)


def test_the_commands_take_addresses(server: Server, name: str, tmp_path: Path, run: Run) -> None:
    location = f"{server.url}/{name}"
    for command in ("info", "verify", "show"):
        code, printed, complained = run(command, location)
        assert (code, complained) == (0, ""), command
        assert (location if command != "show" else "2,500 steps") in printed
    assert run("convert", location, tmp_path / "copy.zarr")[0] == 0
    with rs.open(location) as buffer, rs.open(tmp_path / "copy.zarr") as copy:
        assert not Contents.of(buffer).difference(Contents.of(copy))


def test_stores_on_a_server_are_only_read(server: Server, name: str, folder: Path, run: Run) -> None:
    location, refused = f"{server.url}/{name}", errors.UnsupportedError
    before = sorted(os.listdir(folder))
    calls: list[Callable[[], object]] = [
        lambda: rs.open(location, "r+"),
        lambda: rs.create(location, samples.small()),
        lambda: rs.create(f"{server.url}/new.zarr", samples.small()),
        lambda: rs.convert(folder / name, f"{server.url}/new.h5"),
        lambda: rs.convert(folder / name, location, overwrite=True),
        lambda: rs.repair(location),
    ]
    for call in calls:
        with pytest.raises(refused) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert run("publish", location)[0] == 1
    assert sorted(os.listdir(folder)) == before


def test_what_is_not_there_is_told(server: Server, run: Run) -> None:
    for name in ("none.zarr", "none.h5", "none.zip", "a.h5/none.zarr"):
        with pytest.raises(errors.NotFoundError, match=f"{name} does not exist: check the path$"):
            rs.open(f"{server.url}/{name}")
    for command in ("info", "verify", "show"):
        assert run(command, f"{server.url}/none.h5")[0] == 1


def test_a_store_that_has_gone_is_one_error(name: str, folder: Path, tmp_path: Path) -> None:
    (shutil.copytree if name.endswith("zarr") else shutil.copy)(folder / name, tmp_path / name)
    with serving(tmp_path) as server, rs.open(f"{server.url}/{name}") as buffer:
        (shutil.rmtree if name.endswith("zarr") else os.unlink)(tmp_path / name)
        with pytest.raises(errors.ReplayStoreError) as caught:
            buffer.read(slice(None))
        assert "\n" not in str(caught.value)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"something else")
    (tmp_path / "a.zip").write_bytes(b"something else")
    with serving(tmp_path) as server:
        for name in ("a.h5", "a.zip"):
            with pytest.raises(errors.FormatError, match=name):
                rs.open(f"{server.url}/{name}")


def test_a_column_goes_to_another_process(server: Server, name: str) -> None:
    with rs.open(f"{server.url}/{name}") as buffer:
        column = pickle.loads(pickle.dumps(buffer["reward"]))
        assert column[:100].tobytes() == buffer["reward"][:100].tobytes()


def test_another_zip_that_takes_the_place_is_a_conflict(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "sealed.zip", tmp_path / "a.zip")
    with serving(tmp_path) as server, rs.open(f"{server.url}/a.zip") as buffer:
        buffer["reward"][:10]
        shutil.copy(folder / "sealed.zip", tmp_path / "new.zip")
        os.replace(tmp_path / "new.zip", tmp_path / "a.zip")
        with pytest.raises(errors.ConflictError, match=r"a\.zip is another file than before; open it again"):
            buffer["observation/joints"][:10]
