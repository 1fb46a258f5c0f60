"""Files of velora that are not as they should be are refused; both files are replaced, or none."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from velora_rings import Replay, batch, files, sample

import replaystore as rs
from replaystore import errors
from replaystore.formats.shared import new_files

# --- files that are not as they should be


def rewrite(state: Path, change: Any) -> None:
    """Change the header of a file, or what follows it."""
    data = state.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = change(json.loads(data[8 : 8 + length]), data[8 + length :])
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    state.write_bytes(struct.pack("<Q", len(encoded)) + encoded + rest)


def tensor(name: str, **changes: Any) -> Any:
    return lambda header, rest: ({**header, name: {**header[name], **changes}}, rest)


BROKEN = {
    "no header": lambda _, __: (b"", b""),
    "a header that is no JSON": lambda _, rest: (b"{" * 50, rest),
    "a header nested without end": lambda _, rest: (b"[" * 100_000, rest),
    "a header that is a list": lambda _, rest: ([1], rest),
    "a header of numbers": lambda _, rest: ({"actions": 1}, rest),
    "a key twice": lambda header, rest: (json.dumps(header).encode()[:-1] + b',"actions":{}}', rest),
    "a tensor is missing": lambda header, rest: ({k: v for k, v in header.items() if k != "actions"}, rest),
    "it ends in the middle": lambda header, rest: (header, rest[:-4]),
    "something follows it": lambda header, rest: (header, rest + b"x"),
    "another dtype": tensor("states", dtype="F64"),
    "bools": tensor("dones", dtype="BOOL"),
    "no dtype": tensor("dones", dtype=None),
    "offsets that overlap": tensor("states", data_offsets=[0, 240]),
    "offsets that are negative": tensor("actions", data_offsets=[-160, 160]),
    "offsets that are text": tensor("actions", data_offsets=["0", "160"]),
    "three offsets": tensor("actions", data_offsets=[0, 80, 160]),
    "huge offsets": tensor("states", data_offsets=[1 << 70, 1 << 71]),
    "a shape that does not fit its bytes": tensor("actions", shape=[20, 3]),
    "a huge shape": tensor("actions", shape=[1 << 40, 1 << 40]),
    "a shape of floats": tensor("actions", shape=[20.0, 2.0]),
    "a flat shape": tensor("actions", shape=[40]),
    "another capacity": tensor("actions", shape=[40, 1]),
}
METADATA: dict[str, Any] = {
    "another capacity": {"capacity": 21},
    "another state_dim": {"state_dim": 4},
    "another hidden_dim": {"hidden_dim": 5},
    "a capacity of text": {"capacity": "20"},
    "a capacity that is true": {"capacity": True},
    "a size beyond the capacity": {"size": 21},
    "a negative size": {"size": -1},
    "a position beyond the capacity": {"position": 20},
    "a device that is a number": {"device": 1},
    "no size": {"size": None},
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    replay = Replay(20)
    replay.add(batch(12, 0))
    return replay.save(tmp_path / "x")


def refused(state: Path, kind: type[Exception] = errors.FormatError) -> str:
    target = state.parent.parent / "a.zarr"
    with pytest.raises(kind) as error:
        rs.convert(state, str(target))
    assert "\n" not in str(error.value)
    assert not target.exists()
    return str(error.value)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused(kind: str, state: Path) -> None:
    rewrite(state, BROKEN[kind])

    assert str(state) in refused(state)


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_that_do_not_fit_are_refused(kind: str, state: Path) -> None:
    beside = state.parent / "buffer_metadata.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **METADATA[kind]}))

    assert str(beside) in refused(state)


@pytest.mark.parametrize("content", ["", "[", "[1]", "{}", '{"buffer": 1}', '{"capacity": 1, "capacity": 2}'])
def test_metadata_that_are_none_are_refused(content: str, state: Path) -> None:
    (state.parent / "buffer_metadata.json").write_text(content)

    assert "metadata.json" in refused(state)


def test_without_metadata_it_says_which_file_is_missing(state: Path) -> None:
    (state.parent / "buffer_metadata.json").unlink()

    assert "buffer_metadata.json is missing" in refused(state, errors.NotFoundError)


def test_what_nobody_needs_is_left_out_and_said(state: Path, tmp_path: Path) -> None:
    beside = state.parent / "buffer_metadata.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "note": 1}))
    save_file({**load_file(state), "zzz": np.zeros(3, "f8")}, state, metadata={"a": "b"})
    report = rs.convert(state, str(tmp_path / "a.zarr"))

    assert report.notes[:2] == ["fields left out: zzz", "left out: note"]
    with pytest.raises(errors.UnsupportedError, match="zzz"):
        rs.convert(state, str(tmp_path / "b.zarr"), strict=True)


def test_a_prefix_with_a_dot_is_found(state: Path, tmp_path: Path) -> None:
    os.rename(state, state.parent / "v1.safetensors")
    os.rename(state.parent / "buffer_metadata.json", state.parent / "v1.json")

    assert rs.convert(state.parent / "v1.safetensors", str(tmp_path / "a.zarr")).steps == 12


def test_a_folder_with_two_buffers_is_refused(state: Path, tmp_path: Path) -> None:
    shutil.copy(state, state.parent / "other_state.safetensors")

    with pytest.raises(errors.FormatError, match=r"buffer_state\.safetensors, other_state\.safetensors"):
        rs.convert(state.parent, str(tmp_path / "a.zarr"))


# --- both files or none


def test_both_files_are_replaced_or_none(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rs.convert(state, str(tmp_path / "a.zarr"))
    target = tmp_path / "y" / "buffer_state.safetensors"
    shutil.copytree(sample("docs_empty").parent, target.parent)
    before = files(target)
    real = os.replace

    def failing(source: str, to: str) -> None:
        if to.endswith("metadata.json"):
            raise OSError(28, "No space left on device")
        real(source, to)

    with pytest.raises(errors.AlreadyExistsError):
        rs.convert(str(tmp_path / "a.zarr"), target)
    monkeypatch.setattr(new_files.os, "replace", failing)
    with pytest.raises(errors.StorageError, match="No space left"):
        rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True)
    assert files(target) == before
    assert sorted(os.listdir(target.parent)) == ["buffer_metadata.json", "buffer_state.safetensors"]
    with pytest.raises(errors.StorageError, match="No space left"):
        rs.convert(str(tmp_path / "a.zarr"), tmp_path / "z" / "buffer_state.safetensors")
    assert os.listdir(tmp_path / "z") == []
    monkeypatch.undo()
    rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True)
    assert files(target) == files(state)
    assert sorted(os.listdir(target.parent)) == ["buffer_metadata.json", "buffer_state.safetensors"]


def test_something_else_is_not_replaced(state: Path, tmp_path: Path) -> None:
    rs.convert(state, str(tmp_path / "a.zarr"))
    target = tmp_path / "model_state.safetensors"
    save_file({"weight": np.zeros(3, "f4")}, target)

    with pytest.raises(errors.AlreadyExistsError, match="something else"):
        rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True)
    with pytest.raises(errors.AlreadyExistsError, match="is a folder"):
        rs.convert(str(tmp_path / "a.zarr"), state.parent)


def test_files_of_any_name_have_metadata_of_their_own(state: Path, tmp_path: Path) -> None:
    rs.convert(state, str(tmp_path / "a.zarr"))
    names = ("exported.bin", "a.bin", "a.safetensors", "rather_a_long_name.bin")

    for name in names:
        rs.convert(str(tmp_path / "a.zarr"), tmp_path / name, format="velora")
    assert len(list(tmp_path.glob("*metadata.json"))) == len(names)
    for name in names:
        assert rs.convert(tmp_path / name, tmp_path / f"{name}.zarr").steps > 0
