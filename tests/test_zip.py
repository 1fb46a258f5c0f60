"""Zarr folders packed into zip files, and zip files that are not what they should be."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore import errors
from replaystore.columns.mapped import MappedColumn
from replaystore.containers.zarr.container import ZarrContainer
from replaystore.storage.local import Files
from replaystore.storage.zip import ZipFiles, pack
from replaystore.testing import Contents, samples

MEMBERS = {
    "zarr.json": b"{}",
    "steps/é/c/0": bytes(range(256)) * 40,
    "steps/é/zarr.json": b"",
    "a/b/c/d": b"x" * 4096,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a.zarr"
    for name, data in MEMBERS.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def store(tmp_path: Path) -> str:
    location = str(tmp_path / "a.zarr")
    with rs.create(location, samples.small(), storage=samples.storage("zstd:1")) as buffer:
        buffer.append(samples.columns(buffer.schema, 300, 1))
    return location


def written(path: Path, members: dict[str, bytes], **settings: int) -> ZipFiles:
    """A zip of other software's making."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, **settings)
    return ZipFiles(path)


# --- packing and reading


def test_members_are_read_as_files_are(folder: Path) -> None:
    path = str(folder) + ".zip"
    pack(Files(folder, writable=False), path, leave_out=frozenset({"a/b/c/d"}))
    files = ZipFiles(path)

    assert list(files.walk()) == ["steps/é/c/0", "steps/é/zarr.json", "zarr.json"]
    assert files.list() == ["steps", "zarr.json"]
    assert files.list("steps/é") == ["c", "zarr.json"]
    assert files.list("nowhere") == files.list("steps/é/zarr.json") == []
    assert files.read("steps/é/c/0") == MEMBERS["steps/é/c/0"]
    assert files.read("steps/é/c/0", 10200) == MEMBERS["steps/é/c/0"][10200:]
    assert files.read("steps/é/c/0", 255, 3) == b"\xff\0\1"
    assert files.read("steps/é/c/0", 10239, 99) == b"\xff"
    assert files.read("steps/é/c/0", 99999, 5) == files.read("steps/é/zarr.json") == b""
    assert (files.size("steps/é/c/0"), files.size("steps/é/zarr.json")) == (10240, 0)
    assert [files.exists(name) for name in ("", "steps", "steps/é", "zarr.json", "step", "a/b/c/d")] == [
        True
    ] * 4 + [False] * 2
    for lost in (files.read, files.size, files.status, files.descriptor):
        with pytest.raises(FileNotFoundError):
            lost("a/b/c/d")


