"""What is written opens in TensorFlow Datasets, with every value; and what it writes is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.schema.fields import Field, Schema
from replaystore.schema.spaces import DTYPES
from replaystore.testing.contents import final_by_field
from replaystore.testing.formats import NESTED, PLAIN
from replaystore.testing.trajectories import Told, trajectories

tfds = pytest.importorskip("tensorflow_datasets", reason="TFDS is only compared with where it is installed")

EVERYTHING = Schema(
    {
        "observation/0": Field("uint8", (5, 4, 3), "observation"),
        "observation/1": Field("float64", (), "observation"),
        **{name: NESTED.fields[name] for name in ("action", "reward", "terminated", "truncated")},
        **{f"info/{name}": Field(dtype, (2,), "info") for name, dtype in DTYPES.items()},
        **{f"info/one/{name}": Field(dtype, (), "info") for name, dtype in DTYPES.items()},
        **{  # of any bits, which a bool has not
            f"info/any/{name}": Field(dtype, (None, 2), "info")
            for name, dtype in DTYPES.items()
            if name != "bool"
        },
        "info/text": Field.of_text("info"),
    },
    frozenset({"observation"}),
)


def recorded(location: Path, schema: Schema) -> list[Told]:
    given = trajectories(schema, 9, 3)
    with rs.create(location, schema) as buffer:
        for one in given:
            one.append(buffer)
    return given


def leaf(step: Any, name: str) -> Any:
    for key in name.split("/"):
        step = step[key]
    return step


def bits(value: Any) -> tuple[Any, ...]:
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    return array.dtype, array.tobytes()


@pytest.mark.parametrize("schema", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_a_dataset_opens_with_every_value(tmp_path: Path, schema: Schema) -> None:
    given = recorded(tmp_path / "a.zarr", schema)
    rs.convert(tmp_path / "a.zarr", tmp_path / "made/1.0.0", target_format="rlds")
    builder = tfds.builder_from_directory(str(tmp_path / "made/1.0.0"))

    assert builder.info.name == "made"
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        name or "train_": sum(one.split == name for one in given) for name in ("train", "val", "")
    }
    seen = 0
    for split in builder.info.splits:
        for episode in builder.as_dataset(split=split):
            about, steps = episode["episode_metadata"], list(episode["steps"].as_numpy_iterator())
            one = given[int(about["replaystore_index"])]
            same(one, about, steps, schema)
            assert one.split == ("" if split == "train_" else split)
            seen += 1
    assert seen == len(given)


def same(one: Told, about: Any, steps: list[Any], schema: Schema) -> None:
    """An episode of TFDS with what was recorded."""
    final, count = one.final_observation, len(one)
    assert int(about["seed"]) == one.seed
    assert int(about["env"]) == one.env
    assert len(steps) == count + (final is not None or one.terminated)
    assert [bool(step["is_first"]) for step in steps] == [at == 0 for at in range(len(steps))]
    assert [bool(step["is_last"]) for step in steps] == [at == count for at in range(len(steps))]
    assert bool(steps[-1]["is_terminal"]) == one.terminated
    for name, declared in schema.fields.items():
        rows = [*one.columns[name], *([final[name]] if final and name in final else [])]
        for value, step in zip(rows, steps, strict=False):
            found = leaf(step, name)
            if declared.text:
                assert found.decode() == value
            else:
                assert bits(found) == bits(np.asarray(value, declared.dtype)), name


def test_what_tfds_writes_is_read(tmp_path: Path) -> None:
    features = tfds.features.FeaturesDict(
        {
            "steps": tfds.features.Dataset(
                {
                    "observation": {
                        "image": tfds.features.Image(shape=(6, 5, 3), encoding_format="png"),
                        "state": tfds.features.Tensor(shape=(2,), dtype=np.float64, encoding="zlib"),
                    },
                    "action": tfds.features.Tensor(shape=(3,), dtype=np.int32),
                    "reward": tfds.features.Scalar(dtype=np.float32),
                    "instruction": tfds.features.Text(),
                    "words": tfds.features.Sequence(tfds.features.Scalar(dtype=np.int64)),
                    **{name: tfds.features.Scalar(dtype=np.bool_) for name in MARKS},
                }
            ),
            "episode_metadata": {"success": tfds.features.Scalar(dtype=np.bool_)},
        }
    )
    generator = np.random.default_rng(0)
    episodes = [[_step(generator, at, rows) for at in range(rows)] for rows in (4, 1, 9)]
    folder = tmp_path / "made" / "1.2.3"
    folder.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="made", version="1.2.3", data_dir=str(folder), module_name="made"
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(builder=identity, features=features), max_examples_per_shard=2
    )
    writer.initialize_splits(["train"])
    for steps in episodes:
        about = {"success": len(steps) > 4}
        writer.add_examples({"train": [{"steps": steps, "episode_metadata": about}]})
    writer.close_all()
    rs.convert(tmp_path / "made", tmp_path / "a.zarr", format="rlds")

    kept = [steps for steps in episodes if len(steps) > 1]
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert sorted(buffer.trajectories["length"]) == [3, 8]
        for number in range(2):
            found = buffer.trajectory(number)
            steps = next(steps for steps in kept if len(steps) == len(found.columns["action"]) + 1)
            assert bool(buffer.trajectories["success"][number]) == (len(steps) > 4)
            for at, step in enumerate(steps[:-1]):
                assert (found.columns["observation/image"][at] == step["observation"]["image"]).all()
                assert (found.columns["observation/state"][at] == step["observation"]["state"]).all()
                assert (found.columns["action"][at] == step["action"]).all()
                assert found.columns["reward"][at] == step["reward"]
                assert found.columns["instruction"][at] == step["instruction"]
                assert (found.columns["words"][at] == step["words"]).all()
            final = final_by_field(found)["observation/image"]
            assert (final == steps[-1]["observation"]["image"]).all()


MARKS = ("is_first", "is_last", "is_terminal")


def _step(generator: np.random.Generator, at: int, rows: int) -> dict[str, Any]:
    return {
        "observation": {
            "image": generator.integers(0, 256, (6, 5, 3), np.uint8),
            "state": generator.normal(size=2),
        },
        "action": generator.integers(-100, 100, 3, np.int32),
        "reward": np.float32(generator.normal()),
        "instruction": "open the drawer" * at,
        "words": generator.integers(-9, 9, at % 3),
        "is_first": at == 0,
        "is_last": at == rows - 1,
        "is_terminal": at == rows - 1,
    }
