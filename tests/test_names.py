"""Names of fields: paths in nested values and back, and the escaping of what cannot be stored."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaystore.errors import FormatError, SchemaError
from replaystore.schema.names import (
    escape,
    escape_path,
    flatten,
    join_path,
    split_path,
    unescape,
    unescape_path,
    unflatten,
    unknown,
)

KEYS = st.text(max_size=12) | st.text("aB1_-. %/\\\u0301é\u00e9\u212b中\U0001f600\x00", max_size=6)
WELL_FORMED_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.text())
def test_an_escaped_name_is_read_back(key: str) -> None:
    assert unescape(escape(key)) == key


@given(st.lists(KEYS, unique=True, max_size=20))
def test_distinct_names_stay_distinct_in_every_normal_form(keys: list[str]) -> None:
    escaped = [escape(key) for key in keys]
    assert len(set(escaped)) == len(keys)
    assert len({unicodedata.normalize("NFC", name) for name in escaped}) == len(keys)
    assert len({unicodedata.normalize("NFD", name) for name in escaped}) == len(keys)


@given(KEYS)
def test_an_escaped_name_is_safe_in_stores_and_file_systems(key: str) -> None:
    name = escape(key)
    assert name
    assert not set(name) & set('/\\.:*?"<>|\0')
    assert not name.startswith("__")
    assert name == name.strip() == unicodedata.normalize("NFC", name)
    assert name.isprintable()
    assert all(char.isalnum() or char in "_- %" or unicodedata.category(char)[0] == "M" for char in name)


@pytest.mark.parametrize(
    ("key", "escaped"),
    [
        ("camera", "camera"),
        ("left camera-2_x", "left camera-2_x"),
        ("c", "c"),
        ("_key", "_key"),
        ("__key", "%5F_key"),
        ("", "%"),
        ("%", "%25"),
        ("a/b", "a%2Fb"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("zarr.json", "zarr%2Ejson"),
        (" a ", "%20a%20"),
        (" ", "%20"),
        ("con", "%63on"),
        ("COM1", "%43OM1"),
        ("console", "console"),
        ("a\n", "a%0A"),
        ("größe", "größe"),
        ("位置", "位置"),
        ("e\u0301", "e%CC%81"),
        ("\u212b", "%E2%84%AB"),
        ("\u0301a", "%CC%81a"),
        ("\U0001f600", "%F0%9F%98%80"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_names_are_escaped_as_written_in_stores_since_version_one(key: str, escaped: str) -> None:
    assert escape(key) == escaped


@pytest.mark.parametrize(
    "part", ["", "a.b", "%2f", "%41", "a%", "%%", "%E9", "%G0", "__a", "con", " a", "e\u0301", "a/b"]
)
def test_a_name_that_is_not_ours_is_refused(part: str) -> None:
    with pytest.raises(FormatError, match="not an escaped name"):
        unescape(part)


@given(st.lists(KEYS, min_size=1, max_size=4))
def test_field_names_and_their_stored_paths_are_read_back(keys: list[str]) -> None:
    name = join_path(*keys)
    assert split_path(name) == tuple(keys)
    assert unescape_path(escape_path(name)) == name


def test_a_field_name_escapes_no_more_than_it_must() -> None:
    assert join_path("info", "a/b", "50%", "x.y", "é", "") == "info/a%2Fb/50%25/x.y/é/%"
    assert escape_path("info/a%2Fb/x.y") == "info/a%2Fb/x%2Ey"


# --- nested values

leaf = st.integers()
nested = st.recursive(
    leaf,
    lambda inner: (
        st.dictionaries(WELL_FORMED_KEYS, inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=12).map(tuple)
    ),
    max_leaves=20,
)


def tuple_paths(value: Any, path: str) -> set[str]:
    if isinstance(value, tuple):
        return {path}.union(*(tuple_paths(item, f"{path}/{place}") for place, item in enumerate(value)))
    if isinstance(value, dict):
        return set().union(*(tuple_paths(item, f"{path}/{join_path(key)}") for key, item in value.items()))
    return set()


@given(nested)
def test_nested_values_are_flattened_and_back(value: Any) -> None:
    assert unflatten(flatten(value, "observation"), "observation", tuple_paths(value, "observation")) == value


def test_flattening_names_keys_and_items() -> None:
    value = {"a/b": 1, "c": ({"": 2}, 3)}
    assert flatten(value, "observation") == {
        "observation/a%2Fb": 1,
        "observation/c/0/%": 2,
        "observation/c/1": 3,
    }
    assert flatten(7, "reward") == {"reward": 7}


@pytest.mark.parametrize("value", [{}, (), {"a": {}}, {"a": ()}, {1: 2}])
def test_what_would_be_lost_by_flattening_is_refused(value: Any) -> None:
    with pytest.raises(SchemaError):
        flatten(value, "observation")


def test_unflattening_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(SchemaError, match="'action'"):
        unflatten({"observation": 1, "actions/a": 2}, "action")


def test_the_next_observation_is_said_to_be_derived() -> None:
    error = unknown("next_observation", ["observation", "action"])
    assert str(error).endswith(
        "; it is derived: trajectory[...] and the batches of a sampler have it with the observations"
    )
