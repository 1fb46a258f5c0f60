"""Stores without end take little time and memory: nested folders, huge files, circles, bombs."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import pytest
from hostile_stores import KINDS, with_record

import replaystore as rs
from replaystore.errors import CorruptError
from replaystore.testing.specimens import Specimen, in_children, look

pytest_plugins = ["hostile_stores"]


# --- without end


def nested(folder: Path, depth: int) -> None:
    """Folders in each other, deeper than a path can name."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        for _ in range(depth):
            os.mkdir("a")
            (Path("a") / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
            os.chdir("a")
    finally:
        os.chdir(before)


def test_folders_in_each_other_end(stores: dict[str, Specimen]) -> None:
    store = stores["live.zarr"]

    def attempt(_: int) -> list[str]:
        return look(store, strict=True)

    nested(store.path, 400)
    findings = list(in_children([0], attempt))
    shutil.rmtree(store.path / "a")

    assert findings == []


@pytest.mark.parametrize("size", [1 << 33, 50 << 30])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_any_size_take_little_time_and_memory(
    stores: dict[str, Specimen], kind: str, size: int
) -> None:
    store = stores[kind]
    names = [
        name
        for name in store.files
        if name in ("", "zarr.json", "steps/reward/c.0", "parts/c.0.0", "steps/action/zarr.json")
    ]
    names += [name for name in store.files if re.search(r"log/manifest|tail/0/c\.0", name)]
    names += sorted(
        (name for name in store.files if re.search(r"log/[0-9]+$", name)),
        key=lambda name: int(name.rpartition("/")[2]),
    )[-1:]
    for name in names:
        store.spoil({name: size})
        begin = time.monotonic()
        findings = list(in_children([0], lambda _: look(store, strict=True)))
        store.renew()
        assert (name, findings) == (name, [])
        assert time.monotonic() - begin < 10


# --- HDF5 and zip


def test_groups_in_circles_and_deep_ones_end(stores: dict[str, Specimen]) -> None:
    store = stores["live.h5"]

    def circle(file: Any) -> None:
        file["steps/again"] = file["steps"]
        file["steps/root"] = file["/"]

    for change in (circle, lambda file: file.create_group("steps" + "/x" * 1000)):
        with h5py.File(store.path, "r+", libver=("v110", "v110")) as file:
            change(file)
        findings = [finding for _, finding in in_children([0], lambda _: look(store, strict=True))]
        store.renew()
        assert findings == []


def test_a_zip_with_a_huge_directory_is_refused(stores: dict[str, Specimen], tmp_path: Path) -> None:
    place = tmp_path / "a.zarr.zip"
    place.write_bytes(stores["archive.zarr.zip"].files[""])
    data = bytearray(place.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    size = 40 << 20
    place.write_bytes(
        bytes(size)
        + data[:end]
        + data[end : end + 12]
        + size.to_bytes(4, "little")
        + (0).to_bytes(4, "little")
        + b"\0\0"
    )

    with pytest.raises(CorruptError, match=r"a directory of 41943040 bytes"):
        rs.open(place)
    assert rs.verify(place).problems


def test_a_bomb_is_not_inflated(live: Path) -> None:
    from numcodecs import zstd

    place = live / "steps" / "observation" / "camera" / "c.0.0.0"
    bomb = zstd.compress(bytes(1 << 26), 1)
    sealed = bomb + google_crc32c.value(bomb).to_bytes(4, "little")
    data = place.read_bytes()
    place.write_bytes(data + sealed)

    def move(meta: dict[str, Any], _: Any) -> None:
        name = "steps/observation/camera"
        meta["entries"] = {name: [[0, f"{name}/c.0.0.0", len(data), len(sealed)]]}

    with_record(live, move)

    with rs.open(live) as buffer, pytest.raises(CorruptError, match="chunk 0 of steps/observation/camera"):
        buffer["observation/camera"][0]
    assert rs.verify(live).problems
