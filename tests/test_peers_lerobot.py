"""What replaystore writes opens in LeRobot itself: values, episodes, tasks, pictures, statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.schema.fields import Field, Schema

pytest.importorskip("lerobot", reason="it is LeRobot that opens them")

SCHEMA = Schema(
    {
        "observation/state": Field("float32", (4,), "observation"),
        "observation/camera": Field("uint8", (8, 6, 3), "observation"),
        "observation/grid": Field("int16", (2, 3), "observation"),
        "action": Field("float32", (2,), "action"),
        "reward": Field("float32", (), "reward"),
        "terminated": Field("bool", (), "terminated"),
        "truncated": Field("bool", (), "truncated"),
        "task": Field.of_text("extra"),
        "note": Field.of_text("extra"),
        "info/tokens": Field("int32", (None,), "info"),
        "info/speed": Field("float16", (), "info"),
    }
)
LENGTHS = (5, 1, 7)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is looked for elsewhere."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def episode(number: int, length: int) -> dict[str, Any]:
    draw = np.random.default_rng(number)
    return {
        "observation/state": draw.random((length, 4), np.float32),
        "observation/camera": draw.integers(0, 256, (length, 8, 6, 3), np.uint8),
        "observation/grid": draw.integers(-9, 9, (length, 2, 3)).astype(np.int16),
        "action": draw.random((length, 2), np.float32),
        "reward": draw.random(length, np.float32),
        "terminated": np.arange(length) == (length - 1 if number != 1 else -1),
        "truncated": np.arange(length) == (length - 1 if number != 0 else -1),
        "task": [("pick", "place")[number % 2]] * length,
        "note": [f"é{at}" for at in range(length)],
        "info/tokens": [list(range(at)) for at in range(length)],
        "info/speed": draw.random(length).astype(np.float16),
    }


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "a.zarr")
    with rs.create(path, SCHEMA, metadata={"lerobot": {"fps": 20, "robot_type": "arm"}}) as buffer:
        for number, length in enumerate(LENGTHS):
            rows = episode(number, length)
            final = {name: rows[f"observation/{name}"][:1] for name in ("state", "camera", "grid")}
            split = ("train", "train", "test")[number]
            buffer.append(rows, final_observation=final, seed=number, split=split, ends=[length - 1])
    return path


def opened(folder: Path, **more: Any) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("tests/written", root=folder, **more)


@pytest.mark.filterwarnings("ignore")
def test_a_dataset_opens_in_lerobot(store: str, tmp_path: Path) -> None:
    report = convert(store, tmp_path / "d", target_format="lerobot", strict=True)
    assert report.exact

    dataset = opened(tmp_path / "d")
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (3, sum(LENGTHS), 20)
    assert dataset.meta.robot_type == "arm"
    assert dataset.meta.info["splits"] == {"train": "0:2", "test": "2:3"}
    at = 0
    for number, length in enumerate(LENGTHS):
        rows = episode(number, length)
        about = dataset.meta.episodes[number]
        assert (about["length"], about["dataset_from_index"], about["dataset_to_index"]) == (
            length, at, at + length,
        )  # fmt: skip
        assert about["tasks"] == [("pick", "place")[number % 2]]
        for step in range(length):
            item = dataset[at]
            at += 1
            for feature, name in (
                ("observation.state", "observation/state"),
                ("observation.grid", "observation/grid"),
                ("action", "action"),
                ("next.reward", "reward"),
                ("next.terminated", "terminated"),
                ("next.truncated", "truncated"),
            ):
                np.testing.assert_array_equal(item[feature].numpy(), rows[name][step])
            picture = (item["observation.camera"].numpy() * 255).round().astype(np.uint8)
            np.testing.assert_array_equal(picture.transpose(1, 2, 0), rows["observation/camera"][step])
            assert item["next.done"].item() == (step == length - 1)
            assert (item["task"], item["note"]) == (rows["task"][step], rows["note"][step])
            assert item["timestamp"].item() == pytest.approx(step / 20)


@pytest.mark.filterwarnings("ignore")
def test_statistics_are_those_of_the_values(store: str, tmp_path: Path) -> None:
    convert(store, tmp_path / "d", target_format="lerobot")
    stats = opened(tmp_path / "d").meta.stats

    values = np.concatenate([episode(at, length)["action"] for at, length in enumerate(LENGTHS)])
    np.testing.assert_allclose(stats["action"]["mean"], values.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(stats["action"]["std"], values.std(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_array_equal(stats["action"]["min"], values.min(axis=0))
    np.testing.assert_array_equal(stats["action"]["max"], values.max(axis=0))
    assert stats["action"]["count"] == [sum(LENGTHS)]
    assert stats["observation.camera"]["mean"].shape == (3, 1, 1)


@pytest.mark.filterwarnings("ignore")
def test_windows_of_time_and_chosen_episodes(store: str, tmp_path: Path) -> None:
    convert(store, tmp_path / "d", target_format="lerobot")

    dataset = opened(tmp_path / "d", delta_timestamps={"action": [-0.05, 0.0]}, episodes=[2])
    assert len(dataset) == LENGTHS[2]
    item = dataset[1]
    np.testing.assert_array_equal(item["action"].numpy(), episode(2, LENGTHS[2])["action"][:2])


@pytest.mark.filterwarnings("ignore")
def test_what_lerobot_records_is_read(tmp_path: Path) -> None:
    """And goes back to it."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "observation.images.top": {
            "dtype": "image", "shape": (8, 6, 3), "names": ["height", "width", "channels"],
        },
    }  # fmt: skip
    made = LeRobotDataset.create(
        "tests/made", fps=10, features=features, root=tmp_path / "a", use_videos=False
    )
    wanted = []
    for number in range(2):
        for step in range(4):
            draw = np.random.default_rng([number, step])
            frame = {
                "action": draw.random(2, np.float32),
                "observation.images.top": draw.integers(0, 256, (8, 6, 3), np.uint8),
            }
            wanted.append(frame)
            made.add_frame(frame | {"task": f"task {number}"})
        made.save_episode()
    made.finalize()

    convert(tmp_path / "a", tmp_path / "b.zarr")
    with rs.open(tmp_path / "b.zarr") as buffer:
        np.testing.assert_array_equal(buffer["action"][:], np.stack([one["action"] for one in wanted]))
        pictures = np.stack([one["observation.images.top"] for one in wanted])
        np.testing.assert_array_equal(buffer["observation/images/top"][:], pictures)
        assert buffer.trajectory(1)["task"].tolist() == ["task 1"] * 4
    convert(tmp_path / "b.zarr", tmp_path / "c", target_format="lerobot")
    again = opened(tmp_path / "c")
    assert (again.num_episodes, again.fps) == (2, 10)
    assert again.meta.features["action"]["names"] == ["x", "y"]
    assert again[5]["task"] == "task 1"


@pytest.mark.filterwarnings("ignore")
def test_what_others_added_is_read_without_what_is_beside(store: str, tmp_path: Path) -> None:
    """Where LeRobot has changed a dataset, what replaystore said of it is left out, and a remark says so."""
    from lerobot.datasets.dataset_tools import delete_episodes

    fields = ["observation/state", "action", "reward", "terminated", "truncated", "task"]
    convert(store, tmp_path / "d", target_format="lerobot", fields=fields)  # it cannot delete with others
    dataset = opened(tmp_path / "d")
    delete_episodes(dataset, [1], output_dir=tmp_path / "e", repo_id="tests/less")

    report = convert(tmp_path / "e", tmp_path / "b.zarr")
    assert report.trajectories == 2
