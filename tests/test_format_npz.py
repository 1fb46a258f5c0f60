"""Flat arrays in .npz files: stored, deflated, turned; bombs, and what is no file of arrays."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flat_truth import imported

import replaystore as rs
from replaystore import errors
from replaystore.formats.finding import find
from replaystore.testing.formats import FormatSuite


class TestNpz(FormatSuite):
    name = "npz"
    filename = "data.npz"
    overhead = 4 << 20


def steps(count: int = 40, every: int = 10) -> dict[str, Any]:
    """Steps of trajectories of ten, under names that some people use."""
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(count // every, every + 1, 3))
    ends = np.arange(1, count + 1) % every == 0
    return {
        "obs": seen[:, :-1].reshape(count, 3),
        "next_obs": seen[:, 1:].reshape(count, 3),
        "acts": generator.integers(0, 5, count),
        "rews": np.arange(count, dtype=np.float32),
        "terminated": ends & (np.arange(count) < 20),
        "truncations": ends & (np.arange(count) >= 20),
        "returns": np.zeros(3),
        "env": np.array("Ant-v5"),
        "infos": np.array([{"a": 1}] * count, object),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read(tmp_path: Path, save: Any) -> None:
    given = steps()
    save(tmp_path / "a.npz", **given)
    assert find(str(tmp_path / "a.npz")) == "npz"

    buffer, report = imported(str(tmp_path / "a.npz"), tmp_path)

    assert buffer.trajectories.length.tolist() == [10] * 4
    assert buffer.trajectories.terminated.tolist() == [True, True, False, False]
    assert buffer.trajectories.truncated.tolist() == [False, False, True, True]
    assert np.array_equal(buffer["observation"][:], given["obs"])
    assert np.array_equal(buffer["action"][:], given["acts"])
    assert np.array_equal(buffer.final_observation(2)["observation"], given["next_obs"][29])
    assert buffer.metadata == {"env": "Ant-v5", "returns": [0, 0, 0]}
    assert report.fields["infos"].kind == "lost"
    assert report.remarks == []


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_in_any_order_of_bytes_and_dimensions(tmp_path: Path, save: Any) -> None:
    given = steps()
    pictures = np.random.default_rng(1).integers(0, 255, (40, 4, 5, 3), np.uint8)
    save(
        tmp_path / "a.npz",
        **{**given, "obs": np.asfortranarray(given["obs"]), "acts": given["acts"].astype(">i8")},
        pictures=np.asfortranarray(pictures),
    )

    buffer, _ = imported(str(tmp_path / "a.npz"), tmp_path)

    assert np.array_equal(buffer["observation"][:], given["obs"])
    assert np.array_equal(buffer["pictures"][:], pictures)
    assert buffer["action"][:].dtype == np.dtype("<i8")
    assert np.array_equal(buffer["action"][:], given["acts"])


@pytest.mark.parametrize(
    ("more", "lengths"),
    [
        ({"dones": np.arange(1, 41) % 8 == 0}, [8] * 5),
        ({"episode_ends": np.array([7, 40])}, [7, 33]),
        ({"ep_len": np.array([39, 1])}, [39, 1]),
        ({"episode_starts": np.arange(40) % 20 == 0}, [20, 20]),
        ({"episode_index": np.repeat([5, 3], 20)}, [20, 20]),
        ({"episode_ends": np.array([7, 30])}, [40]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_boundaries_that_are_told_in_other_ways(
    tmp_path: Path, more: dict[str, Any], lengths: list[int]
) -> None:
    given = {name: steps()[name] for name in ("obs", "acts")}
    np.savez_compressed(tmp_path / "a.npz", **given, **more)

    buffer, _ = imported(str(tmp_path / "a.npz"), tmp_path)

    assert buffer.trajectories.length.tolist() == lengths


def test_what_we_write_is_what_numpy_loads(tmp_path: Path) -> None:
    given = steps()
    np.savez(tmp_path / "a.npz", **given)
    rs.convert(tmp_path / "a.npz", tmp_path / "a.zarr")

    assert rs.convert(tmp_path / "a.zarr", tmp_path / "b.npz").exact

    with np.load(tmp_path / "b.npz") as file:
        for name, theirs in (("observations", "obs"), ("next_observations", "next_obs"), ("rewards", "rews")):
            assert np.array_equal(file[name], given[theirs])
        assert np.array_equal(file["terminals"] | file["timeouts"], np.arange(1, 41) % 10 == 0)


def _header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _archive(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return str(path)


ACTS = _header((4,)) + bytes(32)
HOSTILE = {
    "a shape that is not there": {"obs.npy": _header((10**12, 3)) + bytes(99)},
    "a negative shape": {"obs.npy": _header((-4, 3)) + bytes(96)},
    "a header without end": {"obs.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b" " * 9000},
    "a header of code": {
        "obs.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + b"__import__('os')".ljust(118)
    },
    "no header": {"obs.npy": b""},
    "another version": {"obs.npy": b"\x93NUMPY\x09\x00" + bytes(100)},
    "objects": {"obs.npy": _header((4,), "|O") + b"cos\nsystem\n"},
    "a long row": {"obs.npy": _header((4, 3)) + bytes(95)},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members_are_one_clear_error(tmp_path: Path, what: str) -> None:
    path = _archive(tmp_path / "a.npz", {**HOSTILE[what], "acts.npy": ACTS})

    with pytest.raises(errors.ReplayStoreError, match=r"a\.npz"):
        rs.convert(path, tmp_path / "a.zarr", format="npz")
    assert not (tmp_path / "a.zarr").exists()


def test_a_bomb_is_read_in_bounded_memory_or_refused(tmp_path: Path) -> None:
    size = 64 << 20
    path = _archive(tmp_path / "a.npz", {"obs.npy": _header((size // 8,)) + bytes(size), "acts.npy": ACTS})

    tracemalloc.start()
    with pytest.raises(errors.FormatError, match="rows"):
        rs.convert(path, tmp_path / "a.zarr")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_what_is_no_file_of_steps_says_so_in_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", obs=np.zeros(3))
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 and nothing else")

    with pytest.raises(errors.FormatError, match="has no actions"):
        rs.convert(tmp_path / "a.npz", tmp_path / "a.zarr")
    with pytest.raises(errors.FormatError, match=r"no sound \.npz file"):
        rs.convert(tmp_path / "b.npz", tmp_path / "a.zarr")
