"""JSON in stores: nested deep, impossible names, metadata and spaces that there cannot be."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hostile_stores import treated, with_document

import replaystore as rs
from replaystore.errors import CorruptError, FormatError, ReplayStoreError
from replaystore.schema.spaces import space_from_json
from replaystore.testing.specimens import Specimen

pytest_plugins = ["hostile_stores"]


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
@pytest.mark.parametrize("name", ["zarr.json", "steps/zarr.json", "steps/reward/zarr.json"])
def test_json_nested_deep_is_one_error(stores: dict[str, Specimen], name: str, depth: int) -> None:
    text = b'{"zarr_format": 3, "node_type": "array", "attributes": ' + b"[" * depth + b"]" * depth + b"}"

    assert treated(stores["live.zarr"], {name: text}) == []


@pytest.mark.parametrize("key", ["shape", "chunk", "shard", "dtype", "codec", "level", "rows"])
@pytest.mark.parametrize(
    "value",
    [0, -1, 2**31, 10**12, 2**63, 2**70, 1.5, None, "x", [], {}, True, "object", "datetime64[s]", ["f4", 3]],
)
def test_array_metadata_are_checked(live: Path, key: str, value: Any) -> None:
    place = live / "steps" / "observation" / "camera" / "zarr.json"
    found = json.loads(place.read_text())
    inner = found["codecs"][0]["configuration"]
    match key:
        case "shape":
            found["shape"][1] = found["chunk_grid"]["configuration"]["chunk_shape"][1] = inner["chunk_shape"][
                1
            ] = value
        case "rows":
            found["shape"][0] = value
        case "chunk":
            inner["chunk_shape"][0] = value
        case "shard":
            found["chunk_grid"]["configuration"]["chunk_shape"][0] = value
        case "dtype":
            found["data_type"] = value
        case "codec":
            inner["codecs"][1]["name"] = value
        case "level":
            inner["codecs"][1]["configuration"]["level"] = value
    place.write_text(json.dumps(found))

    # Other software sees other rows than the commit has.
    if key == "rows" and type(value) is int and 0 <= value < 2**62:
        assert rs.verify(live).problems
        return
    with pytest.raises(CorruptError, match=r"camera"):
        rs.open(live)
    assert rs.verify(live).problems


@pytest.mark.parametrize(
    "name", ["a" * 3000, "a/" * 70 + "a", "/".join(["x"] * 50_000), "..", "info/\0", "steps/../../x"]
)
def test_a_document_with_impossible_names_is_refused(live: Path, name: str) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["schema"]["fields"][0]["name"] = name
        document["schema"]["fields"][0]["role"] = "extra"

    with_document(live, rename)

    with pytest.raises(CorruptError):
        rs.open(live)
    assert rs.verify(live).problems


def test_many_fields_and_tuples_take_no_square_of_the_time(live: Path) -> None:
    def fill(document: dict[str, Any]) -> None:
        field = {"dtype": "uint8", "shape": [], "role": "extra", "space": None}
        document["schema"] = {
            "fields": [{"name": f"x{n}/0", **field} for n in range(20_000)],
            "tuples": [f"x{n}" for n in range(20_000)],
        }
        document["layout"]["overrides"] = {}

    with_document(live, fill)
    begin = time.monotonic()

    with pytest.raises(ReplayStoreError):
        rs.open(live)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Box", "dtype": "float32", "shape": [10**6, 10**6], "low": 0.0, "high": 1.0},
        {"type": "Box", "dtype": "float32", "shape": [-1], "low": 0.0, "high": 1.0},
        {"type": "Box", "dtype": "float32", "shape": "33", "low": 0.0, "high": 1.0},
        {"type": "Discrete", "dtype": "int64", "n": -1, "start": 0},
        {"type": "Discrete", "dtype": "int64", "n": 10**30, "start": 0},
        {"type": "MultiBinary", "n": 10**12},
        {"type": "MultiBinary", "n": [10**6, 10**6]},
        {"type": "MultiBinary", "n": "x"},
        {"type": "MultiDiscrete", "dtype": "int64", "shape": [1] * 40, "nvec": 2, "start": 0},
        {"type": "Tuple", "spaces": 3},
    ],
)
def test_spaces_are_bounded(space: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="does not describe a Gymnasium space"):
        space_from_json(space)
