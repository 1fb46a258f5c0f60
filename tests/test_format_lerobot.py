"""Datasets of LeRobot: what replaystore writes, and reads again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.errors import FormatError
from replaystore.schema.fields import Field, Schema
from replaystore.testing.formats import FormatSuite

pytest.importorskip("pyarrow", reason="it is the extra 'arrow'")
pytest.importorskip("PIL", reason="it is the extra 'images'")

PICTURES = Schema(
    {
        "observation/camera": Field("uint8", (4, 3, 3), "observation"),
        "observation/depth": Field("uint8", (4, 3, 1), "observation"),
        "observation/time": Field("int32", (1,), "observation"),
        "observation/mission": Field.of_text("observation"),
        "action": Field("float64", (2, 2), "action"),
        "task": Field.of_text("extra"),
        "index": Field("complex64", (), "extra"),
        "timestamp": Field("float32", (), "extra"),
        "terminated": Field("bool", (), "terminated"),
        "truncated": Field("bool", (), "truncated"),
    }
)


class TestLeRobot(FormatSuite):
    name = "lerobot"
    filename = "dataset"
    memory = 24.0
    schemas = {**FormatSuite.schemas, "pictures": PICTURES}  # noqa: RUF012


def recorded(path: Path, *, splits: tuple[str, ...] = ("", "")) -> str:
    schema = Schema(
        {
            "observation": Field("float32", (2,), "observation"),
            "action": Field("int64", (), "action"),
            "truncated": Field("bool", (), "truncated"),
        }
    )
    with rs.create(path, schema) as buffer:
        for number, split in enumerate(splits):
            rows = {
                "observation": np.full((3, 2), number, np.float32),
                "action": np.arange(3),
                "truncated": np.arange(3) == 2,
            }
            buffer.append(rows, split=split, final_observation=np.zeros(2, np.float32))
    return str(path)


def test_names_and_splits_are_those_that_lerobot_has(tmp_path: Path) -> None:
    store = recorded(tmp_path / "a.zarr", splits=("train", "test", "train", "val", "val"))
    report = convert(store, tmp_path / "d", target_format="lerobot")

    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    assert list(info["features"])[:4] == ["observation.state", "action", "next.truncated", "next.done"]
    assert info["splits"] == {"test": "1:2", "val": "3:5"}
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 5, 15)
    assert any("30 frames a second" in remark for remark in report.remarks)
    stats = json.loads((tmp_path / "d/meta/stats.json").read_text())
    assert stats["observation.state"]["mean"] == [2.0, 2.0]


def test_what_others_have_changed_since_is_read_as_theirs(tmp_path: Path) -> None:
    convert(recorded(tmp_path / "a.zarr"), tmp_path / "d", target_format="lerobot")
    place = tmp_path / "d/meta/info.json"
    info = json.loads(place.read_text())
    place.write_text(json.dumps(info | {"total_episodes": 7}))

    report = convert(tmp_path / "d", tmp_path / "b.zarr")
    assert any("others have changed the dataset" in remark for remark in report.remarks)
    with rs.open(tmp_path / "b.zarr") as buffer:
        assert "observation/state" in buffer


def test_files_beside_it_that_are_missing_or_damaged_are_one_clear_line(tmp_path: Path) -> None:
    convert(recorded(tmp_path / "a.zarr"), tmp_path / "d", target_format="lerobot")
    for name in ("trajectories", "final_observations"):
        place = tmp_path / f"d/meta/replaystore/{name}.parquet"
        whole = place.read_bytes()
        place.write_bytes(whole[:-9])
        with pytest.raises(FormatError):
            convert(tmp_path / "d", tmp_path / "b.zarr")
        place.write_bytes(whole)
    own = tmp_path / "d/meta/replaystore.json"
    said = json.loads(own.read_text())
    for change in ({"version": 2}, {"ways": {}}, {"names": 3}, {"schema": {}}, {"columns": {"a": "object"}}):
        own.write_text(json.dumps(said | change))
        with pytest.raises(FormatError):
            convert(tmp_path / "d", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", {}),
        ("names", {"observation": ["a"]}),
        ("columns", {"score": ["float64"]}),
        ("ways", {"observation": {"values": 1}}),
        ("flags", [["truncated"]]),
    ],
)
def test_what_lies_beside_and_is_spoilt_is_damage(tmp_path: Path, key: str, value: object) -> None:
    path = recorded(tmp_path / "store.zarr")
    convert(path, tmp_path / "dataset", target_format="lerobot")
    own = tmp_path / "dataset" / "meta" / "replaystore.json"
    own.write_text(json.dumps({**json.loads(own.read_text()), key: value}))

    with pytest.raises(FormatError, match=r"replaystore\.json is damaged"):
        convert(tmp_path / "dataset", tmp_path / "again.zarr", source_format="lerobot")
    assert not (tmp_path / "again.zarr").exists()
