"""The table of trajectories as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.errors import AlreadyExistsError, UnsupportedError
from replaystore.schema.fields import Field, Schema

SCHEMA = Schema(
    {
        "observation": Field("float32", (2,), "observation"),
        "tokens": Field("int32", (None,), "extra"),
        "reward": Field("float64", (2,), "reward"),
        "terminated": Field("bool", (), "terminated"),
        "truncated": Field("bool", (), "truncated"),
    }
)


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "a.zarr")
    with rs.create(path, SCHEMA, metadata={"a": 1}) as buffer:
        for number, length in enumerate((3, 1)):
            buffer.append(
                {
                    "observation": np.zeros((length, 2), np.float32),
                    "tokens": [[1]] * length,
                    "reward": np.full((length, 2), [0.1, number]),
                    "terminated": np.arange(length) == length - 1,
                    "truncated": np.zeros(length, np.bool_),
                },
                split='a "quoted", one' if number else "",
                seed=12 if number else None,
            )
        buffer.commit()
        buffer.set_trajectory_column("score", np.array([0.1, 2.0]))
    return path


def test_a_line_for_each_trajectory(store: str, tmp_path: Path) -> None:
    report = convert(store, tmp_path / "b.csv")

    with (tmp_path / "b.csv").open(newline="") as file:
        one, two = csv.DictReader(file)
    with rs.open(store) as buffer:
        names = [*buffer.trajectories.columns]
    assert {name.split("/")[0] for name in one} == set(names)
    assert (one["trajectory"], one["length"], one["seed"], one["split"]) == ("0", "3", "", "")
    assert (two["seed"], two["split"], two["terminated"]) == ("12", 'a "quoted", one', "True")
    assert float(one["return/0"]) == 0.1 + 0.1 + 0.1
    assert [float(row["score"]) for row in (one, two)] == [0.1, 2.0]
    assert (report.steps, report.trajectories) == (0, 2)
    assert {fate.kind for fate in report.fields.values()} == {"lost"}
    assert {name: fate.kind for name, fate in report.rest.items()} == {"metadata": "lost"}


def test_it_is_no_source_and_no_exact_copy(store: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="would not be exact"):
        convert(store, tmp_path / "b.csv", strict=True)
    assert not (tmp_path / "b.csv").exists()

    convert(store, tmp_path / "b.csv")
    with pytest.raises(UnsupportedError, match="can only be written"):
        convert(tmp_path / "b.csv", tmp_path / "b.zarr")


def test_only_such_a_file_is_replaced(store: str, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("something else\n")
    with pytest.raises(AlreadyExistsError):
        convert(store, tmp_path / "b.csv", overwrite=True)
    assert (tmp_path / "b.csv").read_text() == "something else\n"

    convert(store, tmp_path / "c.csv")
    convert(store, tmp_path / "c.csv", overwrite=True)


def test_an_empty_buffer_has_a_head(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA):
        pass
    convert(tmp_path / "a.zarr", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().startswith("trajectory,env,length")