@pytest.mark.parametrize("aligned", [0, 3, 1 << 16])
def test_large_members_begin_on_pages_and_other_software_reads_all(
    folder: Path, aligned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replaystore.storage.zip._ALIGNED", aligned)
    path = str(folder) + ".zip"
    pack(Files(folder, writable=False), path)

    files = ZipFiles(path)
    for name, data in MEMBERS.items():
        with files.place(name) as (fd, offset, size):
            assert offset % 4096 == 0 or size < aligned
            assert os.pread(fd, size, offset) == data
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert {info.filename: file.read(info) for info in file.infolist()} == MEMBERS
        assert all(info.extra == b"" for info in file.infolist())


def test_small_members_lie_one_behind_the_other(folder: Path) -> None:
    path = str(folder) + ".zip"
    pack(Files(folder, writable=False), path)

    small = sum(len(data) for data in MEMBERS.values() if len(data) < 1 << 16)
    large = sum(len(data) + 4096 for data in MEMBERS.values() if len(data) >= 1 << 16)
    assert os.path.getsize(path) < small + large + 200 * (len(MEMBERS) + 1)


def test_equal_folders_make_equal_zips(folder: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    for name in reversed(MEMBERS):
        (twin / name).parent.mkdir(parents=True, exist_ok=True)
        (twin / name).write_bytes(MEMBERS[name])
    os.utime(twin / "zarr.json", (0, 10**9))

    pack(Files(folder, writable=False), str(tmp_path / "a.zip"))
    pack(Files(twin, writable=False), str(tmp_path / "b.zip"))

    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_zip_is_on_the_disk_when_it_gets_its_name_and_its_name_is_when_that_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int, int]] = []
    fsync, replace = os.fsync, os.replace

    def syncing(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        done.append(("synced", status.st_ino, status.st_size if stat.S_ISREG(status.st_mode) else 0))

    def replacing(old: str, new: str) -> None:
        done.append(("named", os.stat(old).st_ino, os.stat(old).st_size))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    path = str(folder) + ".zip"
    pack(Files(folder, writable=False), path)

    file = os.stat(path)
    named = done.index(("named", file.st_ino, file.st_size))
    assert ("synced", file.st_ino, file.st_size) in done[:named]
    assert ("synced", os.stat(folder.parent).st_ino, 0) in done[named:]


def test_large_members_are_aligned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is larger gets the longer header of zip64.
    monkeypatch.setattr("replaystore.storage.zip._LARGE", 4096)
    monkeypatch.setattr("replaystore.storage.zip._ALIGNED", 0)
    members = {"a": bytes(4095), "b": bytes(range(256)) * 17, "c": b"c"}
    for name, data in members.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    pack(Files(tmp_path / "in", writable=False), str(tmp_path / "a.zip"))

    files = ZipFiles(tmp_path / "a.zip")

    assert {name: files.read(name) for name in files.walk()} == members
    for name in members:
        with files.place(name) as (_, offset, _):
            assert offset % 4096 == 0


def test_a_packed_store_is_read_in_place_and_mapped(store: str) -> None:
    path = store + ".zip"
    pack(Files(store, writable=False), path)

    with rs.open(store) as plain, rs.open(path) as packed:
        assert Contents.of(plain).difference(Contents.of(packed)) == ""
        column = packed.column("info/wide")
        assert isinstance(column, MappedColumn)
        assert column.mapped
        assert not packed.refresh()
    assert rs.verify(path).problems == []


def test_a_store_packed_by_other_software_is_read_though_not_mapped(store: str, tmp_path: Path) -> None:
    path = tmp_path / "b.zarr.zip"
    members = {name: Files(store, writable=False).read(name) for name in Files(store, writable=False).walk()}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("steps/", b"")
        for name, data in members.items():
            file.writestr(name, data)

    with rs.open(store) as plain, rs.open(path) as packed:
        assert Contents.of(plain).difference(Contents.of(packed)) == ""
        assert not packed.column("info/wide").mapped  # type: ignore[union-attr]


def test_a_zip_is_only_read(store: str) -> None:
    path = store + ".zip"
    pack(Files(store, writable=False), path)

    with pytest.raises(errors.UnsupportedError, match="read only"):
        rs.open(path, "r+")
    with pytest.raises(errors.UnsupportedError, match=r"make a \.zarr folder"):
        rs.create(store + "2.zip", samples.small())
    with pytest.raises(errors.UnsupportedError, match="can only be read"):
        ZarrContainer.open(ZipFiles(path), "", writable=True)


def test_a_zip_that_replaces_another_is_read_anew_after_closing(tmp_path: Path) -> None:
    files = written(tmp_path / "a.zip", {"a": b"1"})
    assert files.read("a") == b"1"
    written(tmp_path / "b.zip", {"b": b"2"})
    os.replace(tmp_path / "b.zip", tmp_path / "a.zip")

    assert files.read("a") == b"1"
    files.close()
    assert (files.list(), files.read("b")) == (["b"], b"2")


def test_a_failed_packing_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(str(folder) + ".zip")
    path.write_bytes(b"before")

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(errors.StorageError, match="No space left on device"):
        pack(Files(folder, writable=False), str(path))

    assert path.read_bytes() == b"before"
    assert sorted(os.listdir(folder.parent)) == ["a.zarr", "a.zarr.zip"]


# --- what is refused


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "a/../../b", "a//b", "./a", "C:/a", "a\\b", "a/./b", "x" * 5000]
)
def test_names_that_leave_the_store_are_refused(tmp_path: Path, name: str) -> None:
    files = written(tmp_path / "a.zip", {"zarr.json": b"{}", name: b"1"})

    with pytest.raises(errors.CorruptError, match="a name that no file of a store has"):
        files.list()


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.zip", {"aXb": b"1"})
    data = (tmp_path / "a.zip").read_bytes().replace(b"aXb", b"a\0b")
    (tmp_path / "a.zip").write_bytes(data)

    with pytest.raises(errors.CorruptError):
        ZipFiles(tmp_path / "a.zip").read("a")


