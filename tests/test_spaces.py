"""Spaces of Gymnasium as JSON and back, and JSON that is no space."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from replaystore.errors import FormatError
from replaystore.schema.fields import Schema
from replaystore.schema.spaces import space_from_json, space_to_json

NESTED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "joints": spaces.Tuple(
            [
                spaces.Box(-1, 1, (2,)),
                spaces.Dict({"a/b": spaces.Discrete(5, start=-2), "50%": spaces.MultiBinary(3)}),
            ]
        ),
    }
)
BOOL: Any = np.bool_  # which Gymnasium accepts, but its annotations do not
LIMITS = [np.iinfo(d) for d in ("i1", "i8", "u1", "u8")]
LEAVES: list[Any] = [
    spaces.Box(-np.inf, np.inf, (3,)),
    spaces.Box(0, 1, ()),
    spaces.Box(-0.1, 0.1, (2, 2), np.float64),
    spaces.Box(np.array([-0.0, 0.0], "f4"), np.array([0.1, np.inf], "f4")),
    spaces.Box(np.array([[-np.inf, -1e-45]]), np.array([[1e308, 5e-324]]), dtype=np.float64),
    spaces.Box(-65504, 65504, (2,), np.float16),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(-np.inf, 5, (2,), np.int32),
    spaces.Box(np.array([-np.inf, -3.0]), np.array([np.inf, 3.0]), dtype=np.int32),
    *(
        spaces.Box(
            np.full(2, limit.min, limit.dtype), np.full(2, limit.max, limit.dtype), dtype=limit.dtype.type
        )
        for limit in LIMITS
    ),
    spaces.Box(np.array([2**63 + 1], "u8"), np.array([2**64 - 1], "u8"), dtype=np.uint64),
    spaces.Box(np.array([2**53 + 1]), np.array([2**62 + 1]), dtype=np.int64),
    spaces.Box(0, 1, (2,), dtype=BOOL),
    spaces.Box(np.array([False, True]), np.array([True, True]), dtype=BOOL),
    spaces.Box(0, 1, (2,), np.dtype(">f4")),
    spaces.Discrete(4),
    spaces.Discrete(4, start=-2),
    spaces.Discrete(200, dtype=np.uint8),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), dtype="int32", start=np.array([[0, -1], [2, 3]])),
    spaces.MultiDiscrete([2, 2], dtype=np.uint8),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 3]),
]


@pytest.mark.parametrize("space", LEAVES, ids=str)
def test_a_space_is_read_back_from_strict_json(space: Any) -> None:
    again: Any = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert again == space
    assert type(again) is type(space)
    assert (again.dtype, again.shape) == (space.dtype, space.shape)
    if isinstance(space, spaces.Box):
        for name in ("low", "high", "bounded_below", "bounded_above"):
            assert getattr(again, name).tobytes() == getattr(space, name).tobytes(), name
        assert again.low.dtype == space.low.dtype
        if space.dtype == np.uint64:
            return  # Gymnasium cannot sample the upper half of these
        again.seed(1)
        space.seed(1)
        assert np.array_equal(again.sample(), space.sample())


floats = st.floats(allow_nan=False)


@given(st.sampled_from(["f2", "f4", "f8"]), st.lists(st.tuples(floats, floats), min_size=1, max_size=6))
def test_float_bounds_are_exact(dtype: str, pairs: list[tuple[float, float]]) -> None:
    with np.errstate(over="ignore"):
        bounds = np.sort(np.array(pairs).astype(dtype), axis=1)
    space = spaces.Box(bounds[:, 0].copy(), bounds[:, 1].copy(), dtype=np.dtype(dtype).type)
    again: Any = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert again.low.tobytes() == space.low.tobytes()
    assert again.high.tobytes() == space.high.tobytes()


@given(st.sampled_from(["i8", "u8"]), st.data())
def test_integer_bounds_are_exact(dtype: str, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    numbers = st.integers(int(limits.min), int(limits.max))
    low, high = sorted(data.draw(st.tuples(numbers, numbers)))
    space = spaces.Box(np.array([low, low], dtype), np.array([low, high], dtype), dtype=np.dtype(dtype).type)
    again: Any = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert (again.low.tolist(), again.high.tolist()) == ([low, low], [low, high])


def test_uniform_bounds_are_written_once_and_infinite_ones_as_text() -> None:
    assert space_to_json(spaces.Box(-math.inf, 1, (84, 84, 4))) == {
        "type": "Box",
        "dtype": "float32",
        "shape": [84, 84, 4],
        "low": "-Infinity",
        "high": 1.0,
    }
    mixed = space_to_json(spaces.Box(np.array([0.0, -math.inf]), np.array([math.inf, 2.0]), dtype=np.float64))
    assert (mixed["low"], mixed["high"]) == ([0.0, "-Infinity"], ["Infinity", 2.0])


def test_nested_spaces_keep_the_order_of_their_keys() -> None:
    space = spaces.Dict(OrderedDict(b=spaces.Discrete(2), a=spaces.Tuple([NESTED, spaces.MultiBinary(2)])))
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert again == space
    assert isinstance(again, spaces.Dict)
    assert list(again.spaces) == ["b", "a"]


@pytest.mark.parametrize(
    "space", [*LEAVES, NESTED, spaces.Tuple([spaces.Discrete(2) for _ in range(11)])], ids=str
)
def test_a_schema_makes_the_spaces_again(space: Any) -> None:
    schema = Schema.from_json(json.loads(json.dumps(Schema.from_spaces(space, space).to_json())))
    assert schema.observation_space() == space
    assert schema.action_space() == space


@pytest.mark.parametrize(
    "data",
    [
        {},
        None,
        [],
        {"type": "Text"},
        {"type": ["Box"]},
        {"type": "Box", "dtype": "object", "shape": [2], "low": 0, "high": 1},
        {"type": "Box", "dtype": "float32", "shape": [2], "low": 0},
        {"type": "Box", "dtype": "float32", "shape": [2], "low": [0, 0, 0], "high": 1},
        {"type": "Box", "dtype": "float32", "shape": [2], "low": [[0], [0, 1]], "high": 1},
        {"type": "Box", "dtype": "float32", "shape": [2], "low": "-inf", "high": 1},
        {"type": "Box", "dtype": "float32", "shape": [2], "low": True, "high": 1},
        {"type": "Box", "dtype": "float32", "shape": [2], "low": "NaN", "high": 1},
        {"type": "Box", "dtype": "float32", "shape": [2], "low": 2, "high": 1},
        {"type": "Box", "dtype": "int8", "shape": [2], "low": 0, "high": 128},
        {"type": "Box", "dtype": "int8", "shape": [2], "low": "NaN", "high": 1},
        {"type": "Box", "dtype": "int8", "shape": [2], "low": 0.5, "high": 1},
        {"type": "Box", "dtype": "bool", "shape": [2], "low": "-Infinity", "high": True},
        {"type": "Box", "dtype": "complex64", "shape": [2], "low": 0, "high": 1},
        {"type": "Discrete", "dtype": "int64", "n": 0, "start": 0},
        {"type": "Discrete", "dtype": "uint8", "n": 256, "start": 0},
        {"type": "Discrete", "dtype": "int64", "n": 2.0, "start": 0},
        {"type": "MultiDiscrete", "dtype": "int64", "shape": [2], "nvec": [0, 1], "start": 0},
        {"type": "MultiDiscrete", "dtype": "int64", "shape": [2], "nvec": "Infinity", "start": 0},
        {"type": "MultiBinary", "n": -1},
        {"type": "Dict", "spaces": {"a": 1}},
        {"type": "Tuple", "spaces": [1]},
    ],
)
def test_json_that_is_no_space_is_a_format_error(data: Any) -> None:
    with pytest.raises(FormatError, match="does not describe a Gymnasium space"):
        space_from_json(data)
