"""Places that hold no store, or one that another process uses, that is read-only, or of a newer format."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from processes import SOURCES, command, run

import replaystore as rs
from replaystore.buffers.replacing import NewStore
from replaystore.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptError,
    FormatError,
    FormatVersionError,
    NotFoundError,
    SchemaError,
)
from replaystore.testing import samples


def make(path: Path) -> None:
    with rs.create(path, samples.small()) as buffer:
        buffer.append(samples.columns(samples.small(), 20, 1))


# --- what is no store


def no_store(kind: str, folder: Path) -> Path:
    """Something that is no store."""
    path = folder / ("a.zarr" if kind in ("empty folder", "zarr", "group", "text") else "a.h5")
    if kind == "empty folder":
        path.mkdir()
    elif kind in ("zarr", "group"):
        group = zarr.open_group(str(path), mode="w", zarr_format=2 if kind == "group" else 3)
        group.create_array("x", shape=(3,), dtype="i4")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "hdf5":
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(3)
    elif kind == "png":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300000))
    elif kind == "nothing":
        path.write_bytes(b"")
    else:
        path.mkdir()
        (path / "x").write_text("hello")
    return path


ACTIONS: list[Callable[[Path], Any]] = [
    rs.open,
    rs.verify,
    lambda path: rs.open(path, "r+"),
    lambda path: rs.create(path, samples.small(), overwrite=True),
]


@pytest.mark.parametrize(
    "kind", ["empty folder", "zarr", "group", "text", "hdf5", "png", "nothing", "folder"]
)
def test_what_is_no_store_is_said_to_be_none_and_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    path = no_store(kind, tmp_path)
    before = {at: at.read_bytes() for at in tmp_path.rglob("*") if at.is_file()}

    for action in ACTIONS:
        with pytest.raises((FormatError, rs.errors.StorageError)) as caught:
            action(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises((AlreadyExistsError, FormatError), match=r"choose another name|move it away"):
        rs.create(path, samples.small())
    done = command("info", path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("replaystore: error: ")
    assert done.stderr.count("\n") == 1
    assert {
        at: at.read_bytes() for at in tmp_path.rglob("*") if at.is_file() and "lock" not in at.name
    } == before


def test_names_that_say_nothing(tmp_path: Path) -> None:
    for location in (tmp_path / "plain", ""):
        with pytest.raises(SchemaError, match=r"suffixes \.zarr|give the store's path") as caught:
            rs.create(location, samples.small())
        assert "\n" not in str(caught.value)
    for name in ("a.zarr", "a.h5", "a.zarr.zip"):
        for action in (rs.open, rs.verify):
            with pytest.raises(NotFoundError, match="does not exist: check the path"):
                action(tmp_path / name)
        done = command("show", tmp_path / name)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format_is_not_guessed_at(tmp_path: Path) -> None:
    make(tmp_path / "a.zarr")
    root = tmp_path / "a.zarr" / "zarr.json"
    content = json.loads(root.read_text())
    major = int(str(content["attributes"]["replaystore"]["format_version"]).split(".")[0])
    content["attributes"]["replaystore"]["format_version"] = f"{major + 1}.0"
    root.write_text(json.dumps(content))

    for mode in ("r", "r+"):
        with pytest.raises(FormatVersionError, match="upgrade"):
            rs.open(tmp_path / "a.zarr", mode)  # type: ignore[arg-type]


# --- several processes


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_second_writer_is_refused_in_this_process_and_in_another(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("a" + suffix)
    make(path)
    with rs.open(path, "r+") as buffer:
        with pytest.raises(ConflictError, match="is open for writing elsewhere: close it there first"):
            rs.open(path, "r+")
        with pytest.raises(ConflictError, match="is open for writing elsewhere"):
            rs.create(path, samples.small(), overwrite=True)
        done = run("-c", "import sys, replaystore; replaystore.open(sys.argv[1], 'r+')", path)
        assert done.stderr.strip().splitlines()[-1].startswith("replaystore.errors.ConflictError: ")
        buffer.append(samples.columns(samples.small(), 5, 2))
    with rs.open(path) as buffer:
        assert len(buffer) == 25


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_store_that_is_being_made_is_not_there_yet(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("a" + suffix)
    seen: list[str] = []
    finish = NewStore.finish

    def look(new: Any) -> None:
        with pytest.raises(NotFoundError, match="does not exist"):
            rs.open(path)
        with pytest.raises(ConflictError, match="open for writing elsewhere"):
            rs.create(path, samples.small())
        seen.append("looked")
        finish(new)

    monkeypatch.setattr("replaystore.buffers.create_open.NewStore.finish", look)
    rs.create(path, samples.small()).close()

    assert seen == ["looked"]
    assert sorted(name for name in os.listdir(tmp_path) if "lock" not in name) == [path.name]


WRITE = """
import sys, time, numpy as np, replaystore
from replaystore.testing import samples
schema, number, end = samples.small(), 0, time.monotonic() + 60
with replaystore.open(sys.argv[1], "r+") as buffer:
    print("ready", flush=True)
    while time.monotonic() < end:
        number += 1
        columns = samples.columns(schema, 1 + number % 7, number)
        columns["action"][:] = np.arange(len(buffer), len(buffer) + len(columns["action"]))
        columns["reward"][:] = columns["action"]
        columns["info/wide"][:] = columns["action"].astype("u2")[:, None]
        buffer.append(columns)
        buffer.commit()
        time.sleep(0.001)
