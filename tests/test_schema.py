"""Schemas: made of environments or by hand, changed into others, written as JSON, or refused."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from schemas import NESTED, columns

from replaystore.errors import FormatError, SchemaError, UnsupportedError
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import flatten


def test_the_fields_of_an_environment_are_in_the_order_of_a_step() -> None:
    schema = Schema.from_spaces(
        NESTED, spaces.Discrete(3), reward_dtype="f4", extra={"info/x": Field(np.dtype("i2"), (2,), "info")}
    )
    assert list(schema.fields) == [
        "observation/camera",
        "observation/joints/0",
        "observation/joints/1/50%25",
        "observation/joints/1/a%2Fb",
        "action",
        "reward",
        "terminated",
        "truncated",
        "info/x",
    ]
    assert schema.tuples == {"observation/joints"}
    assert schema.fields["reward"].dtype == np.float32
    assert schema.fields["terminated"].dtype == schema.fields["truncated"].dtype == bool
    assert schema.names("info") == ("info/x",)
    assert schema.names("mask") == ()


def test_the_reward_is_float64_unless_told_otherwise() -> None:
    assert Schema.from_spaces(spaces.Discrete(2), spaces.Discrete(2)).fields["reward"].dtype == np.float64


@pytest.mark.parametrize(
    ("dtype", "error"), [(None, SchemaError), ("float33", SchemaError), (object, UnsupportedError)]
)
def test_a_reward_dtype_that_cannot_be_stored_is_refused(dtype: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="dtype"):
        Schema.from_spaces(spaces.Discrete(2), spaces.Discrete(2), reward_dtype=dtype)


def test_an_environment_and_a_vector_of_them_have_the_same_schema() -> None:
    one = Schema.from_env(gymnasium.make("CartPole-v1"))
    assert one == Schema.from_env(gymnasium.make_vec("CartPole-v1", num_envs=3))
    assert one.fields["observation"].shape == (4,)


@pytest.mark.parametrize("env", ["CartPole-v1", None, gymnasium.spec("CartPole-v1")])
def test_what_is_no_environment_is_refused_with_what_to_pass(env: Any) -> None:
    with pytest.raises(SchemaError, match=r"gymnasium\.make"):
        Schema.from_env(env)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Text(5)),
        spaces.Graph(spaces.Text(5), None),
        spaces.OneOf([spaces.Discrete(2)]),
        spaces.Box(0, 1, (2,), np.longdouble),
        spaces.Dict([(1, spaces.Discrete(2))]),  # type: ignore[list-item]
    ],
)
def test_a_space_whose_values_are_no_arrays_is_refused_with_its_path(space: Any) -> None:
    name = "observation/a/0"
    with pytest.raises(UnsupportedError, match=name if not isinstance(space, spaces.Dict) else "the key 1"):
        Schema.from_spaces(spaces.Dict({"a": spaces.Tuple([space])}), spaces.Discrete(2))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({}),
        spaces.Tuple([]),
        spaces.Box(0, 1, (0, 3)),
        spaces.Dict({"a": spaces.Dict({})}),
        "Discrete",
    ],
)
def test_a_space_without_values_is_refused(space: Any) -> None:
    with pytest.raises(SchemaError, match="observation"):
        Schema.from_spaces(space, spaces.Discrete(2))


def test_extra_fields_are_a_dict() -> None:
    env = gymnasium.make("CartPole-v1")
    for wrong in (["logprob"], "logprob", ("logprob",), 3, {"logprob"}):
        with pytest.raises(SchemaError, match=r"extra is a dict from names to fields, not \w+ "):
            Schema.from_env(env, extra=wrong)  # type: ignore[arg-type]


def test_an_extra_field_must_not_replace_another() -> None:
    with pytest.raises(SchemaError, match="'reward' is already there"):
        Schema.from_spaces(
            spaces.Discrete(2), spaces.Discrete(2), extra={"reward": Field(np.dtype("f4"), (), "reward")}
        )


@pytest.mark.parametrize(
    ("name", "dtype", "role"),
    [
        ("observation", "f4", "extra"),
        ("state", "f4", "observation"),
        ("observation/a", "f4", "action"),
        ("terminated/a", "?", "terminated"),
        ("info/a", "f4", "extra"),
        ("other", "f4", "info"),
        ("reward", "?", "mask"),
    ],
)
def test_the_role_must_fit_the_name(name: str, dtype: str, role: str) -> None:
    with pytest.raises(SchemaError, match=r"role|without further parts"):
        Schema({name: Field(np.dtype(dtype), (), role)})


def test_masks_stand_beside_info_or_anywhere_else() -> None:
    mask = Field(np.dtype(bool), (), "mask")
    assert Schema({"info/_key": mask, "valid": mask}).names("mask") == ("info/_key", "valid")


def test_a_name_cannot_be_a_field_and_a_path() -> None:
    one = Field(np.dtype("f4"), (), "observation")
    with pytest.raises(SchemaError, match="'observation' is a field and also"):
        Schema({"observation": one, "observation/a": one})


@pytest.mark.parametrize(
    ("names", "tuples"),
    [(["0", "2"], ["action"]), (["0", "a"], ["action"]), (["0"], ["observation"]), (["00"], ["action"])],
)
def test_a_tuple_must_have_all_its_items(names: list[str], tuples: list[str]) -> None:
    one = Field(np.dtype("f4"), (), "action")
    with pytest.raises(SchemaError, match="must have the items"):
        Schema({f"action/{name}": one for name in names}, frozenset(tuples))


def test_a_schema_needs_fields() -> None:
    with pytest.raises(SchemaError, match="at least one"):
        Schema({})
    with pytest.raises(SchemaError, match="expected a replaystore Field"):
        Schema({"a": np.dtype("f4")})  # type: ignore[dict-item]


def test_a_schema_cannot_be_changed() -> None:
    given = {"a": Field(np.dtype("f4"), (), "extra")}
    schema = Schema(given)
    given["b"] = given["a"]
    assert list(schema.fields) == ["a"]
    with pytest.raises(TypeError):
        schema.fields["b"] = given["a"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        schema.fields = given  # type: ignore[misc]


def test_a_schema_is_copied_pickled_hashed_and_written_as_json() -> None:
    schema = Schema.from_spaces(NESTED, spaces.Discrete(3))
    for again in (
        pickle.loads(pickle.dumps(schema)),
        copy.deepcopy(schema),
        Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False))),
    ):
        assert again == schema
        assert hash(again) == hash(schema)
        assert list(again.fields) == list(schema.fields)
        assert again.check(columns(schema)) == 3
    assert schema != schema.select(["reward"])
    assert schema != Schema(schema.fields)


@pytest.mark.parametrize(
    "change",
    [
        {"fields": None},
        {"fields": {}},
        {"fields": ["a"]},
        {"fields": [{"name": "a"}]},
        {"fields": [{"name": "a", "dtype": "object", "shape": [], "role": "extra"}]},
        {"fields": [{"name": "a", "dtype": ["f4"], "shape": [], "role": "extra"}]},
        {"fields": [{"name": "a", "dtype": "float32", "shape": "x", "role": "extra"}]},
        {"fields": [{"name": ["a"], "dtype": "float32", "shape": [], "role": "extra"}]},
        {"fields": [{"name": "a", "dtype": "float32", "shape": [], "role": "extra"}] * 2},
        {"tuples": 3},
        {"tuples": ["a"]},
    ],
)
def test_json_that_is_no_schema_is_a_format_error(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="does not describe a schema"):
        Schema.from_json(Schema({"a": Field(np.dtype("f4"), (), "extra")}).to_json() | change)
    with pytest.raises(FormatError, match="'fields' is missing"):
        Schema.from_json({})


def test_a_field_is_added_as_the_last_one() -> None:
    schema = Schema.from_spaces(NESTED, spaces.Discrete(3))
    wider = schema.with_field("score", Field(np.dtype("f4"), (), "extra"))
    assert list(wider.fields) == [*schema.fields, "score"]
    assert wider.tuples == schema.tuples
    with pytest.raises(SchemaError, match="already"):
        wider.with_field("score", Field(np.dtype("f4"), (), "extra"))


def test_a_selection_keeps_the_order_and_takes_paths_for_all_below() -> None:
    schema = Schema.from_spaces(NESTED, spaces.Discrete(3))
    assert list(schema.select(["reward", "action"]).fields) == ["action", "reward"]
    assert schema.select(["observation"]).names("observation") == schema.names("observation")
    assert schema.select(["observation/joints"]).tuples == {"observation/joints"}
    with pytest.raises(SchemaError, match="'observ'"):
        schema.select(["observ"])
    with pytest.raises(SchemaError, match=r"\['reward'\]"):
        schema.select("reward")


def test_a_tuple_that_loses_items_becomes_a_dict_of_their_numbers() -> None:
    chosen = Schema.from_spaces(NESTED, spaces.Discrete(3)).select(["observation/joints/0"])
    assert chosen.tuples == frozenset()
    assert chosen.observation_space() == spaces.Dict({"joints": spaces.Dict({"0": spaces.Box(-1, 1, (2,))})})


@pytest.mark.parametrize(
    "name", ["", "/", "a//b", "/a", "a/", "50%", "a%2f", "%41", 7, "\ud800", "x" * 201, "info/" + "." * 67]
)
def test_a_bad_field_name_is_refused(name: Any) -> None:
    with pytest.raises(SchemaError, match="field name"):
        Schema({name: Field(np.dtype("f4"), (), "extra")})


def test_samples_of_a_nested_space_come_back_nested() -> None:
    schema = Schema.from_spaces(NESTED, spaces.Tuple([spaces.Discrete(2)]))
    sample = NESTED.sample()
    flat = flatten(sample, "observation")
    assert flat.keys() == set(schema.names("observation"))
    again = schema.unflatten(flat, "observation")
    assert NESTED.contains(again)
    assert again["joints"][1]["a/b"] == sample["joints"][1]["a/b"]
    assert isinstance(schema.unflatten({"action/0": 1}, "action"), tuple)


def test_a_space_that_is_not_known_is_none() -> None:
    schema = Schema(
        {
            "observation/a": Field(np.dtype("f4"), (), "observation"),
            "reward": Field(np.dtype("f4"), (), "reward"),
        }
    )
    assert schema.observation_space() is None
    assert schema.action_space() is None


def test_whether_a_field_is_mutable_is_a_part_of_it() -> None:
    one = Field("float32", (), "extra", mutable=True)
    assert Field.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one != Field("float32", (), "extra")
    assert "mutable" not in Field("float32", (), "extra").to_json()
    assert repr(one) == "Field('float32', (), 'extra', mutable=True)"
