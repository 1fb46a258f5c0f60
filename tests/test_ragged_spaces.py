"""Gymnasium's Text, Sequence and Graph: to JSON and back, and their values by field name and back."""

from __future__ import annotations

import json
import string
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from replaystore.errors import FormatError, SchemaError, UnsupportedError
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import flatten, unflatten
from replaystore.schema.spaces import nested_space, space_from_json, space_leaves, space_to_json

BOX, NODES = spaces.Box(-1, 1, (3,)), spaces.Box(-100, 100, (2,), np.float64)
LEAVES: list[spaces.Space[Any]] = [
    spaces.Text(5),
    spaces.Text(9, min_length=0, charset="zya€ß\0\"'\\🙂"),
    spaces.Text(7, min_length=7, charset=string.printable),
    spaces.Sequence(BOX),
    spaces.Sequence(BOX, stack=True),
    spaces.Sequence(spaces.Discrete(5, start=-2)),
    spaces.Sequence(spaces.Discrete(200, dtype=np.uint8), stack=True),
    spaces.Sequence(spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]))),
    spaces.Sequence(spaces.MultiBinary([2, 3]), stack=True),
    spaces.Sequence(spaces.Box(-np.inf, np.inf, (), np.float64)),
]
GRAPHS: list[spaces.Space[Any]] = [
    spaces.Graph(NODES, None),
    spaces.Graph(NODES, BOX),
    spaces.Graph(spaces.Discrete(4), spaces.Discrete(3, start=1)),
    spaces.Graph(spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3])),
]
NESTED = spaces.Dict(
    {
        "z": spaces.Tuple([LEAVES[0], GRAPHS[1], spaces.Dict({"a/b": LEAVES[3], "x": BOX})]),
        "a": GRAPHS[0],
        "t": spaces.Tuple([LEAVES[1]]),
    }
)


def taken_apart(space: Any) -> tuple[dict[str, Any], set[str], set[str]]:
    leaves: dict[str, Any] = {}
    tuples, graphs = set[str](), set[str]()
    space_leaves(space, "observation", "observation", leaves, tuples, graphs)
    return {name: leaf for name, (_, leaf) in leaves.items()}, tuples, graphs


@pytest.mark.parametrize("space", LEAVES, ids=str)
def test_a_space_is_read_back_from_strict_json(space: Any) -> None:
    again: Any = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))

    assert again == space
    assert type(again) is type(space)
    again.seed(1)
    space.seed(1)
    assert str(again.sample()) == str(space.sample())  # the order of characters, too
    if isinstance(space, spaces.Text):
        assert again.character_list == space.character_list


@pytest.mark.parametrize("space", [*LEAVES, *GRAPHS, NESTED], ids=str)
def test_leaves_make_the_space_again(space: Any) -> None:
    leaves, tuples, graphs = taken_apart(space)
    again = {name: space_from_json(space_to_json(leaf)) for name, leaf in leaves.items()}

    assert nested_space(unflatten(again, "observation", tuples, graphs)) == space


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.OneOf([BOX, LEAVES[0]]), "give each its own key in a Dict"),
        (spaces.Sequence(spaces.Dict({"a": BOX})), "make it a Dict of Sequences"),
        (spaces.Sequence(spaces.Tuple([BOX])), "make it a Tuple of Sequences"),
        (spaces.Sequence(spaces.Text(3)), "in a Sequence of Text spaces each part has its own length"),
        (spaces.Sequence(spaces.Sequence(BOX)), "Sequence of Sequence spaces"),
        (spaces.Sequence(spaces.Graph(BOX, None)), "Sequence of Graph spaces"),
        (spaces.Graph(spaces.Dict({"a": BOX}), None), "observation: the nodes of a Graph .* not Dict"),
        (spaces.Graph(BOX, spaces.Text(3)), "observation: the edges of a Graph .* not Text"),
        (spaces.Text(3, charset="a\ud800"), "characters that UTF-8 has"),
    ],
)
def test_what_is_refused_is_refused_in_words(space: Any, said: str) -> None:
    def store() -> None:
        for leaf in taken_apart(space)[0].values():
            space_to_json(leaf)

    with pytest.raises(UnsupportedError, match=said):
        store()


TEXT = {"type": "Text", "min_length": 0, "max_length": 3, "charset": "ab"}
SEQUENCE = {"type": "Sequence", "stack": False, "space": space_to_json(BOX)}


@pytest.mark.parametrize(
    "data",
    [
        *({key: value for key, value in TEXT.items() if key != gone} for gone in TEXT),
        TEXT | {"min_length": -1},
        TEXT | {"min_length": 4},
        TEXT | {"max_length": 3.0},
        TEXT | {"max_length": True},
        TEXT | {"charset": ["a", "b"]},
        TEXT | {"charset": None},
        SEQUENCE | {"stack": 1},
        SEQUENCE | {"space": None},
        SEQUENCE | {"space": TEXT},
        SEQUENCE | {"space": SEQUENCE},
        SEQUENCE | {"space": {"type": "Dict", "spaces": []}},
        {"type": "Graph", "node_space": space_to_json(BOX)},
    ],
)
def test_json_that_is_no_space_is_a_format_error(data: Any) -> None:
    with pytest.raises(FormatError, match="does not describe a Gymnasium space"):
        space_from_json(data)