"""


@pytest.mark.filterwarnings("ignore::replaystore.errors.ReplayStoreWarning")
@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_copy_of_a_store_in_use_shows_one_of_its_commits(tmp_path: Path, suffix: str) -> None:
    path, copy = tmp_path / ("a" + suffix), tmp_path / ("copy" + suffix)
    storage = samples.storage("zstd:1" if suffix == ".zarr" else "gzip:1")
    rs.create(path, samples.small(), storage=storage, durability="none").close()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path)],
        env=os.environ | {"PYTHONPATH": SOURCES},
        stdout=subprocess.PIPE,
    )
    lengths = []
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        while len(lengths) < 8:
            time.sleep(0.1)
            subprocess.run(["cp", "-r", str(path), str(copy)], check=True)
            with rs.open(copy) as buffer:
                lengths.append(len(buffer))
                rows = np.arange(len(buffer))
                assert (buffer["action"][:] == rows).all()
                assert (buffer["reward"][:] == rows).all()
                assert (buffer["info/wide"][:] == rows.astype("u2")[:, None]).all()
                assert len(buffer["observation/camera"][:]) == len(rows)
            shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
    finally:
        writer.kill()
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]


# --- read-only media


READ = """
import sys, replaystore
with replaystore.open(sys.argv[1]) as buffer:
    print(len(buffer["reward"][:]), len(replaystore.verify(sys.argv[1]).problems))
"""


@pytest.fixture
def medium() -> Iterator[Path]:
    """A folder that others may read, with a store of each kind that nobody may write to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name in ("a.zarr", "a.h5"):
            make(Path(folder) / name)
        for at in [Path(folder), *Path(folder).rglob("*")]:
            at.chmod(0o555 if at.is_dir() else 0o444)
        yield Path(folder)
        for at in [Path(folder), *Path(folder).rglob("*")]:
            at.chmod(0o755)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_read_only_media_are_read_and_not_written_to(medium: Path, name: str) -> None:
    before = {at: at.read_bytes() for at in medium.rglob("*") if at.is_file()}

    done = run("-c", READ, medium / name, held_back=True)
    assert (done.stdout, done.stderr) == ("20 0\n", "")
    assert command("info", medium / name, held_back=True).returncode == 0
    assert command("verify", medium / name, held_back=True).returncode == 0
    done = run(
        "-c", "import sys, replaystore; replaystore.open(sys.argv[1], 'r+')", medium / name, held_back=True
    )
    assert "StorageError: " in done.stderr.splitlines()[-1]
    assert "open it with mode='r'" in done.stderr.splitlines()[-1]
    done = run(
        "-c",
        (
            "import sys, replaystore as r; from replaystore.testing import samples; r.create(sys.argv[1], "
            "samples.small())"
        ),
        medium / "n.zarr",
        held_back=True,
    )
    assert "StorageError: " in done.stderr.splitlines()[-1]
    assert {at: at.read_bytes() for at in medium.rglob("*") if at.is_file()} == before


def test_damage_found_when_opening_is_one_line_of_the_command(tmp_path: Path) -> None:
    make(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "steps" / "reward" / "zarr.json").unlink()

    with pytest.raises(CorruptError, match="steps/reward"):
        rs.open(tmp_path / "a.zarr")
    done = command("info", tmp_path / "a.zarr")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("replaystore: error: ")
    assert command("verify", tmp_path / "a.zarr").returncode == 1


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_open_buffers_go_on_when_the_process_changes_its_folder(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, elsewhere, where = tmp_path / "there", tmp_path / "elsewhere", f"runs/a{suffix}"
    there.mkdir()
    elsewhere.mkdir()
    schema = samples.small()
    monkeypatch.chdir(there)
    with rs.create(where, schema) as buffer:
        buffer.append(samples.columns(schema, 20, 1))
        buffer.commit()
        reader = rs.open(where)
        monkeypatch.chdir(elsewhere)
        buffer.append(samples.columns(schema, 20, 2))
        buffer.add_field("late", rs.Field("float32", (), "extra"))
        buffer.append({**samples.columns(schema, 60_000, 3), "late": np.ones(60_000, np.float32)})
        buffer.commit()
        assert reader.refresh()
        assert len(reader) == 60_040
        make(elsewhere / where)  # what has the same name from here is another one
        assert not reader.refresh()
        buffer.publish()
    assert len(reader["reward"][:]) == 60_040
    assert not rs.verify(there / where).problems
    assert len(rs.open(there / where)) == 60_040
    assert len(rs.open(where)) == 20


def test_a_zip_file_is_read_on_when_the_process_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.zarr")
    monkeypatch.chdir(tmp_path)
    rs.convert("a.zarr", "a.zarr.zip")
    buffer = rs.open("a.zarr.zip")
    monkeypatch.chdir("/")
    assert not buffer.refresh()
    assert len(buffer["reward"][:]) == 20
