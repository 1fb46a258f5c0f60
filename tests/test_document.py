"""The document of a store: strict JSON, written as it was read, and refused where it does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from typing import Any

import gymnasium
import jsonschema  # type: ignore[import-untyped]  # its annotations are a package of their own
import numpy as np
import pytest

from replaystore.errors import CorruptError, FormatError, FormatVersionError, SchemaError
from replaystore.schema import document
from replaystore.schema.document import (
    MAX_USER_BYTES,
    Document,
    json_schema,
    new,
    parse,
)
from replaystore.schema.environment import environment_of
from replaystore.schema.fields import Field, Schema
from replaystore.schema.strict_json import MAX_BYTES, MAX_DEPTH

SCHEMA = Schema.from_spaces(
    gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(-np.inf, 1, (2,))}), gymnasium.spaces.Discrete(3)
)


def example() -> dict[str, Any]:
    return new(
        SCHEMA,
        layout={
            "name": "archive",
            "durability": "none",
            "overrides": {"observation/a": {"codec": "zstd:3", "chunk_rows": 64}},
        },
        ring={"capacity": 100, "position": 7},
        environment={"id": "A-v0", "num_envs": 8, "autoreset": "NextStep"},
        provenance=document.provenance({"location": "a.hdf5", "sha256": "00", "parts": [1, 2.5, None]}),
        user={"name": "Zoë", "nested": {"list": [1, True, None]}},
        extensions={"other": {"x": 1}},
    ).to_json()


def changed(path: str, value: Any) -> dict[str, Any]:
    content = example()
    *parents, last = path.split(".")
    section: Any = content
    for key in parents:
        section = section[int(key)] if isinstance(section, list) else section[key]
    section[last] = value
    return content


# --- round trips


def test_a_document_is_the_same_after_encoding_and_parsing() -> None:
    content = example()
    for data in (content, json.dumps(content), json.dumps(content).encode()):
        parsed = parse(data, "a.zarr")
        assert parsed.to_json() == content
        assert parsed.steps == SCHEMA


def test_a_document_is_strict_json() -> None:
    content = example()
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_a_document_needs_no_more_than_a_schema() -> None:
    made = new(SCHEMA)
    assert (made.ring, made.environment, made.user, made.extensions) == (None, None, {}, {})
    assert (made.layout.name, made.layout.durability, made.layout.overrides) == ("live", "commit", {})
    assert made.provenance.created.endswith("Z")
    assert made.provenance.created_by["numpy"] == np.__version__
    assert parse(made.to_json(), "a.zarr") == made


def test_replacing_a_section_keeps_the_others() -> None:
    before = parse(example(), "a.zarr")
    wider = before.steps.with_field("score", Field(np.dtype("f4"), (), "extra"))
    after = before.replace(schema=wider, user={"b": 1})
    assert after.steps == wider
    assert after.user == {"b": 1}
    assert {**after.to_json(), "schema": None, "user": None} == {
        **before.to_json(),
        "schema": None,
        "user": None,
    }


def test_a_document_does_not_share_what_it_was_made_of() -> None:
    user: dict[str, Any] = {"a": [1]}
    made = new(SCHEMA, user=user)
    user["a"].append(2)
    made.to_json()["user"]["a"].append(3)
    assert made.user == {"a": [1]}


# --- versions


def test_a_newer_minor_version_is_read_and_its_unknown_keys_are_kept_in_place() -> None:
    content = example()
    content["format_version"] = "1.12"
    content["later"] = {"x": [1, {"y": 2}]}
    content["ring"]["kind"] = "circular"
    content["schema"]["fields"][0]["unit"] = "m"
    content["layout"]["overrides"]["observation/a"]["level"] = 3
    parsed = parse(content, "a.zarr")
    assert parsed.to_json() == content
    assert parsed.replace(user={}).to_json() == {**content, "user": {}}


def test_known_keys_of_a_newer_minor_version_are_still_checked() -> None:
    with pytest.raises(CorruptError, match=r"ring\.capacity"):
        parse(changed("ring.capacity", 0) | {"format_version": "1.1"}, "a.zarr")


@pytest.mark.parametrize("version", ["2.0", "10.3"])
def test_a_newer_major_version_is_refused_with_the_version_and_the_remedy(version: str) -> None:
    with pytest.raises(FormatVersionError, match=rf"a\.zarr.*{version}.*upgrade replaystore"):
        parse({"format": "replaystore", "format_version": version, "everything": "else"}, "a.zarr")


def test_a_version_before_the_first_is_refused() -> None:
    with pytest.raises(FormatVersionError, match="never was released"):
        parse(changed("format_version", "0.9"), "a.zarr")


@pytest.mark.parametrize(
    "version", [None, 1, 1.0, "1", "1.0.0", "01.0", "1.x", "1.0\n", "", "9" * 5000 + ".0"]
)
def test_what_is_no_version_is_corrupt(version: Any) -> None:
    with pytest.raises(CorruptError, match="format_version"):
        parse(changed("format_version", version), "a.zarr")


# --- what is refused


@pytest.mark.parametrize("content", [{}, {"format": "other"}, {"zarr_format": 3}, [], 7, None, "replaystore"])
def test_something_else_is_not_taken_for_a_document(content: Any) -> None:
    with pytest.raises(FormatError, match=r"a\.zarr: this is not a replaystore document") as caught:
        parse(json.dumps(content), "a.zarr")
    assert type(caught.value) is FormatError


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("surprise", 1, "surprise"),
        ("ring.surprise", 1, "ring.surprise"),
        ("ring.capacity", True, "ring.capacity"),
        ("ring.capacity", 5.0, "ring.capacity"),
        ("ring.capacity", "5", "ring.capacity"),
        ("ring.capacity", 0, "ring.capacity"),
        ("ring.capacity", 1 << 63, "ring.capacity"),
        ("ring.position", -1, "ring.position"),
        ("ring.position", 100, "ring.position"),
        ("schema", None, "schema"),
        ("schema.fields", [], "schema.fields"),
        ("schema.fields.1.shape", [0], "schema.fields[1].shape[0]"),
        ("schema.fields.1.dtype", "object", "object"),
        ("schema.fields.1.role", "boss", "boss"),
        ("schema.fields.1.name", "reward", "reward"),
        ("schema.fields.1.name", "a//b", "a//b"),
        ("schema.tuples", ["nowhere"], "nowhere"),
        ("environment.num_envs", 0, "environment.num_envs"),
        ("layout.name", "fancy", "layout.name"),
        ("layout.durability", "maybe", "layout.durability"),
        ("layout.overrides", {"observation/b": {}}, "observation/b"),
        ("layout.overrides", {"reward": {"codec": "zip it"}}, "layout.overrides.reward.codec"),
        ("provenance.created", "yesterday", "provenance.created"),
        ("provenance.created_by", {"a": 1}, "provenance.created_by.a"),
        ("user", [], "user"),
        ("user.x", float("nan"), "user.x"),
        ("user.x", [0, float("-inf")], "user.x[1]"),
    ],
)
def test_a_wrong_key_is_named_with_the_store_in_one_line(path: str, value: Any, named: str) -> None:
    with pytest.raises(CorruptError) as caught:
        parse(changed(path, value), "a.zarr")
    message = str(caught.value)
    assert message.startswith("a.zarr: ")
    assert named in message
    assert "\n" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"\x00" * 100, "damaged"),
        (json.dumps(example()) + "x", "damaged"),
        ('{"format": "replaystore", "format": "replaystore"}', "'format' is there twice"),
        ('{"format": "replaystore", "user": {"a": {"b": 1, "b": 2}}}', "'b' is there twice"),
        ('{"format": "replaystore", "user": NaN}', "NaN is not JSON"),
        ('{"format": "replaystore", "user": [-Infinity]}', "-Infinity is not JSON"),
        ('{"format": "replaystore", "user": {"a": 1e999}}', "user.a is inf"),
        ('{"format": "replaystore", "user": ' + "9" * 5000 + "}", "damaged"),
        ('{"format": "replaystore", "user": "\\ud800"}', "not valid Unicode"),
        ('{"format": "replaystore", "user": ' + "[" * 100 + "]" * 100 + "}", "deeper than"),
        ("[" * 100_000, "deeper than|damaged"),
        (b" " * (MAX_BYTES + 1), "over the limit"),
    ],
)
def test_damaged_or_hostile_json_is_refused(data: bytes | str, message: str) -> None:
    with pytest.raises(CorruptError, match=message) as caught:
        parse(data, "a.zarr")
    assert "\n" not in str(caught.value)


def test_the_limit_of_depth_is_exact() -> None:
    def deep(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = {"a": value}
        return changed("user", value)

    parse(deep(MAX_DEPTH - 1), "a.zarr")
    with pytest.raises(CorruptError, match="deeper than"):
        parse(deep(MAX_DEPTH), "a.zarr")


def test_what_a_caller_gave_is_a_schema_error() -> None:
    for wrong in (
        {"ring": {"capacity": -1}},
        {"user": {"a": (1, 2)}},
        {"user": {1: 2}},
        {"user": {"a": np.float64(1)}},
        {"layout": {"name": "x"}},
    ):
        with pytest.raises(SchemaError, match="cannot be stored"):
            new(SCHEMA, **wrong)
    with pytest.raises(SchemaError, match="surprise"):
        new(SCHEMA).replace(surprise=1)


def test_the_size_of_user_data_is_limited() -> None:
    new(SCHEMA, user={"a": "x" * (MAX_USER_BYTES - 8)})
    with pytest.raises(
        SchemaError, match=(f"'user' takes {MAX_USER_BYTES + 1} bytes, over the limit of {MAX_USER_BYTES}")
    ):
        new(SCHEMA, user={"a": "x" * (MAX_USER_BYTES - 7)})


def test_the_size_of_the_whole_is_limited_when_it_is_made_and_when_it_is_read() -> None:
    large = {"a": "x" * MAX_BYTES}
    with pytest.raises(SchemaError, match="over the limit"):
        new(SCHEMA, extensions=large)
    with pytest.raises(CorruptError, match="over the limit"):
        parse(changed("extensions", large), "a.zarr")


# --- the published schema


def test_the_published_json_schema_is_up_to_date() -> None:
    published = json.loads(files("replaystore.schema").joinpath("document.schema.json").read_text("utf-8"))
    assert published == json_schema(), (
        "write json.dumps(json_schema(), indent=2) and a line end to document.schema.json"
    )


def test_the_json_schema_is_one_and_has_its_own_name() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$id"] == "urn:replaystore:document:1"


def test_documents_agree_with_the_published_json_schema() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for content in (example(), new(SCHEMA).to_json()):
        validator.validate(content)
    for wrong in (
        changed("surprise", 1),
        changed("ring.capacity", 0),
        changed("schema.fields.0.space", {}),
        changed("format_version", "2.0"),
    ):
        assert not validator.is_valid(wrong)


# --- environments


def test_the_environment_section_has_the_spec_and_makes_the_environment_again() -> None:
    env = gymnasium.make("CartPole-v1", max_episode_steps=7)
    section = environment_of(env)
    assert section is not None
    assert (section["id"], section["num_envs"], section["autoreset"], section["spec_error"]) == (
        "CartPole-v1",
        1,
        None,
        None,
    )
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(json.dumps(section["spec"])))
    assert again.spec == env.spec
    assert parse(new(SCHEMA, environment=section).to_json(), "a.zarr").environment is not None


def test_the_environment_section_of_a_vector_environment_has_its_size_and_autoreset_mode() -> None:
    section = environment_of(gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync"))
    assert section is not None
    assert (section["id"], section["num_envs"], section["autoreset"]) == ("CartPole-v1", 3, "NextStep")


class Bare(gymnasium.Env[Any, Any]):
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, anything: object = None) -> None:
        self.anything = anything


def make_bare(**kwargs: Any) -> Bare:
    return Bare(**kwargs)


def test_a_spec_that_does_not_serialise_leaves_its_id_and_the_reason() -> None:
    gymnasium.register("Bare-v0", entry_point=make_bare)
    try:
        section = environment_of(gymnasium.make("Bare-v0", disable_env_checker=True))
    finally:
        del gymnasium.registry["Bare-v0"]
    assert section is not None
    assert (section["id"], section["spec"]) == ("Bare-v0", None)
    assert section["spec_error"]
    new(SCHEMA, environment=section)


def test_a_spec_with_infinite_arguments_stays_strict_json() -> None:
    gymnasium.register("Bare-v1", entry_point=f"{__name__}:Bare", kwargs={"anything": float("inf")})
    try:
        section = environment_of(gymnasium.make("Bare-v1", disable_env_checker=True))
    finally:
        del gymnasium.registry["Bare-v1"]
    assert section is not None
    assert section["spec"]["kwargs"] == {"anything": "Infinity"}
    new(SCHEMA, environment=section)


def test_an_environment_without_a_spec_and_what_is_no_environment() -> None:
    section = environment_of(Bare())
    assert section == {"id": None, "spec": None, "spec_error": None, "num_envs": 1, "autoreset": None}
    assert environment_of("CartPole-v1") is None


def test_only_this_module_imports_pydantic_and_it_does_not_import_gymnasium() -> None:
    code = (
        "import sys, replaystore.schema.fields, replaystore.location; assert 'pydantic' not in sys.modules; "
        "import replaystore.schema.document; "
    )
    code += (
        "assert 'pydantic' in sys.modules and 'gymnasium' not in sys.modules and 'zarr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_documents_are_frozen() -> None:
    made: Document = new(SCHEMA)
    with pytest.raises(ValueError, match="frozen"):
        made.ring = None