@pytest.mark.parametrize(
    ("data", "method"), [(b"{}" * (1 << 20), zipfile.ZIP_DEFLATED), (b"{}" * 99, zipfile.ZIP_BZIP2)]
)
def test_compressed_members_are_refused_with_what_to_do(tmp_path: Path, data: bytes, method: int) -> None:
    files = written(tmp_path / "a.zip", {"zarr.json": data}, compress_type=method)

    with pytest.raises(
        errors.UnsupportedError,
        match=(
            r"'zarr.json' is compressed.* unpack it and convert the folder with "
            r"`replaystore convert`"
        ),
    ):
        files.read("zarr.json")


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.zip", {"zarr.json": b"{}"})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + place] |= 1
    (tmp_path / "a.zip").write_bytes(data)

    with pytest.raises(errors.UnsupportedError, match="is encrypted"):
        ZipFiles(tmp_path / "a.zip").list()


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a", b"2")

    with pytest.raises(errors.CorruptError, match="'a' is there twice"):
        ZipFiles(tmp_path / "a.zip").read("a")


@pytest.mark.parametrize(("stored", "claimed"), [(1 << 30, 1 << 30), (1, 2), (2, 1), (200, 200)])
def test_sizes_that_are_not_true_are_refused(tmp_path: Path, stored: int, claimed: int) -> None:
    written(tmp_path / "a.zip", {"a": b"12", "b": b"3"})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<2I", data, data.index(b"PK\1\2") + 20, stored, claimed)
    (tmp_path / "a.zip").write_bytes(data)

    with pytest.raises(errors.CorruptError, match=r"'a' (has|reaches)"):
        ZipFiles(tmp_path / "a.zip").list()


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.zip", {"a": b"12", "b": b"3"})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    struct.pack_into("<I", data, second + 42, 0)  # the second member lies where the first does
    (tmp_path / "a.zip").write_bytes(data)

    with pytest.raises(errors.CorruptError):
        ZipFiles(tmp_path / "a.zip").list()


def test_a_header_that_says_something_else_is_refused(tmp_path: Path) -> None:
    for place, value in ((0, 0), (8, 8), (30, ord("z")), (28, 200)):
        written(tmp_path / "a.zip", {"a": b"12", "b": b"3"})
        data = bytearray((tmp_path / "a.zip").read_bytes())
        data[place] = value
        (tmp_path / "a.zip").write_bytes(data)

        with pytest.raises(errors.CorruptError):
            ZipFiles(tmp_path / "a.zip").read("a")


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\5\6" + bytes(17), b"not a zip at all" * 99])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zarr.zip").write_bytes(data)

    with pytest.raises(errors.CorruptError, match="not a zip file"):
        rs.open(tmp_path / "a.zarr.zip")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.zip", {"hello.txt": b"hello"})

    with pytest.raises(errors.FormatError, match=r"is not a replaystore store: it has no zarr\.json"):
        rs.open(tmp_path / "a.zip")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.storage.zip_directory.MOST_MEMBERS", 2)
    files = written(tmp_path / "a.zip", {"a": b"", "b": b"", "c": b""})

    with pytest.raises(errors.UnsupportedError, match="has 3 members"):
        files.list()


def test_a_zip_cut_anywhere_never_gives_wrong_rows(store: str) -> None:
    path = store + ".zip"
    pack(Files(store, writable=False), path)
    data = Path(path).read_bytes()
    with rs.open(store) as plain:
        expected = Contents.of(plain)

    for length in np.linspace(0, len(data) - 1, 40).astype(int).tolist():
        Path(path).write_bytes(data[:length])
        with pytest.raises(errors.CorruptError), rs.open(path) as packed:
            assert expected.difference(Contents.of(packed)) == ""


def test_unzip_agrees(folder: Path) -> None:
    path = str(folder) + ".zip"
    pack(Files(folder, writable=False), path)
    try:
        done = subprocess.run(["unzip", "-tq", path], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unzip is not installed")
    assert "No errors detected" in done.stdout


def test_reading_from_memory_is_not_disturbed_by_closing(folder: Path) -> None:
    path = str(folder) + ".zip"
    pack(Files(folder, writable=False), path)
    files = ZipFiles(path)
    with files.borrowed("a/b/c/d") as fd:
        files.close()
        assert io.BytesIO(os.pread(fd, 4, 0)).read() == b"PK\3\4"
