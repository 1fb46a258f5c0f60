"""Columns that are given to a schema fit, or are refused with the field and what to do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from schemas import NESTED, columns

from replaystore.errors import SchemaError
from replaystore.schema.fields import Field, Schema


def test_columns_that_fit_have_so_many_rows() -> None:
    schema = Schema.from_spaces(NESTED, spaces.Discrete(3))
    for rows in (0, 1, 2048):
        assert schema.check(columns(schema, rows)) == rows
    backwards = dict(reversed(columns(schema, 5).items()))
    assert schema.check(backwards) == 5


def test_a_mapped_file_is_as_good_as_an_array(tmp_path: Any) -> None:
    schema = Schema({"a": Field(np.dtype("f4"), (2,), "extra"), "b": Field(np.dtype("f4"), (), "extra")})
    mapped = np.memmap(tmp_path / "a", "f4", "w+", shape=(3, 2))
    assert schema.check({"a": mapped, "b": np.zeros(3, "f4")}) == 3
    with pytest.raises(SchemaError, match="'b' has 4 rows, but 'a' has 3"):
        schema.check({"a": mapped, "b": np.zeros(4, "f4")})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward", None, "'reward' is missing among 'observation', 'action', 'terminated', 'truncated'"),
        ("score", np.zeros(3), "no field 'score' in the schema"),
        (
            "reward",
            [0.0, 0.0, 0.0],
            (
                r"'reward': expected a NumPy array of float64, came a list: pass numpy.asarray\(values, "
                r"dtype='float64'\)"
            ),
        ),
        ("reward", 1.0, "came a float"),
        ("reward", np.float64(1), "came a float64"),
        (
            "observation",
            np.zeros((3, 4)),
            (
                r"'observation': expected dtype float32, came float64: nothing is cast, use "
                r"numpy.asarray\(values, 'float32'\)"
            ),
        ),
        ("observation", np.zeros((3, 4), ">f4"), "came float32 in big-endian byte order"),
        ("action", np.zeros(3, np.int32), "expected dtype int64, came int32"),
        ("terminated", np.zeros(3, np.uint8), "expected dtype bool, came uint8"),
        ("observation", np.zeros((3, 5), "f4"), r"expected shape \(rows, 4\), came \(3, 5\)"),
        ("observation", np.zeros((3, 4, 1), "f4"), r"came \(3, 4, 1\)"),
        ("observation", np.zeros(4, "f4"), r"a single step needs a first dimension of 1: value\[None\]"),
        ("reward", np.array(1.0), r"expected shape \(rows,\), came \(\)"),
        ("reward", np.zeros((3, 1)), r"expected shape \(rows,\), came \(3, 1\)"),
        ("truncated", np.zeros(2, bool), "'truncated' has 2 rows, but 'observation' has 3"),
        ("reward", np.ma.masked_array(np.zeros(3)), "masked"),
    ],
)
def test_columns_that_do_not_fit_are_refused_with_field_and_remedy(
    name: str, value: Any, message: str
) -> None:
    schema = Schema.from_spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    given = columns(schema) | {name: value}
    if value is None:
        del given[name]
    with pytest.raises(SchemaError, match=message) as caught:
        schema.check(given)
    assert "\n" not in str(caught.value)


def test_a_field_under_a_wrong_name_is_reported_as_missing() -> None:
    schema = Schema({"a": Field(np.dtype("f4"), (), "extra")})
    with pytest.raises(SchemaError, match="'a' is missing among 'b'"):
        schema.check({"b": np.zeros(3, "f4")})


def test_importing_the_module_imports_no_heavy_library() -> None:
    code = (
        "import sys, replaystore.schema.fields; print([m for m in ('gymnasium', 'pydantic', 'torch', 'zarr', "
        "'h5py') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()
        == "[]"
    )
