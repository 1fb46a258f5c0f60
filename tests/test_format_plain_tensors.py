"""Steps as plain tensors of safetensors: what replaystore writes, and what others do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.errors import FormatError
from replaystore.formats.finding import find
from replaystore.testing.formats import FormatSuite

numpy_files = pytest.importorskip("safetensors.numpy", reason="it is what others read them with")


class TestSafetensors(FormatSuite):
    name = "safetensors"
    filename = "steps.tensors"


def five(**more: Any) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "observations": draw.random((5, 3)).astype(np.float32),
        "actions": draw.integers(0, 9, 5),
        "rewards": draw.random((5, 1)),
        **more,
    }


def read(path: Path, folder: Path) -> tuple[Any, list[Any], Any]:
    report = convert(path, folder / "read.zarr", overwrite=True, source_format="safetensors")
    buffer = rs.open(folder / "read.zarr")
    return buffer, [buffer.trajectory(at) for at in range(buffer.num_trajectories)], report


def test_others_read_what_is_written(tmp_path: Path) -> None:
    numpy_files.save_file(five(dones=np.array([0, 0, 1, 0, 1], np.uint8)), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "a.zarr", source_format="safetensors")
    convert(tmp_path / "a.zarr", tmp_path / "b.safetensors", target_format="safetensors")

    found = numpy_files.load_file(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(found["observation"], five()["observations"])
    np.testing.assert_array_equal(found["reward"], five()["rewards"])
    assert found["trajectory.length"].tolist() == [3, 2]
    assert find(tmp_path / "b.safetensors") == "safetensors"


def test_tensors_of_others(tmp_path: Path) -> None:
    following = five()["observations"][[1, 2, 0, 4, 0]]
    given = five(
        next_observations=following, terminals=np.array([0.0, 0, 1, 0, 0]), timeouts=np.zeros(5, np.bool_)
    )
    numpy_files.save_file({**given, "policy": np.zeros((7, 2))}, tmp_path / "a.safetensors")

    assert find(tmp_path / "a.safetensors") == "safetensors"
    buffer, (one, two), report = read(tmp_path / "a.safetensors", tmp_path)
    assert (len(one), len(two)) == (3, 2)
    assert buffer.trajectories.terminated.tolist() == [True, False]
    np.testing.assert_array_equal(one.final_observation, following[2])
    np.testing.assert_array_equal(two.final_observation, following[4])
    assert report.fields["policy"].kind == "lost"
    assert report.fields["next_observation"].kind == "derived"


def test_numbers_tell_trajectories_apart(tmp_path: Path) -> None:
    numpy_files.save_file(five(episode=np.array([4, 4, 2, 2, 2])), tmp_path / "a.safetensors")
    buffer, found, _ = read(tmp_path / "a.safetensors", tmp_path)
    assert [len(one) for one in found] == [2, 3]
    assert buffer.trajectories["episode"].tolist() == [4, 2]

    numpy_files.save_file(five(episode=np.array([4, 4, 2, 4, 2])), tmp_path / "b.safetensors")
    with pytest.raises(FormatError, match="do not lie together"):
        convert(tmp_path / "b.safetensors", tmp_path / "b.zarr", source_format="safetensors")


def crafted(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[" * 5000,
        b'{"a": 1, "a": 2}',
        [],
        {"obs": 1},
        {"obs": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"obs": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"obs": {"dtype": "F32", "shape": [1 << 61, 4], "data_offsets": [0, 4]}},
        {"obs": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"obs": {"dtype": 3, "shape": [1], "data_offsets": [0, 8]}},
        {"obs": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"replaystore": "{"}},
        {
            "obs": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "__metadata__": {"replaystore": "{}"},
        },
        {"obs": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"a": 1}},
        {"weights": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    ],
)
def test_headers_that_cannot_be_are_one_clear_line(tmp_path: Path, header: Any) -> None:
    path = crafted(tmp_path / "a.safetensors", header, bytes(4))

    with pytest.raises(FormatError) as told:
        convert(path, tmp_path / "a.zarr", source_format="safetensors")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "a.zarr").exists()


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((1 << 50).to_bytes(8, "little") + b"{}")

    with pytest.raises(FormatError, match="ends in its header"):
        convert(path, tmp_path / "a.zarr", source_format="safetensors")
