"""Spaces of a schema as one description, and as Minari writes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from replaystore.errors import FormatError
from replaystore.formats.minari.spaces import from_minari, is_image, to_minari
from replaystore.formats.shared.spaces import declared, nested, space_of
from replaystore.schema.fields import Field, Schema
from replaystore.schema.spaces import space_to_json

SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-np.inf, np.array([1.5, np.inf, -0.0], np.float32), (3,), np.float32),
    "uniform": spaces.Box(0, 255, (40, 33, 3), np.uint8),
    "whole": spaces.Box(-3, 9, (2, 2), np.int16),
    "number": spaces.Box(-1.0, 1.0, (), np.float64),
    "flags": spaces.MultiBinary([2, 3]),
    "row": spaces.MultiBinary(4),
    "choice": spaces.Discrete(5, start=-2),
    "choices": spaces.MultiDiscrete([[2, 3], [4, 5]], dtype=np.int32, start=[[0, 1], [2, 3]]),
    "words": spaces.Text(9, min_length=2, charset="abcé"),
    "all": spaces.Dict(
        {"a b": spaces.Tuple([spaces.Discrete(3), spaces.Dict({"é": spaces.Box(0, 1, (2,))})])}
    ),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_space_of_minari_and_back(space: spaces.Space[Any]) -> None:
    schema = Schema.from_spaces(space, spaces.Discrete(2))
    known = {name: space_of(field) for name, field in schema.fields.items()}
    described = nested(schema, "observation", {name: s for name, s in known.items() if s is not None})

    text = json.dumps(to_minari(described))

    assert from_minari(text, "observations") == described
    fields, tuples = declared(from_minari(text, "observations"), "observation")
    wanted = {name: schema.fields[name] for name in schema.names("observation")}
    assert fields == wanted
    assert list(fields) == list(wanted)
    assert tuples == schema.tuples


@pytest.mark.parametrize("name", [name for name in SPACES if name != "all"])
def test_a_leaf_is_described_as_a_schema_does(name: str) -> None:
    described = space_to_json(SPACES[name])

    assert from_minari(json.dumps(to_minari(described)), name) == described


def test_fields_without_a_space_have_all_values() -> None:
    for dtype, low, high in (("float16", -np.inf, np.inf), ("uint8", 0, 255), ("bool", 0, 1)):
        described = space_of(Field(dtype, (2, 3), "observation"))
        assert described is not None
        told = to_minari(described)
        assert (np.array(told["low"]) == low).all()
        assert (np.array(told["high"]) == high).all()
        assert np.shape(told["low"]) == (2, 3)
    other = Field("int8", (2,), "observation", space_to_json(spaces.Discrete(3)))
    assert (space_of(other) or {})["type"] == "Box"
    assert space_of(Field("complex64", (), "observation")) is None
    assert space_of(Field("int8", (None,), "observation")) is None


def test_bounds_of_integers_that_have_none() -> None:
    described = space_to_json(spaces.Box(-np.inf, np.inf, (2,), np.int32))

    assert to_minari(described)["low"] == [np.iinfo(np.int32).min] * 2


def test_which_spaces_are_images() -> None:
    assert is_image(space_to_json(SPACES["uniform"]))
    assert is_image(space_to_json(spaces.Box(0, 255, (32, 64), np.uint8)))
    for other in (
        spaces.Box(0, 254, (32, 64), np.uint8),
        spaces.Box(0, 255, (31, 64), np.uint8),
        spaces.Box(0, 255, (64, 64, 3, 2), np.uint8),
        spaces.Box(0, 255, (64, 64), np.int16),
    ):
        assert not is_image(space_to_json(other))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "7",
        '{"type": "Box"}',
        '{"type": ["Box"]}',
        '{"type": "Graph"}',
        '{"type": "Dict", "subspaces": []}',
        '{"type": "Tuple", "subspaces": {}}',
        '{"type": "Box", "dtype": "object", "shape": [1], "low": [0], "high": [1]}',
        '{"type": "Box", "dtype": "int8", "shape": [1], "low": [0, 1], "high": [1]}',
        '{"type": "Box", "dtype": "int8", "shape": [1], "low": [999], "high": [1]}',
        '{"type": "Box", "dtype": "int8", "shape": [1], "low": ["a"], "high": [1]}',
        '{"type": "Box", "dtype": "int8", "shape": [1], "low": [[0], [1, 2]], "high": [1]}',
        '{"type": "Box", "dtype": "int8", "shape": [999999999], "low": 0, "high": 1}',
        '{"type": "Box", "dtype": "int8", "shape": [-1], "low": 0, "high": 1}',
        '{"type": "MultiBinary", "n": 99999999999}',
        '{"type": "MultiBinary", "n": "3"}',
        '{"type": "Discrete", "n": 0}',
        '{"type": "Discrete", "n": 3, "start": 9223372036854775807}',
        '{"type": "MultiDiscrete", "dtype": "int8", "nvec": [0]}',
        '{"type": "MultiDiscrete", "dtype": "float32", "nvec": [2]}',
        '{"type": "Text", "max_length": 1, "min_length": 2, "charset": ""}',
        '{"type": "Text", "max_length": 3, "min_length": 2, "charset": "\\ud800"}',
        '{"type": "Tuple", "subspaces": [' * 5000,
        '{"type": "Tuple", "subspaces": [' * 50 + "]}" * 50,
    ],
)
def test_what_is_no_space_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="no space that Minari writes"):
        from_minari(text, "observation_space")


def test_too_many_parts_and_empty_ones_are_refused() -> None:
    leaf = {"type": "Discrete", "dtype": "int64", "n": 2, "start": 0}
    with pytest.raises(FormatError, match="more than"):
        declared({"type": "Tuple", "spaces": [leaf] * 5000}, "observation")
    with pytest.raises(FormatError, match="empty Dict"):
        declared({"type": "Dict", "spaces": []}, "observation")


def test_keys_that_are_no_names_in_a_file_are_written_as_in_names_of_fields() -> None:
    schema = Schema.from_spaces(spaces.Dict({"a/b": spaces.Discrete(3)}), spaces.Discrete(2))
    known = {name: space_of(field) or {} for name, field in schema.fields.items()}

    assert list(to_minari(nested(schema, "observation", known))["subspaces"]) == ["a%2Fb"]
