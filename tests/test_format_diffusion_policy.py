"""Replay buffers of diffusion_policy: folders and zip files of Zarr."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import replaystore as rs
from replaystore.errors import FormatError, ReplayStoreError, UnsupportedError
from replaystore.formats.finding import find
from replaystore.testing import samples
from replaystore.testing.formats import FormatSuite

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"


class TestFolder(FormatSuite):
    name = "diffusion_policy"
    filename = "buffer.zarr"
    overhead = 16 << 20  # a chunk of each array


class TestZip(FormatSuite):
    name = "diffusion_policy"
    filename = "buffer.zarr.zip"
    overhead = 16 << 20


# --- what its own software wrote


def truth(name: str) -> dict[str, np.ndarray[Any, Any]]:
    if not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    return dict(np.load(SAMPLES / "truth" / f"{name}.npz"))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["cartpole", "dictobs"])
def test_a_sample_has_the_steps_of_the_truth(name: str, tmp_path: Path, *, zipped: bool) -> None:
    known = truth(name)
    path = SAMPLES / "diffusion_policy" / f"{name}.zarr"
    if zipped:
        packed = shutil.make_archive(str(tmp_path / f"{name}.zarr"), "zip", path)
        with zipfile.ZipFile(packed) as file, zipfile.ZipFile(tmp_path / "b.zarr.zip", "w") as stored:
            for member in file.namelist():
                if not member.endswith("/"):
                    stored.writestr(member, file.read(member))
        path = tmp_path / "b.zarr.zip"
    assert find(str(path)) == "diffusion_policy"

    report = rs.convert(path, tmp_path / "a.zarr")

    assert report.exact, report.notes
    assert rs.verify(tmp_path / "a.zarr").problems == []
    keep = np.ones(len(known["obs" if "obs" in known else "obs.obs"]), np.bool_)
    keep[np.cumsum(known["ep_len"] + 1) - 1] = False
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert buffer.trajectories["length"].tolist() == known["ep_len"].tolist()
        assert not buffer.trajectories["terminated"].any()
        assert (buffer["action"][:][:, 0] == known["act"]).all()
        if name == "cartpole":
            np.testing.assert_array_equal(buffer["observation"][:], known["obs"][keep])
        else:
            np.testing.assert_array_equal(buffer["observation/obs_obs"][:], known["obs.obs"][keep])
            np.testing.assert_array_equal(buffer["observation/obs_time"][:], known["obs.time"][keep])


def test_our_own_stores_are_none_of_it(tmp_path: Path) -> None:
    for name in ("a.zarr", "b.h5"):
        with rs.create(tmp_path / name, samples.small()) as buffer:
            buffer.append(samples.columns(samples.small(), 5, 0))
        assert find(str(tmp_path / name)) is None
    rs.convert(tmp_path / "a.zarr", tmp_path / "c.zarr.zip")
    assert find(str(tmp_path / "c.zarr.zip")) is None


# --- what is not whole


def made(path: Path, ends: list[int], **arrays: Any) -> str:
    """A buffer as other software makes one."""
    root = zarr.create_group(str(path), zarr_format=2)
    for name, rows in {**arrays, "meta/episode_ends": np.array(ends, np.int64)}.items():
        key = name if "/" in name else f"data/{name}"
        array = root.create_array(
            key, shape=rows.shape, chunks=tuple(max(1, size) for size in rows.shape), dtype=rows.dtype
        )
        array[...] = rows
    return str(path)


def rows(count: int, width: int = 2) -> np.ndarray[Any, Any]:
    return np.arange(1, count * width + 1, dtype=np.float32).reshape(count, width)


@pytest.mark.parametrize(
    ("ends", "state", "action", "lengths", "said"),
    [
        ([3, 7], 9, 9, [3, 4], "2 rows after the last episode"),
        ([3, 7], 9, 7, [3, 4], "2 rows after the last episode"),
        ([3, 7, 0], 9, 9, [3, 4], "2 rows after the last episode"),
        ([3, 7, 9], 7, 9, [3, 4], "1 episodes of 2 steps"),
        ([3, 7, 9], 8, 8, [3, 4], "1 episodes of 2 steps"),
        ([3, 3, 7], 7, 7, [3, 4], ""),
        ([], 4, 4, [], "4 rows after the last episode"),
    ],
)
def test_what_is_whole_is_recovered(
    tmp_path: Path, ends: list[int], state: int, action: int, lengths: list[int], said: str
) -> None:
    """Of a recording that was killed between its arrays and the end of the episode."""
    path = made(tmp_path / "a", ends, state=rows(state), action=rows(action))

    report = rs.convert(path, tmp_path / "b.zarr")

    assert said in str(report.rest.get("steps", ""))
    with rs.open(tmp_path / "b.zarr") as buffer:
        assert buffer.trajectories["length"].tolist() == lengths
        np.testing.assert_array_equal(buffer["observation"][:], rows(state)[: sum(lengths)])
    if said:
        with pytest.raises(UnsupportedError, match="would not be exact"):
            rs.convert(path, tmp_path / "c.zarr", strict=True)


def test_an_array_of_few_rows_is_lost_and_not_the_others(tmp_path: Path) -> None:
    path = made(tmp_path / "a", [3, 7, 9], state=rows(9), action=rows(9), late=rows(2))
    report = rs.convert(path, tmp_path / "b.zarr")
    assert report.fields["data/late"].kind == "lost"
    assert report.steps == 9


def test_names_and_columns_of_episodes(tmp_path: Path) -> None:
    arrays = {
        "actions": rows(4),
        "reward": np.arange(4.0),
        "terminated": np.array([0, 0, 0, 1], np.bool_),
        "truncated": np.zeros(4, np.uint8),
        "done": np.zeros(4, np.uint8),
        "camera0_rgb": np.zeros((4, 2, 2, 3), np.uint8),
        "eef_pos": rows(4),
        "meta/success": np.array([True, False]),
        "meta/length": np.array([1, 2], np.int32),
        "meta/intrinsics": np.zeros((3, 3)),
    }
    report = rs.convert(made(tmp_path / "a", [2, 4], **arrays), tmp_path / "b.zarr")

    assert "(3, 3)" in report.rest["meta/intrinsics"].how
    with rs.open(tmp_path / "b.zarr") as buffer:
        roles = {name: declared.role for name, declared in buffer.schema.fields.items()}
        assert roles == {
            "action": "action",
            "data/truncated": "extra",
            "done": "extra",
            "observation/camera0_rgb": "observation",
            "observation/eef_pos": "observation",
            "reward": "reward",
            "terminated": "terminated",
        }
        assert buffer.trajectories["success"].tolist() == [True, False]
        assert buffer.trajectories["meta_length"].tolist() == [1, 2]


def test_what_other_software_has_gone_on_with_is_not_what_was_noted(tmp_path: Path) -> None:
    """Somebody appended an episode, or changed what there is: the notes beside it are of another file."""
    with rs.create(tmp_path / "a.zarr", samples.small()) as buffer:
        buffer.append(samples.columns(samples.small(), 5, 0), ends=[4], split="train")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b", target_format="diffusion_policy")
    root = zarr.open_group(str(tmp_path / "b"), mode="r+")
    ends: Any = root["meta/episode_ends"]
    ends[...] = 4

    report = rs.convert(tmp_path / "b", tmp_path / "c.zarr")

    assert any("gone on with" in remark for remark in report.remarks)
    with rs.open(tmp_path / "c.zarr") as buffer:
        assert buffer.trajectories["split"].tolist() == [""]
        assert len(buffer) == 4


# --- what must not be believed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("meta/episode_ends", {"shape": [1 << 50]}),
        ("meta/episode_ends", {"shape": [1 << 50], "chunks": [1 << 20]}),
        ("meta/episode_ends", {"dtype": "<f8"}),
        ("meta/episode_ends", {"shape": [2, 1], "chunks": [2, 1]}),
        ("data/state", {"dtype": "|O", "filters": [{"id": "pickle"}]}),
        ("data/state", {"compressor": {"id": "imagecodecs_jpeg2k", "level": 50}}),
        ("data/state", {"compressor": {"id": "imagecodecs_jpegxl"}}),
        ("data/state", {"shape": [7, 0], "chunks": [7, 1]}),
    ],
)
def test_lies_are_one_error(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    path = made(tmp_path / "a", [3, 7], state=rows(7), action=rows(7))
    metadata = json.loads((tmp_path / "a" / name / ".zarray").read_text())
    (tmp_path / "a" / name / ".zarray").write_text(json.dumps({**metadata, **change}))
    with pytest.raises((FormatError, UnsupportedError)) as caught:
        rs.convert(path, tmp_path / "b.zarr", format="diffusion_policy")
    assert not (tmp_path / "b.zarr").exists()
    if "imagecodecs" in str(change):
        assert "needs imagecodecs" in str(caught.value)


def test_rows_of_which_hardly_any_are_stored_are_not_made(tmp_path: Path) -> None:
    path = made(tmp_path / "a", [1 << 40], state=rows(7), action=rows(7))
    for name in ("state", "action"):
        where = tmp_path / "a" / "data" / name / ".zarray"
        where.write_text(json.dumps({**json.loads(where.read_text()), "shape": [1 << 40, 2]}))
    with pytest.raises(FormatError, match="hardly any"):
        rs.convert(path, tmp_path / "b.zarr")


@pytest.mark.parametrize("ends", [[7, 3], [-1, 7], [3, -7]])
def test_episodes_that_end_before_they_begin_are_one_error(tmp_path: Path, ends: list[int]) -> None:
    with pytest.raises(FormatError, match="damaged"):
        rs.convert(made(tmp_path / "a", ends, state=rows(7), action=rows(7)), tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("schema", {"fields": 7}),
        ("schema", None),
        ("splits", [1]),
        ("splits", []),
        ("metadata", []),
        ("environment", 7),
        ("environment", {"id": 7}),
        ("keys", {"action": []}),
        ("keys", 3),
    ],
)
def test_notes_that_are_damaged_are_left_out_or_one_error(tmp_path: Path, key: str, value: Any) -> None:
    with rs.create(tmp_path / "a.zarr", samples.small()) as buffer:
        buffer.append(samples.columns(samples.small(), 5, 0))
    rs.convert(tmp_path / "a.zarr", tmp_path / "b", target_format="diffusion_policy")
    where = tmp_path / "b" / "replaystore" / ".zattrs"
    where.write_text(json.dumps({**json.loads(where.read_text()), key: value}))
    try:
        rs.convert(tmp_path / "b", tmp_path / "c.zarr")
    except ReplayStoreError:
        assert not (tmp_path / "c.zarr").exists()
    else:
        assert rs.verify(tmp_path / "c.zarr").problems == []
