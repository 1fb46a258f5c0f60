"""What the drop-in buffers cannot load or sample is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest
from dropins import STORES, contents, names, of_active, of_velora, refuse, spaces

from replaystore.compat import active_rlhf, velora
from replaystore.errors import (
    CorruptError,
    FormatError,
    NotFoundError,
    ReplayStoreError,
    SchemaError,
    StorageError,
    UnsupportedError,
)

pytest_plugins = ["dropins"]


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
