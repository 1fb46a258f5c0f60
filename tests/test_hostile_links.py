"""No link in a store is followed, and what is no file is an error at once."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_stores import KINDS, treated

import replaystore as rs
from replaystore.errors import CorruptError
from replaystore.testing.specimens import Specimen

pytest_plugins = ["hostile_stores"]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files nobody may touch or read."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_bytes(b"SECRET" * 3000)
    (folder / "folder").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


FILES = (
    *(
        "zarr.json",
        "zarr.json.new",
        "steps/reward/zarr.json",
        "steps/reward/zarr.json.new",
        "steps/reward/c.0",
        "steps/reward/c.1",
    ),
    *(
        "steps/observation/camera/c.0.0.0",
        "checksums/steps/reward/c.0",
        "parts/c.0.0",
        "journal/tail/0/c.0",
        "journal/log/lock",
    ),
    *(
        "journal/log/{newest}",
        "journal/log/{next}",
        "journal/log/{next}.new",
        "journal/log/manifest-sha256.txt",
    ),
)
FOLDERS = (
    "steps",
    "steps/reward",
    "steps/observation/camera",
    "parts",
    "journal",
    "journal/log",
    "journal/tail/0",
)


@pytest.mark.parametrize("kind", ["live.zarr", "archive.zarr"])
@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_no_link_in_a_store_is_followed(
    stores: dict[str, Specimen], outside: Path, kind: str, name: str
) -> None:
    store = stores[kind]
    newest = max(int(path.name) for path in (store.path / "journal" / "log").iterdir() if path.name.isdigit())
    name = name.format(newest=newest, next=newest + 3)
    inner = outside if name in FOLDERS else outside / "precious"

    assert treated(store, {name: f"link:{inner}"}, actions=("append", "repair"), strict=False) == []


@pytest.mark.parametrize("name", ["steps/reward/c.0", "zarr.json", "steps", "journal/log/{newest}"])
def test_what_a_link_shows_is_not_read(live: Path, outside: Path, name: str) -> None:
    newest = max(int(path.name) for path in (live / "journal" / "log").iterdir() if path.name.isdigit())
    place = live / name.format(newest=newest)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(outside if name == "steps" else outside / "precious")

    with (
        pytest.raises(CorruptError, match=r"is a symbolic link; links in a store are not followed"),
        rs.open(live) as buffer,
    ):
        buffer["reward"][:]
    assert "is a symbolic link" in str(rs.verify(live).problems[0])


def test_the_store_itself_may_be_named_by_a_link(stores: dict[str, Specimen], tmp_path: Path) -> None:
    for kind in KINDS:
        link = tmp_path / f"link{kind[kind.index('.') :]}"
        link.unlink(missing_ok=True)
        link.symlink_to(stores[kind].path)
        assert rs.verify(link).problems == []
        with rs.open(link) as buffer:
            assert len(buffer)


def test_a_new_file_never_writes_into_another_of_its_name(live: Path, outside: Path) -> None:
    os.link(outside / "precious", live / "zarr.json.new")

    with rs.open(live, "r+") as buffer:
        buffer.metadata = {"x": 1}

    assert rs.verify(live).problems == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["pipe", "socket", "folder", "link:."])
def test_what_is_no_file_is_an_error_at_once(stores: dict[str, Specimen], kind: str, what: str) -> None:
    store = stores[kind]
    names = (
        [""]
        if store.path.is_file()
        else ["zarr.json", "steps/reward/c.0", "steps/reward/zarr.json", "parts/c.0.0", "steps"]
    )
    for name in names:
        assert treated(store, {name: what}, actions=("append", "repair"), strict=name != "") == []


def test_the_error_names_the_kind(live: Path) -> None:
    place = live / "steps" / "reward" / "c.0"
    place.unlink()
    os.mkfifo(place)
    with (
        rs.open(live) as buffer,
        pytest.raises(CorruptError, match=("is a named pipe; a store consists of files")),
    ):
        buffer["reward"][:]
    place.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))
        assert stat.S_ISSOCK(place.stat().st_mode)
        with rs.open(live) as buffer, pytest.raises(CorruptError, match="is a socket"):
            buffer["reward"][:]
