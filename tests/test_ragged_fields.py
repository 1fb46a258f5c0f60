"""Fields of any length in a schema and in the document; what a field needs; the id of a store."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its annotations are a package of their own
import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import (
    CorruptError,
    FormatError,
    FormatVersionError,
    SchemaError,
    UnsupportedError,
)
from replaystore.schema import document as documents
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.ragged import Ragged

TOKENS, POINTS, TEXT = (
    Field("int32", (None,), "action"),
    Field("f8", (None, 2, 3), "info"),
    Field.of_text("info"),
)
SCHEMA = Schema(
    {
        "observation": Field.of_text("observation"),
        "action": TOKENS,
        "info/at": POINTS,
        "reward": Field("f4", (), "reward"),
    }
)
GRAPH = {
    f"observation/{name}": Field(dtype, (None, *inner), "observation")
    for name, dtype, inner in (("nodes", "f4", (3,)), ("edges", "f4", ()), ("edge_links", "i4", (2,)))
}


def test_what_a_field_of_any_length_is() -> None:
    assert (POINTS.ragged, POINTS.inner, POINTS.dtype, POINTS.shape) == (
        True,
        (2, 3),
        np.dtype("<f8"),
        (None, 2, 3),
    )
    assert POINTS.stored == TEXT.stored == (np.dtype("<i8"), (2,))
    assert POINTS.row_bytes == TOKENS.row_bytes == 16
    plain = Field("f4", (2, 3), "extra")
    assert (plain.ragged, plain.stored, plain.row_bytes) == (False, (np.dtype("<f4"), (2, 3)), 24)
    assert (TEXT.text, TEXT.dtype, TEXT.shape) == (True, np.dtype("u1"), (None,))
    assert TEXT == Field("uint8", (None,), "info", text=True) != Field("uint8", (None,), "info")


@pytest.mark.parametrize("field", [TOKENS, POINTS, TEXT], ids=str)
def test_a_field_comes_back(field: Field) -> None:
    again = Field.from_json(json.loads(json.dumps(field.to_json())))
    assert again == field == copy.copy(field) == pickle.loads(pickle.dumps(field)) == eval(repr(field))
    assert hash(again) == hash(field)


BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "second": (("f4", (2, None), "extra"), {}, "comes first, and once"),
    "twice": (("f4", (None, None), "extra"), {}, "comes first, and once"),
    "empty": (("f4", (None, 0), "extra"), {}, "rows without values"),
    "no tuple": (("f4", None, "extra"), {}, r"of any length it is \(None,\)"),
    "reward": (("f4", (None,), "reward"), {}, "reward cannot be of any length"),
    "flag": (("bool", (None,), "terminated"), {}, "terminated"),
    "mask": (("bool", (None,), "mask"), {}, "mask cannot be of any length"),
    "mutable": (("f4", (None,), "extra"), {"mutable": True}, "is not mutable: .*add_field"),
    "text of ints": (("i4", (None,), "extra"), {"text": True}, r"Field\.of_text\(role\)"),
    "text of a shape": (("u1", (None, 2), "extra"), {"text": True}, r"Field\.of_text\(role\)"),
    "plain text": (("u1", (), "extra"), {"text": True}, r"Field\.of_text\(role\)"),
    "text?": (("u1", (None,), "extra"), {"text": 1}, "text is True or False"),
}


@pytest.mark.parametrize(("given", "more", "said"), BAD.values(), ids=BAD)
def test_what_no_field_can_be_is_refused(given: Any, more: Any, said: str) -> None:
    with pytest.raises(SchemaError, match=said) as caught:
        Field(*given, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"shape": [2, None]}, {"text": True}, {"text": 1}, {"shape": None}, {"role": "mask"}]
)
def test_what_describes_no_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        Field.from_json(TOKENS.to_json() | change)


def test_a_schema_of_them() -> None:
    assert dict(SCHEMA.ragged) == {
        "observation": SCHEMA.fields["observation"],
        "action": TOKENS,
        "info/at": POINTS,
    }
    assert (
        repr(SCHEMA)
        == "Schema(observation: text, action: int32[*], info/at: float64[*, 2, 3], reward: float32[])"
    )
    for again in (
        Schema.from_json(json.loads(json.dumps(SCHEMA.to_json()))),
        pickle.loads(pickle.dumps(SCHEMA)),
    ):
        assert again == SCHEMA
        assert dict(again.ragged) == dict(SCHEMA.ragged)


def rows(count: int) -> dict[str, Any]:
    return {
        "observation": Ragged.of([str(n) for n in range(count)], text=True),
        "action": Ragged.of([np.arange(n, dtype="i4") for n in range(count)], "i4", ()),
        "info/at": Ragged.empty(count, "f8", (2, 3)),
        "reward": np.zeros(count, "f4"),
    }


def test_rows_are_checked() -> None:
    assert SCHEMA.check(rows(3)) == 3
    assert SCHEMA.check(rows(0)) == 0


WRONG: dict[str, tuple[str, Any, str]] = {
    "a list": ("action", [[1]], r"Ragged\.of\(values\)"),
    "an array": ("action", np.zeros((3, 2), "i4"), r"Ragged\.of\(values\)"),
    "an array for text": ("observation", np.zeros((3, 2), "u1"), r"Ragged\.of\(values, text=True\)"),
    "no text": ("observation", Ragged.empty(3, "u1"), "expected texts"),
    "a text": ("action", Ragged.empty(3, text=True), "expected int32"),
    "another dtype": ("action", Ragged.empty(3, "i8"), "expected int32"),
    "another shape": ("info/at", Ragged.empty(3, "f8", (2,)), "expected float64"),
    "arranged": ("action", Ragged.empty((3, 1), "i4"), "expected int32"),
    "another number": ("action", Ragged.empty(2, "i4"), "has 2 rows"),
    "a ragged reward": ("reward", Ragged.empty(3, "f4"), "expected a NumPy array"),
}


@pytest.mark.parametrize(("name", "given", "said"), WRONG.values(), ids=WRONG)
def test_rows_that_are_not_the_schemas_are_refused(name: str, given: Any, said: str) -> None:
    with pytest.raises(SchemaError, match=said) as caught:
        SCHEMA.check(rows(3) | {name: given})
    assert "\n" not in str(caught.value)


def test_graphs_are_whole_or_none() -> None:
    graph = Schema(GRAPH, graphs=frozenset({"observation"}))
    assert (
        Schema.from_json(json.loads(json.dumps(graph.to_json())))
        == graph
        == pickle.loads(pickle.dumps(graph))
    )
    assert graph != Schema(GRAPH)
    assert graph.select(["observation/nodes", "observation/edges"]).graphs == frozenset()
    assert graph.with_field("action", TOKENS).select(["observation"]).graphs == {"observation"}
    alone = {"observation/nodes": GRAPH["observation/nodes"]}
    assert Schema(alone, graphs=frozenset({"observation"})).graphs == {"observation"}
    for fields in (
        {name: GRAPH[name] for name in ("observation/nodes", "observation/edges")},
        GRAPH | {"observation/nodes": Field("f4", (3,), "observation")},
        GRAPH | {"observation/more": TOKENS},
        {"observation": Field("f4", (), "observation")},
    ):
        with pytest.raises(SchemaError, match="observation"):
            Schema(fields, graphs=frozenset({"observation"}))
    with pytest.raises(SchemaError, match="must have"):
        Schema(GRAPH, frozenset({"observation"}), frozenset({"observation"}))


# --- the document


def test_the_document_describes_them() -> None:
    content = documents.new(SCHEMA).to_json()
    jsonschema.Draft202012Validator(documents.json_schema()).validate(content)
    assert [field.get("text") for field in content["schema"]["fields"]] == [True, None, None, None]
    assert content["schema"]["fields"][2]["shape"] == [None, 2, 3]
    assert documents.parse(content, "a.zarr").steps == SCHEMA
    plain = documents.new(SCHEMA.select(["reward"])).to_json()
    assert not {"text", "needs", "graphs"} & {*plain["schema"], *plain["schema"]["fields"][0]}


def test_each_document_has_an_id_of_its_own() -> None:
    one, other = documents.new(SCHEMA), documents.new(SCHEMA)
    assert one.id != other.id == documents.parse(other.to_json(), "a.zarr").id
    assert one.replace(user={"a": 1}).id == one.id
    assert documents.new(SCHEMA, like=one).id != one.id
    content = one.to_json()
    for wrong in (None, "", "A" * 32, "a" * 31, 7):
        with pytest.raises(CorruptError, match="id"):
            documents.parse(content | {"id": wrong}, "a.zarr")
    del content["id"]
    with pytest.raises(CorruptError, match="id"):
        documents.parse(content, "a.zarr")


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_a_store_has_the_id_of_its_document(tmp_path: Path, name: str) -> None:
    plain = Schema({"action": Field("i4", (), "action")})
    with rs.create(tmp_path / name, plain) as buffer:
        buffer.append({"action": np.arange(3, dtype="i4")})
        known = buffer.document.id
        assert buffer.store.state.store == known
    with rs.open(tmp_path / name) as buffer:
        assert buffer.document.id == buffer.store.state.store == known
    rs.convert(tmp_path / name, tmp_path / "other.zarr")
    with rs.open(tmp_path / "other.zarr") as buffer:
        assert buffer.document.id == buffer.store.state.store != known


def test_verify_says_that_a_document_is_that_of_another_store(tmp_path: Path) -> None:
    for name in ("a.zarr", "b.zarr"):
        with rs.create(tmp_path / name, Schema({"action": Field("i4", (), "action")})) as buffer:
            buffer.append({"action": np.arange(3, dtype="i4")})
    assert rs.verify(tmp_path / "a.zarr").problems == []
    (tmp_path / "a.zarr" / "zarr.json").write_bytes((tmp_path / "b.zarr" / "zarr.json").read_bytes())
    assert any(
        "the commit log is that of store" in found.what for found in rs.verify(tmp_path / "a.zarr").problems
    )


# --- what a field needs


def needing(**needs: list[str]) -> dict[str, Any]:
    """A document whose fields of these names need something."""
    content = documents.new(Schema({**GRAPH, "action": TOKENS}, graphs=frozenset({"observation"}))).to_json()
    for field in content["schema"]["fields"]:
        last = field["name"].rpartition("/")[2]
        if last in needs:
            field |= {"needs": needs[last], "shape": [2, None, None], "dtype": "of-tomorrow"}
    return content


def test_a_field_that_needs_what_is_not_known_is_left_out() -> None:
    content = needing(edges=["mutable-ragged", "more"])
    content["layout"]["overrides"] = {"observation/edges": {"codec": "zstd:1", "chunk_rows": None}}
    jsonschema.Draft202012Validator(documents.json_schema()).validate(
        json.loads(json.dumps(content).replace("of-tomorrow", "int8"))
    )
    parsed = documents.parse(content, "a.zarr")
    assert parsed.hidden == {"observation/edges": "mutable-ragged"}
    assert list(parsed.steps.fields) == ["observation/nodes", "observation/edge_links", "action"]
    assert parsed.steps.graphs == frozenset()
    assert parsed.to_json() == content

    everything = {name: ["x"] for name in ("nodes", "edges", "edge_links", "action")}
    with pytest.raises(FormatVersionError, match="upgrade"):
        documents.parse(needing(**everything), "a.zarr")


def test_no_reward_or_flag_needs_anything() -> None:
    content = documents.new(SCHEMA).to_json()
    content["schema"]["fields"][3]["needs"] = ["x"]
    with pytest.raises(CorruptError, match="reward"):
        documents.parse(content, "a.zarr")


def test_who_does_not_know_all_fields_reads_the_others_and_does_not_write(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    with rs.create(
        place, Schema({"action": Field("i4", (), "action"), "info/b": Field("i4", (), "info")})
    ) as made:
        made.append({"action": np.arange(3, dtype="i4"), "info/b": np.arange(3, dtype="i4")})
    described = json.loads((place / "zarr.json").read_text())
    described["attributes"]["replaystore"]["schema"]["fields"][1]["needs"] = ["tomorrow"]
    (place / "zarr.json").write_text(json.dumps(described))
    with rs.open(place) as buffer:
        assert list(buffer.schema.fields) == ["action"]
        assert buffer["action"][:].tolist() == [0, 1, 2]
    with pytest.raises(UnsupportedError, match=r"info/b.*'tomorrow'.*upgrade"):
        rs.open(place, "r+")
