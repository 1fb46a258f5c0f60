"""What the drop-in buffers and their files cannot do is said in one line, with what to do; and nothing is
half-written."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
import zarr
from test_bad_places import run

import replaystore as rs
from replaystore.cli import main
from replaystore.compat import active_rlhf, velora
from replaystore.errors import (
    AlreadyExistsError,
    CorruptError,
    FormatError,
    NotFoundError,
    ReplayStoreError,
    SchemaError,
    StorageError,
    UnsupportedError,
)

STORES = (".zarr", ".h5")


def refuse(kind: type[Exception], text: str, action: Callable[[], Any]) -> None:
    """The action raises this error, with one line in which `text` (a pattern) occurs."""
    with pytest.raises(kind, match=text) as caught:
        action()
    assert isinstance(caught.value, ReplayStoreError)
    assert "\n" not in str(caught.value)
    assert 20 < len(str(caught.value)) < 500


def contents(folder: Path) -> dict[str, str]:
    """What is in a folder, but for locks."""
    found = {
        str(at): hashlib.sha256(at.read_bytes()).hexdigest() if at.is_file() else ""
        for at in folder.rglob("*")
    }
    return {name: digest for name, digest in found.items() if "lock" not in os.path.basename(name)}


def spaces(observation: int = 2, action: int = 1) -> Any:
    boxes = [gymnasium.spaces.Box(-1, 1, (width,)) for width in (observation, action)]
    return SimpleNamespace(single_observation_space=boxes[0], single_action_space=boxes[1])


def of_active(*counts: int) -> active_rlhf.ReplayBuffer:
    buffer = active_rlhf.ReplayBuffer(spaces(), 20, fragment_length=3, device="cpu")
    for count in counts:
        buffer.add(torch.rand(count, 2), torch.rand(count, 1), torch.rand(count), torch.zeros(count))
    return buffer


def of_velora(count: int = 7) -> velora.ReplayBuffer:
    buffer = velora.ReplayBuffer(10, 3, 2, 4, device="cpu")
    buffer.add_multi(
        torch.rand(count, 3),
        torch.rand(count, 2),
        torch.rand(count),
        torch.rand(count, 3),
        torch.zeros(count),
    )
    return buffer


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: buffers of both projects, and what is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.pkl", "a.zarr", "a.h5"):
        of_active(6, 5).save(name)
    for name in ("v", "v.zarr", "v.h5"):
        of_velora().save(name)
    for name in (
        "folder",
        "folder.pkl",
        "folder.safetensors",
        "folder.zarr",
        "folder.h5",
        "without_metadata",
    ):
        Path(name).mkdir()
    shutil.copy("v/buffer_state.safetensors", "without_metadata/buffer_state.safetensors")
    noise = np.random.default_rng(0).bytes(3000)
    for name in ("noise.pkl", "noise.safetensors", "noise.h5", "noise.zarr", "noise.txt"):
        Path(name).write_bytes(noise)
    for name in ("empty.pkl", "empty.safetensors", "empty.h5"):
        Path(name).touch()
    Path("half.pkl").write_bytes(Path("a.pkl").read_bytes()[:-30])
    Path("half.h5").write_bytes(Path("a.h5").read_bytes()[:-3000])
    Path("half.safetensors").write_bytes(Path("v/buffer_state.safetensors").read_bytes()[:-9])
    shutil.copy("v/buffer_metadata.json", "half_metadata.json")
    shutil.copytree("a.zarr", "without_log.zarr")
    shutil.rmtree("without_log.zarr/journal")
    Path("another.pkl").write_bytes(pickle.dumps([1, 2, 3], protocol=4))
    with h5py.File("another.h5", "w") as file:
        file["x"] = np.arange(3)
    zarr.open_group("another.zarr", mode="w").create_array("x", shape=(3,), dtype="i4")
    return tmp_path


def names(paths: Iterable[str]) -> list[str]:
    """The names of tests."""
    return [ascii(path) for path in paths]


# --- loading


NOT_LOADED: dict[str, tuple[type[ReplayStoreError], str]] = {
    "none.pkl": (NotFoundError, "none.* does not exist: check the path"),
    "none.zarr": (NotFoundError, "none.zarr does not exist: check the path"),
    "none.h5": (NotFoundError, "none.h5 does not exist: check the path"),
    "no/such/folder.zarr": (NotFoundError, "does not exist: check the path"),
    "noise.txt/a.h5": (NotFoundError, "does not exist: check the path"),
    "folder.zarr": (FormatError, "is not a replaystore store: it has no zarr.json; check the path"),
    "folder.h5": (FormatError, "is a folder, but its suffix names a file .*: move it away"),
    "noise.zarr": (FormatError, "is a file, but its suffix names a folder .*: move it away"),
    "noise.h5": (FormatError, "noise.h5 is not a replaystore HDF5 file; check the path"),
    "empty.h5": (FormatError, "empty.h5 is not a replaystore HDF5 file; check the path"),
    "another.h5": (FormatError, "another.h5 is not a replaystore HDF5 file; check the path"),
    "another.zarr": (FormatError, "no attribute `replaystore`; check the path"),
    "half.h5": (CorruptError, "is cut short: .*; restore it from a copy"),
    "without_log.zarr": (CorruptError, "there is no commit log; run `replaystore repair`"),
    "s3://bucket/a.zarr": (UnsupportedError, "copy it to a local disk"),
    "": (SchemaError, "'' is no path: give a string or a Path"),
    "a\0b": (SchemaError, "is no path: give a string or a Path"),
}
NOT_LOADED_BY_ACTIVE: dict[str, tuple[type[ReplayStoreError], str]] = {
    "folder": (FormatError, "folder is a folder: give the path of the file in it"),
    "folder.pkl": (FormatError, "folder.pkl is a folder: give the path of the file in it"),
    "noise.pkl": (FormatError, "it is damaged, or was not written by active_rlhf; nothing in it was run"),
    "noise.txt": (FormatError, "it is damaged, or was not written by active_rlhf; nothing in it was run"),
    "noise.txt/a.pkl": (StorageError, "cannot be read: Not a directory"),
    "empty.pkl": (FormatError, "is empty: .* save it again"),
    "half.pkl": (FormatError, "it ends in the middle: it is damaged"),
    "another.pkl": (FormatError, "it is damaged, or was not written by active_rlhf"),
    "v": (
        FormatError,
        (
            r"v is a buffer of velora: load it with replaystore.compat.velora, or .* "
            r"`replaystore convert`"
        ),
    ),
    "v/buffer_state.safetensors": (
        FormatError,
        "is a buffer of velora: load it with replaystore.compat.velora",
    ),
    "none.safetensors": (NotFoundError, "does not exist: check the path"),
}
NOT_LOADED_BY_VELORA: dict[str, tuple[type[ReplayStoreError], str]] = {
    "without_metadata": (
        NotFoundError,
        "is a folder: give the path of the file in it, such as without_metadata/buffer_state",
    ),
    "v": (NotFoundError, "v is a folder: give the path of the file in it, such as v/buffer_state"),
    "folder.safetensors": (FormatError, "is a folder: give the path of the file in it"),
    "noise.safetensors": (FormatError, "is not a safetensors file"),
    "empty.safetensors": (FormatError, "is not a safetensors file, or it ends in its header: save it again"),
    "half": (FormatError, "it is damaged, or was not written to its end"),
    "a.pkl": (FormatError, "a.pkl is a file of active_rlhf: make a store of it with `replaystore convert`"),
    "without_metadata/buffer_state": (NotFoundError, "buffer_metadata.json is missing, .*: copy it there"),
    ".": (SchemaError, "'.' is no file: give the path of one"),
}


@pytest.mark.parametrize(
    ("path", "expected"),
    (NOT_LOADED | NOT_LOADED_BY_ACTIVE).items(),
    ids=names(NOT_LOADED | NOT_LOADED_BY_ACTIVE),
)
def test_active_rlhf_loads_only_what_it_can(
    path: str, expected: tuple[type[ReplayStoreError], str], place: Path
) -> None:
    before = contents(place)

    refuse(*expected, lambda: active_rlhf.ReplayBuffer.load(path, device="cpu"))

    assert contents(place) == before


@pytest.mark.parametrize(
    ("path", "expected"),
    (NOT_LOADED | NOT_LOADED_BY_VELORA).items(),
    ids=names(NOT_LOADED | NOT_LOADED_BY_VELORA),
)
def test_velora_loads_only_what_it_can(
    path: str, expected: tuple[type[ReplayStoreError], str], place: Path
) -> None:
    before = contents(place)

    refuse(*expected, lambda: velora.ReplayBuffer.load(path))

    assert contents(place) == before


@pytest.mark.parametrize("path", [None, 5, b"a.pkl", ["a.pkl"]])
def test_what_is_no_path_is_refused(path: Any) -> None:
    for action in (
        active_rlhf.ReplayBuffer.load,
        velora.ReplayBuffer.load,
        of_active(4).save,
        of_velora().save,
    ):
        refuse(SchemaError, "is no path: give a string or a Path", lambda action=action: action(path))  # type: ignore[misc]


WRONG_METADATA: dict[str, tuple[Any, str]] = {
    "a path": ("v/buffer_metadata.json", "metadata is the dict that json.load gives"),
    "a number": (5, "metadata is the dict that json.load gives"),
    "nothing": ({}, "have no 'capacity': pass what buffer_metadata.json holds"),
    "another size": ({"size": 99}, "size 99 or position 7 is beyond the capacity 10"),
    "another kind of size": ({"size": "seven"}, "'size' is 'seven', not a number"),
    "another width": (
        {"hidden_dim": 9},
        (
            r"'hiddens' has the shape \(10, 4\), and .* \(10, 9\): they are "
            r"not of one buffer"
        ),
    ),
    "a device that is none": (
        {"device": "toaster"},
        "device 'toaster' cannot be used here .*: pass device='cpu'",
    ),
    "a device that is no name": ({"device": 3.5}, "'device' is 3.5, not the name of one"),
}


@pytest.mark.parametrize("case", WRONG_METADATA)
def test_metadata_that_are_not_those_of_the_file_are_refused(case: str, place: Path) -> None:
    given, text = WRONG_METADATA[case]
    known = json.loads(Path("v/buffer_metadata.json").read_text())
    metadata = known | given if isinstance(given, dict) and given else given

    refuse(ReplayStoreError, text, lambda: velora.ReplayBuffer.load("v/buffer_state", metadata))


@pytest.mark.parametrize("suffix", STORES)
def test_metadata_that_are_not_those_of_the_store_are_refused(suffix: str, place: Path) -> None:
    refuse(SchemaError, "metadata is the dict", lambda: velora.ReplayBuffer.load(f"v{suffix}", 5))  # type: ignore[arg-type]
    refuse(
        SchemaError,
        "has size=7, and the metadata say 8",
        lambda: velora.ReplayBuffer.load(f"v{suffix}", {"size": 8}),
    )
    refuse(
        UnsupportedError,
        "pass device='cpu'",
        lambda: velora.ReplayBuffer.load(f"v{suffix}", {"device": "toaster"}),
    )


@pytest.mark.parametrize("device", ["toaster", "", 3.5, "meta", "mps:9"])
def test_devices_that_are_not_there_are_refused(device: Any, place: Path) -> None:
    for path in ("a.pkl", "a.zarr", "a.h5"):
        refuse(
            UnsupportedError,
            "pass device='cpu'",
            lambda path=path: active_rlhf.ReplayBuffer.load(path, device=device),
        )  # type: ignore[misc]
    for path in ("v/buffer_state", "v.zarr", "v.h5"):
        refuse(
            UnsupportedError,
            "pass device='cpu'",
            lambda path=path: velora.ReplayBuffer.load(path, device=device),
        )  # type: ignore[misc]
    refuse(
        UnsupportedError, "pass device='cpu'", lambda: active_rlhf.ReplayBuffer(spaces(), 5, device=device)
    )


@pytest.mark.parametrize("suffix", [".pkl", *STORES])
def test_another_environment_is_refused(suffix: str, place: Path) -> None:
    def load(envs: Any) -> Callable[[], Any]:
        return lambda: active_rlhf.ReplayBuffer.load(f"a{suffix}", envs, device="cpu")

    refuse(
        SchemaError,
        "holds observations of 2 numbers .* envs has 3 and 1: pass the environment",
        load(spaces(3)),
    )
    refuse(SchemaError, "actions of 1, and envs has 2 and 4: pass the environment", load(spaces(2, 4)))
    refuse(SchemaError, "envs must be a vector environment, not str: pass", load("HalfCheetah-v5"))
    image = SimpleNamespace(
        single_observation_space=gymnasium.spaces.Box(0, 1, (4, 4)),
        single_action_space=gymnasium.spaces.Discrete(2),
    )
    refuse(SchemaError, "has not one dimension: flatten it", load(image))


# --- sampling


@pytest.mark.parametrize("suffix", [".pkl", *STORES])
def test_fragments_longer_than_everything_are_refused(suffix: str, place: Path) -> None:
    for length in (0, -1, 2.5, "50"):
        refuse(
            SchemaError,
            "must be a positive number",
            lambda length=length: active_rlhf.ReplayBuffer.load(f"a{suffix}", None, length, "cpu"),
        )  # type: ignore[misc]
    with active_rlhf.ReplayBuffer.load(f"a{suffix}", None, 500, "cpu") as buffer:
        refuse(
            SchemaError,
            "no trajectory of split 'train' has 500 rows; load it with fragment_length=6 or less",
            lambda: buffer.sample2(2),
        )
        refuse(SchemaError, "there are the splits 'train'", lambda: buffer.sample2(2, "val"))
        refuse(
            SchemaError,
            "No trajectories found for split: val; there are the splits 'train'",
            lambda: buffer.get_all_trajectories("val"),
        )
        refuse(
            SchemaError,
            "No trajectories found for split: val; there are the splits 'train'",
            lambda: buffer.sample(2, "val"),
        )


def test_an_empty_buffer_says_that_it_is() -> None:
    with pytest.raises(RuntimeError, match="the buffer is empty: add rows first"):
        of_active().sample(2)
    refuse(SchemaError, "there are the splits of no trajectory", lambda: of_active().sample2(2))
    with pytest.raises(ValueError, match="Available: 0, Requested: 2"):
        of_velora(0).sample(2)


@pytest.mark.parametrize("capacity", [10**13, 10**18])
def test_a_ring_that_is_larger_than_memory_is_refused(capacity: int) -> None:
    refuse(
        SchemaError,
        "GB, which cpu has no room for: choose a smaller one",
        lambda: active_rlhf.ReplayBuffer(spaces(), capacity, device="cpu"),
    )
    refuse(
        SchemaError,
        "GB, which cpu has no room for: choose a smaller one",
        lambda: velora.ReplayBuffer(capacity, 3, 2, 4),
    )


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
from test_compat_bad_input import of_active, of_velora
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
    ("a.pkl", "noise.txt/b.pkl"): (
        StorageError,
        "noise.txt cannot be written to: it is a file; choose another place",
    ),
    ("a.pkl", "noise.txt/b.zarr"): (
        StorageError,
        "noise.txt/b.zarr cannot be made: Not a directory \\(noise.txt\\); choose another place",
    ),
    ("a.zarr", "b.csv"): (SchemaError, "to make a store, use one of the suffixes"),
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
