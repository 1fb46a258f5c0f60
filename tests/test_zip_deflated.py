"""Small members of zip files that are deflated."""

from __future__ import annotations

import contextlib
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore import errors
from replaystore.columns.mapped import MappedColumn
from replaystore.storage.local import Files
from replaystore.storage.protocol import Reads
from replaystore.storage.zip import ZipFiles
from replaystore.storage.zip_reads import ZipReads
from replaystore.testing import Contents, samples

SMALL = {"a": b"{}" * 99, "b": bytes(range(256)), "c": b"", "d": b"x" * (1 << 20)}
KINDS = [ZipFiles, lambda path: ZipReads(Files(path.parent, writable=False), path.name)]


@pytest.fixture
def store(tmp_path: Path) -> str:
    location = str(tmp_path / "a.zarr")
    with rs.create(location, samples.small(), storage=samples.storage("zstd:1")) as buffer:
        buffer.append(samples.columns(buffer.schema, 300, 1))
    return location


def deflated(path: Path, members: dict[str, bytes]) -> ZipFiles:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return ZipFiles(path)


@pytest.mark.parametrize("kind", KINDS)
def test_small_members_may_be_deflated(tmp_path: Path, kind: Callable[[Path], Reads]) -> None:
    deflated(tmp_path / "a.zip", SMALL)
    for name, data in SMALL.items():
        files, target = kind(tmp_path / "a.zip"), bytearray(9)
        files.fetch_ahead([(name, 3, 4), (name, 0, None)])
        assert files.read(name, 3, 4) == data[3:7]
        assert (files.read(name), files.size(name)) == (data, len(data))
        assert files.read_whole(name, 1 << 20) == data
        assert files.read_ranges(name, [(0, 2), (5, 1 << 30)]) == [data[:2], data[5:]]
        assert files.read_into(name, 7, memoryview(target)) == len(data[7:16])
        assert target.startswith(data[7:16])
        assert files.status(name)[0] == len(data)
    with (
        pytest.raises(errors.UnsupportedError, match=r"cannot be mapped.*`replaystore convert`"),
        ZipFiles(tmp_path / "a.zip").place("a"),
    ):
        pass


def test_what_is_inflated_is_not_kept_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.storage.zip._KEPT", 300)
    files = deflated(tmp_path / "a.zip", SMALL)
    for _ in range(2):
        assert {name: files.read(name) for name in SMALL} == SMALL
    assert sum(map(len, files._inflated.values())) <= 1 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_byte_of_a_deflated_member_is_read(tmp_path: Path, kind: Callable[[Path], Reads]) -> None:
    data = bytes(range(200)) + bytes(800)
    deflated(tmp_path / "a.zip", {"a": data})
    whole = (tmp_path / "a.zip").read_bytes()
    for place in range(whole.index(b"PK\1\2")):
        for bit in (0, 7):
            (tmp_path / "a.zip").write_bytes(
                whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
            )
            with contextlib.suppress(errors.CorruptError):
                assert kind(tmp_path / "a.zip").read("a") == data


def test_a_member_that_inflates_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    deflated(tmp_path / "a.zip", {"a": bytes(1 << 20)})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 1000)
    (tmp_path / "a.zip").write_bytes(data)

    with pytest.raises(errors.CorruptError, match="'a' does not match its checksum"):
        ZipFiles(tmp_path / "a.zip").read("a")


@pytest.mark.parametrize("layout", ["live", "archive"])
def test_what_is_small_and_not_mapped_is_deflated(store: str, layout: str) -> None:
    path = store + ".zip"
    rs.convert(store, path, layout=layout)

    with zipfile.ZipFile(path) as file:
        names = {info.filename for info in file.infolist() if info.compress_type}
    assert {"zarr.json", "steps/info/wide/zarr.json", "parts/c.0.0"} <= names
    with rs.open(store) as plain, rs.open(path) as packed:
        assert Contents.of(plain).difference(Contents.of(packed)) == ""
        column = packed.column("info/wide")
        assert layout == "archive" or (isinstance(column, MappedColumn) and column.mapped)
    assert rs.verify(path).problems == []


@pytest.mark.parametrize("layout", ["live", "archive"])
def test_long_tables_are_deflated_and_long_files_of_rows_are_not(tmp_path: Path, layout: str) -> None:
    schema = rs.Schema(
        {
            "observation": rs.Field("float32", (4,), "observation"),
            "reward": rs.Field("float32", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
        }
    )
    steps = 30_000
    columns = {
        "observation": np.random.default_rng(0).integers(0, 9, (steps, 4)).astype("float32"),
        "reward": np.ones(steps, "float32"),
        "terminated": np.arange(steps) % 10 == 9,
    }
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append(columns, final_observation=columns["observation"][:3000])
    rs.convert(tmp_path / "a.zarr", tmp_path / "a.zarr.zip", layout=layout)

    with zipfile.ZipFile(tmp_path / "a.zarr.zip") as file:
        found = {info.filename: (info.file_size, info.compress_type) for info in file.infolist()}
    assert found["parts/c.0.0"][0] > 1 << 16 < found["steps/observation/c.0.0"][0]
    assert (found["parts/c.0.0"][1], found["steps/observation/c.0.0"][1]) == (zipfile.ZIP_DEFLATED, 0)
    assert bool(found["steps/reward/c.0"][1]) == (layout == "archive")
    with rs.open(tmp_path / "a.zarr") as plain, rs.open(tmp_path / "a.zarr.zip") as packed:
        assert Contents.of(plain).difference(Contents.of(packed)) == ""
    assert rs.verify(tmp_path / "a.zarr.zip").problems == []