# --- schemas


@pytest.mark.parametrize("space", [*LEAVES, *GRAPHS, NESTED], ids=str)
def test_a_schema_makes_the_spaces_again(space: Any) -> None:
    made = Schema.from_spaces(space, space)
    schema = Schema.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False)))

    assert schema == made
    assert schema.observation_space() == space
    assert schema.action_space() == space


def test_the_fields_of_each_space() -> None:
    schema = Schema.from_spaces(NESTED, GRAPHS[2])
    fields = {name: (f.dtype.name, f.shape, f.text) for name, f in schema.fields.items() if f.ragged}

    assert fields == {
        "observation/a/nodes": ("float64", (None, 2), False),
        "observation/t/0": ("uint8", (None,), True),
        "observation/z/0": ("uint8", (None,), True),
        "observation/z/1/nodes": ("float64", (None, 2), False),
        "observation/z/1/edges": ("float32", (None, 3), False),
        "observation/z/1/edge_links": ("int32", (None, 2), False),
        "observation/z/2/a%2Fb": ("float32", (None, 3), False),
        "action/nodes": ("int64", (None,), False),
        "action/edges": ("int64", (None,), False),
        "action/edge_links": ("int32", (None, 2), False),
    }
    assert schema.graphs == {"observation/a", "observation/z/1", "action"}
    assert schema.tuples == {"observation/z", "observation/t"}
    assert schema.fields["action/edge_links"].space is not None


@given(st.integers(0, 2**32 - 1), st.sampled_from([*LEAVES, *GRAPHS, NESTED]))
def test_a_schema_takes_values_apart_and_makes_them_again(seed: int, space: Any) -> None:
    schema = Schema.from_spaces(space, BOX)
    space.seed(seed)
    value = space.sample()

    flat = schema.flatten(value, "observation")

    assert flat.keys() == set(schema.names("observation"))
    assert schema.flatten(flat, "observation") == flat
    assert like(schema.unflatten(flat, "observation"), value)


def test_a_schema_without_spaces_takes_lists_and_tuples() -> None:
    schema = Schema({"info/a/tokens": Field("int32", (None,), "info"), "info/b": Field("int32", (), "info")})

    assert schema.flatten({"a": {"tokens": ((1, 2), (3,))}, "b": 1}, "info") == {
        "info/a/tokens": ((1, 2), (3,)),
        "info/b": 1,
    }


# --- values


def like(one: Any, other: Any) -> bool:
    """Whether two nested values are the same, Sequences stacked or not."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(like(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(like(*pair) for pair in zip(one, other, strict=True))
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)


@given(st.integers(0, 2**32 - 1), st.sampled_from([*LEAVES, *GRAPHS, NESTED]))
def test_values_are_flattened_and_back(seed: int, space: Any) -> None:
    leaves, tuples, graphs = taken_apart(space)
    space.seed(seed)
    value = space.sample()

    flat = flatten(value, "observation", leaves, graphs)

    assert flat.keys() == leaves.keys()
    assert like(unflatten(flat, "observation", tuples, graphs), value)


@pytest.mark.parametrize("several", [tuple, list, lambda graphs: np.array([None, *graphs], object)[1:]])
def test_of_several_graphs_each_part_is_a_list(several: Any) -> None:
    space = GRAPHS[1]
    graphs = [space.sample(), spaces.GraphInstance(np.ones((1, 2)), None, None)]

    flat = flatten({"g": several(graphs)}, "info", ["info/g/nodes", "info/g/edges"], ["info/g"])

    assert flat.keys() == {"info/g/nodes", "info/g/edges", "info/g/edge_links"}
    for part in ("nodes", "edges", "edge_links"):
        found, expected = flat[f"info/g/{part}"], [getattr(graph, part) for graph in graphs]
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], () if expected[1] is None else expected[1])


def test_edges_that_there_are_no_fields_of() -> None:
    graph = spaces.GraphInstance(np.ones((1, 2)), None, None)
    assert flatten(graph, "action", ["action/nodes"], ["action"]).keys() == {"action/nodes"}

    graph = spaces.GraphInstance(np.ones((1, 2)), np.ones((1, 3)), np.zeros((1, 2), np.int32))
    assert "action/edges" in flatten(graph, "action", ["action/nodes"], ["action"])


@pytest.mark.parametrize("value", [3, None, ("hi",), (BOX.sample(), BOX.sample())])
def test_what_is_no_graph_is_refused(value: Any) -> None:
    with pytest.raises(SchemaError, match="'action': expected a GraphInstance of Gymnasium, came a"):
        flatten(value, "action", ["action/nodes"], ["action"])


def test_what_has_no_edges_comes_back_without() -> None:
    parts = {"g/nodes": np.ones((2, 3)), "g/edges": np.empty((0, 3)), "g/edge_links": np.empty((0, 2), "i4")}

    graph = unflatten(parts, "g", (), {"g"})

    assert isinstance(graph, spaces.GraphInstance)
    assert graph.edges is None
    assert graph.edge_links is None
    assert graph in spaces.Graph(spaces.Box(0, 1, (3,), np.float64), BOX)
