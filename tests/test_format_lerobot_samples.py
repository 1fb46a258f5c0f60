"""Datasets that LeRobot itself recorded: versions 0.4 and 0.6, videos, and a recording that was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.errors import FormatError
from replaystore.formats.finding import find

pa = pytest.importorskip("pyarrow", reason="it is the extra 'arrow'")
pq = pytest.importorskip("pyarrow.parquet")

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples of other software are not here")


def truth(name: str) -> list[dict[str, Any]]:
    known = dict(np.load(SAMPLES / "truth" / f"{name}.npz"))
    found, begin = [], 0
    for number, length in enumerate(known["ep_len"].tolist()):
        seen = slice(begin + number, begin + number + length)
        one = {key: known[key][begin : begin + length] for key in ("act", "rew", "terminated", "truncated")}
        found.append(one | {key: known[key][seen] for key in known if key.startswith("obs")})
        begin += length
    return found


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("lerobot/cartpole", "cartpole"),
        ("lerobot/cartpole_no_finalize", "cartpole"),
        ("lerobot/dictobs", "dictobs"),
        ("lerobot06-cartpole/v3", "cartpole"),
    ],
)
def test_episodes_are_those_that_were_recorded(tmp_path: Path, folder: str, name: str) -> None:
    assert find(SAMPLES / folder) == "lerobot"
    report = convert(SAMPLES / folder, tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as buffer:
        wanted = truth(name)
        assert buffer.num_trajectories == len(wanted)
        for at, one in enumerate(wanted):
            mine = buffer.trajectory(at)
            for key, values in one.items():
                called = {"act": "action", "rew": "reward", "obs": "observation/state"}.get(key)
                called = called or (f"observation/{key[4:]}" if key.startswith("obs.") else key)
                np.testing.assert_array_equal(mine[called].reshape(values.shape), values)
            assert set(mine["task"].tolist()) == {"balance"}
            assert (mine.info["terminated"], mine.info["truncated"]) == (
                bool(one["terminated"][-1]), bool(one["truncated"][-1]),
            )  # fmt: skip
            assert mine.info["split"] == "train"
            assert mine.final_observation is None
        assert buffer.metadata["lerobot"] == {"fps": 10, "robot_type": "gym"}
    hidden = {"next.done", "timestamp", "frame_index", "episode_index", "index", "task_index"}
    assert {key for key, fate in report.fields.items() if fate.kind == "derived"} == hidden
    assert report.exact


def test_what_was_never_finalised_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"never finalised.*no footer"):
        convert(SAMPLES / "lerobot06-cartpole" / "not-finalized", tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_whole_files_of_what_was_never_finalised_are_read(tmp_path: Path) -> None:
    """The file that was open is lost, and so is meta/episodes."""
    shutil.copytree(SAMPLES / "lerobot06-cartpole" / "v3", tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "meta" / "episodes")
    whole = (tmp_path / "d/data/chunk-000/file-000.parquet").read_bytes()
    (tmp_path / "d/data/chunk-000/file-001.parquet").write_bytes(whole[:-100])

    report = convert(tmp_path / "d", tmp_path / "a.zarr")
    assert (report.steps, report.trajectories) == (88, 6)
    assert report.rest["steps"].kind == "lost"
    assert any("1 of 2 files" in remark for remark in report.remarks)
    assert any("no meta/episodes" in remark for remark in report.remarks)


def test_frames_of_a_video_are_read_by_their_times(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="it is the extra 'video'")
    convert(SAMPLES / "lerobot06-cartpole" / "video", tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as buffer:
        seen = buffer["observation/image"][:]
    y, x = np.mgrid[0:32, 0:32]
    for at in range(5):
        drawn = np.stack([(x * 8) % 256, (y * 8) % 256, (x + y + at * 20) % 256], -1)
        others = [np.abs(seen[other].astype(int) - drawn).mean() for other in range(5)]
        assert int(np.argmin(others)) == at
        assert others[at] < 20


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES / "lerobot" / "cartpole", tmp_path / "d")
    return tmp_path / "d"


def rewritten(path: Path, change: Any) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def test_version_2_has_a_file_an_episode(copied: Path, tmp_path: Path) -> None:
    table = pq.read_table(copied / "data/chunk-000/file-000.parquet")
    number = table["episode_index"].to_numpy()
    for episode in range(6):
        rows = table.filter(pa.array(number == episode))
        pq.write_table(rows, copied / f"data/chunk-000/episode_{episode:06d}.parquet")
    (copied / "data/chunk-000/file-000.parquet").unlink()
    shutil.rmtree(copied / "meta" / "episodes")
    (copied / "meta" / "tasks.parquet").unlink()
    (copied / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "balance"}\n')
    info = json.loads((copied / "meta/info.json").read_text())
    (copied / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))

    report = convert(copied, tmp_path / "a.zarr")
    assert (report.steps, report.trajectories, report.remarks) == (88, 6, [])
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert set(buffer.trajectory(3)["task"].tolist()) == {"balance"}


def test_what_does_not_follow_from_others_is_kept(copied: Path, tmp_path: Path) -> None:
    """Times of their own, frames that are not counted from 0, another `next.done`."""

    def change(table: Any) -> Any:
        for name, values in {
            "timestamp": np.arange(88, dtype=np.float32) * 3,
            "frame_index": np.arange(88),
            "next.done": np.zeros(88, np.bool_),
        }.items():
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, pa.array(values))
        return table

    rewritten(copied / "data/chunk-000/file-000.parquet", change)
    convert(copied, tmp_path / "a.zarr")
    with rs.open(tmp_path / "a.zarr") as buffer:
        np.testing.assert_array_equal(buffer["timestamp"][:], np.arange(88, dtype=np.float32) * 3)
        np.testing.assert_array_equal(buffer["frame_index"][:], np.arange(88))
        assert not buffer["next.done"][:].any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codebase_version": "v1.6"}, "version v1.6"),
        ({"codebase_version": 3}, "version"),
        ({"fps": 0}, "'fps'"),
        ({"fps": "10"}, "'fps'"),
        ({"features": {}}, "'features'"),
        ({"features": {"a": {"dtype": "float32"}}}, "'a'"),
        ({"features": {"a": {"dtype": "float32", "shape": [1 << 40]}}}, "too large"),
        ({"features": {"a": {"dtype": "image", "shape": [3]}}}, "three dimensions"),
    ],
)
def test_information_that_cannot_be_is_one_clear_line(
    copied: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    info = json.loads((copied / "meta/info.json").read_text())
    (copied / "meta/info.json").write_text(json.dumps(info | change))

    with pytest.raises(FormatError, match=said):
        convert(copied, tmp_path / "a.zarr", source_format="lerobot")
    assert not (tmp_path / "a.zarr").exists()


def test_a_dataset_without_its_data_is_no_empty_one(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "data")
    with pytest.raises(FormatError, match="there are no rows of data"):
        convert(copied, tmp_path / "a.zarr", source_format="lerobot")
    assert not (tmp_path / "a.zarr").exists()


def test_data_that_do_not_fit_are_one_clear_line(copied: Path, tmp_path: Path) -> None:
    data = copied / "data/chunk-000/file-000.parquet"
    whole = data.read_bytes()

    def column(name: str, values: Any) -> Any:
        return lambda table: table.set_column(table.schema.get_field_index(name), name, pa.array(values))

    for change, said in (
        (column("task_index", np.full(88, 3)), "no task 3"),
        (column("action", ["x"] * 88), "expected numbers"),
        (column("action", np.zeros(88, np.float64)), "holds float64"),
        (column("episode_index", [0, 1] * 44), "do not lie together"),
        (lambda table: table.drop_columns(["action"]), "no column 'action'"),
    ):
        data.write_bytes(whole)
        rewritten(data, change)
        with pytest.raises(FormatError, match=said):
            convert(copied, tmp_path / "a.zarr")
    data.write_bytes(whole)
    (copied / "meta/info.json").write_text("{" * 10)
    with pytest.raises(FormatError):
        convert(copied, tmp_path / "a.zarr", source_format="lerobot")
