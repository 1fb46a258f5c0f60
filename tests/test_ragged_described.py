"""What `describe`, `replaystore info` and `replaystore show` say of fields of any length, in stores of every
kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from commands import Run

import replaystore as rs
from replaystore.testing.crashes import tiny

pytest_plugins = ["commands", "ragged_kinds"]


def test_values_are_counted(ragged_store: str) -> None:
    with rs.open(ragged_store) as buffer:
        found = {field.name: field for field in buffer.describe().fields}
        lanes = bool((buffer.parts.stride > 1).any())
        followed = bool((buffer.parts.final >= 0).any())
        for name, declared in buffer.schema.fields.items():
            field = found[name]
            assert (field.ragged, field.text) == (declared.ragged, declared.text)
            if not declared.ragged:
                assert field.values is None
                assert field.bytes == len(buffer) * declared.row_bytes
                continue
            named, width = int(buffer[name].lengths[:].sum()), declared.dtype.itemsize
            width *= int(np.prod(declared.inner))
            assert field.values is not None
            if lanes and followed and declared.role == "observation":  # and what followed the last steps
                assert field.values > named
            else:
                assert field.values == named
            assert field.bytes == 16 * len(buffer) + width * field.values
            if field.codec == "raw" and buffer.layout == "live":
                assert field.stored_bytes == field.bytes
            elif not declared.text:
                sealed = ragged_store.endswith(".zip")
                assert 0 < field.stored_bytes < field.bytes + (not sealed)
        plain = buffer.describe().to_json()
    assert json.loads(json.dumps(plain)) == plain


def test_info_prints_and_gives_them(ragged_store: str, run: Run, facts: Callable[..., Any]) -> None:
    code, out, err = run("info", ragged_store)

    assert (code, err) == (0, "")
    with rs.open(ragged_store) as buffer:
        told = buffer.describe()
        identity = buffer.id
    assert re.search(rf"^id +{identity}$", out, re.MULTILINE)
    assert re.search(r"^field +dtype +shape +codec +values +chunk rows ", out, re.MULTILINE)
    counts = {field.name: f"{field.values:,}" for field in told.fields if field.values is not None}
    text, image = counts["observation/text"], counts["observation/image"]
    assert re.search(rf"^observation/text +text +\* +\S+ +{text} ", out, re.MULTILINE)
    assert re.search(rf"^observation/image +uint8 +\*x2x3 +\S+ +{image} ", out, re.MULTILINE)
    assert re.search(r"^reward +float32 +- +\S+ +- ", out, re.MULTILINE)
    assert facts("info", ragged_store)["fields"] == told.to_json()["fields"]


def test_a_store_without_them_has_no_column_for_them(recorded: Path, run: Run) -> None:
    assert re.search(r"^field +dtype +shape +codec +chunk rows ", run("info", recorded)[1], re.MULTILINE)


def test_what_is_kept_for_names_counts_values(tmp_path: Path, run: Run) -> None:
    schema = rs.Schema({"action": rs.Field("int32", (None, 2), "action")})
    with tiny(), rs.create(tmp_path / "a.zarr", schema, capacity=3, keep_named=1) as ring:
        lengths = [3, 50, 1, 0, 7, 2, 9]
        for number, length in enumerate(lengths):
            ring.append({"action": [np.full((length, 2), number, np.int32)]})
            ring.commit("third" if number == 2 else None)
        described = ring.describe()
    assert described.ring == {
        "capacity": 3,
        "dropped_steps": 4,
        "kept_for_names": 4,
        "kept_bytes": 4 * 16 + (3 + 50 + 1) * 8,
    }
    assert described.fields[0].values == 7 + 2 + 9
    assert "keeps 4 of them (496 B) for names" in run("info", tmp_path / "a.zarr")[1]
