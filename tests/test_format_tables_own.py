"""What replaystore writes into tables of steps: names, what is beside fields, and what others made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.errors import FormatError
from replaystore.schema.fields import Field, Schema
from replaystore.testing.samples import columns as random_columns

pa = pytest.importorskip("pyarrow", reason="it is the extra 'arrow'")
pq = pytest.importorskip("pyarrow.parquet")

SCHEMA = Schema(
    {
        "observation": Field("uint8", (4, 3), "observation"),
        "action": Field("complex64", (2,), "action"),
        "trajectory": Field("int8", (), "extra"),
        "final_score": Field("float16", (), "extra"),
        "waves": Field("complex128", (None,), "extra"),
        "bytes": Field("uint8", (None,), "extra"),
        "points": Field("float32", (None, 3), "extra"),
        "note": Field.of_text("extra"),
    }
)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Trajectories of 3, 1 and 4 steps, a column of the table, a split, and one that is still open."""
    path = str(tmp_path / "a.zarr")
    with rs.create(path, SCHEMA, metadata={"by": "a test"}) as buffer:
        for number, length in enumerate((3, 1, 4)):
            rows = random_columns(SCHEMA, length, number)
            final = np.full((4, 3), number, np.uint8) if number != 1 else None
            buffer.append(
                rows,
                ends=[length - 1],
                split="train" if number else "",
                seed=number,
                final_observation=final,
            )
        buffer.append(random_columns(SCHEMA, 2, 9), env=3)
        buffer.commit()
        buffer.set_trajectory_column("score", np.array([0.5, 1.5, 2.5]))
        buffer.commit()
    return path


def same(one: str, other: str) -> None:
    with rs.open(one) as a, rs.open(other) as b:
        assert a.schema == b.schema
        assert a.metadata == b.metadata
        assert a.trajectories.columns.keys() == b.trajectories.columns.keys()
        for at in range(a.num_trajectories):
            mine, theirs = a.trajectory(at), b.trajectory(at)
            for name in a.schema.fields:
                if isinstance(mine[name], rs.Ragged):
                    assert mine[name] == theirs[name]
                else:
                    assert mine[name].tobytes() == theirs[name].tobytes()
            assert str({**mine.info, "open": None}) == str({**theirs.info, "open": None})
            assert str(mine.final_observation) == str(theirs.final_observation)


@pytest.mark.parametrize("name", ["b.parquet", "b.arrow"])
def test_all_that_there_is_comes_back(store: str, tmp_path: Path, name: str) -> None:
    there = convert(store, tmp_path / name)
    convert(tmp_path / name, tmp_path / "c.zarr")

    same(store, str(tmp_path / "c.zarr"))
    assert {key: fate.kind for key, fate in there.rest.items()} == {"open": "lost"}
    assert all(fate.kind == "kept" for fate in there.fields.values())


def test_the_table_is_one_that_others_can_use(store: str, tmp_path: Path) -> None:
    convert(store, tmp_path / "b.parquet")
    table = pq.read_table(tmp_path / "b.parquet")

    assert table.num_rows == 10
    names = ["trajectory_", "trajectory_/seed", "trajectory_/split", "trajectory_/env", "trajectory_/score"]
    assert table["trajectory_"].to_pylist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]
    assert table["trajectory_/split"].to_pylist() == [""] * 3 + ["train"] * 5 + [""] * 2
    assert table["trajectory_/score"].to_pylist()[:4] == [0.5, 0.5, 0.5, 1.5]
    assert {*names, "final__observation", "trajectory", "final_score", "note"} <= set(table.column_names)
    assert table["final__observation"].to_pylist()[:4] == [None, None, bytes(12), None]
    assert str(table.schema.field("observation").type) == "fixed_size_binary[12]"
    assert str(table.schema.field("action").type).startswith("fixed_size_list<element: fixed_size_list<")
    said = json.loads(table.schema.metadata[b"replaystore"])
    assert (said["version"], said["steps"], said["trajectories"]) == (1, 10, 4)


def rewritten(path: Path, change: Any) -> None:
    """The same table, after a change of what its metadata say."""
    table = pq.read_table(path)
    said = json.loads(table.schema.metadata[b"replaystore"])
    change(said)
    pq.write_table(table.replace_schema_metadata({b"replaystore": json.dumps(said)}), path)


def test_columns_that_others_have_dropped_are_said_to_be_lost(store: str, tmp_path: Path) -> None:
    convert(store, tmp_path / "b.parquet")
    table = pq.read_table(tmp_path / "b.parquet")
    pq.write_table(table.drop_columns(["note", "trajectory_/seed"]), tmp_path / "c.parquet")

    report = convert(tmp_path / "c.parquet", tmp_path / "c.zarr")
    assert report.fields["note"].kind == "lost"
    assert report.fields["observation"].kind == "kept"
    with rs.open(tmp_path / "c.zarr") as buffer:
        assert "note" not in buffer
        assert buffer.trajectories.seed.tolist() == [-1] * 4

    pq.write_table(table.drop_columns(["trajectory_"]), tmp_path / "d.parquet")
    with pytest.raises(FormatError, match="no column 'trajectory_'"):
        convert(tmp_path / "d.parquet", tmp_path / "d.zarr")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": None},
        {"schema": {"fields": []}},
        {"names": ["a"]},
        {"told": ["nonsense"]},
        {"columns": {"score": "object"}},
        {"version": "1"},
        {"version": 2},
        {"steps": -1},
        {"metadata": [1]},
        {"environment": 3},
    ],
)
def test_metadata_that_are_not_of_replaystore_are_one_clear_line(
    store: str, tmp_path: Path, change: dict[str, Any]
) -> None:
    convert(store, tmp_path / "b.parquet")
    rewritten(tmp_path / "b.parquet", lambda said: said.update(change))

    with pytest.raises(FormatError, match=r"b\.parquet|describe a schema"):
        convert(tmp_path / "b.parquet", tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_fields_of_another_type_than_the_metadata_say_are_refused(store: str, tmp_path: Path) -> None:
    convert(store, tmp_path / "b.parquet")

    def change(said: Any) -> None:
        for one in said["schema"]["fields"]:
            one["dtype"] = {"float16": "float32"}.get(one["dtype"], one["dtype"])

    rewritten(tmp_path / "b.parquet", change)
    with pytest.raises(FormatError, match=r"column .final_score.*is not what its metadata say"):
        convert(tmp_path / "b.parquet", tmp_path / "c.zarr")


def test_a_part_of_a_buffer_is_written(store: str, tmp_path: Path) -> None:
    report = convert(store, tmp_path / "b.parquet", fields=["observation"], split="train")

    assert (report.steps, report.trajectories) == (5, 2)
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column_names[:3] == ["observation", "final_observation", "trajectory"]
    assert table["trajectory"].to_pylist() == [0, 1, 1, 1, 1]


def test_a_file_that_is_cut_off_says_so(store: str, tmp_path: Path) -> None:
    convert(store, tmp_path / "b.parquet")
    data = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[:-20])

    with pytest.raises(FormatError, match="no footer"):
        convert(tmp_path / "b.parquet", tmp_path / "c.zarr")
