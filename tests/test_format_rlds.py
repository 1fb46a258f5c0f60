"""Datasets of TFDS: what every format must do, what TFDS itself wrote, and what others may write."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlds_files import (
    MARKS,
    STEPS,
    dataset,
    episode,
    example,
    image,
    inside,
    members,
    number,
    record,
    sequence,
    tensor,
    text,
)

import replaystore as rs
from replaystore import errors
from replaystore.testing import FormatSuite
from replaystore.testing.contents import final_by_field

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"


class TestRlds(FormatSuite):
    """Written and read without TensorFlow."""

    name = "rlds"
    filename = "cartpole.rlds"


# --- what TFDS wrote


@pytest.mark.parametrize("name", ["cartpole", "dictobs"])
def test_a_dataset_of_tfds_is_what_was_recorded(name: str, tmp_path: Path) -> None:
    if not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    facts = json.loads((SAMPLES / "rlds" / "expected.json").read_text())[name]
    report = rs.convert(SAMPLES / "rlds/data" / f"peers_{name}" / "1.0.0", tmp_path / "a.zarr", strict=True)
    truth = np.load(SAMPLES / "truth" / f"{name}.npz")
    lengths = truth["ep_len"]

    assert report.trajectories == facts["episodes"]
    with rs.open(tmp_path / "a.zarr") as buffer:
        table = buffer.trajectories
        assert table["length"].tolist() == facts["steps_excl_last"]
        assert table["terminated"].tolist() == facts["is_terminal_last"]
        assert (table["truncated"] == ~table["terminated"]).all()
        assert set(table["split"]) == {"train"}
        for number, seed in enumerate(table["seed"].tolist()):
            (at,) = np.flatnonzero(truth["seed"] == seed)
            first, begin, length = lengths[:at].sum() + at, lengths[:at].sum(), lengths[at]
            found = buffer.trajectory(number)
            assert (found.columns["action"] == truth["act"][begin : begin + length]).all()
            assert (found.columns["reward"] == truth["rew"][begin : begin + length]).all()
            assert table["episode_id"][number] == at
            for key in [key for key in truth if key.split(".")[0] == "obs"]:
                path = key.replace(".", "/").replace("obs", "observation", 1)
                rows = truth[key][first : first + length + 1]
                assert found.columns[path].dtype == rows.dtype
                assert (found.columns[path] == rows[:-1]).all()
                assert (final_by_field(found)[path] == rows[-1]).all()


# --- what others may write


def read(path: Path, tmp_path: Path) -> tuple[rs.Report, rs.Buffer]:
    report = rs.convert(path, tmp_path / "read.zarr")
    assert rs.verify(tmp_path / "read.zarr").problems == []
    return report, rs.open(tmp_path / "read.zarr")


def test_splits_are_files(tmp_path: Path) -> None:
    made = {"train": [episode(4, 1), episode(2, 2, terminal=False)], "test": [episode(3, 3)]}
    report, buffer = read(dataset(tmp_path / "made/1.0.0", made), tmp_path)

    assert report.exact
    table = buffer.trajectories
    assert table["split"].tolist() == ["train", "train", "test"]
    assert table["length"].tolist() == [3, 1, 2]
    assert table["terminated"].tolist() == [True, False, True]
    assert table["truncated"].tolist() == [False, True, False]
    assert buffer["discount"][:].dtype == np.float32
    assert (buffer["action"][:3] == episode(4, 1)["steps/action"][:3]).all()


def test_the_folder_above_a_version_will_do(tmp_path: Path) -> None:
    dataset(tmp_path / "all/made/config/1.0.0", {"train": [episode(4)]})

    assert rs.convert(tmp_path / "all/made", tmp_path / "a.zarr", format="rlds").steps == 3
    with pytest.raises(errors.FormatError, match=r"holds no features\.json"):
        rs.convert(tmp_path / "all", tmp_path / "b.zarr", source_format="rlds")


def test_what_is_not_flagged_was_cut_off(tmp_path: Path) -> None:
    made = {"train": [episode(4, last=False, terminal=False), episode(3)]}
    report, buffer = read(dataset(tmp_path / "made", made), tmp_path)

    assert buffer.trajectories["length"].tolist() == [4, 2]
    assert not buffer.trajectories["truncated"][0]
    assert buffer.trajectory(0).final_observation is None
    assert "1 trajectories have no last step that is flagged" in report.notes[0]


def test_several_trajectories_of_a_record_are_told_apart(tmp_path: Path) -> None:
    first, second = episode(4, 1), episode(3, 2, terminal=False)
    both = {key: np.concatenate([first[key], second[key]]) for key in first}
    report, buffer = read(dataset(tmp_path / "made", {"train": [both]}), tmp_path)

    assert buffer.trajectories["length"].tolist() == [3, 2]
    assert buffer.trajectories["terminated"].tolist() == [True, False]
    assert (buffer.trajectory(1).final_observation == second["steps/observation"][-1].astype("f4")).all()
    assert any("hold several trajectories" in note for note in report.notes)


def test_trajectories_without_steps_are_left_out_and_reported(tmp_path: Path) -> None:
    nothing = {key: values[:0] for key, values in episode(3).items()}
    report, buffer = read(dataset(tmp_path / "made", {"train": [nothing, episode(1), episode(3)]}), tmp_path)

    assert len(buffer) == 2
    assert report.rest["trajectories"].kind == "lost"


def test_what_stands_beside_a_last_observation_is_reported_as_lost(tmp_path: Path) -> None:
    given = episode(4)
    given["steps/reward"][-1] = 1.0
    given["steps/action"][-1] = 7
    made = dataset(tmp_path / "made", {"train": [given, episode(3, 1)]})
    report, buffer = read(made, tmp_path)

    assert len(buffer) == 5
    assert report.rest["last_step"].kind == "lost"
    assert report.rest["last_step"].how.endswith("action in 1, reward in 1")
    with pytest.raises(errors.UnsupportedError, match="would not be exact"):
        rs.convert(made, tmp_path / "b.zarr", strict=True)


def test_features_of_every_kind(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    words = ["pick it up", "é語", ""]
    given = episode(3) | {
        "steps/observation/image": episode(3)["steps/observation"],
        "steps/observation/wide": [row.tobytes() for row in values],
        "steps/observation/small": [zlib.compress(row.astype(np.int16).tobytes()) for row in values],
        "steps/language_instruction": words,
        "steps/tokens/ragged_flat_values": np.array([1, -2, 300, 4, 5]),
        "steps/tokens/ragged_row_lengths_0": np.array([2, 0, 3]),
        "steps/pairs/ragged_flat_values": np.arange(6.0),
        "steps/pairs/ragged_row_lengths_0": np.array([2, 2, 2]),
        "steps/points": [values[:2].tobytes(), b"", values.tobytes()],
        "steps/unsigned": np.array([2**64 - 1, 0, 5], np.uint64).view(np.int64),
        "episode_metadata/file_path": ["somewhere"],
        "episode_metadata/success": np.array([True]),
        "episode_metadata/seed": np.array([12]),
    }
    del given["steps/observation"]
    steps = {
        **{name: STEPS[name] for name in ("action", "reward", "discount")},
        **MARKS,
        "observation": members(
            {
                "image": tensor("float32", (2,)),
                "wide": tensor("float64", (4,), "bytes"),
                "small": tensor("int16", (4,), "zlib"),
            }
        ),
        "language_instruction": text(),
        "tokens": sequence(tensor("int32")),
        "pairs": sequence(tensor("float32"), length=2),
        "points": tensor("float64", (-1, 4), "bytes"),
        "unsigned": tensor("uint64"),
        "strange": {"pythonClassName": "my.Own", "pythonObject": {}},
    }
    about = {"file_path": text(), "success": tensor("bool"), "seed": tensor("int32")}
    report, buffer = read(dataset(tmp_path / "made", {"train": [given]}, steps, about), tmp_path)

    assert (buffer["observation/wide"][:] == values[:2]).all()
    assert buffer["observation/small"][:].dtype == np.int16
    assert (buffer["observation/small"][:] == values[:2]).all()
    assert buffer["language_instruction"][:].tolist() == words[:2]
    assert buffer["tokens"][:].tolist() == [[1, -2], []]
    assert buffer["tokens"][:].dtype == np.int32
    assert buffer["pairs"][:].tolist() == [[0, 1], [2, 3]]
    assert [value.shape for value in buffer["points"][:]] == [(2, 4), (0, 4)]
    assert buffer["unsigned"][:].tolist() == [2**64 - 1, 0]
    assert buffer.trajectories["seed"].tolist() == [12]
    assert buffer.trajectories["success"].tolist() == [True]
    assert report.fields["strange"].kind == "lost"
    assert "is left out: language_instruction" in report.remarks[0]
    assert report.rest["file_path"].kind == "lost"


def test_features_json_of_older_versions(tmp_path: Path) -> None:
    made = dataset(tmp_path / "made", {"train": [episode(4)]})

    def older(given: dict[str, Any]) -> dict[str, Any]:
        (content,) = [value for key, value in given.items() if key != "pythonClassName"]
        if "features" in content:
            content = {key: older(inner) for key, inner in content["features"].items()}
        elif "feature" in content:
            content = {"feature": older(content["feature"]), "length": None}
        else:
            shape = [int(length) for length in content["shape"].get("dimensions", [])]
            content = {"shape": shape, "dtype": content["dtype"], "encoding": "none"}
        return {"type": given["pythonClassName"], "content": content}

    features = json.loads((made / "features.json").read_text())
    (made / "features.json").write_text(json.dumps(older(features)))
    _, buffer = read(made, tmp_path)

    assert buffer.schema.fields["observation"].shape == (2,)
    assert len(buffer) == 3


def test_files_that_are_not_there_are_reported(tmp_path: Path) -> None:
    made = dataset(tmp_path / "made", {"train": [episode(4)], "test": [episode(3)]})
    file = made / "made-train.tfrecord-00000-of-00001"
    file.rename(made / "made-train.tfrecord-00001-of-00003")
    report, buffer = read(made, tmp_path)

    assert "2 of 3 files of 'train'" in report.rest["trajectories"].how
    assert len(buffer) == 5
    (made / "made-test.tfrecord-00000-of-00001").unlink()
    assert "1 of 1 files of 'test'" in rs.convert(made, tmp_path / "b.zarr").rest["trajectories"].how


def test_files_may_be_numbered_alone(tmp_path: Path) -> None:
    """As those of a writer are that does not know how many it will make."""
    made = dataset(tmp_path / "made", {"train": [episode(4)]})
    (made / "made-train.tfrecord-00000-of-00001").rename(made / "made-train.tfrecord-00000")

    assert rs.convert(made, tmp_path / "a.zarr").exact
    info = json.loads((made / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["1", "5"]
    (made / "dataset_info.json").write_text(json.dumps(info))
    assert "1 of 2 files" in rs.convert(made, tmp_path / "b.zarr").rest["trajectories"].how


def test_pictures_are_decoded(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is an extra")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)

    def png(rows: Any, kind: str) -> bytes:
        file = io.BytesIO()
        pillow.fromarray(rows).save(file, kind)
        return file.getvalue()

    given = episode(3) | {
        "steps/observation": [png(rows, "png") for rows in pixels],
        "steps/wrist": [png(rows[:, :, 0], "png") for rows in pixels],
        "steps/lossy": [png(rows, "jpeg") for rows in pixels],
    }
    shapes = {"observation": (-1, -1, 3), "wrist": (5, 4, 1), "lossy": (5, 4, 3)}
    steps = STEPS | {name: image(shape) for name, shape in shapes.items()}
    _, buffer = read(dataset(tmp_path / "made", {"train": [given]}, steps), tmp_path)

    assert (buffer["observation"][:] == pixels[:2]).all()
    assert (buffer["wrist"][:] == pixels[:2, :, :, :1]).all()
    assert buffer["lossy"][:].shape == (2, 5, 4, 3)
    assert (buffer.trajectory(0).final_observation == pixels[2]).all()


def test_numbers_that_are_not_packed(tmp_path: Path) -> None:
    """As a writer may do that knows nothing of `packed`."""
    made = dataset(tmp_path / "made", {"train": [episode(3)]})
    given = episode(3)
    loose = inside(3, b"".join(b"\x08" + number(int(value)) for value in given.pop("steps/action")))
    rewards = inside(
        2, b"".join(b"\x0d" + value.tobytes() for value in given.pop("steps/reward").astype("<f4"))
    )
    whole = example(given)
    entries = b"".join(
        inside(1, inside(1, key) + inside(2, data))
        for key, data in ((b"steps/action", loose), (b"steps/reward", rewards))
    )
    file = made / "made-train.tfrecord-00000-of-00001"
    file.write_bytes(record(whole + inside(1, entries)))
    _, buffer = read(made, tmp_path)

    assert (buffer["action"][:] == episode(3)["steps/action"][:2]).all()
    assert (buffer["reward"][:] == episode(3)["steps/reward"][:2].astype("f4")).all()
