"""Keys of other software in the document of a store: in every section, kept where they stand."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import jsonschema  # type: ignore[import-untyped]  # its annotations are a package of their own
import numpy as np

from replaystore.schema import document
from replaystore.schema.document import json_schema, new, parse
from replaystore.schema.fields import Field, Schema

SCHEMA = Schema.from_spaces(
    gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(-np.inf, 1, (2,))}), gymnasium.spaces.Discrete(3)
)


def foreign() -> dict[str, Any]:
    """A document with keys of other software in every section."""
    content = new(
        SCHEMA,
        layout={"name": "archive", "overrides": {"observation/a": {"codec": "zstd:3"}}},
        ring={"capacity": 100, "position": 7},
        environment={"id": "A-v0", "num_envs": 8},
        provenance=document.provenance({"location": "a.hdf5"}),
    ).to_json()
    field = content["schema"]["fields"][0]
    override = content["layout"]["overrides"]["observation/a"]
    sections = [content[name] for name in ("schema", "ring", "environment", "layout", "provenance")]
    for number, section in enumerate([content, *sections, field, override]):
        section.update({"org.lab": {"x": [number, None]}, "lab:note": "y"})
    return content


def test_keys_of_other_software_are_kept_wherever_they_stand() -> None:
    content = foreign()
    jsonschema.Draft202012Validator(json_schema()).validate(content)
    assert len(json.dumps(content).split("org.lab")) == 9
    parsed = parse(content, "a.zarr")
    assert parsed.to_json() == content
    assert parsed.replace(user={}).to_json() == {**content, "user": {}}
    wider = parsed.steps.with_field("score", Field(np.dtype("f4"), (), "extra"))
    found = parsed.replace(schema=wider, layout=document.to_plain(parsed.layout)).to_json()
    assert found["schema"]["fields"][: len(content["schema"]["fields"])] == content["schema"]["fields"]
    assert {**found["schema"], "fields": []} == {**content["schema"], "fields": []}
    assert {**found, "schema": None} == {**content, "schema": None}


def test_a_document_like_another_has_what_other_software_keeps() -> None:
    known = parse(foreign(), "a.zarr")
    layout = {"overrides": {"observation/a": {"codec": "raw"}, "reward": {"codec": "zstd:1"}}}
    made = new(SCHEMA, layout=layout, environment={"id": "B-v0"}, like=known).to_json()
    assert (made["org.lab"], made["environment"]["org.lab"]) == ({"x": [0, None]}, {"x": [3, None]})
    assert (made["layout"]["lab:note"], made["schema"]["lab:note"]) == ("y", "y")
    assert made["layout"]["overrides"]["observation/a"]["lab:note"] == "y"
    assert "lab:note" not in made["layout"]["overrides"]["reward"]
    assert made["schema"]["fields"][0]["org.lab"] == {"x": [6, None]}
    assert layout == {"overrides": {"observation/a": {"codec": "raw"}, "reward": {"codec": "zstd:1"}}}
