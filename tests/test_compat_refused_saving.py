"""What the drop-in buffers cannot save or convert leaves what was there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from dropins import contents, names, of_active, of_velora, refuse
from processes import run

import replaystore as rs
from replaystore.cli import main
from replaystore.compat import active_rlhf
from replaystore.errors import (
    AlreadyExistsError,
    CorruptError,
    FormatError,
    NotFoundError,
    ReplayStoreError,
    SchemaError,
    StorageError,
)

pytest_plugins = ["dropins"]


# --- saving


NOT_SAVED: dict[str, tuple[type[ReplayStoreError], str]] = {
    "folder.zarr": (FormatError, "is not a replaystore store: .*choose another name"),
    "folder.h5": (FormatError, "is a folder, but its suffix names a file"),
    "noise.zarr": (FormatError, "is a file, but its suffix names a folder"),
    "noise.h5": (FormatError, "is not a replaystore HDF5 file; .*choose another name"),
    "another.zarr": (FormatError, "but not a replaystore store: .*choose another name"),
    "another.h5": (FormatError, "is not a replaystore HDF5 file; .*choose another name"),
    "noise.txt/b.zarr": (
        StorageError,
        "noise.txt/b.zarr cannot be made: Not a directory \\(noise.txt\\); choose another place",
    ),
    "noise.txt/b.h5": (
        StorageError,
        "noise.txt/b.h5 cannot be made: Not a directory \\(noise.txt\\); choose another place",
    ),
    "noise.txt/b.pkl": (StorageError, "cannot be written: a folder in its path is a file; choose a place"),
}


@pytest.mark.parametrize(("path", "expected"), NOT_SAVED.items(), ids=names(NOT_SAVED))
def test_nothing_is_saved_where_that_is_not_possible(
    path: str, expected: tuple[type[ReplayStoreError], str], place: Path
) -> None:
    active, other, before = of_active(6), of_velora(), contents(place)

    refuse(*expected, lambda: active.save(path))
    refuse(*expected, lambda: other.save(path))

    assert contents(place) == before


def test_a_pickle_replaces_no_folder_and_nothing_special(place: Path) -> None:
    buffer, before = of_active(6), contents(place)
    with socket.socket(socket.AF_UNIX) as special:
        special.bind("socket.pkl")
        refuse(
            AlreadyExistsError,
            "socket.pkl is no regular file, and is not replaced: choose another name",
            lambda: buffer.save("socket.pkl"),
        )
        assert Path("socket.pkl").is_socket()
    Path("socket.pkl").unlink()
    refuse(
        AlreadyExistsError, "folder.pkl is a folder: choose another name", lambda: buffer.save("folder.pkl")
    )
    refuse(
        SchemaError,
        "that is a file of velora; save a store .* `replaystore convert`",
        lambda: buffer.save("b.safetensors"),
    )

    assert contents(place) == before


def test_what_a_link_names_is_replaced(place: Path) -> None:
    Path("link.pkl").symlink_to("folder/real.pkl")

    of_active(6).save("link.pkl")
    of_active(6, 5).save("link.pkl")

    assert Path("link.pkl").is_symlink()
    assert active_rlhf.ReplayBuffer.load("folder/real.pkl", device="cpu").size == 11


READ_ONLY = """
import sys
import replaystore as rs
from dropins import of_active, of_velora
folder = "read_only"
actions = [lambda: of_velora().save(folder)]
for name in ("b.pkl", "b.zarr", "b.h5"):
    actions.append(lambda name=name: of_active(6).save(f"{folder}/{name}"))
    actions.append(lambda name=name: rs.convert("a.zarr", f"{folder}/{name}"))
for action in actions:
    try:
        action()
    except rs.errors.StorageError as error:
        print(error)
"""


def test_a_folder_that_is_read_only_is_left_alone(place: Path) -> None:
    folder = place / "read_only"
    folder.mkdir()
    folder.chmod(0o500)
    Path("program.py").write_text(
        f"import sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n{READ_ONLY}"
    )
    before = contents(place)

    done = run("program.py", held_back=True)

    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 7
    assert all("Permission denied; choose " in line for line in said), said
    assert contents(place) == before


# --- converting


NOT_CONVERTED: dict[tuple[str, str], tuple[type[ReplayStoreError], str]] = {
    ("none.pkl", "b.zarr"): (NotFoundError, "none.pkl does not exist: check the path"),
    ("none.safetensors", "b.zarr"): (NotFoundError, "none.safetensors does not exist: check the path"),
    ("folder", "b.zarr"): (SchemaError, "'folder' is not a store known by its content"),
    ("folder.pkl", "b.zarr"): (FormatError, "folder.pkl is a folder: give the path of the file in it"),
    ("folder.safetensors", "b.zarr"): (
        FormatError,
        "one must be a buffer, and there is none: give the path of the file",
    ),
    ("noise.txt", "b.zarr"): (SchemaError, "'noise.txt' is not a store known by its content"),
    ("noise.pkl", "b.zarr"): (FormatError, "nothing in it was run"),
    ("noise.safetensors", "b.h5"): (FormatError, "is not a safetensors file"),
    ("empty.pkl", "b.h5"): (FormatError, "is empty: .* save it again"),
    ("half.pkl", "b.zarr"): (FormatError, "it ends in the middle"),
    ("half.safetensors", "b.zarr"): (FormatError, "it is damaged, or was not written to its end"),
    ("half.h5", "b.pkl"): (CorruptError, "is cut short: .*; restore it from a copy"),
    ("without_log.zarr", "b.pkl"): (CorruptError, "there is no commit log; run `replaystore repair`"),
    ("without_metadata", "b.zarr"): (NotFoundError, "buffer_metadata.json is missing, .*: copy it there"),
    ("another.h5", "b.pkl"): (FormatError, "is not a replaystore HDF5 file"),
    ("a.zarr", "folder.pkl"): (
        AlreadyExistsError,
        "is a folder: name the file, such as folder.pkl/replay_buffer.pkl",
    ),
    ("a.zarr", "folder.safetensors"): (
        AlreadyExistsError,
        "name the file, such as folder.safetensors/buffer_state.safetensors",
    ),
    ("a.zarr", "a.pkl"): (AlreadyExistsError, "a.pkl exists: choose another name"),
    ("a.pkl", "a.h5"): (AlreadyExistsError, "a.h5 exists: choose another name"),
    ("a.zarr", "noise.txt/b.pkl"): (StorageError, "a folder in its path is a file; choose a place"),
    ("a.pkl", "noise.txt/b.pkl"): (StorageError, "a folder in its path is a file; choose a place"),
    ("a.pkl", "noise.txt/b.zarr"): (
        StorageError,
        "noise.txt/b.zarr cannot be made: Not a directory \\(noise.txt\\); choose another place",
    ),
    ("a.zarr", "b.tsv"): (SchemaError, "to make a store, use one of the suffixes"),
}


@pytest.mark.parametrize(
    ("places", "expected"), NOT_CONVERTED.items(), ids=[" to ".join(places) for places in NOT_CONVERTED]
)
def test_what_cannot_be_converted_leaves_nothing(
    places: tuple[str, str],
    expected: tuple[type[ReplayStoreError], str],
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(place)

    refuse(*expected, lambda: rs.convert(*places))
    with pytest.raises(SystemExit) as ended:
        main(["convert", *places])

    said = capsys.readouterr().err.strip().split("\n")
    assert ended.value.code == 1
    assert len(said) == 1
    assert said[0].startswith("replaystore: error: ")
    assert contents(place) == before
