"""Fields: dtypes, shapes, roles and spaces."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from replaystore.errors import SchemaError, UnsupportedError
from replaystore.schema.fields import Field
from replaystore.schema.spaces import DTYPES, space_to_json


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_dtype_is_kept_little_endian(name: str, order: Any) -> None:
    declared = Field(np.dtype(name).newbyteorder(order), (2, 3), "extra")
    assert declared.dtype is DTYPES[name]
    assert declared.dtype == np.dtype(name).newbyteorder("<")
    assert declared.row_bytes == 6 * np.dtype(name).itemsize
    assert Field.from_json(json.loads(json.dumps(declared.to_json()))) == declared


def test_a_field_takes_whatever_numpy_takes_for_a_dtype_and_a_list_for_a_shape() -> None:
    assert Field("float32", [np.int64(2)], "extra") == Field(np.dtype(np.float32), (2,), "extra")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "dtype",
    [
        object,
        str,
        "U5",
        "S5",
        "V3",
        [("a", "f4")],
        "M8[s]",
        "m8[s]",
        np.longdouble,
        np.clongdouble,
        np.dtypes.StringDType(),
    ],
    ids=str,
)
def test_a_dtype_without_fixed_numbers_is_unsupported_with_what_to_do(dtype: Any) -> None:
    with pytest.raises(UnsupportedError, match="cannot be stored: "):
        Field(dtype, (), "extra")


@pytest.mark.parametrize(
    ("dtype", "shape", "role", "space"),
    [
        (None, (), "extra", None),
        ("float33", (), "extra", None),
        ("f4", 3, "extra", None),
        ("f4", (1.5,), "extra", None),
        ("f4", (0,), "extra", None),
        ("f4", (2, -1), "extra", None),
        ("f4", (), "boss", None),
        ("f4", (), "mask", None),
        ("f4", (), "terminated", None),
        ("?", (1,), "truncated", None),
        ("f4", (), "extra", "Box"),
        ("f4", (), "extra", {"type": "Dict"}),
    ],
)
def test_a_wrong_field_is_refused(dtype: Any, shape: Any, role: str, space: Any) -> None:
    with pytest.raises(SchemaError):
        Field(dtype, shape, role, space)


def test_a_field_does_not_share_its_space() -> None:
    space = space_to_json(spaces.Discrete(3))
    declared = Field(np.dtype("i8"), (), "action", space)
    space["n"] = 4
    declared.to_json()["space"]["n"] = 5
    assert declared.space is not None
    assert declared.space["n"] == 3
    assert hash(declared) == hash(Field(np.dtype("i8"), (), "action"))
